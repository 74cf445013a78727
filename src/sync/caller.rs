//! Calling the platform for one account: turn, token, attempt, and what to do next. Everything that waits here ends early
//! when the account's part is to stop; then the reason is on record, and the result is [`Halt`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::spans::Recorder;
use super::trace::{Purpose, Trace};
use crate::http::health::{Health, Lane};
use crate::http::limiter::{Limiter, Observation, Turn, Why};
use crate::http::lock::lock;
use crate::http::retry::Backoff;
use crate::http::stats::{Counts, Stats};
use crate::http::token::{Token, TokenCache};
use crate::http::{Clock, RateLimit, Stop};
use crate::platform::{Api, Exchange};
use crate::scope::Scope;

/// The account's part is to stop; [`Caller::ending`] tells why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt;

/// How patient the caller is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts at one campaign.
    pub max_attempts: u32,
    /// The longest wait that the server may ask for.
    pub max_wait: Duration,
    /// How long nothing at all may succeed.
    pub give_up_after: Duration,
}

/// All that calls for one account share.
pub struct Caller {
    pub(super) api: Api,
    pub(super) tokens: TokenCache,
    pub(super) limiter: Limiter,
    pub(super) health: Health,
    pub(super) stats: Arc<Stats>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stop: Stop,
    pub(super) patience: Patience,
    pub(super) backoff: Backoff,
    ending: Mutex<Option<Ending>>,
    pub(super) abandoned: AtomicBool,
    waits: Mutex<Waits>,
    waiting_until: Mutex<Option<Instant>>,
    pub(super) trace: Arc<Trace>,
    pub(super) scope: Scope,
    /// Where the credentials stand, for messages.
    credentials: Option<String>,
}

