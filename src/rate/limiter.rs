//! When the next request may be sent: a known limit is kept exactly, an unknown one is learned, a 429 closes the gate. What the
//! answers say is taken in by `limiter/answers.rs`.
//!
//! The sends under a known limit are put on record in a ledger that all processes of the account share, before they are made.
//! The limiter does not ask the ledger: it says what to ask ([`Turn::Reserve`], [`Order`](super::ledger::Order)) and is told what came of it.

mod answers;
mod lateness;
mod tally;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lags::Lags;
use super::learning::Refusals;
use super::ledger::{Ask, Correction, Gate, Grant};
use super::pacing::Pacing;
use super::window::shifted;
use crate::http::RateLimit;
use crate::http::hints::Hints;

pub use tally::Permit;
use tally::Tally;

/// The least time by which a window is lengthened: requests differ in what they need to the server (a cold connection, a
/// busy machine).
const MIN_MARGIN: Duration = Duration::from_millis(10);
/// The limit behind a burst's refusals is worked out this long after the last of them: all of the burst that is answered at
/// once is answered by then.
const SETTLE: Duration = Duration::from_millis(100);
/// A request that finds out whether a long wait is meant has this long to be answered, before another one may.
pub(crate) const PROBE: Duration = Duration::from_secs(5);
/// Sends that are remembered to learn a limit from.
pub const REMEMBERED: usize = 10_000;
/// Turns of a limit so generous that the ledger is asked for many at once: a hundredth of it.
const SHARE_AT_ONCE: u32 = 100;
/// The most turns that are reserved at once.
const MAX_AT_ONCE: u32 = 1_024;

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// This many, now.
    Go(u32),
    /// The ledger has to be asked for this many.
    Reserve(Ask),
    /// The ledger has been asked.
    Asked,
    /// Not before this moment.
    Wait(Instant, Why),
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The platform asked for it: by a 429, or a response that said that nothing is left.
    Gate,
    /// A wait of our own after a refusal: the platform gave no hint, or one that proved wrong or is beyond belief.
    Backoff,
    /// The window is full.
    RateLimit,
    /// No limit is known, and the first sends are held back to find one gently.
    Pacing,
}

/// One exchange that counts towards the limit.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// When it was sent.
    pub sent_at: Instant,
    /// When it was answered.
    pub answered_at: Instant,
    /// Whether a rate limiter refused it.
    pub refused: bool,
    /// What the answer said.
    pub hints: &'a Hints,
}

/// An account's limiter.
#[derive(Debug, Default)]
pub struct Limiter {
    configured: Option<RateLimit>,
    learned: Option<RateLimit>,
    gate: Option<(Instant, Why)>,
    /// A longer wait is not believed at once.
    max_wait: Duration,
    /// Until when the last hint said to wait: an answer to what is sent later proves or disproves it.
    hint_until: Option<Instant>,
    /// It was waited for, and the next answer was a refusal again.
    disproved: bool,
    /// Since when one request at a time is to find out whether a wait beyond all patience is meant.
    doubted_since: Option<Instant>,
    /// It was not: a reset that long in an answer that said that nothing is left is ignored.
    reset_distrusted: bool,
    pacing: Pacing,
    turns: Turns,
    tally: Tally,
    refusals: Refusals,
    discovery: Option<Discovery>,
    /// While a window is searched for: when to try the next send.
    next_try: Option<Instant>,
    accepted: VecDeque<Instant>,
    extra_margin: Duration,
    /// How long it took until what was asked for could be sent.
    lags: Lags,
    /// When a learned limit was last corrected: refusals of requests sent before say nothing new.
    corrected: Option<Instant>,
    /// The refusal under a known limit that is being looked into, and its hint.
    correcting: Option<(Instant, Duration)>,
    longest_reset: Duration,
    /// What the ledger is being told, and may not know yet.
    untold: u32,
}

