//! What the server saw: every request with its time, or only their counts.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `POST /auth/token`.
    Token,
    /// `GET /api/campaigns`.
    List,
    /// `POST /api/campaigns/{id}/sync`.
    Sync,
    /// Anything else.
    Other,
}

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// When it had arrived, since the server's start.
    pub at: Duration,
    /// What it was for.
    pub kind: Kind,
    /// The campaign's id, or the page.
    pub subject: String,
    /// The rate limit's key.
    pub client: String,
    /// The status answered; 0 when there was none.
    pub status: u16,
    /// Which of the tokens it carried, from 1; 0 for none that the server gave.
    pub token: u64,
    /// The `Idempotency-Key`; empty for none.
    pub key: String,
    /// The `traceparent`; empty for none.
    pub traceparent: String,
    /// Whether it carried an `Authorization` of any kind.
    pub credentials: bool,
    /// Whether it was answered as the contract says a success is, and the answer sent whole.
    pub success: bool,
    /// Whether it passed the limiter, and so counts.
    pub counted: bool,
}

/// The ledger at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ledger {
    /// Every request in the order of arrival, when they are kept.
    pub requests: Vec<Seen>,
    /// How many requests there were.
    pub total: u64,
    /// How many syncs were done, even if the answer was then maimed.
    pub syncs: u64,
    /// How many list requests there were.
    pub lists: u64,
    /// How many requests were refused by the limiter.
    pub refused: u64,
    /// How many tokens were given.
    pub tokens: u64,
    /// The largest number of counted requests in any window.
    pub most_in_window: usize,
}

impl Ledger {
    /// The requests of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Seen> {
        self.requests.iter().filter(move |seen| seen.kind == kind)
    }

    /// When the syncs that were answered with success had arrived.
    #[must_use]
    pub fn sync_times(&self) -> Vec<Duration> {
        self.of(Kind::Sync).filter(|seen| seen.success).map(|seen| seen.at).collect()
    }

    /// The largest number of requests of any one client that passed the limiter, in any stretch shorter than `window`.
    #[must_use]
    pub fn most_within(&self, window: Duration) -> usize {
        let mut arrivals: HashMap<&str, Vec<Duration>> = HashMap::new();
        for seen in self.requests.iter().filter(|seen| seen.counted) {
            arrivals.entry(&seen.client).or_default().push(seen.at);
        }
        arrivals.values().map(|at| most_in_window(at, window)).max().unwrap_or(0)
    }

    /// How often each campaign's sync was asked for.
    #[must_use]
    pub fn syncs_asked(&self) -> HashMap<&str, usize> {
        let mut asked = HashMap::new();
        for seen in self.of(Kind::Sync) {
            *asked.entry(seen.subject.as_str()).or_default() += 1;
        }
        asked
    }

    /// How often each campaign's sync was answered with success.
    #[must_use]
    pub fn syncs_done(&self) -> HashMap<&str, usize> {
        let mut done = HashMap::new();
        for seen in self.of(Kind::Sync).filter(|seen| seen.success) {
            *done.entry(seen.subject.as_str()).or_default() += 1;
        }
        done
    }
}

/// The largest number of moments within any stretch shorter than `window`.
#[must_use]
pub fn most_in_window(sorted: &[Duration], window: Duration) -> usize {
    let mut from = 0;
    let mut most = 0;
    for (to, at) in sorted.iter().enumerate() {
        while sorted[from] + window <= *at {
            from += 1;
        }
        most = most.max(to + 1 - from);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_count_is_that_of_brute_force() {
        let at: Vec<Duration> =
            (0..300u64).map(|n| Duration::from_millis(crate::settings::mix(5, n) % 5_000)).collect();
        let mut at = at;
        at.sort();
        for window in [1, 10, 100, 1000].map(Duration::from_millis) {
            let brute =
                at.iter().map(|from| at.iter().filter(|t| *t >= from && **t < *from + window).count()).max();
            assert_eq!(Some(most_in_window(&at, window)), brute);
        }
    }
}
