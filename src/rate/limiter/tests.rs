//! What the limiter says, on virtual time.

use super::*;

const MS: Duration = Duration::from_millis(1);
const WINDOW: Duration = Duration::from_secs(60);

fn refusal(sent_at: Instant, answered_at: Instant, hints: &Hints) -> Observation<'_> {
    Observation { sent_at, answered_at, refused: true, hints }
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
    limiter.granted(Grant { granted: 64, wait: Duration::ZERO, limit: None, gate: Gate::Open }, now);
    limiter.take(64, now);
    assert!(matches!(limiter.turn(1, 0, now), Turn::Reserve(Ask { want: 128, .. })));
    limiter.observe(&refusal(now, now + MS, &Hints::default()), 0.5);
    let Turn::Wait(until, Why::Backoff) = limiter.turn(1, 0, now + MS) else { panic!("it was refused") };
    let turn = limiter.turn(50, 50, until);
    assert!(matches!(turn, Turn::Reserve(Ask { want: 1, .. })), "{turn:?}");
}
