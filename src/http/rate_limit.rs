//! The value type of a rate limit.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// At most `requests` in any window of `window`, however the window is laid (a sliding window).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many requests the window holds.
    pub requests: NonZeroU32,
    /// The window's length; never zero.
    pub window: Duration,
}

impl RateLimit {
    /// A limit, or nothing when either number is zero.
    #[must_use]
    pub fn new(requests: u32, window: Duration) -> Option<Self> {
        let requests = NonZeroU32::new(requests)?;
        (!window.is_zero()).then_some(Self { requests, window })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.window.subsec_millis() == 0 && self.window.as_secs() > 0 {
            write!(f, "{}/{}s", self.requests, self.window.as_secs())
        } else {
            write!(f, "{}/{}ms", self.requests, self.window.as_millis())
        }
    }
}
