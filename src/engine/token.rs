//! An account's token: one at a time, fetched once for each time that it is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http::secret::Secret;
use crate::http::token::{Grant, Kept, Token};
use crate::sync::decision::History;

/// How long a process that comes to others waits for their token, and how often it asks: they learn of it by their next commit.
const EXPECTED_FOR: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What the account has.
#[derive(Debug, Default)]
pub struct TokenState {
    pub(super) current: Option<Arc<Token>>,
    /// A fetch, or a question to the store, is under way.
    pub pending: bool,
    /// It is this process's turn to fetch the next one.
    pub my_turn: bool,
    /// Not to be fetched before this moment.
    pub not_before: Option<Instant>,
    /// What became of the attempts to fetch one.
    pub(super) history: History,
    pub(super) attempts: u32,
    /// What was fetched, and when, while no other process was known to need it.
    pub(super) unshared: Option<(Grant, Instant)>,
    /// Until when to wait for the token of a process that has just learned that there are others.
    pub(super) expected_until: Option<Instant>,
    pub(super) refused: u64,
    pub(super) accepted: u64,
    pub(super) newest: u64,
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
