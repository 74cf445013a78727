//! Finding out a rate limit from its refusals.

use std::time::{Duration, Instant};

use crate::http::RateLimit;

/// Windows that people choose; a bracket that holds one of them most likely means it.
const USUAL_SECONDS: [u64; 12] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 3600];
/// The waits after refusals that give no hint; the longest is below the 15 minutes that a run is patient for.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A request may need so much less to the server than the first of the burst did.
const LATENESS: Duration = Duration::from_millis(25);

/// What a 429 with a hint shows. `ages` are those of the accepted sends, oldest first; `known` is what was thought so far.
///
/// Servers mean two things by their hint: the whole window (a constant), or the time until the oldest send leaves it.
/// For a quick burst both are nearly the same: a hint that is one of the usual windows is taken for the first, any other one
/// for the second. For a slow burst the first is assumed, and should that be wrong, the next refusal comes with a limit
/// `known`, and then the window reaches back to its first send.
#[must_use]
pub fn from_refusal(known: Option<RateLimit>, ages: &[Duration], hint: Duration) -> Option<RateLimit> {
    if hint.is_zero() {
        return None;
    }
    if let Some(known) = known {
        let place = ages.len().checked_sub(known.requests.get() as usize)?;
        let window = (*ages.get(place)? + hint).max(known.window);
        if window <= known.window.mul_f64(1.05) {
            // The window is as long as was thought: then it holds fewer.
            return RateLimit::new(known.requests.get() - 1, known.window);
        }
        return RateLimit::new(known.requests.get(), window.min(known.window * 3));
    }
    let recent: Vec<Duration> = ages.iter().copied().filter(|age| *age < hint).collect();
    let oldest = *recent.first()?;
    let counts_down = oldest <= hint / 10 && usual_windows().all(|window| window != hint);
    let window = if counts_down { nearest_usual(oldest + hint) } else { hint };
    RateLimit::new(u32::try_from(recent.len()).ok()?, window)
}

/// The search for a window behind refusals that give no hint. What was refused is tried again whenever one of the usual
/// windows has passed since the first send of the burst: the first that is accepted tells the window.
#[derive(Debug, Default)]
pub struct Refusals {
    search: Option<Search>,
    in_a_row: u32,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Search {
    /// When the burst began, and how many of it were accepted.
    begun: Instant,
    accepted: u32,
    /// How many of it were refused, when there are sends on record for them, as under a known limit.
    refused: u32,
    /// What was thought of the window before; it is longer, and never shorter.
    least: Duration,
}

impl Refusals {
    /// Whether an acceptance would be news, and requests are to be sent one by one.
    pub fn searching(&self) -> bool {
        self.in_a_row > 0
    }

    /// How long to wait after a refusal at `now`: until the next usual window has passed, and never more than the longest
    /// wait; while it is not known since when, twice as long every time.
    pub fn wait(&self, now: Instant) -> Duration {
        let Some(search) = &self.search else {
            return (FIRST_WAIT * 2u32.saturating_pow(self.in_a_row.min(20))).min(LONGEST_WAIT);
        };
        let since = now.saturating_duration_since(search.begun);
        let moments = usual_windows().map(|window| window + window / 200 + LATENESS);
        let next = moments.filter(|moment| *moment > since.max(search.least)).min();
        next.map_or(LONGEST_WAIT, |moment| (moment - since).min(LONGEST_WAIT))
    }

    /// A refusal without a hint of what was sent at `sent_at`; `ages` are those of the accepted sends, oldest first.
    /// Those that were under way when the first of a burst was refused tell nothing new but that they do not count.
    pub fn refused(&mut self, sent_at: Instant, now: Instant, ages: &[Duration], known: Option<RateLimit>) {
        if self.last.is_some_and(|last| sent_at <= last) {
            if self.in_a_row == 1
                && let Some(search) = &mut self.search
            {
                match known {
                    Some(_) => search.refused += 1,
                    None => search.accepted = search.accepted.saturating_sub(1).max(1),
                }
            }
            return;
        }
        self.in_a_row += 1;
        self.last = Some(now);
        if self.search.is_some() {
            return;
        }
        let recent = match known {
            // Refused in spite of a limit: the window is longer than thought.
            Some(limit) => &ages[ages.len().saturating_sub(limit.requests.get() as usize)..],
            None => ages,
        };
        let Some(oldest) = recent.first() else { return };
        self.search = Some(Search {
            begun: now.checked_sub(*oldest).unwrap_or(now),
            accepted: u32::try_from(recent.len()).unwrap_or(u32::MAX),
            refused: u32::from(known.is_some()),
            least: known.map_or(Duration::ZERO, |limit| limit.window),
        });
    }

