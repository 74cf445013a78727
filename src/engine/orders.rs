//! The queue in front of the workers, and the one in front of the committers.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::http::lock::lock;

/// Orders that wait for whoever carries them out: the urgent ones first, else as they came.
pub(super) struct Orders<T> {
    waiting: Mutex<Waiting<T>>,
    given: Condvar,
}

struct Waiting<T> {
    urgent: VecDeque<T>,
    others: VecDeque<T>,
    /// Nobody is to wait for more.
    over: bool,
}

impl<T> Default for Orders<T> {
    fn default() -> Self {
        let waiting = Waiting { urgent: VecDeque::new(), others: VecDeque::new(), over: false };
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
            if let Some(order) = waiting.urgent.pop_front().or_else(|| waiting.others.pop_front()) {
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
}