/// What the ledger has granted and was not used yet.
#[derive(Debug, Default)]
struct Turns {
    left: u32,
    /// They have to be sent before this moment: as of then they are on record.
    until: Option<Instant>,
    /// How much later than they were asked for they are on record.
    late: Duration,
    /// When the ledger was asked, and how late what it grants may be sent.
    asked: Option<(Instant, Duration)>,
    not_before: Option<(Instant, Why)>,
    /// Not asked again before this moment: the last answer came too late.
    rest: Option<Instant>,
    /// It is these that the next one has to wait for.
    frees_itself: bool,
    /// How many to ask for at once: doubled when the last ones were used in time, fewer when not.
    size: u32,
}

/// A first refusal by a limit that is not known yet.
#[derive(Clone, Copy, Debug)]
struct Discovery {
    first: Instant,
    last: Instant,
    hint: Duration,
}

impl Limiter {
    /// A limiter for one account; `configured` is kept whatever the platform says, a 429 aside.
    #[must_use]
    pub fn new(configured: Option<RateLimit>, max_wait: Duration) -> Self {
        Self { configured, max_wait, ..Self::default() }
    }

    /// What the ledger has on record from earlier processes: a limit, and for how long its gate stays closed, or whether that
    /// is doubted.
    pub fn begin(&mut self, learned: Option<RateLimit>, gate: Option<(Duration, bool)>, now: Instant) {
        self.learned = learned.or(self.learned);
        let Some((wait, doubted)) = gate else { return };
        if doubted {
            self.doubted_since.get_or_insert(now);
        }
        if !wait.is_zero() {
            let why = if doubted { Why::Backoff } else { Why::Gate };
            self.close(now + wait.min(self.max_wait), why);
        }
    }

    fn close(&mut self, until: Instant, why: Why) {
        if self.gate.is_none_or(|(before, _)| before < until) {
            self.gate = Some((until, why));
        }
    }

    /// Whether the limit is the user's own.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// The limit that is kept, if one is known.
    #[must_use]
    pub fn limit(&self) -> Option<RateLimit> {
        self.configured.or(self.learned)
    }

    /// Whether up to `want` requests may be sent now; so many `more` could be right behind them. Those that are sent have to be
    /// [`taken`](Self::take).
    pub fn turn(&mut self, want: u32, more: u32, now: Instant) -> Turn {
        if let Some(discovery) = self.discovery {
            return Turn::Wait(discovery.last + SETTLE, Why::Gate);
        }
        if let Some((gate, why)) = self.gate {
            if now < gate {
                return Turn::Wait(gate, why);
            }
            self.gate = None;
        }
        let (doubted, searching) = (self.doubted_since.is_some(), self.is_searching());
        if searching && !self.has_turns(now) {
            // A refusal is quick: it comes before the next try is due, and a try costs one.
            if let Some(next) = self.next_try.filter(|next| now < *next) {
                return Turn::Wait(next.min(now + SETTLE), Why::Pacing);
            }
        }
        match self.limit() {
            Some(limit) if searching => self.turn_under(Some(limit), 1, 0, now),
            Some(limit) => self.turn_under(Some(limit), want, more, now),
            // Of all processes one request finds out.
            None if doubted => self.turn_under(None, 1, 0, now),
            None if searching => Turn::Go(1),
            None if self.pacing.over() => Turn::Go(want),
            None => match self.pacing.wait_until(now) {
                Some(until) => Turn::Wait(until, Why::Pacing),
                None => Turn::Go(1),
            },
        }
    }

    /// Whether one send at a time is to find something out.
    fn is_searching(&self) -> bool {
        self.doubted_since.is_some() || self.refusals.searching()
    }

    /// Whether the limit on record is at least as new as its own.
    fn goes_by_the_record(&self) -> bool {
        self.configured.is_none() && self.untold == 0
    }

    /// What to ask after a refusal without a limit, where others may have learned one. Nothing is wanted.
    pub fn asks_the_record(&self) -> Option<Ask> {
        let (margin, late) = (MIN_MARGIN, lateness::LEAST_LATE);
        let ask = Ask { limit: None, learned: true, margin, want: 0, late, correction: None };
        (self.limit().is_none() && self.turns.asked.is_none()).then_some(ask)
    }

