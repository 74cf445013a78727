//! Calling the platform for one account: turn, token, attempt, and what to do next. Everything that waits here ends early
//! when the account's part is to stop; then the reason is on record, and the result is [`Halt`].

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::http::lock::lock;
use crate::http::retry::Backoff;
use crate::http::stats::{Counts, Stats};
use crate::http::token::{Token, TokenCache};
use crate::http::{Clock, RateLimit, Stop};
use crate::platform::{Api, Exchange};
use crate::rate::alone::Alone;
use crate::rate::breaker::{Health, Lane};
use crate::rate::limiter::{Observation, Why};
use crate::scope::Scope;
use crate::sync::trace::Trace;
use crate::sync::{Ending, Patience};

/// The account's part is to stop; [`Caller::ending`] tells why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt;

/// Calls the platform for one account, from one thread; others may end it.
pub struct Caller {
    pub(super) api: Api,
    pub(super) tokens: TokenCache,
    pub(super) stats: Arc<Stats>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stop: Stop,
    pub(super) patience: Patience,
    pub(super) backoff: Backoff,
    pub(super) known: Mutex<Known>,
    /// Kept by nobody: it gives requests their `traceparent`.
    pub(super) trace: Trace,
    pub(super) scope: Scope,
    /// Where the credentials stand, for messages.
    credentials: Option<String>,
}

/// What is known of the platform, and whether the part has ended.
pub(super) struct Known {
    pub limiter: Alone,
    pub health: Health,
    ending: Option<Ending>,
}

impl Caller {
    /// A caller for one account; `limit` is kept whatever the platform says.
    #[must_use]
    pub fn new(
        api: Api,
        limit: Option<RateLimit>,
        stats: Arc<Stats>,
        clock: Arc<dyn Clock>,
        stop: Stop,
        patience: Patience,
        scope: Scope,
    ) -> Self {
        let limiter = Alone::new(limit, patience.max_wait);
        let health = Health::new(patience.give_up_after, patience.max_wait);
        Self {
            api,
            tokens: TokenCache::new(clock.clone()),
            stats,
            trace: Trace::new(clock.clone()),
            clock,
            stop,
            patience,
            backoff: Backoff::default(),
            known: Mutex::new(Known { limiter, health, ending: None }),
            scope,
            credentials: None,
        }
    }

    /// Has messages say where the credentials stand.
    #[must_use]
    pub fn with_credentials_in(self, place: Option<String>) -> Self {
        Self { credentials: place, ..self }
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
        lock(&self.known).ending.get_or_insert(ending);
        self.stop.request();
        Halt
    }

    /// Abandons what is under way: nothing waits for an answer any more, and what comes of it is not known. For after the
    /// end, and a grace.
    pub fn abandon(&self) {
        self.stop.request();
        self.api.abandon();
    }

    /// Why this account's part has ended, if it has before its time.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        lock(&self.known).ending.clone()
    }

    /// The rate limit that is kept, when one is known.
    #[must_use]
    pub fn known_limit(&self) -> Option<RateLimit> {
        lock(&self.known).limiter.limit()
    }

    /// Whether the API answers at all: its `/health`, which is free.
    ///
    /// # Errors
    /// What it answers instead, in one line.
    pub fn check_api(&self) -> Result<(), String> {
        let (answered, _) = self.trace.attempt(|header, watch| self.api.health(Some(header), watch));
        answered.map_err(|error| error.to_string())
    }

    /// Whether the credentials are accepted; the token is thrown away.
    ///
    /// # Errors
    /// [`Halt`].
    pub fn check_credentials(&self) -> Result<(), Halt> {
        self.fetch_token().map(|_| ())
    }

    /// Waits until one request that counts may be sent, and gives the token for it. The token is seen to first, and so again
    /// after every wait: a turn is for now, and fetching a token takes time.
    pub(super) fn token_and_turn(&self) -> Result<Arc<Token>, Halt> {
        loop {
            if self.stop.requested() {
                return Err(Halt);
            }
            let token = self.tokens.get(|| self.fetch_token())?;
            match self.limited(|limiter| limiter.take(self.clock.now())) {
                Ok(()) => return Ok(token),
                Err((until, why)) => self.wait_for_turn(until, why)?,
            }
        }
    }

    /// Sits a wait for a turn out, if it is not too long.
    fn wait_for_turn(&self, until: Instant, why: Why) -> Result<(), Halt> {
        let begun = self.clock.now();
        let (wait, allowed) = (until.saturating_duration_since(begun), self.patience.max_wait);
        let (limit, own) = self.limited(|limiter| (limiter.limit(), limiter.is_configured()));
        if let Some(ending) = Ending::of_wait(wait, why, allowed, limit, own) {
            return Err(self.end(ending));
        }
        self.clock.sleep(wait);
        if why != Why::Pacing {
            let now = self.clock.now();
            lock(&self.known).health.excuse(now.saturating_duration_since(begun), now);
        }
        if self.stop.requested() { Err(Halt) } else { Ok(()) }
    }

    pub(super) fn wait_for_breaker(&self) -> Result<(), Halt> {
        loop {
            let now = self.clock.now();
            let admitted = lock(&self.known).health.admit(Lane::List, now);
            let Err(at) = admitted else { return Ok(()) };
            self.clock.sleep(at.saturating_duration_since(now));
            if self.stop.requested() {
                return Err(Halt);
            }
        }
    }

    pub(super) fn observe(&self, exchange: &Exchange<'_>) {
        self.stats.limited();
        if exchange.status.is_none() {
            // Whether it arrived is unknown; it counts as sent.
            return;
        }
        let seen = Observation {
            sent_at: exchange.sent_at,
            answered_at: exchange.answered_at,
            refused: exchange.refused,
            hints: &exchange.hints,
        };
        self.limited(|limiter| limiter.observe(&seen, self.clock.random()));
    }

    /// Asks or tells the limiter, and has the log tell of a limit that is news.
    fn limited<T>(&self, of: impl FnOnce(&mut Alone) -> T) -> T {
        let mut known = lock(&self.known);
        let before = known.limiter.limit();
        let answer = of(&mut known.limiter);
        let limit = known.limiter.limit();
        drop(known);
        if let Some(limit) = limit.filter(|_| limit != before) {
            log::debug!(account = self.scope.account(), run = self.scope.run(); "the platform's rate limit is {limit}");
        }
        answer
    }
}
