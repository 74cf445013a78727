//! Which tasks an account's process holds: it claims what is free, and goes by what the database says.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::account::{Account, Phase};
use super::calls::{Action, Told};
use super::outstanding::Comparing;
use super::task::Task;
use crate::platform::{Listed, read_record};
use crate::store::StoreError;
use crate::store::command::{Claimed, Command, DeadTask, Holding};

/// How often to ask for free tasks of which nobody has told.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often a task is worked again that the database says is still held: a database that forgets does so rarely, and one that
/// never lets the task go is to be told.
pub const MAX_RETAKEN: u8 = 2;
/// How often to compare what the database says is held here with what is in hand, when that is nothing.
pub(super) const COMPARE: Duration = Duration::from_secs(1);

impl Account {
    /// Takes free tasks while there are any and there is room.
    pub(super) fn claim(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let room = self.capacity().saturating_sub(self.ready.weight());
        if self.outstanding.claiming || self.is_comparing() || room < self.capacity() / 2 {
            return;
        }
        let due = self.outstanding.asked_at.map_or(now, |at| at + ASK_AGAIN);
        if !self.free_tasks && now < due {
            // A lone process knows of all free tasks.
            if self.others {
                self.due_at(due);
            }
            return;
        }
        // If it does not, it is told so when it means to close the run.
        if !self.free_tasks && !self.others {
            return;
        }
        (self.outstanding.claiming, self.outstanding.asked_at, self.free_tasks) = (true, Some(now), false);
        actions.push(Action::Store(Command::Claim(room)));
    }

    pub(super) fn on_claimed(&mut self, claimed: Result<Vec<Claimed>, StoreError>) {
        self.outstanding.claiming = false;
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => return self.failed(error),
        };
        self.free_tasks |= !claimed.is_empty();
        for task in claimed {
            if let Some(times) = self.retaken.get_mut(&task.id) {
                *times = times.saturating_add(1);
            }
            let invalid = match RawValue::from_string(task.payload).map(|raw| read_record(&raw)) {
                Ok(Listed::Valid(campaign)) if campaign.id == task.id => {
                    if self.phase == Phase::Working {
                        self.taken.remove(&campaign.id);
                        self.ready.push(Task::new(campaign, task.attempt));
                    }
                    continue;
                }
                Ok(Listed::Invalid(invalid)) => invalid.reason,
                Ok(Listed::Valid(_)) | Err(_) => "the stored record is not this campaign's".to_owned(),
            };
            let dead =
                DeadTask { id: task.id, attempt: task.attempt, cause: "invalid", reason: invalid, tries: 0 };
            self.results.dead.push(dead);
        }
    }

    /// Asks which tasks the database says are held here, when that was found to be worth it.
    pub(super) fn compare(&mut self, actions: &mut Vec<Action>) {
        if self.outstanding.comparing == Comparing::Wanted {
            self.outstanding.comparing = Comparing::Asked;
            actions.push(Action::Store(Command::Held));
        }
    }

    /// Whether all tasks that the run has left are this process's, as far as is known; finds out, if that may have changed.
    pub(super) fn holds_the_rest(&mut self, now: Instant) -> bool {
        if !self.others || self.outstanding.holds_the_rest {
            return true;
        }
        let due = self.outstanding.compared_at.is_none_or(|at| now >= at + COMPARE);
        if due && self.outstanding.comparing == Comparing::No {
            self.outstanding.compared_at = Some(now);
            self.outstanding.comparing = Comparing::Wanted;
        }
        false
    }

    /// Asks how many tasks the run has left.
    pub(super) fn count_tasks(&mut self, actions: &mut Vec<Action>) {
        if self.outstanding.comparing == Comparing::No {
            self.outstanding.comparing = Comparing::Asked;
            actions.push(Action::Store(Command::Held));
        }
    }

    pub(super) fn is_comparing(&self) -> bool {
        self.outstanding.comparing != Comparing::No
    }

    pub(super) fn on_held(&mut self, holding: Result<Holding, StoreError>, actions: &mut Vec<Action>) {
        self.outstanding.comparing = Comparing::No;
        match holding {
            Ok(mut holding) => {
                self.outstanding.holds_the_rest = holding.held.len() == holding.left;
                self.outstanding.left_tasks = i64::try_from(holding.left).ok();
                let (retaken, held) = (&self.retaken, holding.held.len());
                holding.held.retain(|(id, _)| retaken.get(id).is_none_or(|times| *times < MAX_RETAKEN));
                self.outstanding.stuck = holding.held.len() < held;
                if self.is_idle() && !holding.held.is_empty() && self.unstorable.0 == 0 {
                    let retaken = &mut self.retaken;
                    for (id, _) in &holding.held {
                        retaken.entry(id.clone()).or_default();
                    }
                    actions.push(Action::Tell(Told::Found(holding.held.len())));
                    self.unknown = holding.held;
                }
            }
            Err(error) => self.failed(error),
        }
    }

    /// Frees what this process holds without having it in hand.
    pub(super) fn release(&mut self, actions: &mut Vec<Action>) {
        let unknown = std::mem::take(&mut self.unknown);
        if !unknown.is_empty() && self.is_idle() {
            actions.push(Action::Store(Command::Release(unknown)));
        }
    }
}
