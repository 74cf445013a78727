//! Which accounts to look at next: those of which there is news, in turn; those whose time has come; and those that have found
//! no free worker, or no room for records, the first of them first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Agenda {
    ready: Queue,
    starved: Queue,
    /// Moments at which to look at accounts; one that has been put off since is in here twice.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
}

/// A queue in which nobody stands twice.
#[derive(Debug, Default)]
struct Queue {
    queue: VecDeque<usize>,
    standing: HashSet<usize>,
}

impl Queue {
    fn join(&mut self, account: usize) {
        if self.standing.insert(account) {
            self.queue.push_back(account);
        }
    }

    fn next(&mut self) -> Option<usize> {
        let account = self.queue.pop_front()?;
        self.standing.remove(&account);
        Some(account)
    }
}

impl Agenda {
    /// This account is to be looked at, in its turn.
    pub(super) fn look_at(&mut self, account: usize) {
        self.ready.join(account);
    }

    /// This account is to be looked at when this moment has come.
    pub(super) fn look_at_by(&mut self, at: Instant, account: usize) {
        self.due.push(Reverse((at, account)));
    }

    /// This account has found no free worker, or no room for records.
    pub(super) fn starve(&mut self, account: usize) {
        self.starved.join(account);
    }

    /// The account to look at now.
    pub(super) fn next(&mut self) -> Option<usize> {
        self.ready.next()
    }

    /// When the next account's time comes.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Has those looked at whose time has come.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(Reverse((_, account))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.due.pop();
            self.look_at(account);
        }
    }

    /// Has whoever has waited longest for a worker, or for room for records, look again.
    pub(super) fn call_starved(&mut self) {
        if let Some(account) = self.starved.next() {
            self.look_at(account);
        }
    }

    /// How many wait for a worker, or for room for records.
    pub(super) fn starved(&self) -> usize {
        self.starved.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_account_is_looked_at_once_in_its_turn_and_when_its_time_has_come() {
        let (mut agenda, begun) = (Agenda::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        [3, 1, 3, 2].into_iter().for_each(|account| agenda.look_at(account));
        [9, 8, 9].into_iter().for_each(|account| agenda.starve(account));
        agenda.look_at_by(at(5), 5);
        agenda.look_at_by(at(1), 4);
        agenda.wake(at(2));
        agenda.call_starved();
        assert_eq!([(); 6].map(|()| agenda.next()), [Some(3), Some(1), Some(2), Some(4), Some(9), None]);
        assert_eq!((agenda.next_due(), agenda.starved()), (Some(at(5)), 1));
    }
}
