//! How late something was of late: the worst of a stretch of time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Lags and their moments, each larger than those behind it: the first one that is young enough is the worst.
#[derive(Debug, Default)]
pub struct Lags(VecDeque<(Duration, Instant)>);

impl Lags {
    /// Takes one in. Those that are older than `span` by then are of no use any more.
    pub fn saw(&mut self, lag: Duration, at: Instant, span: Duration) {
        while self.0.back().is_some_and(|(other, _)| *other <= lag) {
            self.0.pop_back();
        }
        while self.0.front().is_some_and(|(_, other)| at > *other + span) {
            self.0.pop_front();
        }
        self.0.push_back((lag, at));
    }

    /// The worst of the last `span`, if there was one.
    #[must_use]
    pub fn worst(&self, now: Instant, span: Duration) -> Option<Duration> {
        self.0.iter().find(|(_, at)| now <= *at + span).map(|(lag, _)| *lag)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_worst_is_that_of_all_that_are_young_enough(
            seen in prop::collection::vec((0u64..50, 0u64..40), 0..60),
            span in 1u64..200,
        ) {
            let (mut lags, mut all, mut now) = (Lags::default(), Vec::new(), Instant::now());
            let span = Duration::from_millis(span);
            for (lag, pause) in seen {
                now += Duration::from_millis(pause);
                let lag = Duration::from_millis(lag);
                lags.saw(lag, now, span);
                all.push((lag, now));
                let worst = all.iter().filter(|(_, at)| now <= *at + span).map(|(lag, _)| *lag).max();
                prop_assert_eq!(lags.worst(now, span), worst);
            }
        }
    }
}