    /// A request sent at `sent_at` was accepted: ends a search, with what it has found. Stragglers end nothing.
    pub fn accepted(&mut self, sent_at: Instant) -> Option<RateLimit> {
        let last = self.last.filter(|last| sent_at > *last)?;
        self.in_a_row = 0;
        let search = self.search.take()?;
        let longest = sent_at.saturating_duration_since(search.begun);
        let shortest = last.saturating_duration_since(search.begun);
        // Of several the shortest, where tries came late: the next refusal lengthens it, and nothing would shorten it.
        let window = usual_windows().find(|window| *window > shortest && *window <= longest);
        let window = window.unwrap_or(longest).max(search.least);
        // Where the window is as long as was thought, it holds fewer.
        let fewer = if window <= search.least.mul_f64(1.05) + 2 * LATENESS { search.refused } else { 0 };
        RateLimit::new(search.accepted.saturating_sub(fewer).max(1), window)
    }
}

/// A usual window that is only a hundredth away, where there is one: answers take their time.
fn nearest_usual(window: Duration) -> Duration {
    let near = |usual: &Duration| usual.abs_diff(window) <= *usual / 100;
    usual_windows().find(near).unwrap_or(window)
}

fn usual_windows() -> impl Iterator<Item = Duration> {
    USUAL_SECONDS.iter().map(|seconds| Duration::from_secs(*seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ages(millis: &[u64]) -> Vec<Duration> {
        millis.iter().map(|ms| Duration::from_millis(*ms)).collect()
    }

    #[test]
    fn a_quick_burst_shows_the_whole_window() {
        for (hint, window) in [(60_000, 60_000), (59_955, 60_000), (45_000, 45_050), (50_950, 51_000)] {
            let sends = ages(&[50, 40, 30, 20, 10]);
            let limit = from_refusal(None, &sends, Duration::from_millis(hint)).unwrap();
            assert_eq!(limit, RateLimit::new(5, Duration::from_millis(window)).unwrap());
        }
    }

    #[test]
    fn a_slow_burst_is_first_taken_for_a_constant_hint_and_then_corrected() {
        let sends = ages(&[40_000, 30_000, 20_000, 10_000]);
        let first = from_refusal(None, &sends, Duration::from_secs(60)).unwrap();
        assert_eq!(first, RateLimit::new(4, Duration::from_secs(60)).unwrap());
        // The server meant 100 s by it, and says so when the second burst comes too early.
        let later = ages(&[70_000, 60_000, 50_000, 10]);
        let second = from_refusal(Some(first), &later, Duration::from_secs(30)).unwrap();
        assert_eq!(second, RateLimit::new(4, Duration::from_secs(100)).unwrap());
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_limit_that_was_taken_for_one_too_many_is_lowered_by_its_next_refusal() {
        let known = RateLimit::new(11, Duration::from_millis(60_050));
        let sends = ages(&[50, 45, 40, 35, 30, 25, 20, 15, 10, 5, 1]);
        let limit = from_refusal(known, &sends, Duration::from_secs(60));
        assert_eq!(limit, RateLimit::new(10, Duration::from_millis(60_050)));
        assert_eq!(
            from_refusal(RateLimit::new(1, Duration::from_secs(60)), &ages(&[5]), Duration::from_secs(60)),
            None
        );
    }

    #[test]
    fn without_a_hint_the_usual_windows_are_tried_one_after_the_other() {
        let begun = Instant::now();
        let mut refusals = Refusals::default();
        let mut now = begun + Duration::from_millis(100);
        refusals.refused(now, now, &ages(&[100; 10]), None);
        let mut tries = 0;
        while now < begun + seconds(60) {
            let sent_at = now + refusals.wait(now);
            now = sent_at + Duration::from_millis(1);
            tries += 1;
            if now < begun + seconds(60) {
                refusals.refused(sent_at, now, &ages(&[1]), None);
            } else {
                assert_eq!(refusals.accepted(begun), None, "a straggler");
                assert_eq!(refusals.accepted(sent_at), RateLimit::new(10, seconds(60)));
            }
        }
        assert_eq!(tries, 7);
        assert!(!refusals.searching());
    }

    #[test]
    fn a_try_that_came_late_tells_the_shortest_window_that_it_can() {
        let begun = Instant::now();
        let mut refusals = Refusals::default();
        refusals.refused(begun, begun, &ages(&[0; 10]), None);
        refusals.refused(begun + seconds(2), begun + seconds(2), &ages(&[1]), None);
        // The machine was suspended.
        assert_eq!(refusals.accepted(begun + seconds(1_000)), RateLimit::new(10, seconds(5)));
    }

    #[test]
    fn the_refusals_of_one_burst_are_one_and_do_not_count_as_sends() {
        let now = Instant::now() + seconds(1);
        let mut refusals = Refusals::default();
        refusals.refused(now, now + LATENESS, &ages(&[50; 12]), None);
        let wait = refusals.wait(now);
        for _ in 0..2 {
            refusals.refused(now, now + LATENESS, &ages(&[50; 11]), None);
        }
        assert_eq!(refusals.wait(now), wait);
        assert_eq!(refusals.accepted(now + seconds(5)).map(|limit| limit.requests.get()), Some(10));
    }

    #[test]
    fn a_limit_that_was_taken_for_too_many_is_corrected_by_the_next_burst() {
        let now = Instant::now() + seconds(10);
        let known = RateLimit::new(38, seconds(1));
        let mut refusals = Refusals::default();
        for _ in 0..26 {
            refusals.refused(now, now + LATENESS, &ages(&[40; 38]), known);
        }
        let again = now + LATENESS + refusals.wait(now + LATENESS);
        assert_eq!(refusals.accepted(again), RateLimit::new(12, seconds(1)));
    }

    #[test]
    fn a_window_that_is_longer_than_was_thought_holds_as_many_as_before() {
        let (begun, known) = (Instant::now(), RateLimit::new(10, seconds(5)));
        let mut refusals = Refusals::default();
        let mut now = begun + seconds(5);
        for _ in 0..9 {
            refusals.refused(now, now + LATENESS, &ages(&[5_000; 10]), known);
        }
        now += LATENESS;
        loop {
            let sent_at = now + refusals.wait(now);
            if sent_at >= begun + seconds(60) {
                assert_eq!(refusals.accepted(sent_at), RateLimit::new(10, seconds(60)));
                return;
            }
            now = sent_at + LATENESS;
            refusals.refused(sent_at, now, &ages(&[5_000; 10]), known);
        }
    }

    #[test]
    fn without_any_send_on_record_the_waits_double_until_something_is_accepted() {
        let mut refusals = Refusals::default();
        let mut now = Instant::now();
        for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            assert_eq!(refusals.wait(now), seconds(wait));
            now += seconds(wait);
            refusals.refused(now, now, &[], None);
        }
        assert_eq!(refusals.accepted(now + seconds(600)), None);
        assert_eq!(refusals.wait(now), FIRST_WAIT);
    }

    #[test]
    fn a_known_window_that_is_too_short_is_only_ever_lengthened() {
        let now = Instant::now() + seconds(100);
        let mut refusals = Refusals::default();
        refusals.refused(now, now, &ages(&[60_000, 10]), RateLimit::new(1, seconds(60)));
        assert!(refusals.wait(now) > seconds(60));
        assert_eq!(refusals.accepted(now + seconds(1)), RateLimit::new(1, seconds(60)));
    }
}
