//! Calling the platform for one account: turn, token, attempt, and what to do next. Everything that waits here ends early
//! when the account's part is to stop; then the reason is on record, and the result is [`Halt`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::attempt::{Answer, Asked, Attempt, Next};
use super::ending::Ending;
use super::inbox::Work;
use super::spans::Recorder;
use super::trace::{CampaignSpan, Purpose, Step, Trace};
use crate::http::concurrency::Outcome;
use crate::http::health::{Health, Lane};
use crate::http::limiter::{Limiter, Observation, Turn, Why};
use crate::http::lock::lock;
use crate::http::retry::{Backoff, Cause};
use crate::http::sharing::SharingError;
use crate::http::stats::{Counts, Stats};
use crate::http::token::{Grant, Token, TokenCache, Vault};
use crate::http::{Clock, RateLimit, Stop};
use crate::own_machine::Shortage;
use crate::platform::{Api, CallError, Exchange, ListedPage, PageNumber};
use crate::scope::Scope;

/// So many 401s for one campaign, each with another token, and it is the campaign that is refused.
const MOST_UNAUTHORIZED: u32 = 3;

/// The wait after a shortage is that after so many failures in a row: half a second, on average.
const SHORTAGE_FAILURES: u32 = 3;

/// What is under way when the account's part is to stop has this long to be answered; then it is abandoned. A sync of the
/// reference platform takes 2 s.
pub(crate) const GRACE: Duration = Duration::from_millis(2_500);

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
    api: Api,
    tokens: TokenCache,
    vault: Box<dyn Vault>,
    pub(super) limiter: Limiter,
    pub(super) health: Health,
    pub(super) stats: Arc<Stats>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stop: Stop,
    patience: Patience,
    backoff: Backoff,
    ending: Mutex<Option<Ending>>,
    abandoned: AtomicBool,
    waits: Mutex<Waits>,
    waiting_until: Mutex<Option<Instant>>,
    pub(super) trace: Arc<Trace>,
    scope: Scope,
}

/// What is to become of a task after an attempt.
#[derive(Debug)]
pub(super) enum After {
    /// The platform has synced it.
    Synced,
    /// It failed for good.
    Dead {
        /// A word for grouping.
        cause: &'static str,
        /// A line for people.
        reason: String,
    },
    /// Try again, not before this time has passed.
    Again(Duration),
    /// The account's part is to stop: the task stays for the next run.
    Halted,
}

