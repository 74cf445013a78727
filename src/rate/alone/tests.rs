//! Whole jobs on virtual time, against a server that counts arrivals in a sliding window.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::http::Clock;
use crate::http::clock::VirtualClock;
use crate::http::hints::Hints;
use crate::rate::pacing::PACED_SENDS;

const MS: Duration = Duration::from_millis(1);
const WINDOW: Duration = Duration::from_secs(60);
const SYNC: Duration = Duration::from_secs(2);
const WORKERS: usize = 16;

/// How a server tells of its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tells {
    /// `retry_after`, always the window: the reference server.
    Window,
    /// `retry_after`, the time until there is room.
    UntilFree,
    /// A bare 429.
    Nothing,
    /// The policy, on every response.
    Policy,
    /// Limit, remaining and reset, on every response.
    Triple,
}

struct Server {
    limit: RateLimit,
    tells: Tells,
    accepted: VecDeque<Instant>,
    refused: Vec<Instant>,
}

impl Server {
    fn new(requests: u32, window: Duration, tells: Tells) -> Self {
        let limit = RateLimit::new(requests, window).unwrap();
        Self { limit, tells, accepted: VecDeque::new(), refused: Vec::new() }
    }

    /// Whether the request is accepted, and what the answer says of the limit.
    fn arrive(&mut self, now: Instant) -> (bool, Hints) {
        let window = self.limit.window;
        while self.accepted.front().is_some_and(|at| *at + window <= now) {
            self.accepted.pop_front();
        }
        let most = self.limit.requests.get();
        let accepted = self.accepted.len() < most as usize;
        if accepted {
            self.accepted.push_back(now);
        } else {
            self.refused.push(now);
        }
        let until_free = self.accepted.front().map(|at| *at + window - now);
        let mut hints = Hints::default();
        match self.tells {
            Tells::Window if !accepted => hints.retry_after = Some(window),
            Tells::UntilFree if !accepted => hints.retry_after = until_free,
            Tells::Policy => hints.limit = Some(self.limit),
            Tells::Triple => {
                hints.quota = Some(most);
                hints.remaining = Some(most - u32::try_from(self.accepted.len()).unwrap());
                hints.reset = until_free;
            }
            _ => {}
        }
        (accepted, hints)
    }
}

/// A request under way; `answer` is there once it has arrived.
struct Sent {
    at: Instant,
    due: Instant,
    takes: Duration,
    answer: Option<(bool, Hints)>,
}

/// What a job took, and when it was refused.
#[derive(Debug)]
struct Job {
    took: Duration,
    refused: Vec<Duration>,
}

impl Job {
    fn refused_after(&self, moment: Duration) -> usize {
        self.refused.iter().filter(|at| **at > moment).count()
    }
}

