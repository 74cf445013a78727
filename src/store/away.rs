//! Whether the log already says that the database is away: once, until what failed works again.

use std::collections::HashSet;
use std::panic::Location;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::http::lock::lock;

/// A database on whose full disk one small row still fits, or that refuses every second connection, is not available again.
const QUIET: Duration = Duration::from_secs(2);

/// Transactions of one kind: those that one place in the code runs. That one can be read says nothing of what cannot be
/// written.
pub(super) type Kind = &'static Location<'static>;

#[derive(Default)]
pub(super) struct Away {
    said: AtomicBool,
    failures: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    kinds: HashSet<Kind>,
    last: Option<Instant>,
}

impl Away {
    /// A transaction has failed and is tried again; true when that is to be said.
    pub(super) fn failed(&self, kind: Kind, now: Instant) -> bool {
        let mut failures = lock(&self.failures);
        failures.kinds.insert(kind);
        failures.last = Some(now);
        !self.said.swap(true, Ordering::Relaxed)
    }

    /// A transaction has succeeded; true when it is to be said that the database is available again.
    pub(super) fn succeeded(&self, kind: Kind, now: Instant) -> bool {
        if !self.said.load(Ordering::Relaxed) {
            return false;
        }
        let mut failures = lock(&self.failures);
        failures.kinds.remove(kind);
        let quiet = failures.last.is_none_or(|last| now.saturating_duration_since(last) >= QUIET);
        failures.kinds.is_empty() && quiet && self.said.swap(false, Ordering::Relaxed)
    }

    /// Whoever ran these transactions has given up.
    pub(super) fn given_up(&self, kind: Kind) {
        lock(&self.failures).kinds.remove(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_until_what_failed_works_again_for_a_while() {
        let (away, start) = (Away::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (write, read): (Kind, Kind) = (Location::caller(), Location::caller());
        assert_ne!(write, read);
        assert!(!away.succeeded(write, at(0)));
        assert!(away.failed(write, at(1)));
        for second in 2..20 {
            assert!(!away.succeeded(read, at(second)), "what is read was never away");
            assert!(!away.failed(write, at(second)), "it was said already");
        }
        assert!(!away.succeeded(write, at(20)), "it failed a moment ago");
        assert!(away.succeeded(read, at(22)));
        assert!(!away.succeeded(write, at(22)), "it is said once");
        assert!(away.failed(write, at(30)));
        away.given_up(write);
        assert!(away.succeeded(read, at(40)));
    }
}
