//! How late what the ledger has granted may be sent, and by how much the window is lengthened for what was late.

use std::time::{Duration, Instant};

use super::{CAUTION, Limiter, MIN_MARGIN, SENT_WITHIN, SHARE_AT_ONCE};
use crate::http::RateLimit;

/// Where others send, what is granted is good for twice what the ledger has taken to answer, within these bounds.
const LEAST_LATE: Duration = Duration::from_millis(6);
const MAX_LATE: Duration = Duration::from_secs(4);
/// A process knows at the latest after this time that another one has come: two heartbeats, and what they take.
const UNAWARE: Duration = Duration::from_secs(5);
/// Turns from the ledger are good for this long; the margin allows for it.
const TURNS_GOOD_FOR: Duration = Duration::from_millis(25);

impl Limiter {
    /// Whether other processes send as well.
    pub fn share(&mut self, shared: bool, now: Instant) {
        if shared && !self.shared && self.limit().is_some() {
            // One that did not know of this process may have sent what it was granted as late as that.
            self.lagged(CAUTION, now + UNAWARE);
        }
        self.shared = shared;
    }

    /// Whether an answer of the ledger is so late that this process may have been suspended: then another one may have come, and
    /// allows for sends that are as late as usual. A ledger that is slow is so the next time as well.
    pub(super) fn surprises(&self, lag: Duration, now: Instant) -> bool {
        !self.shared && lag > CAUTION && lag > 2 * self.usual_lag(now).max(self.turns.surprise)
    }

    pub(super) fn usual_lag(&self, now: Instant) -> Duration {
        let span = self.limit().map_or(Duration::ZERO, span_of_lags);
        self.lags.worst(now, span).unwrap_or_default()
    }

    /// The ledger's answer took this long.
    pub(super) fn replied(&mut self, lag: Duration, now: Instant) {
        let span = self.limit().map_or(Duration::ZERO, span_of_lags);
        self.replies.saw(lag, now, span);
        if !self.shared {
            // The turns are on record since before the answer was on its way.
            self.lagged(lag, now);
        }
    }

    /// A turn is used this much later than it is on record at the earliest: the window has to allow for it, until its sends
    /// have left the window.
    pub(super) fn lagged(&mut self, lag: Duration, now: Instant) {
        let span = self.limit().map_or(Duration::ZERO, span_of_lags);
        self.lags.saw(lag, now, span);
    }

    /// How late what is asked for now may be sent. Alone, a process knows how late its sends were; where others send, each puts
    /// them on record as of the latest moment, so that nobody needs to know of anybody's lateness.
    pub(super) fn late(&self, limit: RateLimit, now: Instant) -> Duration {
        if !self.shared {
            return Duration::ZERO;
        }
        let reply = self.replies.worst(now, span_of_lags(limit)).unwrap_or(CAUTION / 2);
        (reply * 2).clamp(LEAST_LATE, MAX_LATE) + advance(limit)
    }

    /// The time by which a window is lengthened: requests need different times to the platform, and it counts arrivals. A
    /// two-hundredth of the window, at least 10 ms (at 11 windows a job that is 0.5 % of its time), and more on a machine that
    /// is seen to be slow with its turns.
    pub(super) fn margin(&self, limit: RateLimit, now: Instant) -> Duration {
        let advance = if self.shared { Duration::ZERO } else { advance(limit) };
        let trips = self.pacing.quickest().unwrap_or_default().min(limit.window / 400) * 2 + advance;
        let lag =
            self.lags.worst(now, span_of_lags(limit)).map_or(Duration::ZERO, |lag| lag + MIN_MARGIN / 2);
        MIN_MARGIN.max(limit.window / 200 + trips).max(lag) + self.extra_margin.min(limit.window / 10)
    }
}

/// Turns of a generous limit are taken in advance.
fn advance(limit: RateLimit) -> Duration {
    if limit.requests.get() >= 2 * SHARE_AT_ONCE { TURNS_GOOD_FOR } else { Duration::ZERO }
}

/// Sends of so long ago have left the window.
fn span_of_lags(limit: RateLimit) -> Duration {
    limit.window + limit.window / 10 + SENT_WITHIN * 5
}