/// Sends as many requests as the engine does: a few quick ones one after the other (the listing), the others by a pool of workers.
/// `jitter` is the longest way to the server.
fn job(
    limiter: &mut Alone,
    clock: &VirtualClock,
    server: &mut Server,
    requests: usize,
    jitter: Duration,
) -> Job {
    let begun = clock.now();
    let refused_before = server.refused.len();
    let (mut quick, mut slow) = (requests.min(12), requests.saturating_sub(12));
    let mut under_way: Vec<Sent> = Vec::new();
    let mut ask_at = begun;
    while quick + slow + under_way.len() > 0 {
        let now = clock.now();
        let listing = under_way.iter().any(|sent| sent.takes < SYNC);
        let next_is_quick = quick > 0 && !listing;
        let more = (next_is_quick || slow > 0) && under_way.len() < WORKERS;
        if now >= ask_at && more {
            match limiter.take(now) {
                Ok(()) => {
                    let takes = if next_is_quick { MS * 5 } else { SYNC };
                    *(if next_is_quick { &mut quick } else { &mut slow }) -= 1;
                    let due = now + jitter.mul_f64(clock.random());
                    under_way.push(Sent { at: now, due, takes, answer: None });
                }
                Err((until, _)) => {
                    assert!(until > now, "a wait of nothing would spin");
                    ask_at = until;
                }
            }
            continue;
        }
        let events = under_way.iter().map(|sent| sent.due).chain(more.then_some(ask_at));
        let next = events.min().unwrap();
        clock.sleep(next.saturating_duration_since(now));
        let now = clock.now();
        let Some(place) = under_way.iter().position(|sent| sent.due <= now) else { continue };
        let sent = &mut under_way[place];
        let Some((accepted, hints)) = sent.answer.take() else {
            let answer = server.arrive(sent.due);
            sent.due += if answer.0 { sent.takes } else { MS };
            sent.answer = Some(answer);
            continue;
        };
        let sent = under_way.swap_remove(place);
        let (sent_at, refused) = (sent.at, !accepted);
        limiter.observe(&Observation { sent_at, answered_at: now, refused, hints: &hints }, clock.random());
        // An answer may be what was waited for.
        ask_at = now;
        if refused {
            *(if sent.takes < SYNC { &mut quick } else { &mut slow }) += 1;
        }
    }
    let refused = server.refused[refused_before..].iter().map(|at| *at - begun).collect();
    Job { took: clock.now() - begun, refused }
}

fn alone(configured: Option<RateLimit>, seed: u64) -> (Alone, VirtualClock) {
    (Alone::new(configured, Duration::MAX), VirtualClock::new(seed))
}

/// The whole reference job, against a server that tells of its limit in one way or another; several seeds.
fn reference_jobs(known: bool, tells: Tells) -> Vec<Job> {
    (0..20)
        .map(|seed| {
            let mut server = Server::new(10, WINDOW, tells);
            let (mut limiter, clock) = alone(known.then_some(server.limit), seed);
            job(&mut limiter, &clock, &mut server, 112, MS * 10)
        })
        .collect()
}

/// No client can finish the reference job sooner.
const LOWER_BOUND: Duration = Duration::from_secs(662);

#[test]
fn a_known_limit_is_never_refused_and_costs_one_percent_at_most() {
    for job in reference_jobs(true, Tells::Window) {
        assert!(job.refused.is_empty(), "{job:?}");
        assert!(job.took <= LOWER_BOUND.mul_f64(1.01), "{job:?}");
    }
}

#[test]
fn a_limit_that_only_a_429_tells_is_learned_from_the_first_burst() {
    for job in reference_jobs(false, Tells::Window) {
        assert!(job.refused_after(WINDOW) == 0 && job.refused.len() <= 2, "{job:?}");
        assert!(job.took <= LOWER_BOUND.mul_f64(1.05), "{job:?}");
    }
}

#[test]
fn a_hint_that_counts_down_is_understood_as_well() {
    for job in reference_jobs(false, Tells::UntilFree) {
        assert!(job.refused_after(WINDOW * 2) == 0 && job.refused.len() <= 4, "{job:?}");
        assert!(job.took <= LOWER_BOUND.mul_f64(1.05), "{job:?}");
    }
}

#[test]
fn a_limit_told_in_headers_is_kept_before_the_first_refusal() {
    for tells in [Tells::Policy, Tells::Triple] {
        for job in reference_jobs(false, tells) {
            assert!(job.refused.is_empty(), "{tells:?} {job:?}");
            assert!(job.took <= LOWER_BOUND.mul_f64(1.05), "{tells:?} {job:?}");
        }
    }
}

#[test]
fn a_limit_without_any_hint_is_found_and_then_kept() {
    for job in reference_jobs(false, Tells::Nothing) {
        assert!(job.refused_after(WINDOW) == 0 && job.refused.len() <= 8, "{job:?}");
        assert!(job.took <= LOWER_BOUND.mul_f64(1.05), "{job:?}");
    }
}

