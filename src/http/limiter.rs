//! When the next request may be sent: a known limit is kept exactly, an unknown one is learned, a 429 stops everybody.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::advance::{self, ADVANCE, Advance};
use super::clock::Clock;
use super::hints::Hints;
use super::learning::{self, FIRST_WAIT, Refusals};
use super::ledger::Ledger;
use super::lock::lock;
use super::pacing::Pacing;
use super::rate_limit::RateLimit;
use super::sharing::SharingError;
use super::window::{Gate, Reservation};
use crate::scope::Scope;

/// What a request may need to the server more than another, at least: a cold connection and a busy machine.
const LEAST_MARGIN: Duration = Duration::from_millis(10);
/// After the last refusal of a burst, so long until the limit behind it is worked out: by then all of the burst was
/// answered that is answered at once.
const SETTLE: Duration = Duration::from_millis(100);
/// A request that finds out whether a long wait is meant has so long to be answered, before another one may.
pub(crate) const PROBE: Duration = Duration::from_secs(5);
/// Sends that are remembered to learn a limit from.
const REMEMBERED: usize = 10_000;
/// Whether to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// So many requests, now: a turn that is not used at once is lost.
    Go(u32),
    /// Not yet.
    Wait(Duration, Why),
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
pub struct Limiter {
    configured: Option<RateLimit>,
    /// A longer wait is not believed at once.
    max_wait: Duration,
    ledger: Box<dyn Ledger>,
    clock: Arc<dyn Clock>,
    scope: Scope,
    /// No limit known, gate open, pacing over: the hot path needs no lock.
    unlimited: AtomicBool,
    state: Mutex<State>,
    advance: Mutex<Advance>,
}

#[derive(Default)]
struct State {
    learned: Option<RateLimit>,
    gate: Option<(Instant, Why)>,
    /// Until when the last hint said to wait: an answer to what is sent later proves or disproves it.
    hint_until: Option<Instant>,
    /// It was waited for, and the next answer was a refusal again.
    disproved: bool,
    /// Since when one request at a time is to find out whether a wait beyond all patience is meant.
    doubted_since: Option<Instant>,
    /// It was not: so long a reset of an answer that said that nothing is left is ignored.
    reset_distrusted: bool,
    pacing: Pacing,
    /// The sends of others during the pacing are among `accepted`.
    succeeded: bool,
    /// While a window is searched for: when to try the next send.
    next_try: Option<Instant>,
    extra_margin: Duration,
    worst_lag: Duration,
    /// When a learned limit was last corrected: refusals of requests sent before say nothing new.
    corrected: Option<Instant>,
    accepted: VecDeque<Instant>,
    refusals: Refusals,
    longest_reset: Duration,
    discovery: Option<Discovery>,
}

/// A first refusal by a limit that is not known yet.
#[derive(Clone, Copy)]
struct Discovery {
    first: Instant,
    last: Instant,
    hint: Duration,
    recorded: bool,
}

impl Limiter {
    /// A limiter for one account; `configured` is kept whatever the server says, a 429 aside.
    #[must_use]
    pub fn new(
        configured: Option<RateLimit>,
        ledger: Box<dyn Ledger>,
        clock: Arc<dyn Clock>,
        scope: Scope,
    ) -> Self {
        Self {
            configured,
            max_wait: Duration::MAX,
            scope,
            ledger,
            clock,
            unlimited: AtomicBool::new(false),
            state: Mutex::default(),
            advance: Mutex::default(),
        }
    }