    /// The ledger is being told something.
    pub fn telling(&mut self) {
        self.untold += 1;
    }

    /// It has been told.
    pub fn told(&mut self) {
        self.untold = self.untold.saturating_sub(1);
    }

    fn has_turns(&self, now: Instant) -> bool {
        self.turns.left > 0 && self.turns.until.is_some_and(|until| now < until)
    }

    fn turn_under(&mut self, limit: Option<RateLimit>, want: u32, more: u32, now: Instant) -> Turn {
        if self.has_turns(now) {
            return Turn::Go(self.turns.left.min(want));
        }
        if self.turns.left > 0 {
            // They were not used in time.
            (self.turns.size, self.turns.left) = ((self.turns.size / 2).max(1), 0);
        }
        if self.turns.asked.is_some() {
            return Turn::Asked;
        }
        if let Some(at) = self.turns.rest.filter(|at| now < *at) {
            return Turn::Wait(at, Why::RateLimit);
        }
        let correction = self.turns.until.and_then(|by| self.tally.correction(by));
        if let Some((at, why)) = self.turns.not_before {
            let at = match correction.filter(|_| why == Why::RateLimit) {
                // What is given back can be had at once.
                Some(Correction { unsent: 1.., .. }) => now,
                Some(Correction { later, .. }) if self.turns.frees_itself => shifted(at, later),
                _ => at,
            };
            if now < at {
                return Turn::Wait(at, why);
            }
        }
        let Some(limit) = limit else {
            let late = lateness::LEAST_LATE;
            return Turn::Reserve(Ask {
                limit: None,
                learned: true,
                margin: MIN_MARGIN,
                want,
                late,
                correction,
            });
        };
        let generous = limit.requests.get() / SHARE_AT_ONCE;
        // While a window is searched for, each send is a try of its own.
        let advance = if generous > 1 && !self.is_searching() {
            self.turns.size.clamp(1, generous.min(MAX_AT_ONCE))
        } else {
            1
        };
        let want = want.saturating_add(more).max(advance).min(limit.requests.get()).min(MAX_AT_ONCE);
        let (margin, late) = (self.margin(limit), self.late(limit, now));
        Turn::Reserve(Ask {
            limit: Some(limit),
            learned: self.goes_by_the_record(),
            margin,
            want,
            late,
            correction,
        })
    }

    /// The ledger is being asked.
    pub fn asked(&mut self, ask: &Ask, now: Instant) {
        self.turns.asked = Some((now, ask.late));
        if ask.correction.is_some() {
            self.tally.corrected();
        }
    }

    /// What is taken now is to be sent with this, if it is under a limit.
    #[must_use]
    pub fn permit(&self) -> Option<Permit> {
        let until = self.turns.until.filter(|_| self.limit().is_some())?;
        Some(Permit { grant: self.tally.grant, until, late: self.turns.late })
    }

    /// One has come to its end, and had arrived by this moment, if that is known.
    pub fn made(&mut self, permit: Option<Permit>, arrived: Option<Instant>) {
        let Some(Permit { grant, until, late }) = permit else { return };
        self.tally.made(grant, arrived);
        if let Some(after) = arrived.and_then(|at| at.checked_duration_since(until)) {
            // A new connection takes its time: the next ones are to be good for longer.
            self.lagged(late + after, until + after);
        }
    }

    /// What others should know at once: requests arrived later than they are on record. Nothing is wanted.
    pub fn behind(&self, now: Instant) -> Option<Ask> {
        let (limit, by) = (self.limit()?, self.turns.until?);
        if self.turns.asked.is_some() || !self.tally.is_behind(by) {
            return None;
        }
        let (margin, late, correction) =
            (self.margin(limit), self.late(limit, now), self.tally.correction(by));
        Some(Ask {
            limit: Some(limit),
            learned: self.goes_by_the_record(),
            margin,
            want: 0,
            late,
            correction,
        })
    }

