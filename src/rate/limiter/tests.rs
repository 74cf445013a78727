//! Limiters whose ledger takes its time, or is shared with others.

use super::*;
use crate::http::Clock;
use crate::http::clock::VirtualClock;
use crate::rate::ledger::{MemoryLedger, Order};

const MS: Duration = Duration::from_millis(1);
const WINDOW: Duration = Duration::from_secs(60);

/// A process that sends one request after the other.
struct Process {
    limiter: Limiter,
    /// How often it has asked the ledger.
    asks: u32,
}

impl Process {
    fn new(configured: Option<RateLimit>) -> Self {
        Self { limiter: Limiter::new(configured, Duration::MAX), asks: 0 }
    }

    /// Takes a turn as soon as there is one; the ledger's answer takes as long as `delay` says, and what it grants is on record
    /// since it was asked.
    fn take(&mut self, ledger: &mut MemoryLedger, clock: &VirtualClock, mut delay: impl FnMut() -> Duration) {
        loop {
            let now = clock.now();
            match self.limiter.turn(1, 0, now) {
                Turn::Go(_) => return self.limiter.take(1, now),
                Turn::Reserve(ask) => {
                    self.asks += 1;
                    self.limiter.asked(&ask, now);
                    assert_eq!(self.limiter.turn(1, 0, now), Turn::Asked, "one question at a time");
                    let grant = ledger.reserve(&ask, now);
                    clock.sleep(delay());
                    self.limiter.granted(grant, clock.now());
                }
                Turn::Asked => unreachable!("it was answered"),
                Turn::Wait(until, _) => clock.sleep(until - now),
            }
        }
    }
}

fn refusal(sent_at: Instant, answered_at: Instant, hints: &Hints) -> Observation<'_> {
    Observation { sent_at, answered_at, refused: true, hints }
}

#[test]
fn a_generous_limit_is_asked_for_many_turns_at_once_and_a_small_one_for_each() {
    for (requests, most_asks) in [(1_000_000, 60), (100, 2_200)] {
        let (mut ledger, clock) = (MemoryLedger::default(), VirtualClock::new(7));
        let mut process = Process::new(RateLimit::new(requests, Duration::from_secs(1)));
        for _ in 0..2_000 {
            clock.sleep(MS / 50);
            process.take(&mut ledger, &clock, || Duration::ZERO);
        }
        let asks = process.asks;
        assert!(asks <= most_asks, "{requests}: {asks}");
        assert!(
            requests > 100 || asks >= 2_000,
            "each turn of a small limit is on record when it is used: {asks}"
        );
    }
}

#[test]
fn turns_from_a_slow_and_fitful_ledger_never_exceed_the_limit() {
    for (seed, processes) in (0..20).flat_map(|seed| [(seed, 1), (seed, 2)]) {
        let (mut ledger, clock) = (MemoryLedger::default(), VirtualClock::new(seed));
        let (window, most) = (Duration::from_secs(1), 2_000);
        let mut working: Vec<Process> =
            (0..processes).map(|_| Process::new(RateLimit::new(most, window))).collect();
        let (mut sent, mut in_all) = (VecDeque::new(), 0_usize);
        while in_all < 3 * most as usize {
            let process = &mut working[in_all / 64 % processes];
            // Now and then it takes long, most of all the first time.
            let first = process.asks == 0;
            process.take(&mut ledger, &clock, || {
                let slow = first || clock.random() < 0.1;
                if slow { (60 * MS).mul_f64(0.5 + clock.random() / 2.0) } else { Duration::ZERO }
            });
            let now = clock.now();
            sent.push_back(now);
            in_all += 1;
            while sent.front().is_some_and(|at| *at + window <= now) {
                sent.pop_front();
            }
            assert!(sent.len() <= most as usize, "seed {seed}: {} within a window", sent.len());
            clock.sleep(MS / 10);
        }
        let asks: u32 = working.iter().map(|process| process.asks).sum();
        assert!(asks < 3 * most / 8, "seed {seed}: {asks} asks: most turns are taken in advance");
    }
}

