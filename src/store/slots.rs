//! Who may use one of the pool's connections: heartbeats before all others, and some slots for them alone, so that none of
//! them waits for those who wait for the database. Where the server grants fewer connections than the pool has slots, those
//! it has granted are shared.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http::lock::lock;

/// How long it is believed that the server grants no more connections.
const BELIEVED: Duration = Duration::from_secs(30);
/// Of so many slots, one is for heartbeats alone.
const ONE_IN: usize = 5;

pub(super) struct Slots {
    most: usize,
    state: Mutex<State>,
    /// A slot is free that a heartbeat may take, or anybody. One is woken for each: hundreds may wait.
    for_urgent: Condvar,
    for_others: Condvar,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Heartbeats that wait.
    urgent: usize,
    /// So many connections the server grants, and when it said so.
    granted: Option<(usize, Instant)>,
}

/// A slot, for as long as the value lives.
pub(super) struct Slot(Arc<Slots>);

impl Slots {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            state: Mutex::default(),
            for_urgent: Condvar::new(),
            for_others: Condvar::new(),
        })
    }

    /// A slot; nothing when none is free within this time.
    pub(super) fn take(self: &Arc<Self>, urgent: bool, within: Duration) -> Option<Slot> {
        let (begun, mut state) = (Instant::now(), lock(&self.state));
        state.urgent += usize::from(urgent);
        let taken = loop {
            if state.taken < self.room(&state, urgent) && (urgent || state.urgent == 0 || self.spare(&state))
            {
                state.taken += 1;
                break true;
            }
            let left = within.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break false;
            }
            let woken = if urgent { &self.for_urgent } else { &self.for_others };
            (state, _) = woken.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        };
        state.urgent -= usize::from(urgent);
        if urgent {
            // Others may have held back for it.
            self.for_others.notify_one();
        }
        // Not before it is known: dropped, it would ask for the same lock.
        taken.then(|| Slot(self.clone()))
    }

    /// The server grants no more connections than these.
    pub(super) fn granted(&self, connections: usize) {
        lock(&self.state).granted = Some((connections.max(1), Instant::now()));
    }

    fn room(&self, state: &State, urgent: bool) -> usize {
        match state.granted.filter(|(_, at)| at.elapsed() < BELIEVED) {
            Some((granted, _)) => granted.min(self.most),
            None if urgent => self.most,
            None => self.most - self.most / ONE_IN,
        }
    }

    /// Whether those who wait with priority have slots of their own.
    fn spare(&self, state: &State) -> bool {
        self.room(state, false) < self.room(state, true)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.0.state).taken -= 1;
        self.0.for_urgent.notify_one();
        self.0.for_others.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_heartbeat_finds_a_slot_while_all_others_wait() {
        for (most, ordinary) in [(1, 1), (2, 2), (4, 4), (5, 4), (20, 16)] {
            let slots = Slots::new(most);
            let held: Vec<_> = std::iter::from_fn(|| slots.take(false, NOW)).collect();
            assert_eq!(held.len(), ordinary, "{most}");
            let beats: Vec<_> = std::iter::from_fn(|| slots.take(true, NOW)).collect();
            assert_eq!(beats.len(), most - ordinary, "{most}");
            drop(held);
            assert!(slots.take(false, NOW).is_some());
        }
    }

    #[test]
    fn a_single_connection_goes_to_the_heartbeat_that_waits() {
        let slots = Slots::new(5);
        slots.granted(1);
        let held = slots.take(false, NOW).unwrap();
        assert!(slots.take(false, NOW).is_none() && slots.take(true, NOW).is_none());
        std::thread::scope(|scope| {
            let beat = scope.spawn(|| slots.take(true, LONG).is_some());
            while lock(&slots.state).urgent == 0 {
                std::thread::yield_now();
            }
            let other = scope.spawn(|| slots.take(false, LONG).is_some());
            drop(held);
            assert!(beat.join().unwrap() && other.join().unwrap());
        });
    }
}
