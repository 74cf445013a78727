//! What has come of things, on its way to the writer: bounded, and read in batches. The writer is woken when there is a
//! batch or its time has come, not for every single result.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::session::Done;
use crate::http::lock::lock;

/// Results that may wait for the writer; whoever has another waits.
pub(crate) const MOST: usize = 2_000;
/// A result waits at most this much longer for the sake of others.
const LINGER: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    results: Vec<Done>,
    /// What they count for: those of large records for several.
    weight: usize,
    /// The writer is woken when there are so many.
    awaited: usize,
    /// Nothing is under way that the writer could wait for.
    hurry: bool,
    closed: bool,
}

impl Outbox {
    /// Adds a result; waits while there are too many.
    pub fn put(&self, done: Done) {
        let room = self.emptied.wait_while(lock(&self.state), |state| state.weight >= MOST);
        let mut state = room.unwrap_or_else(PoisonError::into_inner);
        state.weight += done.weight();
        state.results.push(done);
        let count = state.results.len();
        let awaited = count == 1 || count == state.awaited;
        drop(state);
        if awaited {
            self.filled.notify_one();
        }
    }

    /// Takes what is there, after waiting at most `patience` for the first, and a moment for others to come, until there are
    /// `enough`. Nothing more will come when this gives false.
    pub fn take(&self, patience: Duration, enough: usize) -> (Vec<Done>, bool) {
        let wait = |state, most, until: fn(&State) -> bool| {
            let waited = self.filled.wait_timeout_while(state, most, |state| !until(state) && !state.closed);
            waited.unwrap_or_else(PoisonError::into_inner).0
        };
        let mut state = wait(lock(&self.state), patience, |state| !state.results.is_empty());
        if !state.results.is_empty() {
            state.awaited = enough;
            state = wait(state, LINGER, |state| state.results.len() >= state.awaited || state.hurry);
        }
        state.hurry = false;
        state.weight = 0;
        let results = std::mem::take(&mut state.results);
        self.emptied.notify_all();
        (results, !state.closed)
    }

    /// How many wait for the writer.
    pub fn len(&self) -> usize {
        lock(&self.state).results.len()
    }

    /// Nothing more will come for now: there is nothing to wait for.
    pub fn hurry(&self) {
        lock(&self.state).hurry = true;
        self.filled.notify_one();
    }

    /// Nothing more will come.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.filled.notify_all();
    }
}
