//! What becomes of the sends that the ledger has granted: what it has on record is corrected with the next question.
//!
//! They are on record as of the latest moment at which they may be made. Where one was made earlier, or not at all for want of a
//! worker in time, the next window begins no later for it.

use std::time::{Duration, Instant};

use crate::rate::ledger::{Correction, Mark};

/// The leave to make requests until a moment, as the ledger granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Which grant it is from.
    pub grant: u64,
    /// Not to be used any more after this moment, …
    pub until: Instant,
    /// … so long after it was asked for.
    pub late: Duration,
}

/// The sends of the latest grant.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub grant: u64,
    /// Its name in the ledger, until it has been corrected.
    mark: Option<Mark>,
    granted: u32,
    /// Those of which nothing has been heard yet.
    under_way: u32,
    /// By when the others had arrived.
    arrived: Option<Instant>,
    /// Those that have come to their end, answered or not.
    over: u32,
    /// Of one it is not known when it arrived, if at all.
    is_unsure: bool,
}

impl Tally {
    /// A new grant; what becomes of those before is of no use any more.
    pub fn begin(&mut self, mark: Option<Mark>, granted: u32) {
        *self = Self { grant: self.grant + 1, mark, granted, ..Self::default() };
    }

    /// So many are being made.
    pub fn taken(&mut self, count: u32) {
        self.under_way += count;
    }

    /// One has come to its end, and had arrived by this moment, if that is known.
    pub fn made(&mut self, grant: u64, arrived: Option<Instant>) {
        if grant == self.grant {
            self.under_way = self.under_way.saturating_sub(1);
            self.over += 1;
            self.is_unsure |= arrived.is_none();
            self.arrived = self.arrived.max(arrived);
        }
    }

    /// So many were not made.
    pub fn unsent(&mut self, count: u32) {
        self.under_way = self.under_way.saturating_sub(count);
    }

    /// What the ledger can be told when they are on record as of `by`, and not a single one will be made any more of those that no
    /// worker has.
    pub fn correction(&self, by: Instant) -> Option<Correction> {
        let unsent = self.granted.saturating_sub(self.over + self.under_way);
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let later = match self.arrived {
            // A worker that came to a halt just before it sent.
            Some(at) if at > by => micros(at - by),
            Some(at) if self.under_way == 0 && !self.is_unsure => -micros(by - at),
            _ => 0,
        };
        let mark = self.mark.filter(|_| unsent > 0 || later != 0)?;
        // Where the same question is asked twice, it finds nothing the second time.
        let later = if later == 0 { -1 } else { later };
        Some(Correction { mark, unsent, later })
    }

    /// Whether all have come to their end, some arrived later than on record, and the ledger has not been told.
    pub fn is_behind(&self, by: Instant) -> bool {
        self.mark.is_some() && self.under_way == 0 && self.arrived.is_some_and(|at| at > by)
    }

    /// The ledger is being told.
    pub fn corrected(&mut self) {
        self.mark = None;
    }
}