#[test]
fn a_process_far_from_the_ledger_and_one_near_it_keep_a_limit_together() {
    for seed in 0..50 {
        let (mut ledger, clock) = (MemoryLedger::default(), VirtualClock::new(seed));
        let (window, most) = (Duration::from_secs(4), 12);
        let mut both = [(); 2].map(|()| Process::new(RateLimit::new(most, window)));
        let mut sent: VecDeque<Instant> = VecDeque::new();
        for n in 0..200 {
            let far = clock.random() < 0.5;
            let delay = if far { 150 * MS + (100 * MS).mul_f64(clock.random()) } else { MS };
            both[usize::from(far)].take(&mut ledger, &clock, || delay);
            let now = clock.now();
            sent.push_back(now);
            while sent.front().is_some_and(|at| *at + window <= now) {
                sent.pop_front();
            }
            assert!(sent.len() <= most as usize, "seed {seed}, send {n}: {} within a window", sent.len());
        }
    }
}

#[test]
fn turns_that_grew_old_are_not_used() {
    let limit = RateLimit::new(1_000_000, Duration::from_secs(1));
    let (mut ledger, clock) = (MemoryLedger::default(), VirtualClock::new(7));
    let mut process = Process::new(limit);
    while process.limiter.turns.left < 8 {
        process.take(&mut ledger, &clock, || Duration::ZERO);
    }
    assert!(matches!(process.limiter.turn(1, 0, clock.now()), Turn::Go(1)));
    clock.sleep(process.limiter.turns.until.unwrap() - clock.now());
    let asks = process.asks;
    process.take(&mut ledger, &clock, || Duration::ZERO);
    assert_eq!(process.asks, asks + 1, "new ones are asked for");
}

#[test]
fn turns_granted_while_a_refusal_arrives_are_not_used() {
    let (mut ledger, clock) = (MemoryLedger::default(), VirtualClock::new(3));
    let mut limiter = Limiter::new(RateLimit::new(10, WINDOW), Duration::MAX);
    let sent_at = clock.now();
    let Turn::Reserve(ask) = limiter.turn(1, 4, sent_at) else { panic!("nothing is on record") };
    limiter.asked(&ask, sent_at);
    clock.sleep(MS);
    let hints = Hints { retry_after: Some(WINDOW), ..Hints::default() };
    let told = limiter.observe(&refusal(sent_at, clock.now(), &hints), 0.5);
    assert!(told.contains(&Order::CloseGate(WINDOW)), "{told:?}");
    let opens_at = clock.now() + WINDOW;
    limiter.granted(ledger.reserve(&ask, sent_at), clock.now());
    assert_eq!(limiter.turn(1, 0, clock.now()), Turn::Wait(opens_at, Why::Gate));
    clock.sleep(WINDOW);
    assert!(matches!(limiter.turn(1, 0, clock.now()), Turn::Reserve(_)), "the old ones are lost");
}

#[test]
fn a_process_that_comes_under_a_learned_limit_learns_nothing_from_its_own_sends_alone() {
    let (mut ledger, clock) = (MemoryLedger::default(), VirtualClock::new(1));
    let limit = RateLimit::new(100, WINDOW);
    ledger.tell(&Order::Learn(limit.unwrap(), vec![MS; 80]), clock.now());
    let mut second = Process::new(None);
    second.limiter.begin(limit, None, clock.now());
    second.take(&mut ledger, &clock, || Duration::ZERO);
    let (sent_at, hints) = (clock.now(), Hints { retry_after: Some(WINDOW), ..Hints::default() });
    clock.sleep(MS);
    let orders = second.limiter.observe(&refusal(sent_at, clock.now(), &hints), 0.5);
    assert!(orders.contains(&Order::TellSends), "{orders:?}");
    let ages = ledger.tell(&Order::TellSends, clock.now()).unwrap();
    assert_eq!(ages.len(), 81);
    assert_eq!(second.limiter.sends(&ages, clock.now()), None);
    assert_eq!(second.limiter.limit(), limit, "81 sends say nothing against a limit of 100");
}

