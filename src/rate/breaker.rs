//! Is the API up? A breaker for each kind of call, a budget for retries, and the time at which to give up.

use std::time::{Duration, Instant};

/// Failures in a row, without one success, that open a lane's breaker.
const OPENS_AFTER: u32 = 10;
/// While open, one trial call is let through in each interval, which doubles from the first to the second.
const TRIAL_INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Retries that may be made before any success, and at most after a long time without failures.
const BUDGET: f64 = 100.0;
/// Retries that each success allows.
const BUDGET_PER_SUCCESS: f64 = 0.5;
/// Waits of the longest kind that a rate limiter may ask for in a row, without any success, before that is given up too:
/// enough to find out any window of up to an hour.
const MAX_WAITS: u32 = 4;
/// This many failures without one success, over this time, are worth a warning where something had succeeded before: fewer are
/// the daily bread of an unreliable API.
const WARNS_AFTER: u32 = 3;
const WARNS_AFTER_TIME: Duration = Duration::from_secs(1);
/// What a retry beyond the budget waits in addition.
const OVER_BUDGET_WAIT: Duration = Duration::from_secs(1);

/// A kind of call; each fails on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Authentication and listing.
    List,
    /// One campaign's sync.
    Sync,
}

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
            longest_refused: max_wait.saturating_mul(MAX_WAITS).saturating_add(give_up_after),
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health() -> (Instant, Health) {
        (Instant::now(), Health::new(300 * SECOND, 900 * SECOND))
    }

    #[test]
    fn a_dead_lane_is_tried_once_an_interval() {
        let (begun, mut health) = health();
        let (mut now, mut sent) = (begun, 0);
        while now < begun + 60 * SECOND {
            match health.admit(Lane::Sync, now) {
                Ok(()) => {
                    sent += 1;
                    health.failure(Lane::Sync, now);
                }
                Err(at) => {
                    assert_eq!(health.closed_until(Lane::Sync, now), Some(at));
                    now = at;
                }
            }
        }
        assert!((OPENS_AFTER + 55..OPENS_AFTER + 70).contains(&sent), "{sent}");
        assert!(health.is_open(Lane::Sync));
        assert!(health.admit(Lane::List, now).is_ok(), "the other lane is open");
    }

    #[test]
    fn one_success_closes_the_breaker_and_starts_a_new_count() {
        let (now, mut health) = health();
        for _ in 0..OPENS_AFTER {
            health.failure(Lane::Sync, now);
        }
        assert!(health.admit(Lane::Sync, now).is_err());
        health.success(Lane::Sync, now);
        assert!(health.admit(Lane::Sync, now).is_ok());
        assert_eq!(health.recoveries(Lane::Sync), 1);
        assert_eq!((health.gives_up_at(), health.luckless_for(now + SECOND)), (None, Duration::ZERO));
    }

    #[test]
    fn giving_up_takes_the_whole_time_without_one_success_and_no_waiting_that_was_asked_for() {
        let (begun, mut health) = health();
        let now = begun + 1000 * SECOND;
        assert_eq!(health.given_up(now), None, "idle is not failing");
        health.failure(Lane::Sync, now);
        assert_eq!(health.gives_up_at(), Some(now + 300 * SECOND));
        let now = now + 299 * SECOND;
        assert_eq!(health.given_up(now), None);
        health.excuse(100 * SECOND, now);
        let now = now + 100 * SECOND;
        assert_eq!(health.given_up(now), None);
        let now = now + SECOND;
        assert_eq!(health.gives_up_at(), Some(now));
        assert_eq!(health.given_up(now), Some(300 * SECOND));
        health.success(Lane::List, now);
        assert_eq!(health.given_up(now), None);
    }

    #[test]
    fn refusals_alone_are_given_up_after_the_longest_waits_in_a_row() {
        let (now, mut health) = health();
        health.refused(now);
        let longest = MAX_WAITS * 900 * SECOND + 300 * SECOND;
        assert_eq!(health.given_up(now + longest - SECOND), None);
        assert_eq!(health.gives_up_at(), Some(now + longest));
        assert_eq!(health.given_up(now + longest), Some(longest));
    }

    #[test]
    fn a_row_of_failures_is_worth_one_warning_and_single_ones_are_worth_none() {
        let (begun, mut health) = health();
        let fail = |health: &mut Health, no_connection, now| {
            health.failure(Lane::Sync, now);
            health.is_worth_a_warning(no_connection, now)
        };
        assert!(!fail(&mut health, false, begun), "nothing has succeeded yet: the second, …");
        assert!(fail(&mut health, false, begun) && !fail(&mut health, true, begun), "… and once");
        let now = begun + 9 * SECOND;
        assert_eq!(health.success(Lane::List, now), Some(begun));
        for _ in 0..100 {
            assert!(!fail(&mut health, true, now) && !fail(&mut health, false, now));
            assert_eq!(health.success(Lane::Sync, now), None);
        }
        assert!(!fail(&mut health, true, now) && !fail(&mut health, true, now));
        let now = now + WARNS_AFTER_TIME;
        assert!(fail(&mut health, false, now) && !fail(&mut health, false, now));
    }

    #[test]
    fn only_a_later_call_proves_that_the_api_was_up() {
        let (straggler_sent, mut health) = health();
        let failed_at = straggler_sent + SECOND;
        health.failure(Lane::Sync, failed_at);
        health.success(Lane::Sync, straggler_sent);
        assert!(!health.succeeded_since(Lane::Sync, failed_at));
        health.success(Lane::Sync, failed_at + SECOND / 1000);
        assert!(health.succeeded_since(Lane::Sync, failed_at));
    }

    #[test]
    fn retries_beyond_the_budget_wait() {
        let (now, mut health) = health();
        let spend = |health: &mut Health| {
            let wait = health.over_budget();
            health.spend_retry();
            wait
        };
        let free = (0..1000).take_while(|_| spend(&mut health).is_zero()).count();
        assert_eq!(free, 100);
        health.success(Lane::Sync, now);
        health.success(Lane::Sync, now);
        assert!(spend(&mut health).is_zero());
        assert!(!spend(&mut health).is_zero());
    }
}
