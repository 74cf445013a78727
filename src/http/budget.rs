//! What the pages of all accounts may take of the memory together, from their first byte to their commit.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock::lock;

/// Bytes of large pages that are in memory at once, each counted twice: as they came, and as records. A page that is larger
/// is there alone. A commit takes about as much again.
pub(crate) const PAGE_BYTES: u64 = 64 << 20;
/// A page up to this size is not counted.
pub(crate) const SMALL_PAGE: u64 = 64 << 10;
/// How long whoever waits for memory waits before it looks again whether it should give up.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

static PAGES: Budget = Budget::new(PAGE_BYTES);

struct Budget {
    most: u64,
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    used: u64,
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

/// Memory for a page; given back when dropped.
#[derive(Debug)]
pub struct Memory(u64);

impl Memory {
    /// Memory for a page of so many bytes, in turn; none when `given_up` says so before there is any. Who takes it must
    /// not have some already for the same page: then two could wait for each other.
    pub(super) fn take(page: u64, given_up: impl Fn() -> bool) -> Option<Self> {
        PAGES.take(page * 2, given_up).then_some(Self(page * 2))
    }

    /// For how large a page it is.
    pub(super) fn page(&self) -> u64 {
        self.0 / 2
    }

    /// The page has turned out to be smaller.
    pub(super) fn shrink(&mut self, page: u64) {
        let less = self.0.saturating_sub(page * 2);
        self.0 -= less;
        PAGES.give_back(less);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        PAGES.give_back(self.0);
    }
}

impl Budget {
    const fn new(most: u64) -> Self {
        let state = State { used: 0, waiting: VecDeque::new(), next_ticket: 0 };
        Self { most, state: Mutex::new(state), freed: Condvar::new() }
    }

    fn take(&self, bytes: u64, given_up: impl Fn() -> bool) -> bool {
        let mut state = lock(&self.state);
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        let mut taken = false;
        while !taken && !given_up() {
            let fits = state.used == 0 || state.used + bytes <= self.most;
            if fits && state.waiting.front() == Some(&ticket) {
                state.used += bytes;
                taken = true;
            } else {
                let waited = self.freed.wait_timeout(state, LOOK_AGAIN);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.waiting.retain(|other| *other != ticket);
        if !state.waiting.is_empty() {
            self.freed.notify_all();
        }
        taken
    }

    fn give_back(&self, bytes: u64) {
        lock(&self.state).used -= bytes;
        self.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is_and_what_is_larger_is_alone() {
        let (budget, used, most_used) = (Budget::new(100), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for n in 0..40 {
                let (budget, used, most_used) = (&budget, &used, &most_used);
                scope.spawn(move || {
                    let bytes = if n % 8 == 0 { 150 } else { 30 };
                    assert!(budget.take(bytes, || false));
                    let now = used.fetch_add(bytes, Ordering::SeqCst) + bytes;
                    most_used.fetch_max(now, Ordering::SeqCst);
                    assert!(now <= 100 || now == bytes, "{now}");
                    std::thread::yield_now();
                    used.fetch_sub(bytes, Ordering::SeqCst);
                    budget.give_back(bytes);
                });
            }
        });
        assert_eq!(lock(&budget.state).used, 0);
        assert!(budget.take(80, || false) && !budget.take(30, || true), "whoever gives up has none");
        assert!(lock(&budget.state).waiting.is_empty());
    }
}
