//! The account's token: one at a time, fetched once for each time that it is refused, shared where other processes work on the
//! account.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::Account;
use super::attempts::Attempt;
use super::calls::{Action, Answer, Asked, Call, Room};
use crate::http::secret::Secret;
use crate::http::token::{Grant, Kept, Token};
use crate::platform::CallError;
use crate::rate::breaker::Lane;
use crate::store::command::Command;
use crate::sync::decision::History;

/// How long a process that comes to others waits for their token, and how often it asks: they learn of it by their next commit.
const EXPECTED_FOR: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(50);

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
    /// What became of the attempts to fetch one.
    history: History,
    attempts: u32,
    /// What was fetched, and when, while no other process was known to need it.
    unshared: Option<(Grant, Instant)>,
    /// Until when to wait for the token of a process that has just learned that there are others.
    expected_until: Option<Instant>,
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

    /// The newest token that others have shared is of this generation.
    pub fn heard_of(&mut self, generation: u64) {
        self.newest = self.newest.max(generation);
    }

    /// The newest token that was fetched here has this number where others know it.
    pub fn kept(&mut self, generation: u64) {
        let Some(own) = self.current.as_ref().filter(|token| token.generation == self.newest) else { return };
        let renumbered = Arc::new(own.numbered(generation));
        if self.accepted >= own.generation {
            self.accepted = generation;
        }
        (self.newest, self.current) = (generation, Some(renumbered));
    }

    /// It is this process's turn to fetch a token. Where none was ever shared, those that work already have one of their own:
    /// they share it as soon as they have learned of this process.
    pub fn may_fetch(&mut self, others: bool, now: Instant) {
        let until = match self.newest {
            0 if others => *self.expected_until.get_or_insert(now + EXPECTED_FOR),
            _ => now,
        };
        self.my_turn = now >= until;
        if !self.my_turn {
            self.not_before = Some(now + ASK_AGAIN);
        }
    }

    /// A token was fetched.
    pub fn fetched(&mut self, grant: &Grant, is_shared: bool, now: Instant) {
        self.newest += 1;
        self.unshared = (!is_shared).then(|| (grant.clone(), now));
        self.set(&grant.access_token, self.newest, grant.lifetime, now);
    }

    /// Another process has fetched one.
    pub fn shared(&mut self, kept: &Kept, now: Instant) {
        self.newest = self.newest.max(kept.generation);
        self.set(&kept.access_token, kept.generation, kept.remaining, now);
    }

    fn set(&mut self, text: &Secret, generation: u64, lifetime: Option<Duration>, now: Instant) {
        (self.pending, self.not_before) = (false, None);
        (self.history, self.attempts) = (History::default(), 0);
        self.current = Some(Arc::new(Token::new(text.reveal(), generation, lifetime, now)));
    }

    /// A request with this generation's token was accepted.
    pub fn accepted(&mut self, generation: u64) {
        self.accepted = self.accepted.max(generation);
    }

    /// Whether any token of these credentials was accepted.
    #[must_use]
    pub fn any_accepted(&self) -> bool {
        self.accepted > 0
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
        if self.shares_token() && !self.token.my_turn {
            self.token.pending = true;
            actions.push(Action::Store(Command::TokenTurn(self.token.outdated())));
        } else if room.workers > 0 {
            room.workers -= 1;
            self.token.pending = true;
            self.token.attempts += 1;
            actions.push(Action::Call(Call::Token(self.token.attempts)));
        }
        None
    }

    /// Shares a token that was fetched before others came.
    pub(super) fn share_token(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.others || self.token.unshared.is_none() {
            return;
        }
        let good = self.token.usable(now).is_some();
        if let Some((grant, at)) = self.token.unshared.take()
            && good
        {
            let passed = now.saturating_duration_since(at);
            let lifetime = grant.lifetime.map(|lifetime| lifetime.saturating_sub(passed));
            self.outstanding.keeping = true;
            actions.push(Action::Store(Command::KeepToken(Grant { lifetime, ..grant })));
        }
    }

    pub(super) fn on_token(
        &mut self,
        answer: Answer,
        result: Result<Grant, CallError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        (self.token.pending, self.token.my_turn) = (false, false);
        let error = match result {
            Ok(grant) => {
                self.health.answers();
                let shares = self.shares_token();
                self.token.fetched(&grant, shares, now);
                if shares {
                    self.outstanding.keeping = true;
                    actions.push(Action::Store(Command::KeepToken(grant)));
                }
                return;
            }
            Err(error) => error,
        };
        let number = self.token.attempts.max(1);
        let attempt = Attempt { asked: Asked::Token, number, generation: None, answer, error };
        let mut history = self.token.history;
        self.note(&attempt, &mut history, now, actions);
        self.token.history = history;
        let decision = self.conclude(attempt, &history, now, actions);
        self.token.not_before = Self::next_attempt(&decision, now);
    }
}