#[test]
fn every_usual_window_is_found_without_a_hint() {
    for seconds in [1, 2, 5, 10, 15, 30, 120, 300] {
        let window = Duration::from_secs(seconds);
        // A crew of 16 at two seconds each meets no limit of a hundred that lets more than eight a second through.
        let met = [3, 10, 100].into_iter().filter(|requests| *requests < 100 || seconds >= 15);
        for requests in met {
            let mut server = Server::new(requests, window, Tells::Nothing);
            let (mut limiter, clock) = alone(None, seconds);
            let job = job(&mut limiter, &clock, &mut server, 400, MS * 10);
            let found = limiter.limit().unwrap();
            assert_eq!(found.window, window, "{requests} {job:?}");
            // Once pacing is over, what is under way at the first refusal is not known to have been accepted.
            let unknown = if requests > PACED_SENDS { u32::try_from(WORKERS).unwrap() } else { 0 };
            assert!((requests - unknown..=requests).contains(&found.requests.get()), "{found} {job:?}");
            assert_eq!(job.refused_after(window), 0, "{requests}/{window:?} {job:?}");
        }
    }
}

#[test]
fn a_first_refusal_is_not_counted_as_a_send() {
    for seed in 0..20 {
        let mut server = Server::new(10, WINDOW, Tells::Window);
        let (mut limiter, clock) = alone(None, seed);
        job(&mut limiter, &clock, &mut server, 40, MS);
        assert_eq!(limiter.limit(), Some(server.limit), "seed {seed}");
        assert_eq!(server.refused.len(), 1, "seed {seed}");
    }
}

#[test]
fn bare_429s_are_backed_off_from_in_spite_of_a_configured_limit() {
    let (mut limiter, clock) = alone(RateLimit::new(10, WINDOW), 1);
    let mut tries = 0;
    let begun = clock.now();
    while clock.now() < begun + WINDOW {
        let sent_at = clock.now();
        if let Err((until, _)) = limiter.take(sent_at) {
            clock.sleep(until - sent_at);
            continue;
        }
        tries += 1;
        clock.sleep(MS);
        let (answered_at, hints) = (clock.now(), Hints::default());
        limiter.observe(&Observation { sent_at, answered_at, refused: true, hints: &hints }, clock.random());
    }
    // The waits double.
    assert!(tries <= 6, "{tries}");
}

#[test]
fn what_was_learned_is_known_to_the_next_run() {
    let (mut limiter, clock) = alone(None, 1);
    let mut server = Server::new(10, WINDOW, Tells::Window);
    for run in 0..3 {
        let job = job(&mut limiter, &clock, &mut server, 40, MS * 10);
        assert!(run == 0 || job.refused.is_empty(), "{run}: {job:?}");
        let learned = limiter.limit();
        limiter = Alone { limiter: Limiter::new(None, Duration::MAX), ledger: limiter.ledger };
        limiter.limiter.begin(learned, None, clock.now());
    }
}

#[test]
fn an_api_without_a_limit_soon_costs_nothing() {
    let (mut limiter, clock) = alone(None, 1);
    let mut server = Server::new(u32::MAX, WINDOW, Tells::Nothing);
    let (mut waited, mut sent) = (Duration::ZERO, 0);
    while sent < 10 * PACED_SENDS {
        let sent_at = clock.now();
        if let Err((until, why)) = limiter.take(sent_at) {
            assert_eq!(why, Why::Pacing);
            waited += until - sent_at;
            clock.sleep(until - sent_at);
            continue;
        }
        sent += 1;
        // The first of them are never answered: only time tells that they are not refused.
        if sent > 3 {
            let (_, hints) = server.arrive(sent_at);
            let answered_at = sent_at + MS / 5;
            limiter.observe(&Observation { sent_at, answered_at, refused: false, hints: &hints }, 0.5);
        }
    }
    assert!(waited < MS * 50, "{waited:?}");
}

