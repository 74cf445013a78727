//! Syncing campaigns: which tasks go to a worker and when, and what becomes of them after an attempt.

use std::time::{Duration, Instant};

use super::account::{Account, Phase};
use super::attempt::{Attempt, Suspect};
use super::calls::{Action, Answer, Asked, Call, Room};
use super::task::{History, Task};
use crate::platform::CallError;
use crate::rate::breaker::Lane;
use crate::rate::concurrency::Load;
use crate::rate::limiter::Permit;
use crate::sync::decision::{self, Decision, Proof};

/// A burst is about this much work: handing it over costs nothing then, and nobody waits for long.
const BURST: Duration = Duration::from_millis(5);
/// The most campaigns of one burst.
const MAX_BURST: usize = 64;
/// At most this many tasks may be judged by the listing's answer alone.
const FEW: u64 = 10;

impl Account {
    /// Gives bursts of tasks to workers, each at the moment when its requests may be sent.
    pub(super) fn sync(&mut self, now: Instant, room: &mut Room, actions: &mut Vec<Action>) {
        // Without a heartbeat for the time of a lease, they may be others' by now: the next one tells.
        while room.workers > 0 && self.in_flight < self.concurrency.limit() && self.holds_its_tasks(now) {
            let ready = self.ready.ready(now);
            if ready == 0 {
                break;
            }
            let Some(token) = self.token_to_send(now, room, actions) else { break };
            let free = room.workers.min(self.concurrency.limit() - self.in_flight);
            let burst =
                if self.health.is_open(Lane::Sync) { 1 } else { self.burst().min(ready.div_ceil(free)) };
            let others = ready.saturating_sub(burst).min(free * burst - burst);
            let turns = self.turn(burst, others, now, actions);
            if turns == 0 || self.phase != Phase::Working {
                break;
            }
            let tasks = self.take_tasks(turns, now);
            if tasks.is_empty() {
                break;
            }
            self.limiter.take(u32::try_from(tasks.len()).unwrap_or(u32::MAX), now);
            self.tasks_in_flight.extend(tasks.iter().map(|task| task.campaign.id.clone()));
            self.in_flight += 1;
            self.seen.moves += 1;
            room.workers -= 1;
            let permit = self.limiter.permit();
            actions.push(Action::Call(Call::Sync { token, tasks, permit }));
        }
        if let Some(due) = self.ready.next_due() {
            self.due_at(due);
        }
    }

