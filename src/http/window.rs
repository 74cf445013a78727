//! The sliding window, exactly: at most N sends in any stretch of the window's length.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::rate_limit::RateLimit;

/// What came of asking for sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// So many requests are to be sent now.
    pub granted: u32,
    /// When nothing was granted: how long until a send can be.
    pub wait: Duration,
    /// The limit that was kept to, when one is known.
    pub limit: Option<RateLimit>,
    /// When no limit is known: how many sends were on record before.
    pub before: u32,
    /// Whether a gate had a part in it.
    pub gate: Gate,
}

/// A gate that is on record, as it is to whoever asks for sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// There is none, or it has opened.
    #[default]
    Open,
    /// Closed, for as long as the platform asked.
    Closed,
    /// Closed for a while, where the platform asked for longer than anybody waits.
    Doubted,
    /// As before, and this one send is to find out whether the platform meant it.
    Probe,
}

/// The sends of one window, in batches of the same moment.
#[derive(Clone, Debug, Default)]
pub struct Window {
    sends: VecDeque<(Instant, u32)>,
}

impl Window {
    /// Reserves up to `want` sends at `now`, such that no stretch of `limit.window + margin` ever holds more than the limit.
    pub fn reserve(&mut self, limit: RateLimit, margin: Duration, now: Instant, want: u32) -> Reservation {
        let span = limit.window + margin;
        while self.sends.front().is_some_and(|(at, _)| *at + span <= now) {
            self.sends.pop_front();
        }
        let used: u32 = self.sends.iter().map(|(_, count)| count).sum();
        let granted = limit.requests.get().saturating_sub(used).min(want);
        self.record(now, granted);
        let wait = if granted == 0 { self.until_free(limit, span, now, used) } else { Duration::ZERO };
        Reservation { granted, wait, limit: Some(limit), before: 0, gate: Gate::Open }
    }

    /// Adds sends that were made at `now`.
    pub fn record(&mut self, now: Instant, count: u32) {
        if count > 0 {
            self.sends.push_back((now, count));
        }
    }

    /// So many of the newest sends did not count.
    pub fn take_back(&mut self, mut count: u32) {
        while let Some((_, sends)) = self.sends.back_mut().filter(|_| count > 0) {
            let taken = count.min(*sends);
            *sends -= taken;
            count -= taken;
            if *sends == 0 {
                self.sends.pop_back();
            }
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

    /// Sends beyond the limit (it may just have been lowered) must all leave the window first, and one more.
    fn until_free(&self, limit: RateLimit, span: Duration, now: Instant, used: u32) -> Duration {
        let mut left = used;
        for (at, count) in &self.sends {
            left -= count;
            if left < limit.requests.get() {
                return (*at + span).saturating_duration_since(now);
            }
        }
        span
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a server that counts by arrival, each request being under way for up to `margin`: nothing is refused,
        /// and no send waits longer than the limit demands.
        #[test]
        fn a_sliding_window_server_refuses_nothing_and_no_time_is_lost(
            requests in 1u32..12,
            window_ms in 1u64..500,
            margin_ms in 0u64..20,
            steps in prop::collection::vec((0u64..40, 1u32..5, 0.0f64..1.0), 1..120),
        ) {
            let limit = RateLimit::new(requests, Duration::from_millis(window_ms)).unwrap();
            let margin = Duration::from_millis(margin_ms);
            let start = Instant::now();
            let (mut now, mut window) = (start, Window::default());
            let (mut arrivals, mut sends): (Vec<Instant>, Vec<Instant>) = Default::default();
            for (pause, want, jitter) in steps {
                now += Duration::from_millis(pause);
                let mut reserved = window.reserve(limit, margin, now, want);
                if reserved.granted == 0 {
                    // Exactly at the end of the wait there is room, and not a nanosecond before.
                    let early = now + reserved.wait - Duration::from_nanos(1);
                    prop_assert_eq!(window.clone().reserve(limit, margin, early, 1).granted, 0);
                    now += reserved.wait;
                    reserved = window.reserve(limit, margin, now, want);
                    prop_assert!(reserved.granted > 0);
                }
                let in_window = |t: &&Instant| **t + limit.window + margin > now;
                let used = u32::try_from(sends.iter().filter(in_window).count()).unwrap();
                prop_assert_eq!(reserved.granted, want.min(requests - used));
                for _ in 0..reserved.granted {
                    sends.push(now);
                    arrivals.push(now + margin.mul_f64(jitter));
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
