//! How an account's part begins: its run is opened or joined, once more when its lease has ended, unless the account is another
//! process's to work on.

use std::collections::HashMap;
use std::time::Instant;

use super::account::{Account, Phase};
use super::calls::{Action, Told};
use super::outstanding::Results;
use super::task::ReadyQueue;
use crate::store::command::{Command, Elsewhere, Opened, Sharing};

impl Account {
    /// Nothing that it holds is its own any more: joins the run again.
    pub(super) fn begin_again(&mut self) {
        if !matches!(self.phase, Phase::Working | Phase::Stopping) {
            return;
        }
        self.drop_pages();
        self.ready = ReadyQueue::default();
        self.suspects.clear();
        self.taken = HashMap::new();
        self.results = Results::default();
        self.listing.begin_again();
        // What is in flight will find no task.
        if self.phase == Phase::Working {
            self.phase = Phase::Opening;
        }
    }

    /// Whether it waits for [`Self::help`].
    #[must_use]
    pub fn is_left_to_others(&self) -> bool {
        self.is_left_to_others && !self.is_over()
    }

    /// Has it joined in what others are at work on.
    pub fn help(&mut self) {
        (self.is_left_to_others, self.helps) = (false, true);
    }

    pub(super) fn elsewhere(&mut self, elsewhere: Elsewhere) {
        self.outstanding.opening = false;
        match elsewhere {
            Elsewhere::AtWork => self.is_left_to_others = true,
            Elsewhere::Done(left) => self.has_left(*left),
        }
        if self.ending.is_some() {
            self.phase = Phase::Over;
        }
    }

    pub(super) fn open(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.outstanding.opening || self.is_left_to_others {
            return;
        }
        self.outstanding.opening = true;
        self.asks_for_a_lease(now);
        // Put back once: an account that joins its run again has nothing to put back.
        let retry = self.settings.retry.clone().filter(|_| self.run.is_none());
        let mut opening = self.settings.opening.clone();
        opening.fresh &= self.run.is_none();
        let sharing = match self.run {
            None => {
                let since = self.settings.shares_since.filter(|_| !opening.fresh);
                Sharing { yields: since.is_some() && !self.helps, done_since: since }
            }
            // An account that joins its run again shares it already, and others may have brought it to its end.
            Some(_) => Sharing { yields: false, done_since: Some(self.begun) },
        };
        actions.push(Action::Store(Command::Open { opening, retry, sharing }));
    }

    pub(super) fn opened(&mut self, opened: Opened, now: Instant, actions: &mut Vec<Action>) {
        self.listing.begin(opened.run.listing_done, !opened.run.new, now);
        self.take_on(opened.listing, now);
        self.limiter.begin(opened.limit, opened.gate, now);
        (self.others, self.free_tasks) = (opened.others, opened.free_tasks || opened.requeued > 0);
        self.run = Some(opened.run.clone());
        self.phase = if self.ending.is_some() { Phase::Stopping } else { Phase::Working };
        actions.push(Action::Tell(Told::Opened(Box::new(opened))));
    }
}
