//! Is the API up? A breaker for each kind of call, a budget for retries, and the clock that says when to give up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::lock::lock;

/// So many failures in a row, without one success, open a lane's breaker.
pub(crate) const OPENS_AFTER: u32 = 10;
/// While open, one trial call is let through in each interval, which doubles from the first to the second.
pub(crate) const TRIAL_INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Retries that may be made before any success, and at most after a long time without failures.
pub(crate) const BUDGET: f64 = 100.0;
/// Retries that each success allows.
pub(crate) const BUDGET_PER_SUCCESS: f64 = 0.5;
/// Waits of the longest kind that a rate limiter may ask for in a row, without any success, before that is given up too:
/// enough to find out any window of up to an hour.
pub(crate) const MOST_WAITS: u32 = 4;
/// So many failures without one success, over so long, are worth a warning where something had succeeded before: fewer are
/// the daily bread of an unreliable API.
pub(crate) const WARNS_AFTER: u32 = 3;
pub(crate) const WARNS_AFTER_TIME: Duration = Duration::from_secs(1);
/// What a retry beyond the budget waits in addition.
pub(crate) const OVER_BUDGET_WAIT: Duration = Duration::from_secs(1);

/// A kind of call; each fails on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Authentication and listing.
    List,
    /// One campaign's sync.
    Sync,
}

/// What is known of the API's health; shared by all threads of an account.
pub struct Health {
    clock: Arc<dyn Clock>,
    give_up_after: Duration,
    longest_refused: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failing_since: Option<Instant>,
    /// The first failure or refusal since the last success; waits that the server asked for count here.
    luckless_since: Option<Instant>,
    /// Failures since the last success.
    row: u32,
    /// When the row of failures began that was worth a warning.
    warned: Option<Instant>,
    /// Something has succeeded.
    proven: bool,
    budget: f64,
    lanes: [Breaker; 2],
}

#[derive(Default)]
struct Breaker {
    failures_in_row: u32,
    open: Option<Trial>,
    times_closed: u64,
    successes: u64,
    last_success_sent: Option<Instant>,
}

struct Trial {
    next: Instant,
    interval: Duration,
}

