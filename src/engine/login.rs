//! Sees to a token when there is none that can be sent, and shares it where other processes work on the account.

use std::sync::Arc;
use std::time::Instant;

use super::account::Account;
use super::attempt::Attempt;
use super::calls::{Action, Answer, Asked, Call, Room};
use crate::http::token::{Grant, Token, Turn};
use crate::platform::CallError;
use crate::rate::breaker::Lane;
use crate::store::StoreError;
use crate::store::command::Command;

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
        // Two on their way to the other processes at once could come there in the wrong order.
        if self.token.pending || self.outstanding.keeping {
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

    pub(super) fn on_token_turn(&mut self, turn: Result<(Turn, u64), StoreError>, now: Instant) {
        self.token.pending = false;
        if let Ok((_, generation)) = &turn {
            self.token.heard_of(*generation);
        }
        match turn.map(|(turn, _)| turn) {
            Ok(Turn::Use(kept)) => self.token.shared(&kept, now),
            Ok(Turn::Fetch) => self.token.may_fetch(self.others, now),
            Ok(Turn::Wait(wait)) => self.token.not_before = Some(now + wait),
            Err(error) => self.failed(error),
        }
    }
}