impl Caller {
    /// A caller for one account.
    #[must_use]
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        api: Api,
        limiter: Limiter,
        stats: Arc<Stats>,
        clock: Arc<dyn Clock>,
        stop: Stop,
        patience: Patience,
        scope: Scope,
    ) -> Self {
        Self {
            api,
            tokens: TokenCache::new(clock.clone()),
            limiter,
            health: Health::new(clock.clone(), patience.give_up_after, patience.max_wait),
            stats,
            trace: Arc::new(Trace::new(clock.clone())),
            clock,
            stop,
            patience,
            backoff: Backoff::default(),
            ending: Mutex::new(None),
            abandoned: AtomicBool::new(false),
            waits: Mutex::default(),
            waiting_until: Mutex::default(),
            scope,
            credentials: None,
        }
    }

    /// Has messages say where the credentials stand.
    #[must_use]
    pub fn with_credentials_in(self, place: Option<String>) -> Self {
        Self { credentials: place, ..self }
    }

    /// Has every step of this account's part told to `recorder`; to be called before the first.
    #[must_use]
    pub fn traced(mut self, recorder: Arc<dyn Recorder>) -> Self {
        let mut trace = Trace::new(self.clock.clone());
        trace.keep(recorder, self.scope.account(), self.api.base_url());
        self.trace = Arc::new(trace);
        self
    }

    /// Whose part it is, for the log.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What was sent so far, and what came of it.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.stats.counts()
    }

    /// Puts an end to this account's part; the first reason is kept.
    pub fn end(&self, ending: Ending) -> Halt {
        let ending = ending.with_credentials_in(self.credentials.as_deref());
        lock(&self.ending).get_or_insert(ending);
        self.stop.request();
        Halt
    }

    /// Abandons what is under way: nothing waits for an answer any more, and what comes of it is not known. For after the
    /// end, and a grace.
    pub fn abandon(&self) {
        self.stop.request();
        if !self.abandoned.swap(true, Ordering::AcqRel) {
            self.api.abandon();
        }
    }

    /// Why this account's part has ended, if it has before its time.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        lock(&self.ending).clone()
    }

    /// How long this process has waited for the rate limit, in all; time in which two threads did counts once.
    #[must_use]
    pub fn waited(&self) -> Duration {
        lock(&self.waits).over
    }

    /// How long it will go on waiting for the rate limit, as far as is known.
    #[must_use]
    pub fn waiting(&self) -> Option<Duration> {
        let until = (*lock(&self.waiting_until))?;
        Some(until.saturating_duration_since(self.clock.now())).filter(|left| !left.is_zero())
    }

    /// Whether nothing has succeeded yet, not even a token.
    #[must_use]
    pub fn connecting(&self) -> bool {
        !self.health.proven()
    }

    /// The rate limit that is kept, when one is known.
    #[must_use]
    pub fn known_limit(&self) -> Option<RateLimit> {
        self.limiter.limit()
    }

    /// Whether the API answers at all: its `/health`, which is free.
    ///
    /// # Errors
    /// What it answers instead, in one line.
    pub fn check_api(&self) -> Result<(), String> {
        let purpose = Purpose { step: None, name: "GET /health", number: 1, campaign: None };
        let (answered, seen) = self.trace.attempt(|header, watch| self.api.health(Some(header), watch));
        self.trace.attempted(seen, &purpose, answered.as_ref().err(), None);
        answered.map_err(|error| error.to_string())
    }

    /// Whether the credentials are accepted; the token is thrown away.
    ///
    /// # Errors
    /// [`Halt`].
    pub fn check_credentials(&self) -> Result<(), Halt> {
        self.fetch_token().map(|_| ())
    }

    /// Waits until one request that counts may be sent, and gives the token for it.
    pub(super) fn token_and_turn(&self) -> Result<Arc<Token>, Halt> {
        while let Some(wait) = self.try_turn()? {
            self.wait_for_turn(wait)?;
        }
        self.token()
    }

    /// Takes a turn if there is one; else says how long to wait. The token is seen to first, and so again after every wait:
    /// a turn is for now, and fetching a token takes time.
    pub(super) fn try_turn(&self) -> Result<Option<(Duration, Why)>, Halt> {
        if self.stop.requested() {
            return Err(Halt);
        }
        self.token()?;
        match self.limiter.try_turn() {
            Ok(Turn::Go(_)) => Ok(None),
            Ok(Turn::Wait(wait, why)) => Ok(Some((wait, why))),
            Err(error) => Err(self.end(Ending::from(error))),
        }
    }

    /// Sits a wait for a turn out, if it is not too long.
    pub(super) fn wait_for_turn(&self, (wait, why): (Duration, Why)) -> Result<(), Halt> {
        let (limiter, allowed) = (&self.limiter, self.patience.max_wait);
        if let Some(ending) = Ending::of_wait(wait, why, allowed, limiter.limit(), limiter.is_configured()) {
            return Err(self.end(ending));
        }
        let begun = self.clock.now();
        if why != Why::Pacing {
            *lock(&self.waiting_until) = Some(begun + wait);
            lock(&self.waits).begin(begun);
        }
        self.clock.sleep(wait);
        if why != Why::Pacing {
            let now = self.clock.now();
            lock(&self.waits).end(now);
            self.health.excuse(now.saturating_duration_since(begun));
        }
        if self.stop.requested() { Err(Halt) } else { Ok(()) }
    }

    /// The token to send; fetched when needed.
    pub(super) fn token(&self) -> Result<Arc<Token>, Halt> {
        self.tokens.get(|| self.fetch_token())
    }

    pub(super) fn wait_for_breaker(&self) -> Result<(), Halt> {
        while let Err(wait) = self.health.admit(Lane::List) {
            self.clock.sleep(wait);
            if self.stop.requested() {
                return Err(Halt);
            }
        }
        Ok(())
    }

    pub(super) fn observe(&self, exchange: &Exchange<'_>) {
        self.stats.limited();
        if exchange.status.is_none() {
            // Whether it arrived is unknown; it counts as sent.
            return;
        }
        self.limiter.observe(&Observation {
            sent_at: exchange.sent_at,
            answered_at: exchange.answered_at,
            refused: exchange.refused,
            hints: &exchange.hints,
        });
    }
}

/// The time in which at least one thread waits.
#[derive(Default)]
struct Waits {
    waiting: u32,
    since: Option<Instant>,
    over: Duration,
}

impl Waits {
    fn begin(&mut self, now: Instant) {
        self.waiting += 1;
        self.since.get_or_insert(now);
    }

    fn end(&mut self, now: Instant) {
        self.waiting -= 1;
        if self.waiting == 0
            && let Some(since) = self.since.take()
        {
            self.over += now.saturating_duration_since(since);
        }
    }
}