    /// Campaigns that make about 5 ms of work.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn burst(&self) -> usize {
        let Some(latency) = self.concurrency.mean_latency() else { return 1 };
        let fit = BURST.as_secs_f64() / latency.as_secs_f64().max(1e-6);
        (fit as usize).clamp(1, MAX_BURST)
    }

    /// Up to this many tasks that may be tried now. A task that others' success speaks against needs no breaker.
    pub(super) fn take_tasks(&mut self, most: usize, now: Instant) -> Vec<Task> {
        let mut tasks = Vec::new();
        while tasks.len() < most
            && let Some(task) = self.ready.pop(now)
        {
            let proven = task
                .history
                .first_failed
                .is_some_and(|failed| self.health.succeeded_since(Lane::Sync, failed));
            if !proven && let Err(at) = self.health.admit(Lane::Sync, now) {
                self.ready.push_later(task, at);
                break;
            }
            tasks.push(task);
        }
        tasks
    }

    pub(super) fn on_synced(
        &mut self,
        (generation, permit): (u64, Option<Permit>),
        done: Vec<(Task, Answer, Result<(), CallError>)>,
        unsent: Vec<Task>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        for (task, answer, result) in done {
            self.observe(&answer, permit, actions);
            self.tasks_in_flight.remove(&task.campaign.id);
            let load = match &result {
                Ok(()) => Load::Fine(answer.latency()),
                Err(CallError::Retry { cause, .. }) if cause.is_overload() => Load::Overload,
                // Fewer requests at once need less of it.
                Err(CallError::Shortage(_)) => Load::Overload,
                Err(_) => Load::Neutral,
            };
            self.concurrency.observe(load, answer.sent_at, now);
            match result {
                Ok(()) => {
                    self.succeeded(Lane::Sync, generation, answer.sent_at, now, actions);
                    self.synced(task);
                }
                Err(error) => self.not_synced(task, (generation, answer, error), now, actions),
            }
        }
        self.limiter.untake(permit, u32::try_from(unsent.len()).unwrap_or(0), now);
        for task in unsent.into_iter().rev() {
            self.tasks_in_flight.remove(&task.campaign.id);
            self.put_back(task);
        }
    }

    /// An attempt at a campaign has failed: its history, and what can prove whose fault that is.
    fn not_synced(
        &mut self,
        mut task: Task,
        (generation, answer, error): (u64, Answer, CallError),
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let failed = matches!(error, CallError::Retry { .. });
        let asked = Asked::Campaign(task.campaign.clone());
        let (number, generation) = (task.history.tries + 1, Some(generation));
        let mut attempt = Attempt { asked, number, generation, answer, error };
        if failed && self.is_abandoned() {
            let history = decision::History { abandoned: true, ..decision::History::default() };
            let _left = self.conclude(attempt, &history, now, actions);
            return self.put_back(task);
        }
        let recoveries = self.health.recoveries(Lane::Sync);
        if failed && task.history.recoveries != recoveries {
            // The API was down in between: what failed then says nothing of the campaign.
            task.history = History { recoveries, ..History::default() };
        }
        attempt.number = task.history.tries + 1;
        let unauthorized = if failed { 0 } else { task.history.unauthorized };
        let mut history =
            decision::History { failures: task.history.tries, unauthorized, ..decision::History::default() };
        self.note(&attempt, &mut history, now, actions);
        (task.history.tries, task.history.unauthorized) = (history.failures, history.unauthorized);
        if failed {
            let first_failed = *task.history.first_failed.get_or_insert(now);
            if self.health.succeeded_since(Lane::List, first_failed) {
                task.history.listing_answered.get_or_insert(now);
            }
            if self.health.succeeded_since(Lane::Sync, first_failed) {
                history.proof = Some(Proof::Others);
            } else if task.history.tries + 1 >= self.settings.patience.max_attempts
                && history.given_up.is_none()
                && self.may_ask_the_listing(now)
            {
                self.suspects.push(Suspect { task, attempt, history });
                return;
            }
        }
        self.settle(task, attempt, &history, now, actions);
    }

    fn settle(
        &mut self,
        task: Task,
        attempt: Attempt,
        history: &decision::History,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match self.conclude(attempt, history, now, actions) {
            Decision::Done => self.synced(task),
            Decision::WhenGateOpens | Decision::WithFreshToken => self.put_back(task),
            Decision::Again(wait, _) => {
                if self.is_wanted(&task) {
                    self.ready.push_later(task, now + wait);
                }
            }
            Decision::DeadLetter { cause, reason } => self.dead(task, cause, reason),
            // It is free again as soon as this process leaves.
            Decision::PageGone | Decision::Left | Decision::Stop(_) => self.put_back(task),
        }
    }

    pub(super) fn put_back(&mut self, task: Task) {
        if self.is_wanted(&task) {
            self.ready.put_back(task);
        }
    }

    /// Whether anybody wants to know what becomes of it: not when its lot was dropped.
    pub(super) fn is_wanted(&self, task: &Task) -> bool {
        !task.origin.is_some_and(|(number, _)| self.doomed_lots.iter().any(|lots| lots.contains(&number)))
    }

    /// Whether those that are left to this process are so few, or were judged before, that no other campaign may ever prove
    /// that one fails for a reason of its own: the listing has to.
    fn may_ask_the_listing(&mut self, now: Instant) -> bool {
        let remaining = self.ready.len() + self.suspects.len() + self.tasks_in_flight.len() + 1;
        let few = remaining as u64 <= (self.health.successes(Lane::Sync) / 20).max(FEW);
        let lists = self.run.as_ref().is_some_and(|run| run.lists);
        self.phase == Phase::Working && self.listing.done && (few || !lists) && self.holds_the_rest(now)
    }

    /// Asks the listing for a sign of life, for the sake of the tasks that wait for one.
    pub(super) fn probe(&mut self, now: Instant, room: &mut Room, actions: &mut Vec<Action>) {
        if self.probing || self.listing.fetching || self.suspects.is_empty() || room.workers == 0 {
            return;
        }
        let Some(token) = self.token_to_send(now, room, actions) else { return };
        if room.workers == 0 || self.turn(1, 0, now, actions) == 0 || self.phase != Phase::Working {
            return;
        }
        self.limiter.take(1, now);
        (self.probing, self.listing.fetching) = (true, true);
        room.workers -= 1;
        let page_size = self.settings.opening.page_size;
        let permit = self.limiter.permit();
        actions.push(Action::Call(Call::Pages { token, page: 1, page_size, most: 1, attempt: 1, permit }));
    }

    /// Whether the listing was asked as a sign of life; then those that wait for it are judged by what it has answered.
    pub(super) fn probed(&mut self, answers: bool, now: Instant, actions: &mut Vec<Action>) -> bool {
        let probed = std::mem::take(&mut self.probing);
        if probed {
            for Suspect { mut task, attempt, mut history } in std::mem::take(&mut self.suspects) {
                // An API that was down until now answers as well: it has to have answered before the campaign failed, too.
                let before = task.history.listing_answered.is_some_and(|at| at <= attempt.answer.sent_at);
                let only_once = self.settings.patience.max_attempts == 1;
                history.proof = (answers && (before || only_once)).then_some(Proof::Listing);
                task.history.listing_answered = answers.then_some(now);
                self.settle(task, attempt, &history, now, actions);
            }
        }
        probed
    }

    /// The listing will not be asked any more.
    pub(super) fn acquit(&mut self) {
        for Suspect { task, .. } in std::mem::take(&mut self.suspects) {
            self.put_back(task);
        }
    }
}