    /// Has it believe no wait that is longer than this at once.
    #[must_use]
    pub fn believing(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Whether the limit is the user's own.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// True when a request may be sent without asking.
    #[must_use]
    pub fn unlimited(&self) -> bool {
        self.unlimited.load(Ordering::Relaxed)
    }

    /// The limit that is kept, if one is known.
    #[must_use]
    pub fn limit(&self) -> Option<RateLimit> {
        self.configured.or_else(|| lock(&self.state).learned)
    }

    /// Takes a turn that needs no question, if there is one: no limit is known, or one was taken in advance.
    #[must_use]
    pub fn try_acquire_at_once(&self) -> bool {
        self.unlimited() || self.use_advanced()
    }

    /// Uses a turn that was taken in advance, and sees to the next ones before the last is used.
    fn use_advanced(&self) -> bool {
        let used = lock(&self.advance).use_one(self.clock.now());
        let Some((until, true)) = used else { return used.is_some() };
        // What goes wrong here goes wrong again when it matters.
        let _seen_then = self.take_in_advance(0);
        let (mut advance, now) = (lock(&self.advance), self.clock.now());
        advance.arrived();
        // The ledger may have taken longer than the turn was good for.
        now < until || advance.use_one(now).is_some()
    }

    /// Asks for turns: as many as are worth it under this limit. Of those that are granted, `now` are the caller's, and the
    /// others for whoever comes.
    fn take_in_advance(&self, now: u32) -> Result<Turn, SharingError> {
        let limit = self.limit();
        let (want, forfeits) = {
            let mut advance = lock(&self.advance);
            (advance.next_size(limit), advance.forfeits())
        };
        let asked = self.clock.now();
        let turn = self.try_acquire(want)?;
        if let Turn::Go(granted) = turn
            && !self.unlimited()
        {
            // They are on record since before the ledger's answer was on its way.
            self.lagged(self.clock.now().saturating_duration_since(asked));
            let mut advance = lock(&self.advance);
            advance.used_at_once(now);
            // A refusal may have come in the meantime.
            if advance.forfeits() == forfeits {
                advance.add(granted.saturating_sub(now), self.clock.now());
            }
            return Ok(Turn::Go(now));
        }
        Ok(turn)
    }

    /// Nothing that was taken in advance is good any more.
    fn forfeit(&self) {
        lock(&self.advance).forfeit();
    }

    /// May a request be sent now? As [`Self::try_acquire`], with turns taken in advance where the limit is generous.
    ///
    /// # Errors
    /// The ledger's.
    pub fn try_turn(&self) -> Result<Turn, SharingError> {
        if self.use_advanced() {
            return Ok(Turn::Go(1));
        }
        self.take_in_advance(1)
    }

    /// May up to `want` requests be sent now?
    ///
    /// # Errors
    /// The ledger's.
    pub fn try_acquire(&self, want: u32) -> Result<Turn, SharingError> {
        if self.unlimited() {
            return Ok(Turn::Go(want));
        }
        self.work_out();
        let now = self.clock.now();
        let mut state = lock(&self.state);
        if let Some(discovery) = state.discovery {
            return Ok(Turn::Wait((discovery.last + SETTLE).saturating_duration_since(now), Why::Gate));
        }
        if let Some((gate, why)) = state.gate {
            if now < gate {
                return Ok(Turn::Wait(gate - now, why));
            }
            state.gate = None;
        }
        let limit = self.configured.or(state.learned);
        let doubted = state.doubted_since.is_some();
        let searching = state.refusals.searching() || doubted;
        if searching {
            if let Some(next) = state.next_try.filter(|next| now < *next) {
                return Ok(Turn::Wait((next - now).min(SETTLE), Why::Pacing));
            }
            // A refusal is quick: it comes before the next is sent, and a try costs one.
            state.next_try = Some(now + if doubted { PROBE } else { SETTLE });
        } else if limit.is_none() {
            return self.try_paced(state, want, now);
        }
        let (margin, want) = (state.margin(limit), if searching { 1 } else { want });
        drop(state);
        let reserved = self.ledger.reserve(limit, margin, want, Duration::ZERO)?;
        self.take_over(limit, &reserved);
        Ok(turn(&reserved))
    }

    /// The first sends, while no limit is known.
    fn try_paced(
        &self,
        mut state: MutexGuard<'_, State>,
        want: u32,
        now: Instant,
    ) -> Result<Turn, SharingError> {
        if state.pacing.over() {
            if state.pacing.shared() && !std::mem::replace(&mut state.succeeded, true) {
                let open = state.pacing.open();
                drop(state);
                self.succeed_others(open)?;
            }
            self.unlimited.store(true, Ordering::Relaxed);
            return Ok(Turn::Go(want));
        }
        if let Some(wait) = state.pacing.wait(now) {
            return Ok(Turn::Wait(wait, Why::Pacing));
        }
        state.pacing.begin(now);
        if state.pacing.take_ahead(now) {
            return Ok(Turn::Go(1));
        }
        let (forfeited, batch, apart) =
            (state.pacing.forfeit(), state.pacing.batch(), state.pacing.patience());
        let margin = state.margin(None);
        drop(state);
        if forfeited > 0 {
            self.tolerate(self.ledger.take_back(forfeited));
        }
        let reserved = self.ledger.reserve(None, margin, batch, apart).inspect_err(|_| {
            lock(&self.state).pacing.cancel(now);
        })?;
        self.take_over(None, &reserved);
        let mut state = lock(&self.state);
        if reserved.limit.is_some() || reserved.granted == 0 {
            state.pacing.cancel(now);
            // Nothing else has so short a wait.
            let paced = reserved.limit.is_none() && reserved.wait <= apart;
            return Ok(if paced { Turn::Wait(reserved.wait, Why::Pacing) } else { turn(&reserved) });
        }
        if state.gate.is_some() || state.discovery.is_some() || state.refusals.searching() {
            // A refusal has come in the meantime.
            state.pacing.cancel(now);
            drop(state);
            self.tolerate(self.ledger.take_back(reserved.granted));
            return Ok(Turn::Wait(Duration::from_millis(1), Why::Pacing));
        }
        state.pacing.recorded(reserved.granted, reserved.before, self.clock.now());
        Ok(Turn::Go(1))
    }

    /// The limit that others have learned in the meantime.
    fn take_over(&self, known: Option<RateLimit>, reserved: &Reservation) {
        if reserved.gate == Gate::Probe {
            let now = self.clock.now();
            let mut state = lock(&self.state);
            state.doubted_since.get_or_insert(now);
            state.next_try = Some(now + PROBE);
        }
        if self.configured.is_none() && reserved.limit != known {
            lock(&self.state).learned = reserved.limit;
        }
    }

    /// Others have sent some of those that are paced, and no limit came of it: this process goes on from there, as if their
    /// sends were its own. Those of its own that are `open` are told when they are answered. What others send from now on is
    /// not on record: of a limit beyond the paced sends each process learns what is left to it.
    fn succeed_others(&self, open: usize) -> Result<(), SharingError> {
        let now = self.clock.now();
        let mut ages = self.ledger.ages()?;
        ages.truncate(ages.len().saturating_sub(open));
        let mut state = lock(&self.state);
        let skipped = ages.len().saturating_sub(REMEMBERED);
        state.accepted = ages[skipped..].iter().filter_map(|age| now.checked_sub(*age)).collect();
        Ok(())
    }

    /// A turn was used so much later than it was asked for: on a busy machine that differs from request to request, and
    /// the window has to allow for it. Old lags are forgotten slowly.
    pub fn lagged(&self, lag: Duration) {
        let mut state = lock(&self.state);
        state.worst_lag = state.worst_lag.mul_f64(0.98).max(lag);
    }

    /// Every answer to a request that counts goes in here.
    pub fn observe(&self, seen: &Observation<'_>) {
        let mut state = lock(&self.state);
        let trip = seen.answered_at.saturating_duration_since(seen.sent_at);
        state.pacing.answered(seen.sent_at, trip);
        if !seen.refused {
            if state.accepted.len() == REMEMBERED {
                state.accepted.pop_front();
            }
            state.accepted.push_back(seen.sent_at);
        }
        let opened = !seen.refused && state.proved(seen.sent_at);
        let told = self.told_limit(&mut state, seen.hints);
        let believable = |reset| reset <= self.max_wait || !state.reset_distrusted;
        let exhausted = seen.hints.remaining == Some(0) && seen.hints.reset.is_some_and(believable);
        if !seen.refused && !exhausted && !opened && told.is_none() && !state.refusals.searching() {
            return;
        }
        let found = if seen.refused { None } else { state.refusals.accepted(seen.sent_at) };
        let wait = self.wait_of(&mut state, seen, exhausted);
        if let Some(wait) = wait {
            self.unlimited.store(false, Ordering::Relaxed);
            self.forfeit();
            let until = seen.answered_at + wait.time;
            if state.gate.is_none_or(|(before, _)| before < until) {
                state.gate = Some((until, wait.why));
            }
        }
        let known = self.configured.or(state.learned).or(told).is_some();
        let recorded = !state.pacing.over();
        let forfeited = if seen.refused { state.pacing.forfeit() } else { 0 };
        drop(state);
        if opened {
            self.tolerate(self.ledger.open_gate());
        }
        self.share(seen, wait, told.or(found), known, (recorded, forfeited));
    }

    /// The ledger is written without our own lock: it may be a database.
    fn share(
        &self,
        seen: &Observation<'_>,
        wait: Option<Wait>,
        told: Option<RateLimit>,
        known: bool,
        (recorded, forfeited): (bool, u32),
    ) {
        // First of all, others are to send no more.
        if let Some(wait) = wait {
            let time = wait.time.min(self.max_wait);
            self.tolerate(match wait.beyond {
                Some(asked) => self.ledger.doubt(time, asked),
                None => self.ledger.close_gate(time),
            });
        }
        let hint = wait.filter(|wait| wait.why == Why::Gate).map(|wait| wait.time);
        let mut learned = told;
        let uncounted = seen.refused && learned.is_none() && !known && recorded;
        if uncounted || forfeited > 0 {
            self.tolerate(self.ledger.take_back(forfeited + u32::from(uncounted)));
        }
        if seen.refused && learned.is_none() {
            let ages = self.ages(seen.answered_at, recorded);
            let mut state = lock(&self.state);
            if !known && let Some(hint) = hint {
                // Only now that what was refused is no longer on record: the ledger may be slow, and others would count it.
                let now = self.clock.now();
                let fresh = Discovery { first: seen.answered_at, last: now, hint, recorded };
                state.discovery.get_or_insert(fresh).last = now;
            }
            let limit = self.configured.or(state.learned);
            match hint {
                Some(hint) if known && state.corrected.is_none_or(|at| seen.sent_at > at) => {
                    state.corrected = Some(seen.answered_at);
                    learned = learning::from_refusal(limit, &ages, hint);
                }
                Some(_) => {}
                None => state.refusals.refused(seen.sent_at, seen.answered_at, &ages, limit),
            }
        }
        self.adopt(learned);
    }

    /// Works out the limit behind a burst's refusals, once all of them are in.
    fn work_out(&self) {
        let now = self.clock.now();
        let ripe = lock(&self.state).discovery.filter(|discovery| now >= discovery.last + SETTLE);
        let Some(discovery) = ripe else { return };
        let ages = self.ages(discovery.first, discovery.recorded);
        self.adopt(learning::from_refusal(None, &ages, discovery.hint));
        let mut state = lock(&self.state);
        state.discovery = None;
        // Stragglers of the burst are no reason to think it was one too many.
        state.corrected = Some(now);
    }

    /// The ages at `moment` of the sends that count, oldest first; from the ledger, where they are on record.
    fn ages(&self, moment: Instant, recorded: bool) -> Vec<Duration> {
        if recorded && let Ok(ages) = self.ledger.ages() {
            let since = self.clock.now().saturating_duration_since(moment);
            return ages.into_iter().map(|age| age.saturating_sub(since)).collect();
        }
        let state = lock(&self.state);
        state
            .accepted
            .iter()
            .filter(|at| **at <= moment)
            .map(|at| moment.saturating_duration_since(*at))
            .collect()
    }

    fn adopt(&self, learned: Option<RateLimit>) {
        if let Some(limit) = learned
            && self.configured.is_none()
        {
            lock(&self.state).learned = Some(limit);
            self.unlimited.store(false, Ordering::Relaxed);
            log::debug!(account = self.scope.account(), run = self.scope.run(); "the platform's rate limit is {limit}");
            self.tolerate(self.ledger.learn(limit));
        }
    }

    /// What was seen is known to this process at least; whoever needs the ledger to go on will hear of its failure.
    fn tolerate(&self, shared: Result<(), SharingError>) {
        if let Err(error) = shared {
            log::debug!(account = self.scope.account(), run = self.scope.run(); "what a response said of the rate limit is known to this process only: {error}");
        }
    }

    /// A limit that the answer tells, when it is news.
    fn told_limit(&self, state: &mut State, hints: &Hints) -> Option<RateLimit> {
        if self.configured.is_some() {
            return None;
        }
        let told = match (hints.limit, hints.quota, hints.reset) {
            (Some(limit), _, _) => limit,
            (None, Some(quota), Some(reset)) if reset <= self.max_wait => {
                // The longest reset seen is the best guess at the window; `remaining` 0 covers for a wrong one.
                state.longest_reset = state.longest_reset.max(reset);
                RateLimit::new(quota, state.longest_reset)?
            }
            _ => return None,
        };
        (state.learned != Some(told)).then_some(told)
    }

    /// How long nobody may send after this answer.
    fn wait_of(&self, state: &mut State, seen: &Observation<'_>, exhausted: bool) -> Option<Wait> {
        if !seen.refused {
            let reset = seen.hints.reset.filter(|_| exhausted)?;
            if reset <= self.max_wait {
                return Some(Wait::asked(reset));
            }
            // It may be senseless: whoever asks now is told soon enough.
            let news = state.doubted_since.is_none();
            state.doubted_since.get_or_insert(seen.answered_at);
            return news.then(|| Wait { beyond: Some(reset), ..Wait::own(self.jittered(FIRST_WAIT)) });
        }
        if self.configured.or(state.learned).is_some() {
            // The server counts differently than we do: keep a little more distance.
            state.extra_margin = (state.extra_margin * 2).max(LEAST_MARGIN);
        }
        state.disproved |= state.hint_until.is_some_and(|until| seen.sent_at >= until);
        let own = Wait::own(self.jittered(state.refusals.wait(seen.answered_at)));
        Some(match seen.hints.wait() {
            Some(hint) if hint > self.max_wait => {
                (state.doubted_since, state.next_try) = (Some(seen.answered_at), None);
                Wait { beyond: Some(hint), ..own }
            }
            Some(hint) if !hint.is_zero() && !state.disproved => {
                state.hint_until = state.hint_until.max(Some(seen.answered_at + hint));
                Wait::asked(hint)
            }
            // It was wrong, or says nothing: it lengthens our own wait, and that is all.
            hint => Wait { time: own.time.max(hint.unwrap_or_default()), ..own },
        })
    }

    /// Lest all accounts try again at the same moment.
    fn jittered(&self, wait: Duration) -> Duration {
        wait.mul_f64(1.0 + self.clock.random() / 50.0)
    }

    /// How long the gate stays closed.
    #[must_use]
    pub fn gate_closed_for(&self) -> Duration {
        let gate = lock(&self.state).gate;
        gate.map_or(Duration::ZERO, |(gate, _)| gate.saturating_duration_since(self.clock.now()))
    }
}

/// How long nobody may send.
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    pub time: Duration,
    pub why: Why,
    /// What the platform asked for, where that is beyond belief.
    pub beyond: Option<Duration>,
}

