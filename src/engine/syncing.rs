//! Syncing campaigns: which tasks go to a worker and when, and what becomes of them after an attempt.

use std::time::{Duration, Instant};

use super::account::{Account, Phase};
use super::calls::{Action, Answer, Call, Room};
use super::judge::{self, Decision, Evidence};
use super::task::Task;
use crate::platform::CallError;
use crate::rate::breaker::Lane;
use crate::rate::concurrency::Load;

/// A burst is about this much work: handing it over costs nothing then, and nobody waits for long.
const BURST: Duration = Duration::from_millis(5);
/// The most campaigns of one burst.
const MAX_BURST: usize = 64;
/// At most this many tasks may be judged by the listing's answer alone.
const FEW: u64 = 10;

impl Account {
    /// Gives bursts of tasks to workers, each at the moment when its requests may be sent.
    pub(super) fn sync(&mut self, now: Instant, room: &mut Room, actions: &mut Vec<Action>) {
        while room.workers > 0 && self.in_flight < self.concurrency.limit() {
            let ready = self.ready.ready(now);
            if ready == 0 {
                break;
            }
            let Some(token) = self.token_to_send(now, room, actions) else { break };
            let free = room.workers.min(self.concurrency.limit() - self.in_flight);
            let burst =
                if self.health.is_open(Lane::Sync) { 1 } else { self.burst().min(ready.div_ceil(free)) };
            let turns = self.turn(burst, now, actions);
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
            room.workers -= 1;
            let until = self.limiter.good_until();
            actions.push(Action::Call(Call::Sync { token, tasks, until }));
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
        generation: u64,
        done: Vec<(Task, Answer, Result<(), CallError>)>,
        unsent: Vec<Task>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        for (mut task, answer, result) in done {
            self.observe(&answer, actions);
            self.tasks_in_flight.remove(&task.campaign.id);
            let load = match &result {
                Ok(()) => Load::Fine(answer.latency()),
                Err(CallError::Retry { cause, .. }) if cause.is_overload() => Load::Overload,
                Err(_) => Load::Neutral,
            };
            self.concurrency.observe(load, answer.sent_at, now);
            let token_never_accepted = match &result {
                Ok(()) | Err(CallError::Refused { .. }) => {
                    self.token.accepted(generation);
                    self.health.success(Lane::Sync, answer.sent_at);
                    false
                }
                Err(CallError::Unauthorized) => self.token.refused(generation),
                Err(CallError::RateLimited { .. }) => {
                    self.health.refused(now);
                    false
                }
                Err(CallError::Shortage(shortage)) => {
                    self.listing.last_failure = Some(shortage.to_string());
                    self.health.hampered(now);
                    false
                }
                Err(CallError::Retry { message, .. }) => {
                    self.listing.last_failure = Some(message.clone());
                    self.health.failure(Lane::Sync, now);
                    false
                }
            };
            let evidence = Evidence {
                recoveries: self.health.recoveries(Lane::Sync),
                newest_success: self.health.newest_success(Lane::Sync),
                token_never_accepted,
                jitter: self.jitter(),
            };
            let decision = judge::judge(&result, &mut task.history, &evidence, &self.settings.policy, now);
            if matches!(decision, Decision::Again(_)) && self.fails_alone(&task, answer.sent_at) {
                let reason = format!("failed {} times, while the listing answers", task.history.tries);
                self.dead(task, "failing", reason);
                continue;
            }
            self.carry_out(decision, task, now);
        }
        for task in unsent.into_iter().rev() {
            self.tasks_in_flight.remove(&task.campaign.id);
            self.put_back(task);
        }
    }

    pub(super) fn carry_out(&mut self, decision: Decision, task: Task, now: Instant) {
        match decision {
            Decision::Done => self.synced(task),
            Decision::WhenGateOpens | Decision::WithFreshToken => self.put_back(task),
            Decision::Again(_) | Decision::WhenAble(_) => {
                let wait = match decision {
                    Decision::Again(wait) => wait + self.health.spend_retry(),
                    _ => judge::SHORTAGE,
                };
                if self.is_wanted(&task) {
                    self.ready.push_later(task, now + wait);
                }
            }
            Decision::DeadLetter(cause, reason) => self.dead(task, cause, reason),
            Decision::Stop(ending) => {
                self.put_back(task);
                self.end(ending);
            }
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

    /// Tasks that fail and fail, with no other one going well since, may be judged all the same if the listing answers: the
    /// last few of a run have no others, and those of `retry` were judged before.
    pub(super) fn probe(&mut self, now: Instant, room: &mut Room, actions: &mut Vec<Action>) {
        let few = self.ready.len() as u64 <= (self.health.successes(Lane::Sync) / 20).max(FEW);
        let lists = self.run.as_ref().is_some_and(|run| run.lists);
        let max_attempts = self.settings.policy.max_attempts;
        if self.probing
            || !self.listing.done
            || self.in_flight > 0
            || (!few && lists)
            || room.workers == 0
            || !self.ready.iter().any(|task| {
                let answered = self.listing_answered;
                task.history.tries >= max_attempts
                    && answered.is_none_or(|at| Some(at) < task.history.first_failed)
            })
            || !self.holds_the_rest(now)
        {
            return;
        }
        let Some(token) = self.token_to_send(now, room, actions) else { return };
        if room.workers == 0 || self.turn(1, now, actions) == 0 {
            return;
        }
        self.limiter.take(1, now);
        (self.probing, self.listing.fetching) = (true, true);
        room.workers -= 1;
        let page_size = self.settings.opening.page_size;
        let until = self.limiter.good_until();
        actions.push(Action::Call(Call::Pages { token, page: 1, page_size, most: 1, until }));
    }

    /// What the listing answered when it was asked as a sign of life; false when it was not asked for that.
    pub(super) fn probed(&mut self, answers: bool, sent_at: Instant) -> bool {
        let probed = std::mem::take(&mut self.probing);
        if probed && answers {
            self.listing_answered = Some(sent_at);
        }
        probed
    }

    /// Whether a task that has failed again fails for a reason of its own: the listing has answered between its attempts.
    fn fails_alone(&self, task: &Task, sent_at: Instant) -> bool {
        let history = &task.history;
        history.tries > self.settings.policy.max_attempts
            && self
                .listing_answered
                .is_some_and(|at| history.first_failed.is_some_and(|first| first < at) && at < sent_at)
    }
}
