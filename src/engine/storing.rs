//! What goes into the database and when: lots of pages with what has come of them, results in batches, claims, the run's end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::account::{Account, Phase};
use super::calls::Action;
use super::pages::{self, Lot};
use super::task::Task;
use crate::http::token::Turn;
use crate::platform::{Campaign, Listed, read_record};
use crate::store::StoreError;
use crate::store::closing::Closing;
use crate::store::command::{Claimed, Command, Committed, DeadTask, Holding, Reply};
use crate::sync::Ending;

/// What can be committed waits at most this much longer for more.
const LINGER: Duration = Duration::from_millis(20);
/// Records that are committed without waiting for more.
const ENOUGH: usize = 1_000;
/// How often to ask for free tasks of which nobody has told.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often to look whether others have come to the end, when nothing is in hand: the pause doubles from the first to the second,
/// and begins anew when they are near it.
const LOOK_FOR_THE_END: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// How often to compare what the database says is held here with what is in hand, when that is nothing.
const COMPARE: Duration = Duration::from_secs(1);

/// What has come of tasks whose lots are committed.
#[derive(Debug, Default)]
pub struct Results {
    synced: Vec<(Arc<Campaign>, i32)>,
    dead: Vec<DeadTask>,
}

impl Results {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.synced.len() + self.dead.len()
    }
}

/// Whether what the database says is held here is compared with what is in hand: nothing is claimed or closed meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Comparing {
    #[default]
    No,
    Wanted,
    Asked,
}

/// Commands that are being carried out.
#[derive(Debug, Default)]
pub struct Outstanding {
    /// The run is being opened.
    pub opening: bool,
    /// Lots or results are being committed.
    pub committing: bool,
    /// What the records of those lots count for.
    pub weight: usize,
    /// Free tasks are being claimed.
    pub claiming: bool,
    lots: Vec<Lot>,
    results: usize,
    since: Option<Instant>,
    /// Since when something can be committed.
    lingers: Option<Instant>,
    asked_at: Option<Instant>,
    closing: bool,
    looks_at: Option<Instant>,
    pause: Duration,
    /// Others had little left when they were looked at last.
    near: bool,
    comparing: Comparing,
    compared_at: Option<Instant>,
    /// All tasks that the run had left when it was looked at last were this process's.
    holds_the_rest: bool,
    leaving: bool,
}

impl Account {
    /// A task is synced: with its lot, when that waits for its commit.
    pub(super) fn synced(&mut self, task: Task) {
        if self.is_wanted(&task) && !task.origin.is_some_and(|origin| self.pages.synced(origin)) {
            let attempt = self.taken.remove(&task.campaign.id).unwrap_or(task.attempt);
            self.results.synced.push((task.campaign, attempt));
        }
    }

    /// A task has failed permanently.
    pub(super) fn dead(&mut self, task: Task, cause: &'static str, reason: String) {
        if !self.is_wanted(&task) {
            return;
        }
        let tries = i32::try_from(task.history.tries.max(1)).unwrap_or(i32::MAX);
        let dead = DeadTask { id: task.campaign.id.clone(), attempt: task.attempt, cause, reason, tries };
        let dead = match task.origin {
            Some(origin) => self.pages.dead(origin, dead),
            None => Err(dead),
        };
        if let Err(mut dead) = dead {
            dead.attempt = self.taken.remove(&dead.id).unwrap_or(dead.attempt);
            self.results.dead.push(dead);
        }
    }

    /// Commits the lots whose time has come, else results, one commit at a time.
    pub(super) fn commit(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.outstanding.committing {
            return;
        }
        let leaving = self.phase == Phase::Stopping;
        if leaving && (self.in_flight > 0 || self.listing.fetching) {
            return;
        }
        let quiet = self.in_flight == 0 && self.ready.is_empty();
        let enough = self.results.len() + self.pages.weight() >= ENOUGH;
        let lots_wait = self.pages.ready_at().is_some();
        if !lots_wait && self.results.is_empty() {
            self.outstanding.lingers = None;
            return;
        }
        let lingers = *self.outstanding.lingers.get_or_insert(now);
        if !leaving && !quiet && !enough && !self.others && now < lingers + LINGER {
            self.due_at(lingers + LINGER);
            return;
        }
        let lots = self.pages.take_ready(leaving || self.others, now);
        if let Some(mut rows) = pages::rows(&lots, leaving) {
            rows.after_another = self.listing.is_after_another();
            self.outstanding.weight = lots.iter().map(Lot::weight).sum();
            self.outstanding.lots = lots;
            self.begin_commit(Command::CommitPages(rows), now, actions);
        } else if !self.results.is_empty() {
            self.outstanding.results = self.results.len();
            let (synced, dead) =
                (std::mem::take(&mut self.results.synced), std::mem::take(&mut self.results.dead));
            self.begin_commit(Command::Finish { synced, dead }, now, actions);
        } else if let Some(at) = self.pages.ready_at() {
            self.due_at(at);
        }
    }

