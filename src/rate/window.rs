//! The sliding window, exactly: at most N sends in any stretch of the window's length.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::http::RateLimit;

/// Sends that leave within this part of the window, and this time, are had again at once: a burst stays one, and the ledger is
/// asked once.
const TOGETHER: (u32, Duration) = (50, Duration::from_millis(200));

fn together(span: Duration) -> Duration {
    (span / TOGETHER.0).min(TOGETHER.1)
}

/// A moment so many microseconds later, or before.
#[must_use]
pub fn shifted(at: Instant, later: i64) -> Instant {
    let by = Duration::from_micros(later.unsigned_abs());
    if later < 0 { at.checked_sub(by) } else { at.checked_add(by) }.unwrap_or(at)
}

/// The sends of one window, in batches of the same moment.
#[derive(Clone, Debug, Default)]
pub struct Window {
    sends: VecDeque<(Instant, u32)>,
}

impl Window {
    /// Reserves up to `want` sends, to be made from `now` to `late` later, such that no stretch of `limit.window + margin` ever
    /// holds more than the limit; gives how many, and the time until the next ones can be.
    pub fn reserve(
        &mut self,
        limit: RateLimit,
        margin: Duration,
        (now, late): (Instant, Duration),
        want: u32,
    ) -> (u32, Duration) {
        let span = limit.window + margin;
        while self.sends.front().is_some_and(|(at, _)| *at + span <= now) {
            self.sends.pop_front();
        }
        let used: u32 = self.sends.iter().map(|(_, count)| count).sum();
        let granted = limit.requests.get().saturating_sub(used).min(want);
        self.record(now + late, granted);
        let full = used + granted >= limit.requests.get();
        (granted, if full { self.until_free(limit, span, now, used + granted) } else { Duration::ZERO })
    }

    /// Takes those out that were not made, of the one batch that this is true of, and has the others as of so many microseconds later.
    pub fn correct(&mut self, is_it: impl Fn(Instant) -> bool, unsent: u32, later: i64) {
        let mut found = (0..self.sends.len()).filter(|place| is_it(self.sends[*place].0));
        let (Some(place), None) = (found.next(), found.next()) else { return };
        if let Some((at, count)) = self.sends.remove(place) {
            self.record(shifted(at, later), count.saturating_sub(unsent));
        }
    }

    /// Adds sends that were made, or may be, at this moment.
    pub fn record(&mut self, now: Instant, count: u32) {
        if count > 0 {
            let place = self.sends.iter().rposition(|(at, _)| *at <= now).map_or(0, |place| place + 1);
            self.sends.insert(place, (now, count));
        }
    }

    /// The ages of the sends on record, oldest first; at most the last thousand.
    #[must_use]
    pub fn ages(&self, now: Instant) -> Vec<Duration> {
        let all =
            self.sends.iter().flat_map(|(at, count)| (0..*count).map(|_| now.saturating_duration_since(*at)));
        let mut ages: Vec<Duration> = all.collect();
        ages.drain(..ages.len().saturating_sub(1000));
        ages
    }

    /// Sends beyond the limit (it may just have been lowered) must all leave the window first, and one more; with it go those that
    /// leave just after it.
    fn until_free(&self, limit: RateLimit, span: Duration, now: Instant, used: u32) -> Duration {
        let mut left = used;
        let mut leave = self.sends.iter().filter_map(|(at, count)| {
            left -= count;
            (left < limit.requests.get()).then_some(*at)
        });
        let Some(first) = leave.next() else { return span };
        let last = leave.take_while(|at| *at <= first + together(span)).last().unwrap_or(first);
        (last + span).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a server that counts by arrival, each request being sent up to `late` after it was granted, and under way for
        /// up to `margin`: nothing is refused, and no send waits longer than the limit demands, and a fiftieth of the window.
        #[test]
        fn a_sliding_window_server_refuses_nothing_and_no_time_is_lost(
            requests in 1u32..12,
            window_ms in 1u64..500,
            margin_ms in 0u64..20,
            steps in prop::collection::vec((0u64..40, 1u32..5, 0.0f64..1.0, 0u64..30, 0.0f64..1.0), 1..120),
        ) {
            let limit = RateLimit::new(requests, Duration::from_millis(window_ms)).unwrap();
            let margin = Duration::from_millis(margin_ms);
            let start = Instant::now();
            let (mut now, mut window) = (start, Window::default());
            let (mut arrivals, mut sends): (Vec<Instant>, Vec<Instant>) = Default::default();
            for (pause, want, jitter, late, lateness) in steps {
                let late = Duration::from_millis(late);
                now += Duration::from_millis(pause);
                let (mut granted, wait) = window.reserve(limit, margin, (now, late), want);
                if wait > Duration::ZERO {
                    // At the end of the wait there is room, and none long before.
                    let (early, then) = (now + wait - together(limit.window + margin), now + wait);
                    let early = early - Duration::from_nanos(1);
                    prop_assert!(early < now || window.clone().reserve(limit, margin, (early, late), 1).0 == 0);
                    prop_assert!(window.clone().reserve(limit, margin, (then, late), 1).0 == 1);
                }
                if granted == 0 {
                    now += wait;
                    granted = window.reserve(limit, margin, (now, late), want).0;
                }
                let in_window = |t: &&Instant| **t + limit.window + margin > now;
                let used = u32::try_from(sends.iter().filter(in_window).count()).unwrap();
                prop_assert_eq!(granted, want.min(requests - used));
                for _ in 0..granted {
                    sends.push(now + late);
                    arrivals.push(now + late.mul_f64(lateness) + margin.mul_f64(jitter));
                }
            }
            for (i, arrival) in arrivals.iter().enumerate() {
                let before = arrivals.iter().enumerate().filter(|(j, other)| {
                    (**other, *j) < (*arrival, i) && **other + limit.window > *arrival
                });
                prop_assert!(before.count() < requests as usize);
            }
        }
    }
}
