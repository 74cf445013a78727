//! The record of an account's sends: what a limiter asks it and is answered, and the one of a process that shares its limit with
//! nobody. Processes that share one have it in the database (`store/quota.rs`).

use std::time::{Duration, Instant};

use super::window::Window;
use crate::http::RateLimit;

/// What to ask the ledger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// The limit to keep; without one, that on record, or else a doubted gate decides.
    pub limit: Option<RateLimit>,
    /// It was learned: if there is one on record, that is kept, because another process may have learned since.
    pub learned: bool,
    /// The time by which its window is lengthened.
    pub margin: Duration,
    /// How many sends.
    pub want: u32,
    /// How much later than now they may be made at the latest: as of then they are on record.
    pub late: Duration,
    /// What is to be corrected on record first.
    pub correction: Option<Correction>,
}

/// What has become of sends that were granted: those that were not made are given back, and the others were made at another moment
/// than the record has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Which ones.
    pub mark: Mark,
    /// How many were not made.
    pub unsent: u32,
    /// By how many microseconds the others had arrived later than on record, as far as is known; never 0: told twice, it finds nothing
    /// the second time.
    pub later: i64,
}

/// Sends that were granted at once, by the moment as of which they are on record: microseconds of the ledger's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub i64);

/// What the ledger answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Sends that are on record now, to be made at once.
    pub granted: u32,
    /// How long until the next can be, with those that follow closely; nothing when there is room for more.
    pub wait: Duration,
    /// The name of what was granted, if it can be corrected.
    pub mark: Option<Mark>,
    /// The limit that was kept, when it is another one.
    pub limit: Option<RateLimit>,
    /// What the gate on record had to do with it.
    pub gate: Gate,
}

/// What a gate that is on record has to do with an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// There is none, or it has opened.
    #[default]
    Open,
    /// Closed, for as long as the platform asked.
    Closed,
    /// Closed for a while, where the platform asked for longer than anybody waits.
    Doubted,
    /// As before, and this one send is to find out whether the platform meant it.
    Probe,
}

/// What the ledger is to be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Nobody may send for this time.
    CloseGate(Duration),
    /// Nobody may send for this time, and then one request alone until the gate is opened: the platform asked to wait for the
    /// second, which is longer than anybody waits.
    Doubt(Duration, Duration),
    /// That one request was accepted: the gate is open.
    OpenGate,
    /// This is the limit; the sends of these ages were accepted, and those that are not on record yet belong there.
    Learn(RateLimit, Vec<Duration>),
    /// It is to tell the ages of the sends on record, those of other processes among them, for
    /// [`Limiter::sends`](super::limiter::Limiter::sends).
    TellSends,
}

/// The ledger of a process that shares its limit with nobody: in memory, and it answers at once.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    sends: Window,
    limit: Option<RateLimit>,
    begun: Option<Instant>,
}

impl MemoryLedger {
    /// Puts sends on record, as many as the limit permits now.
    pub fn reserve(&mut self, ask: &Ask, now: Instant) -> Grant {
        let begun = *self.begun.get_or_insert(now);
        let mark = |at: Instant| {
            let since = at.saturating_duration_since(begun);
            Mark(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
        };
        if let Some(correction) = ask.correction {
            self.sends.correct(|at| mark(at) == correction.mark, correction.unsent, correction.later);
        }
        let limit = if ask.learned { self.limit.or(ask.limit) } else { ask.limit.or(self.limit) };
        let (granted, wait) = match limit {
            Some(limit) => self.sends.reserve(limit, ask.margin, (now, ask.late), ask.want),
            None => (ask.want, Duration::ZERO),
        };
        let limit = limit.filter(|_| limit != ask.limit);
        let mark = (granted > 0).then(|| mark(now + ask.late));
        Grant { granted, wait, mark, limit, gate: Gate::Open }
    }

    /// Takes an order; gives the ages of the sends on record where it is to tell them.
    pub fn tell(&mut self, order: &Order, now: Instant) -> Option<Vec<Duration>> {
        match order {
            Order::Learn(limit, ages) => {
                if self.limit.replace(*limit).is_none() {
                    ages.iter()
                        .filter_map(|age| now.checked_sub(*age))
                        .for_each(|at| self.sends.record(at, 1));
                }
            }
            Order::TellSends => return Some(self.sends.ages(now)),
            // The limiter keeps its own gate, and nobody else asks for one.
            Order::CloseGate(_) | Order::Doubt(..) | Order::OpenGate => {}
        }
        None
    }
}