    /// These were not sent in time, or not at all.
    pub fn untake(&mut self, permit: Option<Permit>, count: u32, now: Instant) {
        let Some(permit) = permit.filter(|_| count > 0) else { return };
        let is_latest = permit.grant == self.tally.grant;
        if is_latest {
            self.tally.unsent(count);
        }
        if is_latest && now < permit.until {
            self.turns.left = self.turns.left.saturating_add(count);
        } else {
            // The next ones are to be good for longer.
            self.lagged(permit.late, now);
        }
    }

    /// The ledger's answer.
    pub fn granted(&mut self, grant: Grant, now: Instant) {
        let (asked, late) = self.turns.asked.take().unwrap_or((now, Duration::ZERO));
        let adopted = grant.limit.filter(|_| self.limit().is_none() || self.goes_by_the_record());
        // What it sent without a limit is not on record: it has left the window after this time.
        let unrecorded = adopted.filter(|_| self.limit().is_none()).map(|limit| limit.window);
        if adopted.is_some() {
            // What was being found out is known, and what was refused of earlier sends says nothing new.
            (self.learned, self.discovery, self.refusals) = (adopted, None, Refusals::default());
            (self.corrected, self.correcting) = (Some(now), None);
        }
        let lag = now.saturating_duration_since(asked);
        self.lagged(lag, now);
        if matches!(grant.gate, Gate::Probe | Gate::Doubted) {
            self.doubted_since.get_or_insert(now);
        }
        if grant.granted > 0 {
            let used = self.turns.left == 0;
            // The one request that is to find out has longer than the record says.
            let mark = grant.mark.filter(|_| grant.gate != Gate::Probe && self.limit().is_some());
            self.tally.begin(mark, grant.granted);
            self.turns.frees_itself = self.frees_itself(grant.wait, late);
            self.turns.late = late;
            self.turns.until = Some(match grant.gate {
                // The one request that is to find out has time.
                Gate::Probe => now + PROBE,
                // Nor is there a limit to keep when a gate was only thought to be closed.
                _ if self.limit().is_none() => now + PROBE,
                // They are on record as of then.
                _ => asked + late,
            });
            // A ledger that is asked for more than it can answer in time gets a rest.
            self.turns.rest =
                self.turns.until.filter(|until| *until <= now).map(|_| now + lag.min(lateness::MAX_LATE));
            self.turns.left = grant.granted;
            // There is nothing to ask for before the next one can be had.
            self.turns.not_before = (!grant.wait.is_zero()).then(|| (now + grant.wait, Why::RateLimit));
            self.turns.size = if used { grant.granted.saturating_mul(2) } else { grant.granted };
        } else {
            let why = match grant.gate {
                Gate::Open | Gate::Probe => Why::RateLimit,
                Gate::Closed => Why::Gate,
                Gate::Doubted => Why::Backoff,
            };
            let wait = grant.wait.max(unrecorded.unwrap_or(Duration::from_millis(1)));
            self.turns.not_before = Some((now + wait, why));
            self.turns.frees_itself = false;
        }
    }

    /// The ledger did not answer.
    pub fn not_granted(&mut self, now: Instant) {
        self.turns.asked = None;
        self.turns.not_before = Some((now + SETTLE, Why::RateLimit));
    }

    /// This many requests are being sent.
    pub fn take(&mut self, count: u32, now: Instant) {
        if self.limit().is_some() || self.doubted_since.is_some() {
            self.turns.left = self.turns.left.saturating_sub(count);
            self.tally.taken(count);
        } else if !self.pacing.over() {
            (0..count).for_each(|_| self.pacing.sent(now));
        }
        if self.doubted_since.is_some() {
            self.next_try = Some(now + PROBE);
        } else if self.refusals.searching() {
            self.next_try = Some(now + SETTLE);
        }
    }
}

#[cfg(test)]
mod tests;
