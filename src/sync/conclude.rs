//! What comes of an attempt is noted, decided ([`super::decision`]), and then counted, logged and traced, here and nowhere else.

use std::fmt::Display;
use std::time::Duration;

use super::attempt::{Asked, Attempt};
use super::caller::{Caller, Halt};
use super::decision::{self, Decision, History, Policy};
use super::ending::Ending;
use crate::http::health::Lane;
use crate::http::retry::Cause;
use crate::http::token::Token;
use crate::platform::CallError;

impl Caller {
    /// An attempt went well; `token` is what it was made with.
    pub(super) fn succeeded(&self, attempt: Attempt<'_>, token: Option<&Token>) {
        match token {
            Some(token) => self.proven(&attempt, token),
            None => self.health.answers(),
        }
        self.tell(attempt, Ok(()), &Decision::Done);
    }

    /// The API works, and takes this token.
    fn proven(&self, attempt: &Attempt<'_>, token: &Token) {
        self.tokens.accepted(token.generation);
        if let Some(failed) = self.health.success(lane(attempt.asked), attempt.sent_at) {
            log::info!(account = self.scope.account(), run = self.scope.run(); "{} answers again, after {} s", self.api.base_url(), failed.as_secs());
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
        history.token_accepted = self.tokens.any_accepted();
        match error {
            CallError::RateLimited { .. } => {
                history.refusals += 1;
                self.health.refused();
            }
            CallError::Unauthorized => {
                history.unauthorized += 1;
                history.token_accepted = token.is_some_and(|token| !self.tokens.refused(token.generation));
            }
            CallError::Refused { status, .. } => match (attempt.asked, token) {
                // It is this campaign that it will not have, …
                (Asked::Campaign(_), Some(token)) => self.proven(attempt, token),
                // … or this page that it no longer has.
                (asked, Some(token)) if decision::is_page_gone(asked, *status) => self.proven(attempt, token),
                _ if *status == 403 => {
                    history.forbidden += 1;
                    self.health.failure(Lane::List);
                }
                _ => {}
            },
            CallError::Shortage(shortage) => {
                shortage.warn();
                self.health.failure(lane(attempt.asked));
            }
            CallError::Retry { .. } => {
                history.failures += 1;
                self.health.failure(lane(attempt.asked));
            }
        }
        history.given_up = self.health.given_up();
        history.luckless = self.health.luckless_for();
        history.over_budget = self.health.over_budget();
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
            self.health.spend_retry();
        }
        self.tell(attempt, Err(error), &decision);
        if let Decision::Stop(ending) = &decision {
            self.end(ending.clone());
        }
        decision
    }

    /// The first of a row of failures is worth a line that everybody sees.
    fn warn(&self, attempt: &Attempt<'_>, error: &CallError, decision: &Decision) {
        let no_connection = matches!(error, CallError::Retry { cause: Cause::Connect, .. });
        let failed = no_connection || matches!(error, CallError::Retry { .. } | CallError::Refused { .. });
        if failed && !self.stop.requested() && self.health.is_worth_a_warning(no_connection) {
            let (method, path) = attempt.purpose.name.split_once(' ').unwrap_or_default();
            log::warn!(
                account = self.scope.account(), run = self.scope.run();
                "{method} {}{path}: {error}; {decision}, and so on until it works or {} s have passed without one success (--give-up-after)",
                self.api.base_url(),
                self.patience.give_up_after.as_secs()
            );
        }
    }

    /// Has log and trace tell of an attempt, and what comes next.
    pub(super) fn tell(&self, attempt: Attempt<'_>, result: Result<(), &CallError>, next: &dyn Display) {
        attempt.log(&self.scope, result, next);
        self.trace.attempted(attempt.seen, &attempt.purpose, result.err(), Some(next));
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
        let left = match error {
            // Asked too soon, a limiter refuses again.
            CallError::RateLimited { .. } => wait,
            // Never longer than until it is time to give up.
            _ => self.patience.give_up_after.saturating_sub(self.health.failing_for()),
        };
        self.clock.sleep(wait.min(left));
        if let Some(after) = self.health.given_up() {
            let (api, last) = (self.api.base_url().to_owned(), error.to_string());
            return Err(self.end(Ending::GaveUp { after, api, last }));
        }
        if self.stop.requested() { Err(Halt) } else { Ok(()) }
    }
}

fn lane(asked: Asked<'_>) -> Lane {
    match asked {
        Asked::Token | Asked::Page(_) => Lane::List,
        Asked::Campaign(_) => Lane::Sync,
    }
}