impl Wait {
    pub fn asked(time: Duration) -> Self {
        Self { time, why: Why::Gate, beyond: None }
    }

    pub fn own(time: Duration) -> Self {
        Self { time, why: Why::Backoff, beyond: None }
    }
}

impl State {
    /// A request that was sent then was accepted: what the last hint said was true, and a wait that was doubted is not meant.
    /// Tells whether one was.
    fn proved(&mut self, sent_at: Instant) -> bool {
        if self.hint_until.is_some_and(|until| sent_at >= until) {
            (self.hint_until, self.disproved) = (None, false);
        }
        let opened = self.doubted_since.is_some_and(|since| sent_at >= since);
        if opened {
            (self.doubted_since, self.next_try, self.reset_distrusted) = (None, None, true);
        }
        opened
    }

    /// What a window is lengthened by: requests need different times to the server, and it is the arrivals that it counts.
    /// A two-hundredth of the window, at least 10 ms (at 11 windows a job that is 0.5 % of its time), and more on a machine
    /// that is seen to be slow with its turns.
    fn margin(&self, limit: Option<RateLimit>) -> Duration {
        let Some(limit) = limit else { return LEAST_MARGIN };
        let advance = if advance::worth_it(limit) { ADVANCE } else { Duration::ZERO };
        let trips = self.pacing.quickest().unwrap_or_default().min(limit.window / 400) * 2 + advance;
        let lag = (self.worst_lag * 2).min(limit.window / 10);
        LEAST_MARGIN.max(limit.window / 200 + trips).max(lag) + self.extra_margin.min(limit.window / 10)
    }
}

fn turn(reserved: &Reservation) -> Turn {
    match reserved.granted {
        0 => {
            let why = match reserved.gate {
                Gate::Open | Gate::Probe => Why::RateLimit,
                Gate::Closed => Why::Gate,
                Gate::Doubted => Why::Backoff,
            };
            Turn::Wait(reserved.wait.max(Duration::from_millis(1)), why)
        }
        granted => Turn::Go(granted),
    }
}

#[cfg(test)]
mod tests;