    fn begin_commit(&mut self, command: Command, now: Instant, actions: &mut Vec<Action>) {
        self.outstanding.committing = true;
        (self.outstanding.lingers, self.outstanding.since) = (None, Some(now));
        actions.push(Action::Store(command));
    }

    /// Takes in what a committer has to tell.
    pub(super) fn on_stored(&mut self, reply: Reply, now: Instant, actions: &mut Vec<Action>) {
        match reply {
            Reply::Opened(opened) => {
                self.outstanding.opening = false;
                match opened {
                    Ok(opened) => self.opened(opened, now),
                    Err(error) => {
                        self.end(Ending::from(error));
                        self.phase = Phase::Over;
                    }
                }
            }
            Reply::Listing(Ok(checkpoint)) => self.listing.take(checkpoint),
            Reply::Committed(committed) => self.on_committed(committed, now),
            Reply::Finished(finished) => {
                self.commit_over(now);
                match finished {
                    Ok(finished) => self.others = finished.others,
                    Err(error) => self.failed(error),
                }
            }
            Reply::Claimed(claimed) => self.on_claimed(claimed),
            Reply::Held(held) => self.on_held(held),
            Reply::Released(Ok(freed)) => self.free_tasks |= freed > 0,
            Reply::Reserved(Ok(grant)) => self.limiter.granted(grant, now),
            Reply::Reserved(Err(error)) => {
                self.limiter.not_granted(now);
                self.failed(error);
            }
            Reply::TokenTurn(turn) => self.on_token_turn(turn, now),
            Reply::Closed(closed) => self.on_closed(closed, now),
            // What was seen is known to this process at least.
            Reply::Told(_) | Reply::Sends(Err(_)) => {}
            Reply::Sends(Ok(ages)) => {
                let order = self.limiter.sends(&ages, now);
                self.tell(order.into_iter().collect(), actions);
            }
            Reply::Left(Ok(left)) => self.has_left(left),
            Reply::Left(Err(error)) => {
                self.failed(error);
                self.phase = Phase::Over;
            }
            Reply::Listing(Err(error)) | Reply::Released(Err(error)) => {
                self.listing.take(None);
                self.failed(error);
            }
        }
    }

    /// The database cannot or will not: this process's part ends, and what is not committed is done again by the next run.
    fn failed(&mut self, error: StoreError) {
        self.end(Ending::from(error));
        self.drop_pages();
        self.results = Results::default();
    }

    #[allow(clippy::cast_precision_loss)]
    fn commit_over(&mut self, now: Instant) {
        self.outstanding.committing = false;
        self.outstanding.weight = 0;
        let finished = std::mem::take(&mut self.outstanding.results);
        if let Some(since) = self.outstanding.since.take()
            && finished > 0
        {
            let pace = finished as f64 / now.saturating_duration_since(since).as_secs_f64().max(0.001);
            self.pace = if self.pace == 0.0 { pace } else { self.pace.midpoint(pace) };
        }
    }

    fn on_committed(&mut self, committed: Result<Option<Committed>, StoreError>, now: Instant) {
        let lots = std::mem::take(&mut self.outstanding.lots);
        self.outstanding.results = lots.iter().map(|lot| lot.records.len()).sum();
        self.commit_over(now);
        match committed {
            Ok(Some(committed)) => {
                self.others = committed.others;
                let pages = lots.iter().map(|lot| lot.pages).sum();
                if let Some(newest) = lots.last() {
                    self.look_for_the_end(pages, committed.new, newest.last, newest.total);
                }
                let taken: HashMap<String, i32> = committed.taken.into_iter().collect();
                for lot in lots {
                    self.free_tasks |= lot.records.len() > lot.held;
                    if !lot.handed_out && self.phase == Phase::Working {
                        let held = lot.records.into_iter().take(lot.held);
                        held.filter(|record| !committed.left_out.contains(&record.campaign.id)).for_each(
                            |record| {
                                let attempt = taken.get(&record.campaign.id).copied().unwrap_or(1);
                                self.ready.push(Task::new(record.campaign, attempt));
                            },
                        );
                    } else {
                        // These are in hand under the number of a new task.
                        let ids =
                            lot.records.into_iter().take(lot.held).map(|record| record.campaign.id.clone());
                        self.taken.extend(ids.filter_map(|id| Some((id.clone(), *taken.get(&id)?))));
                    }
                }
            }
            Ok(None) => {
                // The listing is somebody else's, or the database has forgotten: it knows where to go on.
                self.doom(lots.iter().map(|lot| lot.number).collect());
                self.drop_pages();
                self.listing.lose();
            }
            Err(error) => {
                self.doom(lots.iter().map(|lot| lot.number).collect());
                self.failed(error);
            }
        }
    }

