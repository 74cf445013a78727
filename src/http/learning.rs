//! Finding out a rate limit from its refusals.

use std::time::{Duration, Instant};

use super::rate_limit::RateLimit;

/// Windows that people choose; a bracket that holds one of them most likely means it.
const USUAL_SECONDS: [u64; 12] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 3600];

/// What a 429 with a hint shows. `ages` are those of the accepted sends, oldest first; `known` is what was thought so far.
///
/// Servers mean two things by their hint: the whole window (a constant), or the time until the oldest send leaves it.
/// For a quick burst both are nearly the same. For a slow one the first is assumed, and should that be wrong, the next
/// refusal comes with a limit `known`, and then the window reaches back to its first send.
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
    let window = if oldest <= hint / 10 { oldest + hint } else { hint };
    RateLimit::new(u32::try_from(recent.len()).ok()?, window)
}

/// The search for a window behind refusals that give no hint: what is refused is tried again after growing waits, and
/// when one is accepted, the window lies between the last refusal and that moment.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    search: Option<Search>,
    in_a_row: u32,
}

#[derive(Debug)]
struct Search {
    /// When the burst began, and how many of it were accepted.
    begun: Instant,
    accepted: u32,
    last_refused: Instant,
}

impl Refusals {
    /// Whether an acceptance would be news.
    pub fn searching(&self) -> bool {
        self.search.is_some()
    }

    /// Refusals since the last acceptance.
    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// A refusal without a hint; `ages` are those of the accepted sends, oldest first.
    pub fn refused(&mut self, now: Instant, ages: &[Duration], known: Option<RateLimit>) {
        self.in_a_row += 1;
        match &mut self.search {
            Some(search) => search.last_refused = now,
            None => {
                let recent = match known {
                    // Refused in spite of a limit: the window is longer than thought.
                    Some(limit) => &ages[ages.len().saturating_sub(limit.requests.get() as usize)..],
                    None => ages,
                };
                let Some(oldest) = recent.first() else { return };
                let begun = now.checked_sub(*oldest).unwrap_or(now);
                let accepted = u32::try_from(recent.len()).unwrap_or(u32::MAX);
                self.search = Some(Search { begun, accepted, last_refused: now });
            }
        }
    }

    /// A request sent at `sent_at` was accepted: ends a search, with what it has found. Stragglers end nothing.
    pub fn accepted(&mut self, sent_at: Instant) -> Option<RateLimit> {
        if self.search.as_ref().is_some_and(|search| sent_at <= search.last_refused) {
            return None;
        }
        self.in_a_row = 0;
        let search = self.search.take()?;
        let longest = sent_at.saturating_duration_since(search.begun);
        let shortest = search.last_refused.saturating_duration_since(search.begun);
        let usual = USUAL_SECONDS.iter().map(|seconds| Duration::from_secs(*seconds));
        let window = usual.filter(|window| *window > shortest && *window <= longest).max().unwrap_or(longest);
        RateLimit::new(search.accepted, window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ages(millis: &[u64]) -> Vec<Duration> {
        millis.iter().map(|ms| Duration::from_millis(*ms)).collect()
    }

    #[test]
    fn a_quick_burst_shows_the_whole_window() {
        let limit = from_refusal(None, &ages(&[50, 40, 30, 20, 10]), Duration::from_secs(60)).unwrap();
        assert_eq!(limit, RateLimit::new(5, Duration::from_millis(60_050)).unwrap());
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
    fn without_a_hint_the_window_is_bracketed() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut refusals = Refusals::default();
        for seconds in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0] {
            refusals.refused(at(seconds), &ages(&[1000; 10]), None);
        }
        assert_eq!(refusals.accepted(at(20.0)), None, "a straggler");
        assert_eq!(refusals.accepted(at(64.0)), RateLimit::new(10, Duration::from_secs(60)));
        assert!(!refusals.searching());
    }
}
