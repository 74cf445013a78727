//! When an account may send, and what its limiter learns of the answers.

use std::time::Instant;

use super::account::Account;
use super::calls::{Action, Answer};
use crate::rate::ledger::{Ask, Order};
use crate::rate::limiter::{Observation, Permit, Turn, Why};
use crate::store::command::Command;
use crate::sync::Ending;

impl Account {
    /// Whether up to `want` requests that count may be sent now, and so many `more` at the same moment; asks the ledger if it has to be asked.
    pub(super) fn turn(
        &mut self,
        want: usize,
        more: usize,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> usize {
        let whole = |count| u32::try_from(count).unwrap_or(u32::MAX);
        match self.limiter.turn(whole(want), whole(more), now) {
            Turn::Go(count) => {
                if let Some((since, _, why)) = self.blocked.take()
                    && why != Why::Pacing
                {
                    // A wait that the platform asked for is no time of failing.
                    let wait = now.saturating_duration_since(since);
                    self.health.excuse(wait, now);
                    self.waited += wait;
                }
                count as usize
            }
            Turn::Reserve(ask) => {
                self.limiter.asked(&ask, now);
                actions.push(Action::Store(Command::Reserve(ask)));
                0
            }
            Turn::Asked => 0,
            Turn::Wait(at, why) => {
                let (wait, allowed) = (at.saturating_duration_since(now), self.settings.patience.max_wait);
                let (limit, own) = (self.limiter.limit(), self.limiter.is_configured());
                if let Some(ending) = Ending::of_wait(wait, why, allowed, limit, own) {
                    self.end(ending);
                }
                let since = self.blocked.map_or(now, |(since, _, _)| since);
                self.blocked = Some((since, at, why));
                self.due_at(at);
                0
            }
        }
    }

    /// Takes a look at an answer that counts towards the limit.
    pub(super) fn observe(&mut self, answer: &Answer, permit: Option<Permit>, actions: &mut Vec<Action>) {
        self.limiter.made(permit, answer.arrived());
        // Without an answer it is not known whether it arrived; it counts as sent.
        if answer.status.is_none() {
            return;
        }
        let jitter = self.jitter();
        let orders = self.limiter.observe(
            &Observation {
                sent_at: answer.sent_at,
                answered_at: answer.answered_at,
                refused: answer.refused,
                hints: &answer.hints,
            },
            jitter,
        );
        self.tell(orders, actions);
        // After the refusal is taken in: others may have learned what it only begins to show.
        let question = self.limiter.asks_the_record().filter(|_| answer.refused && self.others);
        self.ask(question, answer.answered_at, actions);
    }

    /// Tells the others' record what they should know at once.
    pub(super) fn tell_of_late_arrivals(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let news = self.limiter.behind(now).filter(|_| self.others);
        self.ask(news, now, actions);
    }

    fn ask(&mut self, question: Option<Ask>, now: Instant, actions: &mut Vec<Action>) {
        if let Some(ask) = question {
            self.limiter.asked(&ask, now);
            actions.push(Action::Store(Command::Reserve(ask)));
        }
    }

    pub(super) fn tell(&mut self, orders: Vec<Order>, actions: &mut Vec<Action>) {
        for order in orders {
            if order != Order::TellSends {
                self.limiter.telling();
            }
            actions.push(Action::Store(Command::Tell(order)));
        }
    }

    /// A number between 0 and 1, another one each time.
    pub(super) fn jitter(&mut self) -> f64 {
        self.jitter = self.jitter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        #[allow(clippy::cast_precision_loss)]
        let fraction = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        fraction
    }
}