#[test]
fn of_a_limit_that_others_use_as_well_a_process_learns_what_is_left_to_it() {
    let (clock, limit) = (VirtualClock::new(1), 100);
    let (mut left, mut processes) = (limit, [(); 2].map(|()| Process::new(None)));
    let hints = Hints { retry_after: Some(WINDOW), ..Hints::default() };
    let mut ledger = MemoryLedger::default();
    for n in 0.. {
        let process = &mut processes[n % 2];
        process.take(&mut ledger, &clock, || Duration::ZERO);
        let (sent_at, refused) = (clock.now(), left == 0);
        clock.sleep(MS / 5);
        let answered_at = clock.now();
        let hints = if refused { &hints } else { &Hints::default() };
        process.limiter.observe(&Observation { sent_at, answered_at, refused, hints }, 0.5);
        if refused {
            clock.sleep(2 * SETTLE);
            let orders = process.limiter.settle(clock.now());
            let learned = process.limiter.limit().unwrap();
            assert!(matches!(&orders[..], [Order::Learn(told, _)] if *told == learned), "{orders:?}");
            assert_eq!(learned.requests.get(), limit / 2);
            assert!(matches!(process.limiter.turn(1, 0, clock.now()), Turn::Wait(_, Why::Gate)));
            break;
        }
        left -= 1;
    }
}

#[test]
fn sends_that_are_under_way_count_when_a_limit_is_learned() {
    let begun = Instant::now();
    let mut limiter = Limiter::new(None, Duration::MAX);
    let mut now = begun;
    // Each second one takes seconds, as a sync does; a refusal comes at once.
    for n in 0..=10 {
        while let Turn::Wait(until, _) = limiter.turn(1, 0, now) {
            now = until;
        }
        limiter.take(1, now);
        let (sent_at, answered_at) = (now, now + MS);
        let hints = Hints { retry_after: (n == 10).then_some(WINDOW), ..Hints::default() };
        if n == 10 {
            limiter.observe(&refusal(sent_at, answered_at, &hints), 0.5);
        } else if n % 2 == 0 {
            limiter.observe(&Observation { sent_at, answered_at, refused: false, hints: &hints }, 0.5);
        }
        now = answered_at;
    }
    let orders = limiter.settle(now + 2 * SETTLE);
    let [Order::Learn(learned, sends)] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!((Some(*learned), sends.len()), (RateLimit::new(10, WINDOW), 10));
}

#[test]
fn while_a_window_is_searched_for_the_ledger_is_asked_for_one_turn_at_a_time() {
    let (now, limit) = (Instant::now(), RateLimit::new(100_000, WINDOW));
    let mut limiter = Limiter::new(limit, Duration::MAX);
    // Turns that were all used have more asked for at once.
    let (granted, wait) = (64, Duration::ZERO);
    limiter.granted(Grant { granted, wait, mark: None, limit: None, gate: Gate::Open }, now);
    limiter.take(64, now);
    assert!(matches!(limiter.turn(1, 0, now), Turn::Reserve(Ask { want: 128, .. })));
    limiter.observe(&refusal(now, now + MS, &Hints::default()), 0.5);
    let Turn::Wait(until, Why::Backoff) = limiter.turn(1, 0, now + MS) else { panic!("it was refused") };
    let turn = limiter.turn(50, 50, until);
    assert!(matches!(turn, Turn::Reserve(Ask { want: 1, .. })), "{turn:?}");
}

/// A limiter that has just been granted all ten of a minute, and its ledger.
fn granted_ten(now: Instant) -> (Limiter, MemoryLedger) {
    let mut ledger = MemoryLedger::default();
    let mut limiter = Limiter::new(RateLimit::new(10, WINDOW), Duration::MAX);
    ask(&mut limiter, &mut ledger, 10, now);
    assert_eq!(limiter.turn(10, 0, now), Turn::Go(10));
    (limiter, ledger)
}