#[test]
fn a_429_stops_everybody_for_as_long_as_it_says_and_a_burst_of_them_no_longer() {
    for configured in [None, RateLimit::new(1000, WINDOW)] {
        let (mut limiter, clock) = alone(configured, 1);
        let sent_at = clock.now();
        let hints = Hints { retry_after: Some(WINDOW), ..Hints::default() };
        for _ in 0..16 {
            assert!(matches!(limiter.take(sent_at), Ok(()) | Err((_, Why::Pacing))), "{configured:?}");
        }
        for _ in 0..16 {
            limiter.observe(
                &Observation { sent_at, answered_at: sent_at, refused: true, hints: &hints },
                clock.random(),
            );
        }
        assert!(matches!(limiter.take(sent_at), Err((_, Why::Gate))), "{configured:?}");
        clock.sleep(WINDOW - MS);
        assert_eq!(limiter.take(clock.now()), Err((sent_at + WINDOW, Why::Gate)), "{configured:?}");
        clock.sleep(MS);
        assert!(!matches!(limiter.take(clock.now()), Err((_, Why::Gate))), "{configured:?}");
    }
}

#[test]
fn one_request_at_a_time_finds_out_whether_a_wait_beyond_all_patience_is_meant() {
    for configured in [None, RateLimit::new(1000, WINDOW)] {
        let (mut limiter, clock) = (Alone::new(configured, WINDOW), VirtualClock::new(1));
        let hints = Hints { retry_after: Some(WINDOW * 60), ..Hints::default() };
        let sent_at = clock.now();
        assert_eq!(limiter.take(sent_at), Ok(()), "{configured:?}");
        limiter.observe(&Observation { sent_at, answered_at: sent_at, refused: true, hints: &hints }, 0.0);
        let Err((until, Why::Backoff)) = limiter.take(sent_at) else { panic!("{configured:?}") };
        assert!(until <= sent_at + WINDOW, "{configured:?}: the wait is not believed");
        clock.sleep(until - sent_at);
        let tried_at = clock.now();
        assert_eq!(limiter.take(tried_at), Ok(()), "{configured:?}");
        assert!(limiter.take(tried_at).is_err(), "{configured:?}: one request finds out");
        clock.sleep(MS);
        let (answered_at, hints) = (clock.now(), Hints::default());
        limiter.observe(&Observation { sent_at: tried_at, answered_at, refused: false, hints: &hints }, 0.0);
        assert_eq!(limiter.take(answered_at), Ok(()), "{configured:?}: it was not meant");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the limit and the way to the server, as long as that differs by less than the margin.
    #[test]
    fn a_configured_limit_is_never_exceeded(
        requests in 1u32..40,
        window_ms in 50u64..20_000,
        jitter_ms in 0u64..10,
        seed in any::<u64>(),
    ) {
        let mut server = Server::new(requests, MS * u32::try_from(window_ms).unwrap(), Tells::Window);
        let (mut limiter, clock) = alone(Some(server.limit), seed);
        let job = job(&mut limiter, &clock, &mut server, 150, Duration::from_millis(jitter_ms));
        prop_assert!(job.refused.is_empty(), "{:?}", job);
    }

    #[test]
    fn turns_taken_in_advance_never_exceed_the_limit_however_irregularly_they_are_used(
        requests in 1u32..5_000,
        pauses in proptest::collection::vec(
            prop_oneof![8 => 0u64..40, 3 => 40u64..3_000, 1 => 10_000u64..200_000],
            500..3_000,
        ),
    ) {
        let window = Duration::from_secs(1);
        let (mut limiter, clock) = alone(RateLimit::new(requests, window), 7);
        let mut sent: VecDeque<Instant> = VecDeque::new();
        for pause in pauses {
            clock.sleep(Duration::from_micros(pause));
            while let Err((until, _)) = limiter.take(clock.now()) {
                clock.sleep(until - clock.now());
            }
            let now = clock.now();
            sent.push_back(now);
            while sent.front().is_some_and(|at| *at + window <= now) {
                sent.pop_front();
            }
            prop_assert!(sent.len() <= requests as usize, "{} within a window of {requests}", sent.len());
        }
    }
}
