//! Is the API up? A breaker for each kind of call, a budget for retries, and the time at which to give up.

use std::time::{Duration, Instant};

use crate::http::health::{
    BUDGET, BUDGET_PER_SUCCESS, MOST_WAITS, OPENS_AFTER, OVER_BUDGET_WAIT, TRIAL_INTERVAL, WARNS_AFTER,
    WARNS_AFTER_TIME,
};

pub use crate::http::health::Lane;

/// What is known of the API's health.
#[derive(Clone, Debug)]
pub struct Health {
    give_up_after: Duration,
    longest_refused: Duration,
    failing_since: Option<Instant>,
    /// The first failure or refusal since the last success; waits that the platform asked for count here.
    without_success_since: Option<Instant>,
    /// Failures since the last success.
    row: u32,
    /// When the row of failures began that was worth a warning.
    warned: Option<Instant>,
    /// Something has succeeded.
    proven: bool,
    budget: f64,
    lanes: [Breaker; 2],
}

#[derive(Clone, Debug, Default)]
struct Breaker {
    failures_in_row: u32,
    open: Option<Trial>,
    times_closed: u64,
    successes: u64,
    last_success_sent: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    next: Instant,
    interval: Duration,
}

impl Health {
    /// Healthy until failures are seen.
    #[must_use]
    pub fn new(give_up_after: Duration, max_wait: Duration) -> Self {
        Self {
            give_up_after,
            longest_refused: max_wait.saturating_mul(MOST_WAITS).saturating_add(give_up_after),
            failing_since: None,
            without_success_since: None,
            row: 0,
            warned: None,
            proven: false,
            budget: BUDGET,
            lanes: Default::default(),
        }
    }

    /// A call that was sent at `sent_at` succeeded. After failures that were worth a warning, tells since when they lasted.
    pub fn success(&mut self, lane: Lane, sent_at: Instant) -> Option<Instant> {
        (self.failing_since, self.without_success_since, self.row, self.proven) = (None, None, 0, true);
        self.budget = (self.budget + BUDGET_PER_SUCCESS).min(BUDGET);
        let breaker = &mut self.lanes[lane as usize];
        breaker.failures_in_row = 0;
        breaker.successes += 1;
        breaker.last_success_sent = breaker.last_success_sent.max(Some(sent_at));
        if breaker.open.take().is_some() {
            breaker.times_closed += 1;
        }
        self.warned.take()
    }

    /// Something else than a call of a lane has succeeded: the API is there.
    pub fn answers(&mut self) {
        self.proven = true;
    }

    /// Whether anything has succeeded.
    #[must_use]
    pub fn proven(&self) -> bool {
        self.proven
    }

    /// Whether the failure that was just seen is worth a warning: once for each row of failures. `no_connection` tells more
    /// than an answer, of which the next may be a better one.
    pub fn is_worth_a_warning(&mut self, no_connection: bool, now: Instant) -> bool {
        let Some(since) = self.failing_since.filter(|_| self.warned.is_none()) else { return false };
        let lasting = self.row >= WARNS_AFTER && now.saturating_duration_since(since) >= WARNS_AFTER_TIME;
        let never = !self.proven && (no_connection || self.row >= 2);
        if lasting || never {
            self.warned = Some(since);
        }
        lasting || never
    }

    /// A call failed in a way that another attempt might cure. A 429 is no failure.
    pub fn failure(&mut self, lane: Lane, now: Instant) {
        self.failing_since.get_or_insert(now);
        self.without_success_since.get_or_insert(now);
        self.row = self.row.saturating_add(1);
        let breaker = &mut self.lanes[lane as usize];
        breaker.failures_in_row = breaker.failures_in_row.saturating_add(1);
        if breaker.failures_in_row >= OPENS_AFTER && breaker.open.is_none() {
            breaker.open = Some(Trial { next: now + TRIAL_INTERVAL.0, interval: TRIAL_INTERVAL.0 });
        }
    }

    /// A call was refused by a rate limiter: no failure, but nothing that may go on for ever either.
    pub fn refused(&mut self, now: Instant) {
        self.without_success_since.get_or_insert(now);
    }

    /// Whether a call of this lane may be sent now; takes the interval's trial when the breaker is open.
    ///
    /// # Errors
    /// When to ask again.
    pub fn admit(&mut self, lane: Lane, now: Instant) -> Result<(), Instant> {
        let Some(trial) = &mut self.lanes[lane as usize].open else { return Ok(()) };
        if now < trial.next {
            return Err(trial.next);
        }
        trial.interval = (trial.interval * 2).min(TRIAL_INTERVAL.1);
        trial.next = now + trial.interval;
        Ok(())
    }

    /// When a call of this lane may be sent, if not now. Takes no trial.
    #[must_use]
    pub fn closed_until(&self, lane: Lane, now: Instant) -> Option<Instant> {
        self.lanes[lane as usize].open.map(|trial| trial.next).filter(|next| now < *next)
    }

    /// Whether the lane's breaker is open.
    #[must_use]
    pub fn is_open(&self, lane: Lane) -> bool {
        self.lanes[lane as usize].open.is_some()
    }

    /// What a retry waits in addition beyond the budget, which keeps a failing API from being hammered.
    #[must_use]
    pub fn over_budget(&self) -> Duration {
        if self.budget >= 1.0 { Duration::ZERO } else { OVER_BUDGET_WAIT }
    }

    /// Takes a retry from the budget.
    pub fn spend_retry(&mut self) {
        if self.budget >= 1.0 {
            self.budget -= 1.0;
        }
    }

    /// How long nothing at all has succeeded, refusals included and whatever was asked for.
    #[must_use]
    pub fn luckless_for(&self, now: Instant) -> Duration {
        self.without_success_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// A wait that the platform asked for is no time of failing: moves the start of the failing on by it.
    pub fn excuse(&mut self, wait: Duration, now: Instant) {
        if let Some(since) = self.failing_since {
            self.failing_since = Some((since + wait).min(now));
        }
    }

    /// When it will be time to give up, if nothing succeeds before.
    #[must_use]
    pub fn gives_up_at(&self) -> Option<Instant> {
        let failing = self.failing_since.map(|since| since + self.give_up_after);
        let refused = self.without_success_since.map(|since| since + self.longest_refused);
        [failing, refused].into_iter().flatten().min()
    }

    /// How long nothing at all has succeeded, if it is time to give up.
    #[must_use]
    pub fn given_up(&self, now: Instant) -> Option<Duration> {
        let since = |since: Option<Instant>, longest: Duration| {
            since.map(|since| now.saturating_duration_since(since)).filter(|time| *time >= longest)
        };
        since(self.failing_since, self.give_up_after)
            .or_else(|| since(self.without_success_since, self.longest_refused))
    }

    /// How often this lane has recovered from an outage: failures before and after one are not added up.
    #[must_use]
    pub fn recoveries(&self, lane: Lane) -> u64 {
        self.lanes[lane as usize].times_closed
    }

    /// Whether a call of this lane that was sent after `moment` has succeeded: proof that what failed at `moment` failed for
    /// a reason of its own.
    #[must_use]
    pub fn succeeded_since(&self, lane: Lane, moment: Instant) -> bool {
        self.lanes[lane as usize].last_success_sent.is_some_and(|sent| sent > moment)
    }

    /// How many calls of this lane have succeeded.
    #[must_use]
    pub fn successes(&self, lane: Lane) -> u64 {
        self.lanes[lane as usize].successes
    }
}
