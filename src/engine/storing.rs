//! What goes into the database and when: lots of pages with what has come of them, results in batches, claims, the run's end.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::account::{Account, Phase};
use super::calls::{Action, Told};
use super::outstanding::{Comparing, Results};
use super::pages::{self, Lot};
use super::task::Task;
use crate::http::token::Turn;
use crate::platform::{Listed, read_record};
use crate::store::StoreError;
use crate::store::closing::Closing;
use crate::store::command::{Claimed, Command, Committed, DeadTask, Finished, Holding, Reply};
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
/// How often a task is worked again that the database says is still held: a database that forgets does so rarely, and one that
/// never lets the task go is to be told.
pub const MAX_RETAKEN: u8 = 2;
/// How often to compare what the database says is held here with what is in hand, when that is nothing.
const COMPARE: Duration = Duration::from_secs(1);

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
        if leaving && self.awaits_calls() {
            return;
        }
        let quiet = self.in_flight == 0 && self.ready.is_empty() && self.suspects.is_empty();
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
        self.seen.moves += 1;
        self.outstanding.lingers = None;
        self.outstanding.since.get_or_insert(now);
        actions.push(Action::Store(command));
    }

    /// Takes in what a committer has to tell.
    pub(super) fn on_stored(&mut self, reply: Reply, now: Instant, actions: &mut Vec<Action>) {
        match reply {
            Reply::Opened(opened) => {
                self.outstanding.opening = false;
                match opened {
                    Ok(opened) => self.opened(opened, now, actions),
                    Err(error) => {
                        self.end(Ending::from(error));
                        self.phase = Phase::Over;
                    }
                }
            }
            Reply::Elsewhere(elsewhere) => self.elsewhere(elsewhere),
            Reply::Listing(Ok(checkpoint)) => self.take_on(checkpoint, now),
            Reply::Committed(committed) => self.on_committed(committed, now, actions),
            Reply::Finished(finished) => self.on_finished(finished, now, actions),
            Reply::Claimed(claimed) => self.on_claimed(claimed),
            Reply::Held(held) => self.on_held(held, actions),
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
            Reply::Kept(kept) => {
                self.outstanding.keeping = false;
                match kept {
                    Ok(generation) => self.token.kept(generation),
                    Err(error) => self.failed(error),
                }
            }
            Reply::Sends(Ok(ages)) => {
                let order = self.limiter.sends(&ages, now);
                self.tell(order.into_iter().collect(), actions);
            }
            Reply::Left(Ok(left)) => self.has_left(left),
            Reply::Left(Err(error)) => {
                self.failed(error);
                self.phase = Phase::Over;
            }
            Reply::Abandoned(abandoned) => {
                if let Err(error) = abandoned {
                    return self.failed(error);
                }
                self.end_as_the_listing();
            }
            Reply::Listing(Err(error)) => {
                self.listing.leave();
                self.failed(error);
            }
            Reply::Released(Err(error)) => self.failed(error),
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
        if let Some(since) = self.outstanding.since.filter(|_| finished > 0) {
            let pace = finished as f64 / now.saturating_duration_since(since).as_secs_f64().max(0.001);
            self.pace = if self.pace == 0.0 { pace } else { self.pace.midpoint(pace) };
            self.outstanding.since = Some(now);
        }
    }

    fn on_finished(
        &mut self,
        finished: Result<Finished, StoreError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.commit_over(now);
        match finished {
            Ok(finished) => {
                self.others = finished.others;
                finished.refused.into_iter().for_each(|refused| self.refuse(refused, actions));
            }
            Err(error) => self.failed(error),
        }
    }

    /// This campaign can be stored neither as it is nor as a dead letter: its task, or its page, is left to the next run, and
    /// this part ends with the reason once all else is done.
    fn refuse(&mut self, (id, error): (String, String), actions: &mut Vec<Action>) {
        actions.push(Action::Tell(Told::Unstorable(id.clone(), error.clone())));
        self.unstorable.0 += 1;
        self.unstorable.1.get_or_insert((id, error));
    }

    /// Why campaigns are left to the next run, if some are.
    fn refusal(&self) -> Option<Ending> {
        let (id, error) = self.unstorable.1.as_ref()?;
        let others = match self.unstorable.0 - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(Ending::DatabaseRefused(format!(
            "campaign {id:?}{others} can be stored neither as a campaign nor as a dead letter: {error}; remove what refuses the row, then run again to resume"
        )))
    }

    fn on_committed(
        &mut self,
        committed: Result<Option<Committed>, StoreError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let lots = std::mem::take(&mut self.outstanding.lots);
        self.outstanding.results = lots.iter().map(Lot::finished).sum();
        self.commit_over(now);
        match committed {
            Ok(Some(committed)) => {
                self.others = committed.others;
                let pages = lots.iter().map(|lot| lot.pages).sum();
                committed.refused.into_iter().for_each(|refused| self.refuse(refused, actions));
                if committed.stands {
                    // What is behind these pages cannot be committed.
                    self.drop_pages();
                    self.listing.lose();
                } else if let Some(newest) = lots.last() {
                    let (last, total) = (newest.last, newest.total);
                    let shown = (pages, lots.iter().map(Lot::shown).sum());
                    self.look_for_the_end(shown, committed.new, (last, total), now, actions);
                }
                let unstored: HashSet<String> = committed.unstored.into_iter().collect();
                let taken: HashMap<String, i32> = committed.taken.into_iter().collect();
                for lot in lots {
                    self.free_tasks |= lot.records.len() > lot.held;
                    for (place, record) in lot.records.iter().enumerate() {
                        if lot.is_synced(place) && unstored.contains(&record.campaign.id) {
                            let attempt = taken.get(&record.campaign.id).copied().unwrap_or(1);
                            self.results.synced.push((record.campaign.clone(), attempt));
                        }
                    }
                    if !lot.handed_out && self.phase == Phase::Working {
                        let held = lot.records.into_iter().take(lot.held);
                        held.filter(|record| !committed.left_out.contains(&record.campaign.id)).for_each(
                            |record| {
                                let attempt = taken.get(&record.campaign.id).copied().unwrap_or(1);
                                self.ready.push(Task::new(record.campaign, attempt));
                            },
                        );
                    } else {
                        // These are in hand under the number of a new task, or have come to something meanwhile.
                        for record in lot.records.into_iter().take(lot.held) {
                            let Some(attempt) = taken.get(&record.campaign.id) else { continue };
                            if !self.results.renumber(&record.campaign.id, *attempt) {
                                self.taken.insert(record.campaign.id.clone(), *attempt);
                            }
                        }
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

    fn on_claimed(&mut self, claimed: Result<Vec<Claimed>, StoreError>) {
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

    fn on_closed(&mut self, closed: Result<Closing, StoreError>, now: Instant) {
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

    /// The listing cannot be brought to its end, and all else is done.
    fn end_as_the_listing(&mut self) {
        if let Some(ending) = self.listing.broken().cloned() {
            self.end(ending);
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

    /// Asks how many tasks the run has left.
    pub(super) fn count_tasks(&mut self, actions: &mut Vec<Action>) {
        if self.outstanding.comparing == Comparing::No {
            self.outstanding.comparing = Comparing::Asked;
            actions.push(Action::Store(Command::Held));
        }
    }

    fn is_comparing(&self) -> bool {
        self.outstanding.comparing != Comparing::No
    }

    fn on_held(&mut self, holding: Result<Holding, StoreError>, actions: &mut Vec<Action>) {
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

    fn on_token_turn(&mut self, turn: Result<(Turn, u64), StoreError>, now: Instant) {
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
