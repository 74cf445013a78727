//! The limiter of a process that shares its limit with nobody: what it asks of the ledger is answered at once.

use std::time::{Duration, Instant};

use super::ledger::{MemoryLedger, Order};
use super::limiter::{Limiter, Observation, Turn, Why};
use crate::http::RateLimit;

/// A limiter and its ledger.
#[derive(Debug)]
pub struct Alone {
    limiter: Limiter,
    ledger: MemoryLedger,
}

impl Alone {
    /// A limiter for one account; `configured` is kept whatever the platform says, a 429 aside.
    #[must_use]
    pub fn new(configured: Option<RateLimit>, max_wait: Duration) -> Self {
        Self { limiter: Limiter::new(configured, max_wait), ledger: MemoryLedger::default() }
    }

    /// Whether the limit is the user's own.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.limiter.is_configured()
    }

    /// The limit that is kept, if one is known.
    #[must_use]
    pub fn limit(&self) -> Option<RateLimit> {
        self.limiter.limit()
    }

    /// Takes the turn of one request, which has to be sent now.
    ///
    /// # Errors
    /// Until when there is none, and why.
    pub fn take(&mut self, now: Instant) -> Result<(), (Instant, Why)> {
        let orders = self.limiter.settle(now);
        self.tell(&orders, now);
        let turn = match self.limiter.turn(1, 0, now) {
            Turn::Reserve(ask) => {
                self.limiter.asked(&ask, now);
                self.limiter.granted(self.ledger.reserve(&ask, now), now);
                self.limiter.turn(1, 0, now)
            }
            turn => turn,
        };
        match turn {
            Turn::Go(_) => {
                self.limiter.take(1, now);
                Ok(())
            }
            Turn::Wait(until, why) => Err((until, why)),
            // The ledger has answered already.
            Turn::Reserve(_) | Turn::Asked => Err((now + Duration::from_millis(1), Why::RateLimit)),
        }
    }

    /// Every answer to a request that counts goes in here. `jitter` is between 0 and 1.
    pub fn observe(&mut self, seen: &Observation<'_>, jitter: f64) {
        let orders = self.limiter.observe(seen, jitter);
        self.tell(&orders, seen.answered_at);
    }

    fn tell(&mut self, orders: &[Order], now: Instant) {
        for order in orders {
            if let Some(ages) = self.ledger.tell(order, now)
                && let Some(learned) = self.limiter.sends(&ages, now)
            {
                self.ledger.tell(&learned, now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
