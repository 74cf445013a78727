//! How many requests may be under way at once, below a maximum: a little more with every round that goes well, a good
//! deal less when the server is overloaded.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::lock::lock;

/// What is left of the limit after an overload.
const DECREASE: f64 = 0.7;
/// Overloads in one round that are no accident, as a share of the round; and never fewer than two. One campaign that
/// always fails is below it.
const OVERLOADED_SHARE: f64 = 0.15;
/// A round's mean latency so many times the least one is inflation …
const INFLATED: f64 = 3.0;
/// … unless it is below this much above it: sixteen threads on one core do that to each other.
const TOLERATED: Duration = Duration::from_millis(100);
/// By what the least latency is forgotten each round: the server may have become slower for good.
const FORGET: f64 = 1.02;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered well.
    Success,
    /// A timeout, a 5xx, no connection.
    Overload,
    /// Nothing that tells of load: a refusal, a 429, a turn that was not used.
    Neutral,
}

/// The adaptive limit; shared by threads.
pub struct Concurrency {
    max: usize,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    limit: f64,
    in_flight: usize,
    decreased_at: Option<Instant>,
    round: Round,
    least_mean: Option<f64>,
}

#[derive(Default)]
struct Round {
    successes: u32,
    overloads: u32,
    latency: f64,
}

impl Concurrency {
    /// Starts at `max`: a server that copes is used at once, one that does not says so within a round.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn new(max: usize, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            limit: max as f64,
            in_flight: 0,
            decreased_at: None,
            round: Round::default(),
            least_mean: None,
        };
        Self { max, clock, state: Mutex::new(state) }
    }

    /// Takes a place, if there is one and no more than `most` are taken then.
    pub fn try_acquire(&self, most: usize) -> bool {
        let mut state = lock(&self.state);
        let free = state.in_flight < state.allowed().min(most);
        if free {
            state.in_flight += 1;
        }
        free
    }

    /// Gives a place back; the request was sent at `sent_at`.
    pub fn release(&self, outcome: Outcome, sent_at: Instant) {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        state.in_flight = state.in_flight.saturating_sub(1);
        // What was sent before the last decrease says what is known already: one burst, one decrease.
        let old_news = state.decreased_at.is_some_and(|at| sent_at < at);
        match outcome {
            Outcome::Neutral => return,
            Outcome::Success => {
                state.round.successes += 1;
                state.round.latency += now.saturating_duration_since(sent_at).as_secs_f64();
            }
            Outcome::Overload if old_news => return,
            Outcome::Overload => state.round.overloads += 1,
        }
        let seen = state.round.successes + state.round.overloads;
        let many = (f64::from(seen).max(state.limit) * OVERLOADED_SHARE).max(2.0);
        if f64::from(state.round.overloads) >= many {
            state.decrease(now);
        } else if f64::from(seen) >= state.limit {
            self.end_round(&mut state, now);
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn end_round(&self, state: &mut State, now: Instant) {
        if state.round.successes > 0 {
            let mean = state.round.latency / f64::from(state.round.successes);
            let least = state.least_mean.map_or(mean, |least| (least * FORGET).min(mean));
            state.least_mean = Some(least);
            if mean > least * INFLATED && mean - least > TOLERATED.as_secs_f64() {
                state.decrease(now);
                return;
            }
        }
        state.round = Round::default();
        state.limit = (state.limit + 1.0).min(self.max as f64);
    }

    /// How many may be under way now.
    #[must_use]
    pub fn limit(&self) -> usize {
        lock(&self.state).allowed()
    }

    /// How many are.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.state).in_flight
    }
}

impl State {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn allowed(&self) -> usize {
        self.limit as usize
    }

    fn decrease(&mut self, now: Instant) {
        self.limit = (self.limit * DECREASE).max(1.0);
        self.decreased_at = Some(now);
        self.round = Round::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::clock::VirtualClock;

    /// A server that answers in `latency` up to `capacity` requests at once, and 503 at once beyond it.
    fn rounds(max: usize, capacity: usize, latency: Duration, rounds: usize) -> Vec<usize> {
        let clock = Arc::new(VirtualClock::new(1));
        let concurrency = Concurrency::new(max, clock.clone());
        (0..rounds)
            .map(|_| {
                let sent_at = clock.now();
                let sent = std::iter::repeat_with(|| concurrency.try_acquire(usize::MAX))
                    .take_while(|free| *free)
                    .count();
                clock.sleep(latency);
                for i in 0..sent {
                    let outcome = if i < capacity { Outcome::Success } else { Outcome::Overload };
                    concurrency.release(outcome, sent_at);
                }
                assert_eq!(concurrency.in_flight(), 0);
                sent
            })
            .collect()
    }

    #[test]
    fn a_server_that_copes_gets_all_workers_from_the_first_round() {
        assert!(rounds(64, 64, Duration::from_millis(200), 50).iter().all(|sent| *sent == 64));
    }

    #[test]
    fn an_overloaded_server_is_found_and_kept_near_its_capacity() {
        let sent = rounds(64, 20, Duration::from_millis(200), 400);
        let late = &sent[100..];
        let mean = late.iter().sum::<usize>() / late.len();
        assert!((14..=24).contains(&mean), "{mean}");
        assert!(late.iter().all(|sent| *sent <= 26), "{late:?}");
    }

    #[test]
    fn one_burst_is_one_decrease() {
        let clock = Arc::new(VirtualClock::new(1));
        let concurrency = Concurrency::new(100, clock.clone());
        let sent_at = clock.now();
        (0..100).for_each(|_| assert!(concurrency.try_acquire(usize::MAX)));
        clock.sleep(Duration::from_millis(1));
        (0..100).for_each(|_| concurrency.release(Outcome::Overload, sent_at));
        assert_eq!(concurrency.limit(), 70);
    }

    #[test]
    fn one_failing_campaign_in_twenty_changes_nothing() {
        let clock = Arc::new(VirtualClock::new(1));
        let concurrency = Concurrency::new(16, clock.clone());
        for i in 0..2000 {
            let sent_at = clock.now();
            assert!(concurrency.try_acquire(usize::MAX));
            clock.sleep(Duration::from_millis(2));
            concurrency.release(if i % 20 == 0 { Outcome::Overload } else { Outcome::Success }, sent_at);
        }
        assert_eq!(concurrency.limit(), 16);
    }

    #[test]
    fn a_latency_that_grows_beyond_reason_is_an_overload_and_a_few_milliseconds_are_not() {
        for (late, kept) in [(Duration::from_millis(5), true), (Duration::from_secs(2), false)] {
            let clock = Arc::new(VirtualClock::new(1));
            let concurrency = Concurrency::new(32, clock.clone());
            for i in 0..400 {
                let sent_at = clock.now();
                assert!(concurrency.try_acquire(usize::MAX));
                clock.sleep(if i < 100 { Duration::from_micros(300) } else { late });
                concurrency.release(Outcome::Success, sent_at);
            }
            assert_eq!(concurrency.limit() == 32, kept, "{late:?}");
        }
    }
}
