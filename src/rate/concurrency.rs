//! How many requests may be in flight at once, below a maximum: a little more with every round that goes well, a good deal
//! less when the platform is overloaded (additive increase, multiplicative decrease).

use std::time::{Duration, Instant};

/// What is left of the limit after an overload.
const DECREASE: f64 = 0.7;
/// Overloads in one round that are no accident, as a share of the round; never fewer than two. One campaign that always fails
/// is below it.
const OVERLOADED_SHARE: f64 = 0.15;
/// The factor between a round's mean latency and the least one that counts as overload …
const INFLATED: f64 = 3.0;
/// … unless the difference is smaller than this: sixteen threads on one core do that to each other.
const TOLERATED: Duration = Duration::from_millis(100);
/// The factor by which the least latency is forgotten each round: the platform may have become slower for good.
const FORGET: f64 = 1.02;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// It was answered well, after this time.
    Fine(Duration),
    /// A timeout, a 5xx, no connection.
    Overload,
    /// Nothing that tells of load: a refusal, a 429.
    Neutral,
}

/// The adaptive limit.
#[derive(Clone, Debug)]
pub struct Concurrency {
    max: usize,
    limit: f64,
    decreased_at: Option<Instant>,
    successes: u32,
    overloads: u32,
    latency: f64,
    least_mean: Option<f64>,
}

impl Concurrency {
    /// Starts at `max`: a platform that copes is used at once, one that does not says so within a round.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn new(max: usize) -> Self {
        let max = max.max(1);
        Self {
            max,
            limit: max as f64,
            decreased_at: None,
            successes: 0,
            overloads: 0,
            latency: 0.0,
            least_mean: None,
        }
    }

    /// How many requests may be in flight now.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// The mean latency of the last rounds, when one is known.
    #[must_use]
    pub fn mean_latency(&self) -> Option<Duration> {
        self.least_mean.and_then(|mean| Duration::try_from_secs_f64(mean).ok())
    }

    /// Takes in what came of a request that was sent at `sent_at`.
    #[allow(clippy::cast_precision_loss)]
    pub fn observe(&mut self, load: Load, sent_at: Instant, now: Instant) {
        match load {
            Load::Neutral => return,
            Load::Fine(latency) => {
                self.successes += 1;
                self.latency += latency.as_secs_f64();
            }
            // What was sent before the last decrease says what is known already: one burst, one decrease.
            Load::Overload if self.decreased_at.is_some_and(|at| sent_at < at) => return,
            Load::Overload => self.overloads += 1,
        }
        let seen = f64::from(self.successes + self.overloads);
        if f64::from(self.overloads) >= (seen.max(self.limit) * OVERLOADED_SHARE).max(2.0) {
            self.decrease(now);
        } else if seen >= self.limit {
            self.end_round(now);
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn end_round(&mut self, now: Instant) {
        if self.successes > 0 {
            let mean = self.latency / f64::from(self.successes);
            let least = self.least_mean.map_or(mean, |least| (least * FORGET).min(mean));
            self.least_mean = Some(least);
            if mean > least * INFLATED && mean - least > TOLERATED.as_secs_f64() {
                self.decrease(now);
                return;
            }
        }
        self.begin_round();
        self.limit = (self.limit + 1.0).min(self.max as f64);
    }

    fn decrease(&mut self, now: Instant) {
        self.limit = (self.limit * DECREASE).max(1.0);
        self.decreased_at = Some(now);
        self.begin_round();
    }

    fn begin_round(&mut self) {
        (self.successes, self.overloads, self.latency) = (0, 0, 0.0);
    }
}
