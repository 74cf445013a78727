//! What goes into the database and when: lots of pages with what has come of them, results in batches, claims, the run's end.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::account::{Account, Phase};
use super::calls::{Action, Told};
use super::outstanding::Results;
use super::pages::{self, Lot};
use super::task::Task;
use crate::http::RateLimit;
use crate::store::StoreError;
use crate::store::command::{Command, Committed, DeadTask, Finished, Reply};
use crate::sync::Ending;

/// What can be committed waits at most this much longer for more. Under a rate limit that is a twentieth of the window, within
/// these bounds: results come in a burst for each window then.
const LINGER: RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_millis(200);
/// Records that are committed without waiting for more.
const ENOUGH: usize = 1_000;

fn linger_under(limit: RateLimit) -> Duration {
    (limit.window / 20).clamp(*LINGER.start(), *LINGER.end())
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
        let until = lingers + self.limiter.limit().map_or(*LINGER.start(), linger_under);
        if !leaving && !quiet && !enough && !self.others && now < until {
            self.due_at(until);
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
            Reply::Told(Ok(())) => self.limiter.told(),
            Reply::Told(Err(_)) | Reply::Sends(Err(_)) => {}
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
    pub(super) fn failed(&mut self, error: StoreError) {
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
    pub(super) fn refusal(&self) -> Option<Ending> {
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
}
