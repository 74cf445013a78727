//! Where an account's send times are kept.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::clock::Clock;
use super::lock::lock;
use super::rate_limit::RateLimit;
use super::sharing::SharingError;
use super::window::{Gate, Reservation, Window};

/// While no limit is known, sends are on record for so long.
const UNLIMITED_SPAN: Duration = Duration::from_secs(120);

/// Where send times are kept: in memory, or in a row that all processes share. Its own clock decides.
pub trait Ledger: Send + Sync {
    /// Reserves up to `want` sends for now under `limit`, or the limit that is on record; without any, all are granted
    /// and recorded, unless another process has recorded one less than `apart` ago.
    ///
    /// # Errors
    /// A line for people, when the ledger is out of reach.
    fn reserve(
        &self,
        limit: Option<RateLimit>,
        margin: Duration,
        want: u32,
        apart: Duration,
    ) -> Result<Reservation, SharingError>;
    /// The ages of the sends on record, oldest first.
    ///
    /// # Errors
    /// As above.
    fn ages(&self) -> Result<Vec<Duration>, SharingError>;
    /// So many of the newest sends on record do not count: one was refused, or they were never made.
    ///
    /// # Errors
    /// As above.
    fn take_back(&self, count: u32) -> Result<(), SharingError>;
    /// Keeps a limit that was learned, for other processes and the next run.
    ///
    /// # Errors
    /// As above.
    fn learn(&self, limit: RateLimit) -> Result<(), SharingError>;
    /// Lets nobody send for this time.
    ///
    /// # Errors
    /// As above.
    fn close_gate(&self, wait: Duration) -> Result<(), SharingError>;
    /// Lets nobody send for this time, and then one request alone, until [`Self::open_gate`]: the platform asked to wait for
    /// `asked`, which is longer than anybody waits.
    ///
    /// # Errors
    /// As above.
    fn doubt(&self, wait: Duration, asked: Duration) -> Result<(), SharingError> {
        let _not_kept = asked;
        self.close_gate(wait)
    }
    /// Opens the gate: that one request was accepted.
    ///
    /// # Errors
    /// As above.
    fn open_gate(&self) -> Result<(), SharingError> {
        Ok(())
    }
}

/// The ledger of a process that has nobody to share a limit with.
pub struct MemoryLedger {
    clock: Arc<dyn Clock>,
    state: Mutex<(Window, Option<RateLimit>)>,
}

impl MemoryLedger {
    /// An empty ledger.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }
}

impl Ledger for MemoryLedger {
    fn reserve(
        &self,
        limit: Option<RateLimit>,
        margin: Duration,
        want: u32,
        _apart: Duration,
    ) -> Result<Reservation, SharingError> {
        let now = self.clock.now();
        let (window, learned) = &mut *lock(&self.state);
        Ok(match limit.or(*learned) {
            Some(limit) => window.reserve(limit, margin, now, want),
            None => {
                let lately = window.ages(now).iter().filter(|age| **age < UNLIMITED_SPAN).count();
                window.record(now, want);
                let before = u32::try_from(lately).unwrap_or(u32::MAX);
                Reservation { granted: want, wait: Duration::ZERO, limit: None, before, gate: Gate::Open }
            }
        })
    }

    fn ages(&self) -> Result<Vec<Duration>, SharingError> {
        Ok(lock(&self.state).0.ages(self.clock.now()))
    }

    fn take_back(&self, count: u32) -> Result<(), SharingError> {
        lock(&self.state).0.take_back(count);
        Ok(())
    }

    fn learn(&self, limit: RateLimit) -> Result<(), SharingError> {
        lock(&self.state).1 = Some(limit);
        Ok(())
    }

    fn close_gate(&self, _wait: Duration) -> Result<(), SharingError> {
        Ok(())
    }
}
