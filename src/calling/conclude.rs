//! What comes of an attempt is noted, decided (`sync::decision`), and then counted and logged.

use std::fmt::Display;
use std::time::Duration;

use super::caller::{Caller, Halt};
use crate::http::lock::lock;
use crate::http::retry::Cause;
use crate::http::token::Token;
use crate::platform::CallError;
use crate::rate::breaker::Lane;
use crate::sync::Ending;
use crate::sync::attempt::Attempt;
use crate::sync::decision::{self, Decision, History, Policy};

impl Caller {
    /// An attempt went well; `token` is what it was made with.
    pub(super) fn succeeded(&self, attempt: Attempt<'_>, token: Option<&Token>) {
        match token {
            Some(token) => self.proven(&attempt, token),
            None => lock(&self.known).health.answers(),
        }
        self.tell(&attempt, Ok(()), &Decision::Done);
    }

    /// The API works, and takes this token.
    fn proven(&self, attempt: &Attempt<'_>, token: &Token) {
        self.tokens.accepted(token.generation);
        let failed_since = lock(&self.known).health.success(Lane::List, attempt.sent_at);
        if let Some(since) = failed_since {
            let failed = self.clock.now().saturating_duration_since(since).as_secs();
            log::info!(account = self.scope.account(), run = self.scope.run(); "{} answers again, after {failed} s", self.api.base_url());
        }
    }

    /// Takes an attempt that did not go well down in what is known of the API, of the token, and of what was asked.
    pub(super) fn note(
        &self,
        attempt: &Attempt<'_>,
        token: Option<&Token>,
        error: &CallError,
        history: &mut History,
    ) {
        let now = self.clock.now();
        history.token_accepted = self.tokens.any_accepted();
        match error {
            CallError::RateLimited { .. } => {
                history.refusals += 1;
                lock(&self.known).health.refused(now);
            }
            CallError::Unauthorized => {
                history.unauthorized += 1;
                history.token_accepted = token.is_some_and(|token| !self.tokens.refused(token.generation));
            }
            CallError::Refused { status, .. } => match (attempt.asked, token) {
                // It is this page that it no longer has.
                (asked, Some(token)) if decision::is_page_gone(asked, *status) => self.proven(attempt, token),
                _ if *status == 403 => {
                    history.forbidden += 1;
                    lock(&self.known).health.failure(Lane::List, now);
                }
                _ => {}
            },
            CallError::Shortage(shortage) => {
                shortage.warn();
                lock(&self.known).health.failure(Lane::List, now);
            }
            CallError::Retry { .. } => {
                history.failures += 1;
                lock(&self.known).health.failure(Lane::List, now);
            }
        }
        let known = lock(&self.known);
        history.given_up = known.health.given_up(now);
        history.luckless = known.health.luckless_for(now);
        history.over_budget = known.health.over_budget();
    }

    /// Decides what comes of an attempt that did not go well, and sees to it that this is counted, told and, where it is the
    /// end, kept.
    pub(super) fn conclude(&self, attempt: Attempt<'_>, error: &CallError, history: &History) -> Decision {
        let policy = Policy {
            patience: self.patience,
            backoff: self.backoff,
            api: self.api.base_url(),
            chance: self.clock.random(),
        };
        let decision = decision::decide(attempt.asked, Err(error), history, &policy);
        if decision.is_retry() {
            error.retried().into_iter().for_each(|cause| self.stats.retry(cause));
            self.warn(&attempt, error, &decision);
        }
        if matches!(decision, Decision::Again(..)) && !matches!(error, CallError::Shortage(_)) {
            lock(&self.known).health.spend_retry();
        }
        self.tell(&attempt, Err(error), &decision);
        if let Decision::Stop(ending) = &decision {
            self.end(ending.clone());
        }
        decision
    }

    /// The first of a row of failures is worth a line that everybody sees.
    fn warn(&self, attempt: &Attempt<'_>, error: &CallError, decision: &Decision) {
        let no_connection = matches!(error, CallError::Retry { cause: Cause::Connect, .. });
        let failed = no_connection || matches!(error, CallError::Retry { .. } | CallError::Refused { .. });
        let now = self.clock.now();
        let warns = || lock(&self.known).health.is_worth_a_warning(no_connection, now);
        if failed && !self.stop.requested() && warns() {
            let (method, path) = attempt.purpose.name.split_once(' ').unwrap_or_default();
            log::warn!(
                account = self.scope.account(), run = self.scope.run();
                "{method} {}{path}: {error}; {decision}, and so on until it works or {} s have passed without one success (--give-up-after)",
                self.api.base_url(),
                self.patience.give_up_after.as_secs()
            );
        }
    }

    /// Has the log tell of an attempt, and what comes next.
    fn tell(&self, attempt: &Attempt<'_>, result: Result<(), &CallError>, next: &dyn Display) {
        attempt.log(&self.scope, result, next);
    }

    /// Waits as was decided for a page or a token, until the next attempt.
    pub(super) fn carry_out(&self, decision: Decision, error: &CallError) -> Result<(), Halt> {
        match decision {
            Decision::Done | Decision::WhenGateOpens | Decision::WithFreshToken => Ok(()),
            Decision::Again(wait, _) => self.wait_after(wait, error),
            Decision::PageGone | Decision::DeadLetter { .. } | Decision::Left | Decision::Stop(_) => {
                Err(Halt)
            }
        }
    }

    fn wait_after(&self, wait: Duration, error: &CallError) -> Result<(), Halt> {
        let gives_up_at = match error {
            // Asked too soon, a limiter refuses again.
            CallError::RateLimited { .. } => None,
            // Never longer than until it is time to give up.
            _ => lock(&self.known).health.gives_up_at(),
        };
        let left = gives_up_at.map(|at| at.saturating_duration_since(self.clock.now()));
        self.clock.sleep(left.map_or(wait, |left| wait.min(left)));
        let given_up = lock(&self.known).health.given_up(self.clock.now());
        if let Some(after) = given_up {
            let (api, last) = (self.api.base_url().to_owned(), error.to_string());
            return Err(self.end(Ending::GaveUp { after, api, last }));
        }
        if self.stop.requested() { Err(Halt) } else { Ok(()) }
    }
}