/// Asks the ledger for a turn, which has to be due; gives what was asked.
fn ask(limiter: &mut Limiter, ledger: &mut MemoryLedger, want: u32, now: Instant) -> Ask {
    let turn = limiter.turn(want, 0, now);
    let Turn::Reserve(ask) = turn else { panic!("{turn:?}") };
    limiter.asked(&ask, now);
    limiter.granted(ledger.reserve(&ask, now), now);
    ask
}

#[test]
fn requests_that_found_no_worker_in_time_are_given_back_and_asked_for_again_at_once() {
    let now = Instant::now();
    let (mut limiter, mut ledger) = granted_ten(now);
    let permit = limiter.permit();
    limiter.take(10, now);
    // Six were sent, four came too late.
    let late = permit.unwrap().until + MS;
    (0..6).for_each(|_| limiter.made(permit, Some(now + MS)));
    limiter.untake(permit, 4, late);
    let asked = ask(&mut limiter, &mut ledger, 4, late);
    assert_eq!(asked.correction.map(|correction| correction.unsent), Some(4));
    assert_eq!(limiter.turn(4, 0, late), Turn::Go(4), "no window is lost");
    limiter.take(4, late);
    // The six leave the window first, as of when they were answered.
    let Turn::Wait(until, Why::RateLimit) = limiter.turn(4, 0, late) else { panic!("ten were sent") };
    assert!(until < now + WINDOW + WINDOW / 50, "{:?}", until - now);
    assert_eq!(ledger.tell(&Order::TellSends, late).unwrap().len(), 10);
}

#[test]
fn the_next_window_begins_no_later_than_the_answers_came() {
    let now = Instant::now();
    let (mut limiter, mut ledger) = granted_ten(now);
    let permit = limiter.permit();
    limiter.take(10, now);
    (1..=10).for_each(|n| limiter.made(permit, Some(now + n * MS / 10)));
    let Turn::Wait(until, Why::RateLimit) = limiter.turn(10, 0, now + MS) else { panic!("ten were sent") };
    let margin = limiter.margin(limiter.limit().unwrap());
    assert_eq!(until - now, WINDOW + margin + MS, "not as late as they might have been sent");
    ask(&mut limiter, &mut ledger, 10, until);
    assert_eq!(limiter.turn(10, 0, until), Turn::Go(10));
}

#[test]
fn what_may_still_be_sent_is_not_given_back() {
    let now = Instant::now();
    let (mut limiter, mut ledger) = granted_ten(now);
    let permit = limiter.permit();
    limiter.take(10, now);
    let late = permit.unwrap().until + MS;
    (0..3).for_each(|_| limiter.made(permit, Some(now + MS)));
    // One was sent and lost, four found no worker; nothing is known of two.
    limiter.made(permit, None);
    limiter.untake(permit, 4, late);
    let correction = ask(&mut limiter, &mut ledger, 9, late).correction.unwrap();
    assert_eq!((correction.unsent, correction.later), (4, -1));
    assert_eq!(limiter.turn(9, 0, late), Turn::Go(4));
    // Those that come back now, from before this grant, are nobody's turns.
    limiter.untake(permit, 2, late);
    assert_eq!(limiter.turn(9, 0, late), Turn::Go(4));
    assert_eq!(ledger.tell(&Order::TellSends, late).unwrap().len(), 10);
}

#[test]
fn a_correction_that_is_told_twice_counts_once() {
    let now = Instant::now();
    let (mut limiter, mut ledger) = granted_ten(now);
    let permit = limiter.permit();
    limiter.take(10, now);
    limiter.untake(permit, 4, now + WINDOW / 2);
    let asked = ask(&mut limiter, &mut ledger, 1, now + WINDOW / 2);
    assert!(asked.correction.is_some());
    // Nobody heard the ledger's answer: it is asked the same again, and gives the second of the four.
    assert_eq!(ledger.reserve(&asked, now + WINDOW / 2).granted, 1);
    assert_eq!(ledger.tell(&Order::TellSends, now + WINDOW / 2).unwrap().len(), 8);
}

