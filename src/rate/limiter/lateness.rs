//! How late what the ledger has granted may be sent, and by how much the window is lengthened.

use std::time::{Duration, Instant};

use super::{Limiter, MIN_MARGIN, SHARE_AT_ONCE};
use crate::http::RateLimit;

/// What is granted is good for, and on record as of, twice the time that it took lately until it could be sent, within these bounds, …
pub(super) const LEAST_LATE: Duration = Duration::from_millis(10);
pub(super) const MAX_LATE: Duration = Duration::from_secs(4);
/// … or this long, before anything is known: turns that come too late cost a window.
const UNKNOWN_LATE: Duration = Duration::from_millis(100);
/// Clocks are compared this closely.
const CLOSE: Duration = Duration::from_millis(1);
/// Turns from the ledger are good for this much longer where they are taken in advance.
const TURNS_GOOD_FOR: Duration = Duration::from_millis(25);

impl Limiter {
    /// It took this long until what was asked for could be sent.
    pub(super) fn lagged(&mut self, lag: Duration, now: Instant) {
        let span = self.limit().map_or(Duration::ZERO, span_of_lags);
        self.lags.saw(lag, now, span);
    }

    /// How late what is asked for now may be sent: as of then it is on record, so that nobody needs to know how slow the others are.
    pub(super) fn late(&self, limit: RateLimit, now: Instant) -> Duration {
        let known =
            self.lags.worst(now, span_of_lags(limit)).map(|lag| (lag * 2).clamp(LEAST_LATE, MAX_LATE));
        known.unwrap_or(UNKNOWN_LATE) + advance(limit)
    }

    /// Whether a wait that long ends when what was granted with it leaves the window, being on record as of `late` from then.
    pub(super) fn frees_itself(&self, wait: Duration, late: Duration) -> bool {
        self.limit().is_some_and(|limit| wait + CLOSE >= late + limit.window + self.margin(limit))
    }

    /// The time by which a window is lengthened: requests need different times to the platform, and it counts arrivals. A
    /// two-hundredth of the window, at least 10 ms (at 11 windows a job that is 0.5 % of its time).
    pub(super) fn margin(&self, limit: RateLimit) -> Duration {
        let trips = self.pacing.quickest().unwrap_or_default().min(limit.window / 400) * 2;
        MIN_MARGIN.max(limit.window / 200 + trips) + self.extra_margin.min(limit.window / 10)
    }
}

/// Turns of a generous limit are taken in advance.
fn advance(limit: RateLimit) -> Duration {
    if limit.requests.get() >= 2 * SHARE_AT_ONCE { TURNS_GOOD_FOR } else { Duration::ZERO }
}

/// Lags of so long ago tell nothing of the next one.
fn span_of_lags(limit: RateLimit) -> Duration {
    limit.window + limit.window / 10 + Duration::from_millis(50)
}
