//! Whole jobs on virtual time, against a server that counts arrivals in a sliding window.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;
use crate::http::advance::EARLY;
use crate::http::clock::VirtualClock;
use crate::http::ledger::MemoryLedger;
use crate::http::pacing::PACED_SENDS;

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

/// A ledger that outlives its limiter, as the database's does, and that a test can watch.
#[derive(Clone)]
struct Kept(Arc<Watched>);

struct Watched {
    ledger: MemoryLedger,
    /// How often it was asked for turns.
    asked: AtomicU32,
    /// What goes on before a refused send is taken back.
    meanwhile: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// What goes on while turns are asked for.
    takes: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Kept {
    fn new(clock: Arc<VirtualClock>) -> Self {
        let ledger = MemoryLedger::new(clock);
        Self(Arc::new(Watched {
            ledger,
            asked: AtomicU32::new(0),
            meanwhile: OnceLock::new(),
            takes: OnceLock::new(),
        }))
    }

    fn asked(&self) -> u32 {
        self.0.asked.load(Ordering::Relaxed)
    }
}

impl Ledger for Kept {
    fn reserve(
        &self,
        limit: Option<RateLimit>,
        margin: Duration,
        want: u32,
        apart: Duration,
    ) -> Result<Reservation, SharingError> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        let reserved = self.0.ledger.reserve(limit, margin, want, apart);
        self.0.takes.get().into_iter().for_each(|takes| takes());
        reserved
    }

    fn ages(&self) -> Result<Vec<Duration>, SharingError> {
        self.0.ledger.ages()
    }

    fn take_back(&self, count: u32) -> Result<(), SharingError> {
        self.0.meanwhile.get().into_iter().for_each(|meanwhile| meanwhile());
        self.0.ledger.take_back(count)
    }

    fn learn(&self, limit: RateLimit) -> Result<(), SharingError> {
        self.0.ledger.learn(limit)
    }

    fn close_gate(&self, wait: Duration) -> Result<(), SharingError> {
        self.0.ledger.close_gate(wait)
    }
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

/// Sends so many requests as the engine does: a few quick ones one after the other (the listing), the others by a crew.
/// `jitter` is the longest way to the server.
fn job(
    limiter: &Limiter,
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
        if now >= ask_at && (next_is_quick || slow > 0) && under_way.len() < WORKERS {
            match limiter.try_acquire(1).unwrap() {
                Turn::Go(count) => {
                    assert_eq!(count, 1);
                    let takes = if next_is_quick { MS * 5 } else { SYNC };
                    *(if next_is_quick { &mut quick } else { &mut slow }) -= 1;
                    let due = now + jitter.mul_f64(clock.random());
                    under_way.push(Sent { at: now, due, takes, answer: None });
                }
                Turn::Wait(wait, _) => {
                    assert!(!wait.is_zero(), "a wait of nothing would spin");
                    ask_at = now + wait;
                }
            }
            continue;
        }
        let more = (next_is_quick || slow > 0) && under_way.len() < WORKERS;
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
        limiter.observe(&Observation {
            sent_at: sent.at,
            answered_at: now,
            refused: !accepted,
            hints: &hints,
        });
        if !accepted {
            *(if sent.takes < SYNC { &mut quick } else { &mut slow }) += 1;
        }
    }
    let refused = server.refused[refused_before..].iter().map(|at| *at - begun).collect();
    Job { took: clock.now() - begun, refused }
}

fn limiter(configured: Option<RateLimit>, seed: u64) -> (Limiter, Arc<VirtualClock>) {
    let clock = Arc::new(VirtualClock::new(seed));
    let ledger = Box::new(MemoryLedger::new(clock.clone()));
    (Limiter::new(configured, ledger, clock.clone(), Scope::new("default")), clock)
}

