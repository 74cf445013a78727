//! How an account's part ends: the run is closed by whoever finds all of it done, and left.

use std::time::{Duration, Instant};

use super::account::{Account, Phase};
use super::calls::Action;
use super::holding::{ASK_AGAIN, COMPARE};
use super::outstanding::Comparing;
use crate::store::StoreError;
use crate::store::closing::Closing;
use crate::store::command::Command;
use crate::sync::Ending;

/// How often to look whether others have come to the end, when nothing is in hand: the pause doubles from the first to the second,
/// and begins anew when they are near it.
const LOOK_FOR_THE_END: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// The longest pause when others are near the end.
const LOOK_NEAR_THE_END: Duration = Duration::from_millis(200);

impl Account {
    /// Closes the run when all of it is done.
    pub(super) fn close(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.is_idle() || self.outstanding.closing || self.is_comparing() || self.outstanding.abandoning {
            return;
        }
        if let Some(refusal) = self.refusal().filter(|_| !self.free_tasks) {
            return self.end(refusal);
        }
        if let Some(broken) = self.listing.broken() {
            if self.free_tasks {
                return;
            }
            if let Ending::ListingMoved { again: true, .. } = broken {
                self.outstanding.abandoning = true;
                let reason = broken.to_string();
                return actions.push(Action::Store(Command::Abandon { reason }));
            }
            return self.end_as_the_listing();
        }
        if !self.listing.done {
            return;
        }
        if let Some(at) = self.outstanding.looks_at.filter(|at| now < *at) {
            self.due_at(at);
            return;
        }
        self.outstanding.closing = true;
        let (max_removed, keep_history) = (self.settings.max_removed, self.settings.keep_history);
        actions.push(Action::Store(Command::Close { max_removed, keep_history }));
    }

    pub(super) fn on_closed(&mut self, closed: Result<Closing, StoreError>, now: Instant) {
        self.outstanding.closing = false;
        match closed {
            Ok(Closing::Closed(not_removed)) => {
                self.not_removed = not_removed;
                self.finish();
            }
            Ok(Closing::Over) => self.finish(),
            Ok(Closing::Open { near }) => {
                self.seen.refusals += 1;
                let begins = near && !self.outstanding.near;
                let pause = if begins { LOOK_FOR_THE_END.0 } else { self.outstanding.pause * 2 };
                let longest = if near { LOOK_NEAR_THE_END } else { LOOK_FOR_THE_END.1 };
                self.outstanding.pause = pause.clamp(LOOK_FOR_THE_END.0, longest);
                self.outstanding.near = near;
                self.outstanding.looks_at = Some(now + self.outstanding.pause);
                // What this process holds without knowing, nobody else will do.
                let compared = self.outstanding.compared_at.get_or_insert(now);
                if now >= *compared + COMPARE {
                    self.outstanding.compared_at = Some(now);
                    self.outstanding.comparing = Comparing::Wanted;
                }
                self.free_tasks |= self.outstanding.asked_at.is_none_or(|at| now >= at + ASK_AGAIN);
            }
            Err(error) => self.failed(error),
        }
    }

    /// The listing cannot be brought to its end, and all else is done.
    pub(super) fn end_as_the_listing(&mut self) {
        if let Some(ending) = self.listing.broken().cloned() {
            self.end(ending);
        }
    }

    pub(super) fn finish(&mut self) {
        if self.phase == Phase::Working {
            self.phase = Phase::Leaving;
        }
    }

    /// Leaves when nothing is in flight and all is committed.
    pub(super) fn stop(&mut self) {
        self.acquit();
        let waits = self.awaits_calls()
            || self.outstanding.committing
            || self.outstanding.claiming
            || !self.pages.is_empty()
            || !self.results.is_empty();
        if !waits {
            self.phase = Phase::Leaving;
        }
    }

    pub(super) fn leave(&mut self, actions: &mut Vec<Action>) {
        if !self.outstanding.keeping && !std::mem::replace(&mut self.outstanding.leaving, true) {
            let reason = self.ending().map(ToString::to_string);
            let tells_standing = self.settings.tells_standing;
            actions.push(Action::Store(Command::Leave { reason, tells_standing }));
        }
    }
}