    /// Forgets lots that will not be committed, with their tasks.
    pub(super) fn drop_pages(&mut self) {
        let numbers = self.pages.drop_all();
        self.doom(numbers);
    }

    fn doom(&mut self, numbers: Vec<u64>) {
        let (Some(first), Some(last)) = (numbers.first().copied(), numbers.last().copied()) else { return };
        let dropped = |task: &Task| task.origin.is_some_and(|(number, _)| (first..=last).contains(&number));
        self.ready.retain(|task| !dropped(task));
        self.doomed_lots.push(first..=last);
    }

    /// Takes free tasks while there are any and there is room.
    pub(super) fn claim(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let room = self.capacity().saturating_sub(self.ready.len());
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
        if !self.free_tasks && !self.others && self.outstanding.asked_at.is_some() {
            return;
        }
        if !self.free_tasks && !self.others && !self.listing.done {
            return;
        }
        (self.outstanding.claiming, self.outstanding.asked_at, self.free_tasks) = (true, Some(now), false);
        actions.push(Action::Store(Command::Claim(room)));
    }

    fn on_claimed(&mut self, claimed: Result<Vec<Claimed>, StoreError>) {
        self.outstanding.claiming = false;
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => return self.failed(error),
        };
        self.free_tasks |= !claimed.is_empty();
        for task in claimed {
            let invalid = match RawValue::from_string(task.payload).map(|raw| read_record(&raw)) {
                Ok(Listed::Valid(campaign)) if campaign.id == task.id => {
                    if self.phase == Phase::Working {
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

    /// Closes the run when all of it is done.
    pub(super) fn close(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.is_idle() || self.outstanding.closing || self.is_comparing() {
            return;
        }
        if let Some(reason) = self.listing.broken() {
            if !self.free_tasks {
                let reason = reason.to_owned();
                self.end(Ending::Listing(reason));
            }
            return;
        }
        if !self.listing.done {
            return;
        }
        if let Some(at) = self.outstanding.looks_at.filter(|at| now < *at) {
            self.due_at(at);
            return;
        }
        self.outstanding.closing = true;
        let max_removed = self.settings.max_removed;
        actions.push(Action::Store(Command::Close { max_removed }));
    }

    fn on_closed(&mut self, closed: Result<Closing, StoreError>, now: Instant) {
        self.outstanding.closing = false;
        match closed {
            Ok(Closing::Closed(not_removed)) => {
                self.not_removed = not_removed;
                self.finish();
            }
            Ok(Closing::Over) => self.finish(),
            Ok(Closing::Open { near }) => {
                let begins = near && !self.outstanding.near;
                let pause = if begins { LOOK_FOR_THE_END.0 } else { self.outstanding.pause * 2 };
                self.outstanding.pause = pause.clamp(LOOK_FOR_THE_END.0, LOOK_FOR_THE_END.1);
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

    fn finish(&mut self) {
        if self.phase == Phase::Working {
            self.phase = Phase::Leaving;
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

    fn is_comparing(&self) -> bool {
        self.outstanding.comparing != Comparing::No
    }

    fn on_held(&mut self, holding: Result<Holding, StoreError>) {
        self.outstanding.comparing = Comparing::No;
        match holding {
            Ok(holding) => {
                self.outstanding.holds_the_rest = holding.held.len() == holding.left;
                if self.is_idle() {
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

    fn on_token_turn(&mut self, turn: Result<Turn, StoreError>, now: Instant) {
        self.token.pending = false;
        match turn {
            Ok(Turn::Use(kept)) => self.token.shared(&kept, now),
            Ok(Turn::Fetch) => self.token.my_turn = true,
            Ok(Turn::Wait(wait)) => self.token.not_before = Some(now + wait),
            Err(error) => self.failed(error),
        }
    }

    /// Leaves when nothing is in flight and all is committed.
    pub(super) fn stop(&mut self, _actions: &mut [Action]) {
        let waits = self.in_flight > 0
            || self.listing.fetching
            || self.token.pending
            || self.outstanding.committing
            || self.outstanding.claiming
            || !self.pages.is_empty()
            || !self.results.is_empty();
        if !waits {
            self.phase = Phase::Leaving;
        }
    }

    pub(super) fn leave(&mut self, actions: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.outstanding.leaving, true) {
            let reason = self.ending().map(ToString::to_string);
            actions.push(Action::Store(Command::Leave { reason }));
        }
    }
}
