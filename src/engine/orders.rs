//! The queue in front of the workers, and the one in front of the committers.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::http::lock::lock;

/// Of so many in a row that are urgent, the next one is not, if there is any: a database that is too slow for all of them still gets
/// the others done.
const IN_A_ROW: u8 = 8;

/// Orders that wait for whoever carries them out: the urgent ones first, else as they came.
pub(super) struct Orders<T> {
    waiting: Mutex<Waiting<T>>,
    given: Condvar,
}

struct Waiting<T> {
    urgent: VecDeque<T>,
    others: VecDeque<T>,
    urgent_in_a_row: u8,
    /// Nobody is to wait for more.
    over: bool,
}

impl<T> Waiting<T> {
    fn next(&mut self) -> Option<T> {
        if (self.urgent_in_a_row < IN_A_ROW || self.others.is_empty())
            && let Some(order) = self.urgent.pop_front()
        {
            self.urgent_in_a_row = self.urgent_in_a_row.saturating_add(1);
            return Some(order);
        }
        self.urgent_in_a_row = 0;
        self.others.pop_front()
    }
}

impl<T> Default for Orders<T> {
    fn default() -> Self {
        let waiting =
            Waiting { urgent: VecDeque::new(), others: VecDeque::new(), urgent_in_a_row: 0, over: false };
        Self { waiting: Mutex::new(waiting), given: Condvar::new() }
    }
}

impl<T> Orders<T> {
    /// One more; never waits.
    pub(super) fn give(&self, order: T, urgent: bool) {
        let mut waiting = lock(&self.waiting);
        if urgent {
            waiting.urgent.push_back(order)
        } else {
            waiting.others.push_back(order)
        }
        drop(waiting);
        self.given.notify_one();
    }

    /// The next one; waits for it. Nothing when all are carried out and no more will come.
    pub(super) fn take(&self) -> Option<T> {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(order) = waiting.next() {
                return Some(order);
            }
            if waiting.over {
                return None;
            }
            waiting = self.given.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No more will come.
    pub(super) fn end(&self) {
        lock(&self.waiting).over = true;
        self.given.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_urgent_comes_first_and_the_rest_in_its_order() {
        let orders = Orders::default();
        for (order, urgent) in [(1, false), (2, true), (3, false), (4, true)] {
            orders.give(order, urgent);
        }
        orders.end();
        let taken: Vec<i32> = std::iter::from_fn(|| orders.take()).collect();
        assert_eq!(taken, [2, 4, 1, 3]);
    }

    #[test]
    fn however_many_are_urgent_the_others_have_their_turn() {
        let orders = Orders::default();
        (0..40).for_each(|order| orders.give(order, order > 1));
        let taken: Vec<i32> = std::iter::from_fn(|| orders.take()).take(18).collect();
        assert_eq!((taken[8], taken[17]), (0, 1), "{taken:?}");
    }
}