#[test]
fn a_request_that_arrived_later_than_it_is_on_record_is_told_before_anything_is_wanted() {
    let now = Instant::now();
    let (mut limiter, mut ledger) = granted_ten(now);
    let permit = limiter.permit();
    limiter.take(10, now);
    let until = permit.unwrap().until;
    (0..8).for_each(|_| limiter.made(permit, Some(until)));
    assert_eq!(limiter.behind(until), None, "in time");
    limiter.untake(permit, 1, until);
    // A connection was made first.
    let arrived = until + 200 * MS;
    limiter.made(permit, Some(arrived));
    let ask = limiter.behind(arrived).unwrap();
    let correction = ask.correction.unwrap();
    assert_eq!((ask.want, correction.unsent, correction.later), (0, 1, 200_000));
    assert!(ask.late >= 2 * (arrived - now), "the next ones are good for longer: {:?}", ask.late);
    limiter.asked(&ask, arrived);
    limiter.granted(ledger.reserve(&ask, arrived), arrived);
    assert_eq!(limiter.behind(arrived), None, "told once");
    let other = Ask { correction: None, want: 10, ..ask };
    let early = arrived + WINDOW - MS;
    assert_eq!(ledger.reserve(&other, early).granted, 1, "no other process comes too early");
}

#[test]
fn a_ledger_that_answers_too_late_is_given_a_rest() {
    let now = Instant::now();
    let mut limiter = Limiter::new(RateLimit::new(10, WINDOW), Duration::MAX);
    let mut ledger = MemoryLedger::default();
    let Turn::Reserve(ask) = limiter.turn(10, 0, now) else { panic!("nothing is on record") };
    limiter.asked(&ask, now);
    let grant = ledger.reserve(&ask, now);
    let answered = now + Duration::from_secs(2);
    limiter.granted(grant, answered);
    let Turn::Wait(until, Why::RateLimit) = limiter.turn(10, 0, answered) else { panic!("it came too late") };
    assert_eq!(until, answered + Duration::from_secs(2));
    let Turn::Reserve(ask) = limiter.turn(10, 0, until) else { panic!("after the rest") };
    assert_eq!(ask.correction.map(|correction| correction.unsent), Some(10));
}

#[test]
fn sends_that_are_on_record_as_of_a_moment_to_come_show_that_a_limit_is_too_high() {
    let (now, window) = (Instant::now(), Duration::from_secs(30));
    let (mut limiter, mut ledger) = (Limiter::new(None, Duration::MAX), MemoryLedger::default());
    limiter.begin(RateLimit::new(3, window), None, now);
    ask(&mut limiter, &mut ledger, 3, now);
    limiter.take(3, now);
    let hints = Hints { retry_after: Some(window), ..Hints::default() };
    let orders = limiter.observe(&refusal(now, now + MS, &hints), 0.5);
    assert!(orders.contains(&Order::TellSends), "{orders:?}");
    let later = now + 20 * MS;
    let ages = ledger.tell(&Order::TellSends, later).unwrap();
    let learned = limiter.sends(&ages, later);
    let expected = RateLimit::new(2, window);
    assert!(matches!(&learned, Some(Order::Learn(limit, _)) if Some(*limit) == expected), "{learned:?}");
}

#[test]
fn of_two_learned_limits_the_one_on_record_is_kept_unless_the_own_one_is_newer() {
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let (mut limiter, mut ledger) = (Limiter::new(None, Duration::MAX), MemoryLedger::default());
    limiter.begin(RateLimit::new(5, second), None, now);
    // Another process has learned another one since.
    let slower = RateLimit::new(2, second).unwrap();
    ledger.tell(&Order::Learn(slower, Vec::new()), now);
    limiter.telling();
    ask(&mut limiter, &mut ledger, 1, now);
    assert_eq!(limiter.limit(), RateLimit::new(5, second), "its own may be newer");
    limiter.take(1, now);
    limiter.told();
    ask(&mut limiter, &mut ledger, 1, now);
    assert_eq!(limiter.limit(), Some(slower));
}
