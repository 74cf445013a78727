//! Tasks in hand, and the queue of those that are not in flight.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::platform::Campaign;

/// A task that this process holds.
#[derive(Clone, Debug)]
pub struct Task {
    /// The campaign to sync.
    pub campaign: Arc<Campaign>,
    /// The fencing token.
    pub attempt: i32,
    /// What became of earlier tries.
    pub history: History,
    /// The lot of pages that shows it, when it was handed out before the lot is committed, and its place there.
    pub origin: Option<(u64, usize)>,
}

/// What became of earlier tries at a campaign, by this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Tries that failed, since the API was last down.
    pub tries: u32,
    /// When the first of them failed.
    pub first_failed: Option<Instant>,
    /// When the listing was seen to answer, after the first of them.
    pub listing_answered: Option<Instant>,
    /// How often the API had recovered when the last one failed.
    pub recoveries: u64,
    /// 401s in a row.
    pub unauthorized: u32,
}

impl Task {
    /// A task that was not tried yet.
    #[must_use]
    pub fn new(campaign: Arc<Campaign>, attempt: i32) -> Self {
        Self { campaign, attempt, history: History::default(), origin: None }
    }
}

/// Tasks that wait: fresh ones in the order of the listing, failed ones until their time has come.
#[derive(Debug, Default)]
pub struct ReadyQueue {
    fresh: VecDeque<Task>,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    waiting: BTreeMap<u64, Task>,
    next: u64,
    weight: usize,
    fresh_is_next: bool,
}

impl ReadyQueue {
    /// What the records of its tasks count for.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// How many tasks are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fresh.len() + self.waiting.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a fresh task behind all others.
    pub fn push(&mut self, task: Task) {
        self.weight += task.campaign.weight();
        self.fresh.push_back(task);
    }

    /// Puts a task back in front.
    pub fn put_back(&mut self, task: Task) {
        self.weight += task.campaign.weight();
        self.fresh.push_front(task);
    }

    /// Keeps a task until `at`.
    pub fn push_later(&mut self, task: Task, at: Instant) {
        self.weight += task.campaign.weight();
        self.due.push(Reverse((at, self.next)));
        self.waiting.insert(self.next, task);
        self.next += 1;
    }

    /// How many can be tried now.
    #[must_use]
    pub fn ready(&self, now: Instant) -> usize {
        self.fresh.len() + usize::from(self.next_due().is_some_and(|at| at <= now))
    }

    /// The next task that can be tried now: one whose time has come and a fresh one by turns. Under a slow limit those that fail
    /// again and again would keep all others from being tried, else.
    pub fn pop(&mut self, now: Instant) -> Option<Task> {
        let fresh_first = std::mem::take(&mut self.fresh_is_next) && !self.fresh.is_empty();
        while let Some(Reverse((at, number))) = self.due.peek().copied().filter(|_| !fresh_first) {
            if at > now {
                break;
            }
            self.due.pop();
            self.fresh_is_next = true;
            if let Some(task) = self.waiting.remove(&number) {
                self.weight -= task.campaign.weight();
                return Some(task);
            }
        }
        let task = self.fresh.pop_front()?;
        self.weight -= task.campaign.weight();
        Some(task)
    }

    /// When the next waiting task is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Drops the tasks for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&Task) -> bool) {
        self.fresh.retain(&keep);
        self.waiting.retain(|_, task| keep(task));
        let waiting = &self.waiting;
        self.due.retain(|Reverse((_, number))| waiting.contains_key(number));
        self.weight = self.iter().map(|task| task.campaign.weight()).sum();
    }

    /// All tasks, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Task> {
        self.fresh.iter().chain(self.waiting.values())
    }
}
