//! What comes of an attempt, whatever was asked: it is noted in what is known of the API, decided by one pure function
//! (`decide`), and told.

use std::time::Instant;

use super::account::{Account, Phase};
use super::attempt::Attempt;
use super::calls::{Action, Asked, Failure, Told};
use crate::http::retry::{Backoff, Cause};
use crate::platform::CallError;
use crate::rate::breaker::Lane;
use crate::sync::decision::{self, Decision, History, Policy};

impl Account {
    /// An attempt went well; `generation` is that of the token that it was made with.
    pub(super) fn succeeded(
        &mut self,
        lane: Lane,
        generation: u64,
        sent_at: Instant,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.token.accepted(generation);
        if let Some(since) = self.health.success(lane, sent_at) {
            actions.push(Action::Tell(Told::AnswersAgain(now.saturating_duration_since(since))));
        }
    }

    /// Takes an attempt that did not go well down in what is known of the API, of the token, and of what was asked.
    pub(super) fn note(
        &mut self,
        attempt: &Attempt,
        history: &mut History,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        history.token_accepted = self.token.any_accepted();
        let lane = if matches!(attempt.asked, Asked::Campaign(_)) { Lane::Sync } else { Lane::List };
        match &attempt.error {
            CallError::RateLimited { .. } => {
                history.refusals += 1;
                self.health.refused(now);
            }
            CallError::Unauthorized => {
                history.unauthorized += 1;
                history.token_accepted =
                    attempt.generation.is_some_and(|generation| !self.token.refused(generation));
            }
            CallError::Refused { status, .. } => match (&attempt.asked, attempt.generation) {
                // It is this campaign that it will not have, …
                (Asked::Campaign(_), Some(generation)) => {
                    self.succeeded(lane, generation, attempt.answer.sent_at, now, actions);
                }
                // … or this page that it no longer has.
                (asked, Some(generation)) if decision::is_page_gone(asked.as_ref(), *status) => {
                    self.succeeded(lane, generation, attempt.answer.sent_at, now, actions);
                }
                _ if *status == 403 => {
                    history.forbidden += 1;
                    self.health.failure(Lane::List, now);
                }
                _ => {}
            },
            CallError::Shortage(_) => self.health.failure(lane, now),
            CallError::Retry { .. } => {
                history.failures += 1;
                self.health.failure(lane, now);
            }
        }
        history.given_up = self.health.given_up(now);
        history.luckless = self.health.luckless_for(now);
        history.over_budget = self.health.over_budget();
    }

    /// Decides what comes of an attempt that did not go well, and has it told.
    pub(super) fn conclude(
        &mut self,
        attempt: Attempt,
        history: &History,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Decision {
        let chance = self.jitter();
        let policy = Policy {
            patience: self.settings.patience,
            backoff: Backoff::default(),
            api: &self.settings.api,
            chance,
        };
        let Attempt { asked, number, answer, error, .. } = attempt;
        let decision = decision::decide(asked.as_ref(), Err(&error), history, &policy);
        if matches!(decision, Decision::Again(..)) && !matches!(error, CallError::Shortage(_)) {
            self.health.spend_retry();
        }
        if !matches!(decision, Decision::DeadLetter { .. }) {
            self.last_failure = Some(match asked {
                Asked::Token => format!("no token: {error}"),
                Asked::Page(_) | Asked::Campaign(_) => error.to_string(),
            });
        }
        let warns =
            decision.is_retry() && self.phase == Phase::Working && self.is_worth_a_warning(&error, now);
        if let Decision::Stop(ending) = &decision {
            self.end(ending.clone());
        }
        let failure = Failure { asked, number, answer, error, decision: decision.clone(), warns };
        actions.push(Action::Tell(Told::Failed(Box::new(failure))));
        decision
    }

    /// The first of a row of failures is worth a line that everybody sees.
    fn is_worth_a_warning(&mut self, error: &CallError, now: Instant) -> bool {
        let no_connection = matches!(error, CallError::Retry { cause: Cause::Connect, .. });
        let failed = matches!(error, CallError::Retry { .. } | CallError::Refused { .. });
        failed && self.health.is_worth_a_warning(no_connection, now)
    }

    /// When to make the next attempt at a page or a token, as was decided; none when there is none to make.
    pub(super) fn next_attempt(decision: &Decision, now: Instant) -> Option<Instant> {
        match decision {
            Decision::Again(wait, _) => Some(now + *wait),
            _ => None,
        }
    }
}
