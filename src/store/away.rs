//! Whether the database is away: the log says so once, until what failed works again; and how long nothing has succeeded.

use std::collections::HashSet;
use std::panic::Location;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::StoreError;
use crate::http::lock::lock;

/// A database on whose full disk one small row still fits, or that refuses every second connection, is not available again.
const QUIET: Duration = Duration::from_secs(2);
/// Once nothing has succeeded for so long, not even a heartbeat, …
const TOTAL: Duration = Duration::from_secs(5);
/// … another failure is expected for so long after the last: hundreds of accounts do not each ask a server that is down.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// A failure after which nobody asked for so long tells nothing of now.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Transactions of one kind: those that one place in the code runs. That one can be read says nothing of what cannot be
/// written.
pub(super) type Kind = &'static Location<'static>;

#[derive(Default)]
pub(super) struct Away {
    said: AtomicBool,
    failures: Mutex<Failures>,
    outage: Mutex<Option<Outage>>,
}

#[derive(Default)]
struct Failures {
    /// Of which accounts: where one node of several is down, the others' accounts go on.
    kinds: HashSet<(Kind, String)>,
    last: Option<Instant>,
}

/// Nothing has succeeded since.
struct Outage {
    since: Instant,
    last: Instant,
    error: StoreError,
}

impl Away {
    /// A transaction of the account has failed and is tried again; true when that is to be said.
    pub(super) fn failed(&self, kind: Kind, account: &str, now: Instant) -> bool {
        let mut failures = lock(&self.failures);
        failures.kinds.insert((kind, account.to_owned()));
        failures.last = Some(now);
        !self.said.swap(true, Ordering::Relaxed)
    }

    /// A transaction of the account has succeeded; true when it is to be said that the database is available again.
    pub(super) fn succeeded(&self, kind: Kind, account: &str, now: Instant) -> bool {
        *lock(&self.outage) = None;
        if !self.said.load(Ordering::Relaxed) {
            return false;
        }
        let mut failures = lock(&self.failures);
        failures.kinds.retain(|(failed, of)| !(*failed == kind && of == account));
        let quiet = failures.last.is_none_or(|last| now.saturating_duration_since(last) >= QUIET);
        failures.kinds.is_empty() && quiet && self.said.swap(false, Ordering::Relaxed)
    }

    /// Whoever ran this account's transactions of this kind, or of any, has given up.
    pub(super) fn given_up(&self, kind: Option<Kind>, account: &str) {
        let given_up = |failed: Kind| kind.is_none_or(|kind| kind == failed);
        lock(&self.failures).kinds.retain(|(failed, of)| !(given_up(failed) && of == account));
    }

    /// The database did not serve somebody who began at `since`.
    pub(super) fn unavailable(&self, since: Instant, now: Instant, error: &StoreError) {
        let mut outage = lock(&self.outage);
        let before = outage.take().filter(|outage| outage.is_of(now));
        let since = before.map_or(since, |outage| outage.since.min(since));
        *outage = Some(Outage { since, last: now, error: error.clone() });
    }

    /// Since when nothing has succeeded, if the newest word is a failure.
    pub(super) fn since(&self, now: Instant) -> Option<Instant> {
        lock(&self.outage).as_ref().filter(|outage| outage.is_of(now)).map(|outage| outage.since)
    }

    /// What another attempt would come to, where that is known.
    pub(super) fn expected(&self, now: Instant) -> Option<StoreError> {
        let outage = lock(&self.outage);
        let outage =
            outage.as_ref().filter(|outage| outage.last.saturating_duration_since(outage.since) >= TOTAL)?;
        (now.saturating_duration_since(outage.last) < ASK_AGAIN).then(|| outage.error.clone())
    }
}

impl Outage {
    fn is_of(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < FORGOTTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_until_what_failed_works_again_for_a_while() {
        let (away, start) = (Away::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let (write, read): (Kind, Kind) = (Location::caller(), Location::caller());
        assert_ne!(write, read);
        assert!(!away.succeeded(write, "a", at(0)));
        assert!(away.failed(write, "a", at(1)));
        for second in 2..20 {
            assert!(!away.succeeded(read, "a", at(second)), "what is read was never away");
            assert!(!away.succeeded(write, "b", at(second)), "nor was another account's node");
            assert!(!away.failed(write, "a", at(second)), "it was said already");
        }
        assert!(!away.succeeded(write, "a", at(20)), "it failed a moment ago");
        assert!(away.succeeded(read, "a", at(22)));
        assert!(!away.succeeded(write, "a", at(22)), "it is said once");
        for kind in [Some(write), None] {
            assert!(away.failed(write, "a", at(30)));
            away.given_up(kind, "b");
            assert!(!away.succeeded(read, "a", at(40)));
            away.given_up(kind, "a");
            assert!(away.succeeded(read, "a", at(40)));
        }
    }

    #[test]
    fn an_outage_lasts_from_its_first_failure_to_the_first_success_of_anybody() {
        let (away, start) = (Away::default(), Instant::now());
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let error = StoreError::Unavailable { message: "refused".into() };
        assert_eq!((away.since(at(0)), away.expected(at(0))), (None, None));
        away.unavailable(at(3), at(5), &error);
        assert_eq!(
            (away.since(at(6)), away.expected(at(6))),
            (Some(at(3)), None),
            "it may have been a hiccup"
        );
        away.unavailable(at(54), at(55), &error);
        assert_eq!((away.since(at(56)), away.expected(at(56))), (Some(at(3)), Some(error.clone())));
        assert_eq!(away.expected(at(58)), None, "it is time to ask again");
        away.succeeded(Location::caller(), "a", at(59));
        assert_eq!((away.since(at(59)), away.expected(at(59))), (None, None));
        away.unavailable(at(60), at(60), &error);
        assert_eq!(away.since(at(900)), None, "nobody has asked since");
        away.unavailable(at(900), at(900), &error);
        assert_eq!(away.since(at(901)), Some(at(900)));
    }
}
