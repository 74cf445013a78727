//! The account's token: one at a time, fetched once for each time that it is refused, shared where other processes work on the
//! account.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::Account;
use super::calls::{Action, Answer, Call, Room};
use super::judge;
use crate::http::secret::Secret;
use crate::http::token::{Grant, Kept, Token};
use crate::platform::CallError;
use crate::rate::breaker::Lane;
use crate::store::command::Command;
use crate::sync::Ending;

/// What the account has.
#[derive(Debug, Default)]
pub struct TokenState {
    current: Option<Arc<Token>>,
    /// A fetch, or a question to the store, is under way.
    pub pending: bool,
    /// It is this process's turn to fetch the next one.
    pub my_turn: bool,
    /// Not to be fetched before this moment.
    pub not_before: Option<Instant>,
    /// Fetches that failed in a row.
    pub failures: u32,
    refused: u64,
    accepted: u64,
    newest: u64,
}

impl TokenState {
    /// The token to send now, if there is one that is not about to end.
    #[must_use]
    pub fn usable(&self, now: Instant) -> Option<&Arc<Token>> {
        self.current.as_ref().filter(|token| token.good_at(now))
    }

    /// The newest generation that is of no use any more.
    #[must_use]
    pub fn outdated(&self) -> u64 {
        self.current.as_ref().map_or(0, |token| token.generation).max(self.refused)
    }

    /// A token was fetched.
    pub fn fetched(&mut self, text: &Secret, lifetime: Option<Duration>, now: Instant) {
        self.newest += 1;
        self.set(text, self.newest, lifetime, now);
    }

    /// Another process has fetched one.
    pub fn shared(&mut self, kept: &Kept, now: Instant) {
        self.newest = self.newest.max(kept.generation);
        self.set(&kept.access_token, kept.generation, kept.remaining, now);
    }

    fn set(&mut self, text: &Secret, generation: u64, lifetime: Option<Duration>, now: Instant) {
        (self.pending, self.failures, self.not_before) = (false, 0, None);
        self.current = Some(Arc::new(Token::new(text.reveal(), generation, lifetime, now)));
    }

    /// A request with this generation's token was accepted.
    pub fn accepted(&mut self, generation: u64) {
        self.accepted = self.accepted.max(generation);
    }

    /// A request with this generation's token got a 401. The first to say so causes one fetch; the others, none. True when this
    /// token was never accepted by anyone: a second fresh one would fare no better.
    pub fn refused(&mut self, generation: u64) -> bool {
        if self.current.as_ref().is_some_and(|token| token.generation == generation) {
            self.current = None;
        }
        self.refused = self.refused.max(generation);
        self.accepted < generation
    }
}

impl Account {
    /// The token to send; sees to a new one when there is none.
    pub(super) fn token_to_send(
        &mut self,
        now: Instant,
        room: &mut Room,
        actions: &mut Vec<Action>,
    ) -> Option<Arc<Token>> {
        if let Some(token) = self.token.usable(now) {
            return Some(token.clone());
        }
        if self.token.pending {
            return None;
        }
        if let Some(at) = self.token.not_before.filter(|at| now < *at) {
            self.due_at(at);
            return None;
        }
        if let Err(at) = self.health.admit(Lane::List, now) {
            self.due_at(at);
            return None;
        }
        if self.others && !self.token.my_turn {
            self.token.pending = true;
            actions.push(Action::Store(Command::TokenTurn(self.token.outdated())));
        } else if room.workers > 0 {
            room.workers -= 1;
            self.token.pending = true;
            actions.push(Action::Call(Call::Token));
        }
        None
    }

    pub(super) fn on_token(
        &mut self,
        answer: &Answer,
        result: Result<Grant, CallError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.token.my_turn = false;
        match result {
            Ok(grant) => {
                self.health.success(Lane::List, answer.sent_at);
                self.token.fetched(&grant.access_token, grant.lifetime, now);
                if self.others {
                    actions.push(Action::Store(Command::KeepToken(grant)));
                }
                return;
            }
            Err(CallError::Unauthorized | CallError::Refused { status: 403, .. }) => {
                self.end(Ending::CredentialsRefused("the platform knows no such email and password".into()))
            }
            Err(CallError::Refused { message, .. }) => {
                self.end(Ending::RequestRefused(format!("no token: {message}")));
            }
            Err(CallError::Shortage(shortage)) => {
                self.listing.last_failure = Some(shortage.to_string());
                self.health.hampered(now);
                self.token.not_before = Some(now + judge::SHORTAGE);
            }
            Err(CallError::RateLimited { .. }) => {
                self.health.refused(now);
                let hint = answer.hints.retry_after;
                self.again_for_token(hint, now);
            }
            Err(CallError::Retry { hint, message, .. }) => {
                self.health.failure(Lane::List, now);
                self.listing.last_failure = Some(format!("no token: {message}"));
                self.again_for_token(hint, now);
            }
        }
        self.token.pending = false;
    }

    pub(super) fn again_for_token(&mut self, hint: Option<Duration>, now: Instant) {
        self.token.failures += 1;
        if let Some(wait) = hint.filter(|hint| *hint > self.settings.policy.max_wait) {
            self.end(Ending::WaitTooLong { wait, allowed: self.settings.policy.max_wait });
            return;
        }
        let jitter = self.jitter();
        let wait = judge::backoff(self.token.failures, hint, jitter) + self.health.spend_retry();
        self.token.not_before = Some(now + wait);
    }
}