/// The whole reference job, against a server that tells of its limit in one way or another; several seeds.
fn reference_jobs(known: bool, tells: Tells) -> Vec<Job> {
    (0..20)
        .map(|seed| {
            let mut server = Server::new(10, WINDOW, tells);
            let (limiter, clock) = limiter(known.then_some(server.limit), seed);
            job(&limiter, &clock, &mut server, 112, MS * 10)
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
            let (limiter, clock) = limiter(None, seconds);
            let job = job(&limiter, &clock, &mut server, 400, MS * 10);
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
fn bare_429s_are_backed_off_from_in_spite_of_a_configured_limit() {
    let (limiter, clock) = limiter(RateLimit::new(10, WINDOW), 1);
    let mut tries = 0;
    let begun = clock.now();
    while clock.now() < begun + WINDOW {
        match limiter.try_acquire(1).unwrap() {
            Turn::Wait(wait, _) => clock.sleep(wait),
            Turn::Go(_) => {
                tries += 1;
                let sent_at = clock.now();
                clock.sleep(MS);
                let answered_at = clock.now();
                let hints = Hints::default();
                limiter.observe(&Observation { sent_at, answered_at, refused: true, hints: &hints });
            }
        }
    }
    assert!(tries <= 3, "{tries}");
}

#[test]
fn what_was_learned_is_known_to_the_next_run() {
    let clock = Arc::new(VirtualClock::new(1));
    let ledger = Kept::new(clock.clone());
    let mut server = Server::new(10, WINDOW, Tells::Window);
    for run in 0..3 {
        let limiter = Limiter::new(None, Box::new(ledger.clone()), clock.clone(), Scope::new("default"));
        let job = job(&limiter, &clock, &mut server, 40, MS * 10);
        assert!(run == 0 || job.refused.is_empty(), "{run}: {job:?}");
    }
}

#[test]
fn an_api_without_a_limit_soon_costs_nothing() {
    let (limiter, clock) = limiter(None, 1);
    let mut server = Server::new(u32::MAX, WINDOW, Tells::Nothing);
    let mut waited = Duration::ZERO;
    while !limiter.unlimited() {
        match limiter.try_acquire(1).unwrap() {
            Turn::Go(_) => {
                let sent_at = clock.now();
                let (_, hints) = server.arrive(sent_at);
                let answered_at = sent_at + MS / 5;
                limiter.observe(&Observation { sent_at, answered_at, refused: false, hints: &hints });
            }
            Turn::Wait(wait, why) => {
                assert_eq!(why, Why::Pacing);
                waited += wait;
                clock.sleep(wait);
            }
        }
    }
    assert!(waited < MS * 50, "{waited:?}");
}

#[test]
fn who_comes_when_others_have_met_no_limit_goes_on_from_there_and_still_finds_one() {
    let clock = Arc::new(VirtualClock::new(1));
    let ledger = Kept::new(clock.clone());
    let mut server = Server::new(100, WINDOW, Tells::Window);
    // Whether the next request is accepted.
    let mut send = |limiter: &Limiter| loop {
        match limiter.try_acquire(1).unwrap() {
            Turn::Go(_) => {
                let sent_at = clock.now();
                let (accepted, hints) = server.arrive(sent_at);
                let answered_at = sent_at + MS / 5;
                limiter.observe(&Observation { sent_at, answered_at, refused: !accepted, hints: &hints });
                return accepted;
            }
            Turn::Wait(wait, _) => clock.sleep(wait),
        }
    };
    let new = || Limiter::new(None, Box::new(ledger.clone()), clock.clone(), Scope::new("default"));
    let first = new();
    while !first.unlimited() {
        assert!(send(&first));
    }
    let (second, asked) = (new(), ledger.asked());
    assert!(send(&second) && send(&second));
    assert!(second.unlimited() && ledger.asked() == asked + 1, "one question tells it");
    while send(&second) {}
    // Of the hundred, the first process sent one that is not on record.
    assert!(send(&second));
    assert_eq!(second.limit().map(|limit| limit.requests.get()), Some(99));
}

#[test]
fn a_429_stops_everybody_for_as_long_as_it_says_and_a_burst_of_them_no_longer() {
    for configured in [None, RateLimit::new(1000, WINDOW)] {
        let (limiter, clock) = limiter(configured, 1);
        let sent_at = clock.now();
        let hints = Hints { retry_after: Some(WINDOW), ..Hints::default() };
        for _ in 0..16 {
            assert!(matches!(limiter.try_acquire(1).unwrap(), Turn::Go(1) | Turn::Wait(_, Why::Pacing)));
        }
        for _ in 0..16 {
            limiter.observe(&Observation { sent_at, answered_at: clock.now(), refused: true, hints: &hints });
        }
        assert_eq!(limiter.gate_closed_for(), WINDOW, "{configured:?}");
        clock.sleep(WINDOW - MS);
        assert!(matches!(limiter.try_acquire(1).unwrap(), Turn::Wait(_, Why::Gate)), "{configured:?}");
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
        let (limiter, clock) = limiter(Some(server.limit), seed);
        let job = job(&limiter, &clock, &mut server, 150, Duration::from_millis(jitter_ms));
        prop_assert!(job.refused.is_empty(), "{:?}", job);
    }
}

proptest! {
    #[test]
    fn turns_taken_in_advance_never_exceed_the_limit_however_irregularly_they_are_used(
        requests in 1u32..5_000,
        pauses in proptest::collection::vec(prop_oneof![8 => 0u64..40, 3 => 40u64..3_000, 1 => 10_000u64..200_000], 500..3_000),
    ) {
        let clock = Arc::new(VirtualClock::new(7));
        let window = Duration::from_secs(1);
        let limit = RateLimit::new(requests, window).unwrap();
        let limiter = Limiter::new(Some(limit), Box::new(Kept::new(clock.clone())), clock.clone(), Scope::new("default"));
        let mut sent: VecDeque<Instant> = VecDeque::new();
        for pause in pauses {
            clock.sleep(Duration::from_micros(pause));
            while let Turn::Wait(wait, _) = limiter.try_turn().unwrap() {
                clock.sleep(wait);
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

#[test]
fn a_generous_limit_is_asked_for_many_turns_at_once_and_a_small_one_for_each() {
    for (requests, most_asked) in [(1_000_000, 60), (100, 2_200)] {
        let clock = Arc::new(VirtualClock::new(7));
        let limit = RateLimit::new(requests, Duration::from_secs(1)).unwrap();
        let ledger = Kept::new(clock.clone());
        let limiter =
            Limiter::new(Some(limit), Box::new(ledger.clone()), clock.clone(), Scope::new("default"));
        for _ in 0..2_000 {
            clock.sleep(Duration::from_micros(20));
            while let Turn::Wait(wait, _) = limiter.try_turn().unwrap() {
                clock.sleep(wait);
            }
        }
        let asked = ledger.asked();
        assert!(asked <= most_asked, "{requests}: {asked}");
        assert!(
            requests > 100 || asked >= 2_000,
            "each turn of a small limit is on record when it is used: {asked}"
        );
    }
}

#[test]
fn a_slow_ledger_does_not_have_the_refused_request_counted() {
    let clock = Arc::new(VirtualClock::new(3));
    let slow = Kept::new(clock.clone());
    let limiter = Arc::new(Limiter::new(None, Box::new(slow.clone()), clock.clone(), Scope::new("default")));
    // It takes its time to take a refused send back, while another thread asks for a turn.
    let (other, time) = (Arc::downgrade(&limiter), clock.clone());
    let meanwhile = move || {
        time.sleep(3 * SETTLE);
        let turn = other.upgrade().unwrap().try_acquire(1);
        assert!(matches!(turn, Ok(Turn::Wait(..))), "the gate is closed");
    };
    assert!(slow.0.meanwhile.set(Box::new(meanwhile)).is_ok());
    let mut server = Server::new(10, WINDOW, Tells::Window);
    job(&limiter, &clock, &mut server, 40, MS);
    assert_eq!(limiter.limit().map(|limit| limit.requests.get()), Some(10));
    assert_eq!(server.refused.len(), 1);
}

#[test]
fn sends_put_on_record_while_a_refusal_arrives_are_taken_back_and_not_made() {
    let clock = Arc::new(VirtualClock::new(3));
    let slow = Kept::new(clock.clone());
    let limiter = Arc::new(Limiter::new(None, Box::new(slow.clone()), clock.clone(), Scope::new("default")));
    assert_eq!(limiter.try_acquire(1).unwrap(), Turn::Go(1));
    let first = clock.now();
    // It has no answer for as long as a refusal can take; that comes while the next ones are put on record.
    clock.sleep(10 * MS);
    let (other, time) = (Arc::downgrade(&limiter), clock.clone());
    let takes = move || {
        let hints = Hints { retry_after: Some(WINDOW), ..Hints::default() };
        let refused = Observation { sent_at: first, answered_at: time.now(), refused: true, hints: &hints };
        other.upgrade().unwrap().observe(&refused);
    };
    assert!(slow.0.takes.set(Box::new(takes)).is_ok());
    assert!(matches!(limiter.try_acquire(1).unwrap(), Turn::Wait(..)), "a refusal came meanwhile");
    assert!(slow.ages().unwrap().is_empty(), "none of them was made");
}

#[test]
fn turns_taken_in_advance_from_a_slow_and_fitful_ledger_never_exceed_the_limit() {
    for seed in 0..20 {
        let clock = Arc::new(VirtualClock::new(seed));
        let (window, most) = (Duration::from_secs(1), 2_000);
        let ledger = Kept::new(clock.clone());
        let time = clock.clone();
        // Now and then it takes long, most of all the first time.
        let first = AtomicBool::new(true);
        let takes = move || {
            if first.swap(false, Ordering::Relaxed) || time.random() < 0.1 {
                time.sleep((60 * MS).mul_f64(0.5 + time.random() / 2.0));
            }
        };
        assert!(ledger.0.takes.set(Box::new(takes)).is_ok());
        let limit = RateLimit::new(most, window);
        let limiter = Limiter::new(limit, Box::new(ledger.clone()), clock.clone(), Scope::new("default"));
        let (mut sent, mut in_all) = (VecDeque::new(), 0_u32);
        while in_all < 3 * most {
            while let Turn::Wait(wait, _) = limiter.try_turn().unwrap() {
                clock.sleep(wait);
            }
            // The first asked for a turn, others go on from there.
            loop {
                let now = clock.now();
                sent.push_back(now);
                in_all += 1;
                while sent.front().is_some_and(|at| *at + window <= now) {
                    sent.pop_front();
                }
                assert!(sent.len() <= most as usize, "seed {seed}: {} within a window", sent.len());
                clock.sleep(Duration::from_micros(100));
                if !limiter.try_acquire_at_once() {
                    break;
                }
            }
        }
        assert!(ledger.asked() < in_all / 8, "seed {seed}: most turns are taken in advance");
    }
}

#[test]
fn a_process_that_comes_under_a_learned_limit_learns_nothing_from_its_own_sends_alone() {
    let clock = Arc::new(VirtualClock::new(1));
    let ledger = Kept::new(clock.clone());
    let limit = RateLimit::new(100, WINDOW);
    ledger.learn(limit.unwrap()).unwrap();
    ledger.reserve(limit, Duration::ZERO, 80, Duration::ZERO).unwrap();
    let second = Limiter::new(None, Box::new(ledger.clone()), clock.clone(), Scope::new("default"));
    assert_eq!(second.try_acquire(1).unwrap(), Turn::Go(1));
    assert_eq!(second.limit(), limit);
    let (sent_at, hints) = (clock.now(), Hints { retry_after: Some(WINDOW), ..Hints::default() });
    clock.sleep(MS);
    second.observe(&Observation { sent_at, answered_at: clock.now(), refused: true, hints: &hints });
    assert_eq!(second.limit(), limit, "81 sends say nothing against a limit of 100");
}

#[test]
fn two_processes_that_pace_together_count_each_others_sends() {
    let clock = Arc::new(VirtualClock::new(1));
    let ledger = Kept::new(clock.clone());
    let mut server = Server::new(100, WINDOW, Tells::Window);
    let both =
        [(); 2].map(|()| Limiter::new(None, Box::new(ledger.clone()), clock.clone(), Scope::new("default")));
    let mut refused = false;
    for n in 0.. {
        let limiter = &both[n % 2];
        while let Turn::Wait(wait, _) = limiter.try_acquire(1).unwrap() {
            clock.sleep(wait);
        }
        let sent_at = clock.now();
        let (accepted, hints) = server.arrive(sent_at);
        clock.sleep(MS / 5);
        let answered_at = clock.now();
        limiter.observe(&Observation { sent_at, answered_at, refused: !accepted, hints: &hints });
        if !accepted {
            refused = true;
            clock.sleep(2 * SETTLE);
            assert!(matches!(limiter.try_acquire(1).unwrap(), Turn::Wait(..)));
            // What the other one has sent since the pacing is not known.
            let learned = limiter.limit().unwrap().requests.get();
            assert!((80..=100).contains(&learned), "{learned}");
            break;
        }
    }
    assert!(refused);
}

#[test]
fn a_turn_that_grew_old_while_the_next_ones_were_taken_is_not_used() {
    let clock = Arc::new(VirtualClock::new(7));
    let ledger = Kept::new(clock.clone());
    let limit = RateLimit::new(1_000_000, Duration::from_secs(1));
    let limiter = Limiter::new(limit, Box::new(ledger.clone()), clock.clone(), Scope::new("default"));
    while lock(&limiter.advance).newest().0 < 2 * EARLY {
        assert_eq!(limiter.try_turn().unwrap(), Turn::Go(1));
    }
    let time = clock.clone();
    assert!(ledger.0.takes.set(Box::new(move || time.sleep(60 * MS))).is_ok());
    let asked = ledger.asked();
    while ledger.asked() == asked {
        assert!(limiter.try_acquire_at_once());
    }
    let (size, left) = lock(&limiter.advance).newest();
    assert_eq!(left, size - 1, "a new one was used");
}
