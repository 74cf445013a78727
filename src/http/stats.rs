//! Counts of what was sent and what came of it, kept without locks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::retry::Cause;
use super::spread;

/// Classes of answers, as metrics name them.
pub const STATUS_CLASSES: [&str; 5] = ["2xx", "4xx", "429", "5xx", "error"];
/// Upper bounds of the latency histogram's buckets, in seconds: from a loopback's to a timeout's.
pub const LATENCY_BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// An account's counts in this process.
#[derive(Debug, Default)]
pub struct Stats {
    by_class: [AtomicU64; STATUS_CLASSES.len()],
    retries: [AtomicU64; Cause::ALL.len()],
    token_refreshes: AtomicU64,
    limited: AtomicU64,
    latency_buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    latency_micros: AtomicU64,
    durations: [AtomicU64; spread::BUCKETS],
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Requests by class, in the order of [`STATUS_CLASSES`].
    pub by_class: [u64; STATUS_CLASSES.len()],
    /// Retries by cause, in the order of [`Cause::ALL`].
    pub retries: [u64; Cause::ALL.len()],
    /// Tokens fetched.
    pub token_refreshes: u64,
    /// Requests that count towards the rate limit.
    pub limited: u64,
    /// Requests by latency, in the order of [`LATENCY_BOUNDS`]; the last bucket is for all above.
    pub latency_buckets: [u64; LATENCY_BOUNDS.len() + 1],
    /// The sum of all latencies.
    pub latency: Duration,
    /// Requests by latency, finer: see [`spread`].
    pub durations: [u64; spread::BUCKETS],
}

impl Counts {
    /// Requests of every kind.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.by_class.iter().sum()
    }

    /// Retries for every cause, except those that are no failures: 429s cost no attempt.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.retries.iter().sum::<u64>() - self.retries[Cause::RateLimited as usize]
    }

    /// Refusals by the rate limiter.
    #[must_use]
    pub fn rate_limited(&self) -> u64 {
        self.by_class[2]
    }
}

impl Stats {
    /// A request was answered, or not (`status` none); `refused` by a rate limiter, whatever its status.
    pub(crate) fn exchanged(&self, status: Option<u16>, refused: bool, latency: Duration) {
        let class = match status {
            Some(_) if refused => 2,
            Some(200..=399) => 0,
            Some(400..=499) => 1,
            Some(_) => 3,
            None => 4,
        };
        self.by_class[class].fetch_add(1, Relaxed);
        let seconds = latency.as_secs_f64();
        let bucket =
            LATENCY_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        self.latency_buckets[bucket].fetch_add(1, Relaxed);
        self.durations[spread::bucket(latency)].fetch_add(1, Relaxed);
        self.latency_micros.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// An attempt will be made again.
    pub(crate) fn retry(&self, cause: Cause) {
        self.retries[cause as usize].fetch_add(1, Relaxed);
    }

    /// A token was fetched.
    pub(crate) fn token_refreshed(&self) {
        self.token_refreshes.fetch_add(1, Relaxed);
    }

    /// A request that counts towards the rate limit was sent.
    pub(crate) fn limited(&self) {
        self.limited.fetch_add(1, Relaxed);
    }

    /// The counts now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        Counts {
            by_class: std::array::from_fn(|i| load(&self.by_class[i])),
            retries: std::array::from_fn(|i| load(&self.retries[i])),
            token_refreshes: load(&self.token_refreshes),
            limited: load(&self.limited),
            latency_buckets: std::array::from_fn(|i| load(&self.latency_buckets[i])),
            latency: Duration::from_micros(load(&self.latency_micros)),
            durations: std::array::from_fn(|i| load(&self.durations[i])),
        }
    }
}
