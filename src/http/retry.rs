//! When to try again, and how long to wait: the classification of replies as a table, and full jitter between attempts.

use std::fmt;
use std::time::Duration;

use super::client::NoReply;
use super::hints::Hints;

/// What an HTTP status means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 2xx: read the body.
    Success,
    /// 401: the token is no longer good; take a fresh one, once.
    Unauthorized,
    /// 429: not an attempt at all; come back when the gate opens.
    RateLimited,
    /// 408, 425, 5xx and redirects (which are never followed): another attempt may succeed.
    Retry(Cause),
    /// Any other 4xx: the same request will be refused again.
    Refused,
}

/// Why an attempt failed, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// No connection.
    Connect,
    /// No reply in time, ours or the server's (408) or a gateway's (504).
    Timeout,
    /// The connection broke before the reply was complete.
    Interrupted,
    /// A 2xx whose body is not what the contract says.
    Unparsable,
    /// 5xx and 425.
    ServerError,
    /// A redirect; credentials must not follow it.
    Redirect,
    /// 401.
    Unauthorized,
    /// 429, or a 403 that speaks of a limit.
    RateLimited,
    /// 403 to what was permitted before.
    Forbidden,
}

impl Cause {
    /// Every cause, in the order of declaration. Runs keep their counts in this order: a new one comes last.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Timeout,
        Self::Interrupted,
        Self::Unparsable,
        Self::ServerError,
        Self::Redirect,
        Self::Unauthorized,
        Self::RateLimited,
        Self::Forbidden,
    ];

    /// The word used in metrics, logs and dead letters.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::Unparsable => "unparsable",
            Self::ServerError => "server_error",
            Self::Redirect => "redirect",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::Forbidden => "forbidden",
        }
    }

    /// Whether it speaks of a server that has too much to do, rather than of one bad request.
    #[must_use]
    pub fn is_overload(self) -> bool {
        matches!(self, Self::Connect | Self::Timeout | Self::ServerError)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl From<&NoReply> for Cause {
    fn from(failure: &NoReply) -> Self {
        match failure {
            NoReply::Connect(_) | NoReply::Shortage(_) => Self::Connect,
            NoReply::Timeout(_) => Self::Timeout,
            NoReply::Interrupted(_) => Self::Interrupted,
            NoReply::Coding(_) | NoReply::TooLarge(_) => Self::Unparsable,
        }
    }
}

/// Classifies a status: the table of RFC 9110, section 15, as the platform uses it.
#[must_use]
pub fn classify(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Success,
        401 => Verdict::Unauthorized,
        429 => Verdict::RateLimited,
        408 | 504 => Verdict::Retry(Cause::Timeout),
        425 | 500..=599 => Verdict::Retry(Cause::ServerError),
        300..=399 => Verdict::Retry(Cause::Redirect),
        400..=499 => Verdict::Refused,
        // 1xx is never a final status and nothing above 599 is defined.
        _ => Verdict::Retry(Cause::Unparsable),
    }
}

/// Classifies a reply: as [`classify`], except that a 403 that says when to come back, or that nothing is left of a limit, is
/// a 429 under another number.
#[must_use]
pub fn classify_reply(status: u16, hints: &Hints) -> Verdict {
    match classify(status) {
        Verdict::Refused if status == 403 && hints.speak_of_a_limit() => Verdict::RateLimited,
        verdict => verdict,
    }
}

/// Waits between attempts: exponential, with full jitter, so that a crowd does not come back in step.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The longest wait before the second attempt.
    pub base: Duration,
    /// The longest wait before any attempt.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(250), cap: Duration::from_secs(20) }
    }
}

impl Backoff {
    /// How long to wait after the `failures`-th failure in a row (from 1), at the place `chance` (0 to 1) of the range. A
    /// server's `hint` is a floor: it lengthens the wait and never shortens it.
    #[must_use]
    pub fn after(&self, failures: u32, hint: Option<Duration>, chance: f64) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
        let ceiling = self.base.saturating_mul(doubled).min(self.cap);
        let jittered = ceiling.mul_f64(chance.clamp(0.0, 1.0));
        // Some jitter above the floor, for the crowd that got the same hint.
        hint.map_or(jittered, |hint| hint.saturating_add(jittered.min(hint / 20)).max(jittered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::clock::{Clock, VirtualClock};

    #[test]
    fn every_status_has_its_verdict() {
        for status in 0..=1000u16 {
            let expected = match status {
                200..=299 => Verdict::Success,
                401 => Verdict::Unauthorized,
                429 => Verdict::RateLimited,
                408 | 504 => Verdict::Retry(Cause::Timeout),
                425 | 500..=503 | 505..=599 => Verdict::Retry(Cause::ServerError),
                300..=399 => Verdict::Retry(Cause::Redirect),
                400 | 402..=407 | 409..=424 | 426..=428 | 430..=499 => Verdict::Refused,
                _ => Verdict::Retry(Cause::Unparsable),
            };
            assert_eq!(classify(status), expected, "{status}");
        }
    }

    #[test]
    fn waits_grow_to_the_cap_and_are_spread_over_the_whole_range() {
        let clock = VirtualClock::new(3);
        let backoff = Backoff::default();
        for failures in 1..40 {
            let waits: Vec<Duration> =
                (0..400).map(|_| backoff.after(failures, None, clock.random())).collect();
            let ceiling = (backoff.base * 2u32.pow((failures - 1).min(10))).min(backoff.cap);
            assert!(waits.iter().all(|wait| *wait <= ceiling));
            assert!(waits.iter().any(|wait| *wait < ceiling / 10));
            assert!(waits.iter().any(|wait| *wait > ceiling * 9 / 10));
        }
    }

    #[test]
    fn a_403_that_speaks_of_a_limit_is_a_429() {
        let second = Some(Duration::from_secs(1));
        let waits = Hints { retry_after: second, ..Hints::default() };
        let nothing_left = Hints { remaining: Some(0), reset: second, ..Hints::default() };
        let some_left = Hints { remaining: Some(3), reset: second, ..Hints::default() };
        for (hints, expected) in [
            (waits, Verdict::RateLimited),
            (nothing_left, Verdict::RateLimited),
            (some_left, Verdict::Refused),
            (Hints::default(), Verdict::Refused),
        ] {
            assert_eq!(classify_reply(403, &hints), expected, "{hints:?}");
            assert_eq!(classify_reply(404, &hints), Verdict::Refused, "{hints:?}");
            assert_eq!(classify_reply(429, &hints), Verdict::RateLimited, "{hints:?}");
        }
    }

    #[test]
    fn a_hint_of_nothing_does_not_shorten_the_own_growing_wait() {
        for failures in 1..10 {
            let own = Backoff::default().after(failures, None, 0.9);
            assert_eq!(Backoff::default().after(failures, Some(Duration::ZERO), 0.9), own);
        }
    }

    #[test]
    fn a_hint_is_never_shortened() {
        let clock = VirtualClock::new(4);
        let hint = Duration::from_secs(60);
        for failures in 1..30 {
            let wait = Backoff::default().after(failures, Some(hint), clock.random());
            assert!(wait >= hint && wait <= hint + hint / 20);
        }
    }
}
