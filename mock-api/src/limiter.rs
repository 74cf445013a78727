//! The reference server's limiter: at most N requests in any window, by arrival; a refused request does not count.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The windows of all clients.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    arrivals: HashMap<String, VecDeque<Duration>>,
}

/// How a client stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Standing {
    /// Whether this request is accepted.
    pub accepted: bool,
    /// How many more would be.
    pub remaining: u32,
    /// Until one more than that would be.
    pub reset: Duration,
}

impl Windows {
    /// A request of `client` arrives at `now`.
    pub fn arrive(&mut self, client: &str, now: Duration, limit: u32, window: Duration) -> Standing {
        if !self.arrivals.contains_key(client) {
            self.arrivals.insert(client.to_owned(), VecDeque::new());
        }
        let Some(arrivals) = self.arrivals.get_mut(client) else {
            return Standing { accepted: false, remaining: 0, reset: window };
        };
        while arrivals.front().is_some_and(|at| *at + window <= now) {
            arrivals.pop_front();
        }
        let accepted = arrivals.len() < limit as usize;
        if accepted {
            arrivals.push_back(now);
        }
        let used = u32::try_from(arrivals.len()).unwrap_or(u32::MAX);
        let reset = arrivals.front().map_or(Duration::ZERO, |at| (*at + window).saturating_sub(now));
        Standing { accepted, remaining: limit.saturating_sub(used), reset }
    }
}