impl Caller {
    /// A caller for one account.
    #[must_use]
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        api: Api,
        vault: Box<dyn Vault>,
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
            vault,
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
        }
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

    /// No more calls: what others are to know of them is told.
    pub fn finish(&self) {
        self.vault.finish();
    }

    /// How long nothing at all may succeed.
    pub(super) fn give_up_after(&self) -> Duration {
        self.patience.give_up_after
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
        let answered = self.trace.attempt(&purpose, |header, watch| self.api.health(Some(header), watch));
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
    fn token_and_turn(&self) -> Result<Arc<Token>, Halt> {
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
        if wait > self.patience.max_wait {
            return Err(self.end(Ending::WaitTooLong { wait, allowed: self.patience.max_wait }));
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

    /// The first page of the listing, however many attempts it takes.
    ///
    /// # Errors
    /// [`Halt`].
    pub fn list_first_page(&self, page_size: i32) -> Result<ListedPage, Halt> {
        self.try_to_list(PageNumber(1), page_size)?
            .map_err(|refusal| self.end(Ending::RequestRefused(refusal)))
    }

    /// A page of the listing, however many attempts it takes; or in one line that the platform refuses a page other than the
    /// first: then the settings are right, and the page is no longer there.
    pub(super) fn try_to_list(
        &self,
        page: PageNumber,
        page_size: i32,
    ) -> Result<Result<ListedPage, String>, Halt> {
        let step = self.trace.begin();
        let listed = self.try_page(page, page_size, step);
        let records = match &listed {
            Ok(Ok(listed)) => Ok(listed.records.len() + listed.broken.len()),
            Ok(Err(_)) => Err("refused"),
            Err(_) => Err("stopped before it was there"),
        };
        self.trace.page(step, page.0, page_size, records);
        listed
    }

    fn try_page(
        &self,
        page: PageNumber,
        page_size: i32,
        step: Step,
    ) -> Result<Result<ListedPage, String>, Halt> {
        let mut failures = 0;
        let mut unauthorized = 0;
        let mut number = 0;
        loop {
            number += 1;
            self.wait_for_breaker()?;
            let token = self.token_and_turn()?;
            let mut answer = Answer::awaited(self.clock.now());
            let called = self.list_once(&token, page, page_size, (Some(step), number), &mut answer);
            let attempt = Attempt { scope: &self.scope, asked: Asked::Page(page.0), number, answer };
            match called {
                Ok(listed) if listed.page.is_some_and(|served| served != page.0) => {
                    let message = format!("asked for page {}, the platform served another", page.0);
                    failures += 1;
                    self.after_failure(&attempt, failures, Cause::Unparsable, None, &message)?;
                }
                Ok(listed) => {
                    self.tokens.accepted(token.generation);
                    self.health.success(Lane::List, answer.sent_at);
                    attempt.succeeded();
                    return Ok(Ok(listed));
                }
                Err(error @ CallError::RateLimited) => {
                    self.stats.retry(Cause::RateLimited);
                    attempt.failed(error.word(), &error, Next::Gate);
                    self.after_429(&error)?;
                }
                Err(error @ CallError::Unauthorized) => {
                    unauthorized += 1;
                    attempt.failed(error.word(), error, Next::FreshToken);
                    self.after_refused_token(&token, unauthorized)?;
                }
                Err(CallError::Retry { cause, hint, message }) => {
                    failures += 1;
                    self.after_failure(&attempt, failures, cause, hint, &message)?;
                }
                Err(CallError::Shortage(shortage)) => self.sit_out(&attempt, &shortage)?,
                Err(error @ CallError::Refused { status: 400 | 404 | 410 | 416 | 422, .. }) if page.0 > 1 => {
                    self.tokens.accepted(token.generation);
                    self.health.success(Lane::List, answer.sent_at);
                    attempt.failed(error.word(), &error, Next::PageBefore);
                    return Ok(Err(error.to_string()));
                }
                Err(error @ CallError::Refused { .. }) => return Err(self.list_refused(&attempt, &error)),
            }
        }
    }

    fn list_refused(&self, attempt: &Attempt<'_>, error: &CallError) -> Halt {
        let message = error.to_string();
        attempt.failed(error.word(), &message, Next::Stop);
        self.end(match error {
            CallError::Refused { status: 403, .. } => Ending::CredentialsRefused(message),
            _ => Ending::RequestRefused(message),
        })
    }

    /// One attempt at a page, the so manieth of a step.
    fn list_once(
        &self,
        token: &Token,
        page: PageNumber,
        page_size: i32,
        (step, number): (Option<Step>, u32),
        answer: &mut Answer,
    ) -> Result<ListedPage, CallError> {
        let purpose = Purpose { step, name: "GET /api/campaigns", number, campaign: None };
        self.trace.attempt(&purpose, |header, watch| {
            self.api.list_page(token, page, page_size, Some(header), &mut |exchange| {
                answer.given(exchange);
                self.observe(exchange);
                watch(exchange);
            })
        })
    }

    /// One attempt at one campaign; its turn was taken. Also says what it tells of the server's load.
    pub(super) fn sync(&self, work: &mut Work, key: &str) -> (After, Outcome, Instant) {
        let mut answer = Answer::awaited(self.clock.now());
        let Ok(token) = self.token() else { return (After::Halted, Outcome::Neutral, answer.sent_at) };
        let id = &work.campaign.id;
        if work.span.is_none() {
            work.span = CampaignSpan::begin(&self.trace, id);
        }
        let (step, number) = work.span.as_deref_mut().map(CampaignSpan::attempt).unzip();
        let name = "POST /api/campaigns/{id}/sync";
        let purpose = Purpose { step, name, number: number.unwrap_or(1), campaign: Some(id) };
        let called = self.trace.attempt(&purpose, |header, watch| {
            self.api.sync(&token, id, key, Some(header), &mut |exchange| {
                answer.given(exchange);
                self.observe(exchange);
                watch(exchange);
            })
        });
        let (after, outcome) = match called {
            Ok(_) => {
                self.tokens.accepted(token.generation);
                self.health.success(Lane::Sync, answer.sent_at);
                self.attempt(work, answer).succeeded();
                (After::Synced, Outcome::Success)
            }
            Err(error @ CallError::RateLimited) => {
                self.stats.retry(Cause::RateLimited);
                self.attempt(work, answer).failed(error.word(), &error, Next::Gate);
                let after = match self.after_429(&error) {
                    Ok(()) => After::Again(Duration::ZERO),
                    Err(Halt) => After::Halted,
                };
                (after, Outcome::Neutral)
            }
            Err(CallError::Unauthorized) => (self.after_unauthorized(work, &token, answer), Outcome::Neutral),
            Err(refused @ CallError::Refused { .. }) => {
                // The API works; it is this campaign that it will not have.
                self.tokens.accepted(token.generation);
                self.health.success(Lane::Sync, answer.sent_at);
                let (cause, reason) = (refused.word(), refused.to_string());
                self.attempt(work, answer).failed(cause, &reason, Next::DeadLetter);
                (After::Dead { cause, reason }, Outcome::Neutral)
            }
            Err(CallError::Retry { cause, message, .. }) if self.abandoned.load(Ordering::Acquire) => {
                // Whatever it is, it is none of the campaign's doing.
                self.attempt(work, answer).failed(cause.word(), &message, Next::Stop);
                (After::Halted, Outcome::Neutral)
            }
            Err(CallError::Retry { cause, hint, message }) => {
                let outcome = if cause.is_overload() { Outcome::Overload } else { Outcome::Neutral };
                (self.after_failed_try(work, answer, cause, hint, message), outcome)
            }
            // Fewer requests at once need less of it.
            Err(CallError::Shortage(shortage)) => {
                let attempt = self.attempt(work, answer);
                let waited = self.after_shortage(Lane::Sync, &attempt, &shortage);
                (waited.map_or(After::Halted, After::Again), Outcome::Overload)
            }
        };
        (after, outcome, answer.sent_at)
    }

    /// The attempt at a campaign that was just made, before it is counted.
    fn attempt<'a>(&'a self, work: &'a Work, answer: Answer) -> Attempt<'a> {
        let asked = Asked::Campaign(&work.campaign.id);
        Attempt { scope: &self.scope, asked, number: work.tries + 1, answer }
    }

    fn after_unauthorized(&self, work: &mut Work, token: &Token, answer: Answer) -> After {
        work.unauthorized += 1;
        self.stats.retry(Cause::Unauthorized);
        let never_accepted = self.tokens.refused(token.generation);
        if work.unauthorized >= 2 && never_accepted {
            self.end(Ending::CredentialsRefused("a fresh token was refused as well (401)".into()));
            return After::Halted;
        }
        if work.unauthorized >= MOST_UNAUTHORIZED {
            let reason =
                format!("refused with {MOST_UNAUTHORIZED} tokens that are good for other campaigns (401)");
            let cause = Cause::Unauthorized.word();
            self.attempt(work, answer).failed(cause, &reason, Next::DeadLetter);
            return After::Dead { cause, reason };
        }
        let refused = CallError::Unauthorized;
        self.attempt(work, answer).failed(refused.word(), refused, Next::FreshToken);
        After::Again(Duration::ZERO)
    }

    /// A failure of the campaign, or of the API? It is the campaign's when another one that was sent later went well.
    fn after_failed_try(
        &self,
        work: &mut Work,
        answer: Answer,
        cause: Cause,
        hint: Option<Duration>,
        message: String,
    ) -> After {
        let now = self.clock.now();
        let recoveries = self.health.recoveries(Lane::Sync);
        if work.recoveries != recoveries {
            // The API was down in between: what failed then says nothing of the campaign.
            (work.tries, work.first_failed, work.recoveries) = (0, None, recoveries);
        }
        work.unauthorized = 0;
        let number = work.tries + 1;
        work.tries = number;
        let first_failed = *work.first_failed.get_or_insert(now);
        self.health.failure(Lane::Sync);
        let attempt = Attempt { number, ..self.attempt(work, answer) };
        if self.patience.max_attempts <= work.tries && self.health.succeeded_since(Lane::Sync, first_failed) {
            let reason = format!("{message}, at the last of {number} attempts");
            attempt.failed(cause.word(), &message, Next::DeadLetter);
            return After::Dead { cause: cause.word(), reason };
        }
        if self.gave_up(&message) {
            attempt.failed(cause.word(), &message, Next::Stop);
            return After::Halted;
        }
        self.stats.retry(cause);
        let wait = self.backoff.after(work.tries, hint, &*self.clock) + self.health.spend_retry();
        attempt.failed(cause.word(), &message, Next::Try(wait));
        if hint.is_some_and(|hint| hint > self.patience.max_wait) {
            self.end(Ending::WaitTooLong { wait, allowed: self.patience.max_wait });
            return After::Halted;
        }
        After::Again(wait)
    }

    /// Whether attempts at this task have to ask the breaker: not when others prove that the API is up.
    pub(super) fn needs_breaker(&self, work: &Work) -> bool {
        work.first_failed.is_none_or(|failed| !self.health.succeeded_since(Lane::Sync, failed))
    }

    /// Whether a task that fails and fails, with no other one going well since, may be judged all the same, provided that
    /// the listing answers: the last few of a run have no others, and those of `retry` were judged before. `remaining` are
    /// those that are left to this process.
    pub(super) fn is_last_straw(
        &self,
        work: &Work,
        remaining: usize,
        retrying: bool,
        page_size: i32,
    ) -> bool {
        let few = remaining as u64 <= (self.health.successes(Lane::Sync) / 20).max(3);
        work.tries >= self.patience.max_attempts && (few || retrying) && self.list_answers(page_size)
    }

    /// One attempt at the listing, as a sign of life.
    fn list_answers(&self, page_size: i32) -> bool {
        let Ok(token) = self.token_and_turn() else { return false };
        let mut answer = Answer::awaited(self.clock.now());
        let listed = self.list_once(&token, PageNumber(1), page_size, (None, 1), &mut answer);
        let attempt = Attempt { scope: &self.scope, asked: Asked::Page(1), number: 1, answer };
        match &listed {
            Ok(_) => attempt.succeeded(),
            Err(error) => attempt.failed(error.word(), error, Next::NoSignOfLife),
        }
        listed.is_ok()
    }

    /// The token to send; fetched when needed.
    fn token(&self) -> Result<Arc<Token>, Halt> {
        let got = self.tokens.get(&*self.vault, || self.fetch_token().map_err(Interruption::Halted));
        got.map_err(|interruption| match interruption {
            Interruption::Halted(halt) => halt,
            Interruption::Vault(error) => self.end(Ending::from(error)),
        })
    }

    fn fetch_token(&self) -> Result<Grant, Halt> {
        let mut failures = 0;
        let mut number = 0;
        loop {
            number += 1;
            if self.stop.requested() {
                return Err(Halt);
            }
            let purpose = Purpose { step: None, name: "POST /auth/token", number, campaign: None };
            let mut answer = Answer::awaited(self.clock.now());
            let mut hint = None;
            let fetched = self.trace.attempt(&purpose, |header, watch| {
                self.api.fetch_token(Some(header), &mut |exchange| {
                    answer.given(exchange);
                    hint = exchange.hints.retry_after;
                    watch(exchange);
                })
            });
            let attempt = Attempt { scope: &self.scope, asked: Asked::Token, number, answer };
            match fetched {
                Ok(grant) => {
                    attempt.succeeded();
                    return Ok(grant);
                }
                Err(error @ (CallError::Unauthorized | CallError::Refused { status: 403, .. })) => {
                    attempt.failed(error.word(), error, Next::Stop);
                    return Err(self.end(Ending::CredentialsRefused(
                        "the platform knows no such email and password".into(),
                    )));
                }
                Err(CallError::Refused { message, .. }) => {
                    attempt.failed("rejected", &message, Next::Stop);
                    return Err(self.end(Ending::RequestRefused(format!("no token: {message}"))));
                }
                Err(error @ CallError::RateLimited) => {
                    self.stats.retry(Cause::RateLimited);
                    failures += 1;
                    let wait = self.backoff.after(failures + 2, hint, &*self.clock);
                    if wait > self.patience.max_wait {
                        attempt.failed(error.word(), error, Next::Stop);
                        return Err(self.end(Ending::WaitTooLong { wait, allowed: self.patience.max_wait }));
                    }
                    attempt.failed(error.word(), &error, Next::Try(wait));
                    self.after_429(&error)?;
                    self.clock.sleep(wait);
                }
                Err(CallError::Retry { cause, hint, message }) => {
                    failures += 1;
                    self.after_failure(&attempt, failures, cause, hint, &format!("no token: {message}"))?;
                }
                Err(CallError::Shortage(shortage)) => self.sit_out(&attempt, &shortage)?,
            }
        }
    }

    /// Waits after a failure of the list lane, unless it is time to give up.
    fn after_failure(
        &self,
        attempt: &Attempt<'_>,
        failures: u32,
        cause: Cause,
        hint: Option<Duration>,
        message: &str,
    ) -> Result<(), Halt> {
        self.health.failure(Lane::List);
        self.stats.retry(cause);
        if self.gave_up(message) {
            attempt.failed(cause.word(), message, Next::Stop);
            return Err(Halt);
        }
        let wait = self.backoff.after(failures, hint, &*self.clock) + self.health.spend_retry();
        if wait > self.patience.max_wait {
            return Err(self.end(Ending::WaitTooLong { wait, allowed: self.patience.max_wait }));
        }
        attempt.failed(cause.word(), message, Next::Try(wait));
        // Never longer than until it is time to give up.
        let left = self.patience.give_up_after.saturating_sub(self.health.failing_for());
        self.clock.sleep(wait.min(left));
        if self.gave_up(message) || self.stop.requested() { Err(Halt) } else { Ok(()) }
    }

    /// What this machine had no means for is tried again after this wait. It is no attempt, but `--give-up-after` ends it.
    fn after_shortage(
        &self,
        lane: Lane,
        attempt: &Attempt<'_>,
        shortage: &Shortage,
    ) -> Result<Duration, Halt> {
        shortage.warn();
        self.health.failure(lane);
        let message = shortage.to_string();
        if self.gave_up(&message) {
            attempt.failed("shortage", message, Next::Stop);
            return Err(Halt);
        }
        let wait = self.backoff.after(SHORTAGE_FAILURES, None, &*self.clock);
        attempt.failed("shortage", message, Next::Try(wait));
        Ok(wait)
    }

    /// The same for the list lane, with the wait.
    fn sit_out(&self, attempt: &Attempt<'_>, shortage: &Shortage) -> Result<(), Halt> {
        let wait = self.after_shortage(Lane::List, attempt, shortage)?;
        let left = self.patience.give_up_after.saturating_sub(self.health.failing_for());
        self.clock.sleep(wait.min(left));
        if self.gave_up(&shortage.to_string()) || self.stop.requested() { Err(Halt) } else { Ok(()) }
    }

    fn after_refused_token(&self, token: &Token, times: u32) -> Result<(), Halt> {
        self.stats.retry(Cause::Unauthorized);
        let never_accepted = self.tokens.refused(token.generation);
        if (times >= 2 && never_accepted) || times > self.patience.max_attempts {
            return Err(
                self.end(Ending::CredentialsRefused("a fresh token was refused as well (401)".into()))
            );
        }
        Ok(())
    }

    /// A refusal costs no attempt; but a platform that does nothing else is given up too.
    fn after_429(&self, refusal: &CallError) -> Result<(), Halt> {
        self.health.refused();
        if self.gave_up(&refusal.to_string()) { Err(Halt) } else { Ok(()) }
    }

    fn gave_up(&self, last: &str) -> bool {
        let Some(after) = self.health.given_up() else { return false };
        self.end(Ending::GaveUp { after, api: self.api.base_url().to_owned(), last: last.to_owned() });
        true
    }

    fn wait_for_breaker(&self) -> Result<(), Halt> {
        while let Err(wait) = self.health.admit(Lane::List) {
            self.clock.sleep(wait);
            if self.stop.requested() {
                return Err(Halt);
            }
        }
        Ok(())
    }

    fn observe(&self, exchange: &Exchange<'_>) {
        self.stats.limited();
        if exchange.status.is_none() {
            // Whether it arrived is unknown; it counts as sent.
            return;
        }
        self.limiter.observe(&Observation {
            sent_at: exchange.sent_at,
            answered_at: exchange.answered_at,
            refused: exchange.status == Some(429),
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

enum Interruption {
    Halted(Halt),
    Vault(SharingError),
}

impl From<SharingError> for Interruption {
    fn from(error: SharingError) -> Self {
        Self::Vault(error)
    }
}