impl Health {
    /// Healthy until failures are seen.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, give_up_after: Duration, max_wait: Duration) -> Self {
        let state = State { budget: BUDGET, ..State::default() };
        let longest_refused = max_wait.saturating_mul(MOST_WAITS).saturating_add(give_up_after);
        Self { clock, give_up_after, longest_refused, state: Mutex::new(state) }
    }

    /// A call that was sent at `sent_at` succeeded. After failures that were worth a warning, tells since when they lasted.
    pub fn success(&self, lane: Lane, sent_at: Instant) -> Option<Duration> {
        let mut state = lock(&self.state);
        (state.failing_since, state.luckless_since, state.row, state.proven) = (None, None, 0, true);
        let warned = state.warned.take();
        state.budget = (state.budget + BUDGET_PER_SUCCESS).min(BUDGET);
        let breaker = &mut state.lanes[lane as usize];
        breaker.failures_in_row = 0;
        breaker.successes += 1;
        breaker.last_success_sent = breaker.last_success_sent.max(Some(sent_at));
        if breaker.open.take().is_some() {
            breaker.times_closed += 1;
        }
        warned.map(|since| self.clock.now().saturating_duration_since(since))
    }

    /// Something else than a call of a lane has succeeded: the API is there.
    pub fn answers(&self) {
        lock(&self.state).proven = true;
    }

    /// Whether anything has succeeded.
    #[must_use]
    pub fn proven(&self) -> bool {
        lock(&self.state).proven
    }

    /// Whether the failure that was just seen is worth a warning: once for each row of failures. `no_connection` tells more
    /// than an answer, of which the next may be a better one.
    #[must_use]
    pub fn is_worth_a_warning(&self, no_connection: bool) -> bool {
        let state = &mut *lock(&self.state);
        let Some(since) = state.failing_since.filter(|_| state.warned.is_none()) else { return false };
        let lasting = state.row >= WARNS_AFTER && self.clock.now() - since >= WARNS_AFTER_TIME;
        let never = !state.proven && (no_connection || state.row >= 2);
        if lasting || never {
            state.warned = Some(since);
        }
        lasting || never
    }

    /// A call failed in a way that another attempt might cure. A 429 is no failure.
    pub fn failure(&self, lane: Lane) {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        state.failing_since.get_or_insert(now);
        state.luckless_since.get_or_insert(now);
        state.row = state.row.saturating_add(1);
        let breaker = &mut state.lanes[lane as usize];
        breaker.failures_in_row = breaker.failures_in_row.saturating_add(1);
        if breaker.failures_in_row >= OPENS_AFTER && breaker.open.is_none() {
            breaker.open = Some(Trial { next: now + TRIAL_INTERVAL.0, interval: TRIAL_INTERVAL.0 });
        }
    }

    /// A call was refused by a rate limiter: no failure, but nothing that could go on for ever either.
    pub fn refused(&self) {
        let now = self.clock.now();
        lock(&self.state).luckless_since.get_or_insert(now);
    }

    /// Whether a call of this lane may be sent now; else how long to wait before asking again.
    ///
    /// # Errors
    /// The wait, when the breaker is open and this interval's trial is taken.
    pub fn admit(&self, lane: Lane) -> Result<(), Duration> {
        let mut state = lock(&self.state);
        let Some(trial) = &mut state.lanes[lane as usize].open else { return Ok(()) };
        let now = self.clock.now();
        if now < trial.next {
            return Err(trial.next - now);
        }
        trial.interval = (trial.interval * 2).min(TRIAL_INTERVAL.1);
        trial.next = now + trial.interval;
        Ok(())
    }

    /// What a retry would have to wait beyond the budget, which keeps a failing API from being hammered.
    #[must_use]
    pub fn over_budget(&self) -> Duration {
        if lock(&self.state).budget >= 1.0 { Duration::ZERO } else { OVER_BUDGET_WAIT }
    }

    /// Takes a retry from the budget.
    pub fn spend_retry(&self) {
        let mut state = lock(&self.state);
        if state.budget >= 1.0 {
            state.budget -= 1.0;
        }
    }

    /// How long nothing at all has succeeded, refusals included and whatever was asked for.
    #[must_use]
    pub fn luckless_for(&self) -> Duration {
        let since = lock(&self.state).luckless_since;
        since.map_or(Duration::ZERO, |since| self.clock.now().saturating_duration_since(since))
    }

    /// A wait that the server asked for is no time of failing: moves the start of the failing on by it.
    pub fn excuse(&self, wait: Duration) {
        let mut state = lock(&self.state);
        if let Some(since) = state.failing_since {
            state.failing_since = Some((since + wait).min(self.clock.now()));
        }
    }

    /// How long nothing at all has succeeded, counted from the first failure, without the waits that the server asked for.
    #[must_use]
    pub fn failing_for(&self) -> Duration {
        let since = lock(&self.state).failing_since;
        since.map_or(Duration::ZERO, |since| self.clock.now().saturating_duration_since(since))
    }

    /// How long nothing at all has succeeded, if it is time to give up.
    #[must_use]
    pub fn given_up(&self) -> Option<Duration> {
        let State { failing_since, luckless_since, .. } = *lock(&self.state);
        let now = self.clock.now();
        let longer = |since: Option<Instant>, most: Duration| {
            since.map(|since| now.saturating_duration_since(since)).filter(|time| *time >= most)
        };
        longer(failing_since, self.give_up_after).or_else(|| longer(luckless_since, self.longest_refused))
    }

    /// How often this lane has recovered from an outage: failures before and after are not to be added up.
    #[must_use]
    pub fn recoveries(&self, lane: Lane) -> u64 {
        lock(&self.state).lanes[lane as usize].times_closed
    }

    /// Whether a call of this lane that was sent after `moment` has succeeded: proof that what failed at `moment`
    /// failed for a reason of its own.
    #[must_use]
    pub fn succeeded_since(&self, lane: Lane, moment: Instant) -> bool {
        lock(&self.state).lanes[lane as usize].last_success_sent.is_some_and(|sent| sent > moment)
    }

    /// How many calls of this lane have succeeded.
    #[must_use]
    pub fn successes(&self, lane: Lane) -> u64 {
        lock(&self.state).lanes[lane as usize].successes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::clock::VirtualClock;

    fn health() -> (Arc<VirtualClock>, Health) {
        let clock = Arc::new(VirtualClock::new(1));
        (clock.clone(), Health::new(clock, Duration::from_secs(300), Duration::from_secs(900)))
    }

    #[test]
    fn a_dead_lane_is_tried_once_an_interval() {
        let (clock, health) = health();
        let mut sent = 0;
        while clock.elapsed() < Duration::from_secs(60) {
            match health.admit(Lane::Sync) {
                Ok(()) => {
                    sent += 1;
                    health.failure(Lane::Sync);
                }
                Err(wait) => clock.sleep(wait),
            }
        }
        assert!((OPENS_AFTER + 55..OPENS_AFTER + 70).contains(&sent), "{sent}");
        assert!(health.admit(Lane::List).is_ok(), "the other lane is open");
    }

    #[test]
    fn one_success_closes_the_breaker_and_starts_a_new_count() {
        let (clock, health) = health();
        for _ in 0..OPENS_AFTER {
            health.failure(Lane::Sync);
        }
        assert!(health.admit(Lane::Sync).is_err());
        let sent_at = clock.now();
        health.success(Lane::Sync, sent_at);
        assert!(health.admit(Lane::Sync).is_ok());
        assert_eq!(health.recoveries(Lane::Sync), 1);
        assert_eq!(health.failing_for(), Duration::ZERO);
    }

    #[test]
    fn giving_up_takes_the_whole_time_without_one_success_and_no_waiting_that_was_asked_for() {
        let (clock, health) = health();
        clock.sleep(Duration::from_secs(1000));
        assert_eq!(health.given_up(), None, "idle is not failing");
        health.failure(Lane::Sync);
        clock.sleep(Duration::from_secs(299));
        assert_eq!(health.given_up(), None);
        health.excuse(Duration::from_secs(100));
        clock.sleep(Duration::from_secs(100));
        assert_eq!(health.given_up(), None);
        clock.sleep(Duration::from_secs(1));
        assert_eq!(health.given_up(), Some(Duration::from_secs(300)));
        health.success(Lane::List, clock.now());
        assert_eq!(health.given_up(), None);
    }

    #[test]
    fn a_row_of_failures_is_worth_one_warning_and_single_ones_are_worth_none() {
        let (clock, health) = health();
        let fail = |no_connection| {
            health.failure(Lane::Sync);
            health.is_worth_a_warning(no_connection)
        };
        assert!(
            !fail(false) && fail(false) && !fail(true),
            "nothing has succeeded yet: the second, and once"
        );
        clock.sleep(Duration::from_secs(9));
        assert_eq!(health.success(Lane::List, clock.now()), Some(Duration::from_secs(9)));
        for _ in 0..100 {
            assert!(!fail(true) && !fail(false));
            assert_eq!(health.success(Lane::Sync, clock.now()), None);
        }
        assert!(!fail(true) && !fail(true));
        clock.sleep(WARNS_AFTER_TIME);
        assert!(fail(false) && !fail(false));
    }

    #[test]
    fn only_a_later_call_proves_that_the_api_was_up() {
        let (clock, health) = health();
        let straggler_sent = clock.now();
        clock.sleep(Duration::from_secs(1));
        let failed_at = clock.now();
        health.failure(Lane::Sync);
        health.success(Lane::Sync, straggler_sent);
        assert!(!health.succeeded_since(Lane::Sync, failed_at));
        clock.sleep(Duration::from_millis(1));
        health.success(Lane::Sync, clock.now());
        assert!(health.succeeded_since(Lane::Sync, failed_at));
    }

    #[test]
    fn retries_beyond_the_budget_wait() {
        let (clock, health) = health();
        let spend = || {
            let wait = health.over_budget();
            health.spend_retry();
            wait
        };
        let free = (0..1000).take_while(|_| spend().is_zero()).count();
        assert_eq!(free, 100);
        health.success(Lane::Sync, clock.now());
        health.success(Lane::Sync, clock.now());
        assert!(spend().is_zero());
        assert!(!spend().is_zero());
    }
}
