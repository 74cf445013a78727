//! The tasks that this process holds and has not begun: fresh ones in order, failed ones until their time has come.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::hand::Grip;
use super::pages::{Fate, Origin};
use super::trace::CampaignSpan;
use crate::http::Clock;
use crate::http::lock::lock;
use crate::platform::Campaign;

/// A held task on its way through this process.
#[derive(Debug)]
pub(super) struct Work {
    /// The campaign to sync.
    pub campaign: Arc<Campaign>,
    /// The fencing token.
    pub attempt: i32,
    /// Tries that failed, since the API was last down.
    pub tries: u32,
    /// When the first of them failed.
    pub first_failed: Option<Instant>,
    /// How often the API had come back when it failed.
    pub recoveries: u64,
    /// 401s in a row.
    pub unauthorized: u32,
    /// Its way through this process, when that is wanted; from its first attempt on.
    pub span: Option<Box<CampaignSpan>>,
    /// Where it comes from, when it was handed out before its page was committed.
    pub origin: Option<Origin>,
    /// That it is in hand.
    pub grip: Grip,
}

impl Work {
    /// A task that was not tried yet.
    pub fn new(campaign: Arc<Campaign>, attempt: i32, grip: Grip) -> Self {
        Self {
            grip,
            campaign,
            attempt,
            tries: 0,
            first_failed: None,
            recoveries: 0,
            unauthorized: 0,
            span: None,
            origin: None,
        }
    }

    /// Whether there is no use in it any more.
    fn is_dropped(&self) -> bool {
        self.origin.as_ref().is_some_and(|origin| origin.fate() == Some(Fate::Dropped))
    }
}

/// A queue of [`Work`] for one account, shared by all its threads. Bounded by those who fill it: see `room`.
pub(super) struct Inbox {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    fresh: VecDeque<Work>,
    later: BinaryHeap<Reverse<Later>>,
    /// What they count for together.
    weight: usize,
    /// Somebody waits until they count for no more than this.
    awaited: Option<usize>,
    closed: bool,
}

impl State {
    fn len(&self) -> usize {
        self.fresh.len() + self.later.len()
    }
}

struct Later {
    at: Instant,
    work: Work,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Later {}
impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Inbox {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds fresh tasks, in order.
    pub fn push(&self, works: impl IntoIterator<Item = Work>) {
        let mut state = lock(&self.state);
        for work in works {
            state.weight += work.campaign.weight();
            state.fresh.push_back(work);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Puts a task back whose turn never came, in front.
    pub fn put_back(&self, work: Work) {
        let mut state = lock(&self.state);
        state.weight += work.campaign.weight();
        state.fresh.push_front(work);
        drop(state);
        self.changed.notify_all();
    }

    /// Keeps a task for later.
    pub fn push_later(&self, work: Work, after: Duration) {
        let at = self.clock.now() + after;
        let mut state = lock(&self.state);
        state.weight += work.campaign.weight();
        state.later.push(Reverse(Later { at, work }));
        drop(state);
        self.changed.notify_all();
    }

    /// A task that can be tried now, if there is one.
    pub fn try_pop(&self) -> Option<Work> {
        self.pop_ready(&mut lock(&self.state))
    }

    /// A task that can be tried now; waits for one, for at most `timeout`. `taken` is called before anybody can see that
    /// the task is no longer here.
    pub fn pop(&self, timeout: Duration, taken: impl Fn()) -> Option<Work> {
        let deadline = self.clock.now() + timeout;
        let mut state = lock(&self.state);
        loop {
            if let Some(work) = self.pop_ready(&mut state) {
                taken();
                return Some(work);
            }
            let now = self.clock.now();
            let due = state.later.peek().map_or(deadline, |Reverse(later)| later.at.min(deadline));
            if state.closed || now >= deadline {
                return None;
            }
            let wait = due.saturating_duration_since(now).max(Duration::from_micros(100));
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn pop_ready(&self, state: &mut State) -> Option<Work> {
        if state.closed {
            return None;
        }
        let due = state.later.peek().is_some_and(|Reverse(later)| later.at <= self.clock.now());
        let work =
            if due { state.later.pop().map(|Reverse(later)| later.work) } else { state.fresh.pop_front() };
        state.weight -= work.as_ref().map_or(0, |work| work.campaign.weight());
        // Whoever waits for room is woken when there is enough of it, not for every single task.
        if state.awaited.is_some_and(|awaited| state.weight <= awaited) {
            state.awaited = None;
            self.changed.notify_all();
        }
        work
    }

    /// How many tasks are waiting here.
    pub fn len(&self) -> usize {
        lock(&self.state).len()
    }

    /// What they count for: a large one for several.
    pub fn weight(&self) -> usize {
        lock(&self.state).weight
    }

    /// Whether nothing is waiting here and this holds at the same moment: nothing is taken or put back in between.
    pub fn is_empty_while(&self, holds: impl FnOnce() -> bool) -> bool {
        let state = lock(&self.state);
        state.fresh.is_empty() && state.later.is_empty() && holds()
    }

    /// Waits until there is room for `wanted` below `capacity`, for at most `timeout`; gives the room there is.
    pub fn room(&self, capacity: usize, wanted: usize, timeout: Duration) -> usize {
        let deadline = self.clock.now() + timeout;
        let mut state = lock(&self.state);
        loop {
            let room = capacity.saturating_sub(state.weight);
            let now = self.clock.now();
            if room >= wanted || state.closed || now >= deadline {
                return room;
            }
            state.awaited = Some(capacity.saturating_sub(wanted));
            let wait = deadline.saturating_duration_since(now);
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Drops the tasks of pages that were dropped.
    pub fn forget_dropped(&self) {
        let mut state = lock(&self.state);
        state.fresh.retain(|work| !work.is_dropped());
        state.later.retain(|Reverse(later)| !later.work.is_dropped());
        let later = state.later.iter().map(|Reverse(later)| &later.work);
        state.weight = state.fresh.iter().chain(later).map(|work| work.campaign.weight()).sum();
        drop(state);
        self.changed.notify_all();
    }

    /// Drops everything: the lease is lost, none of it is ours any more.
    pub fn clear(&self) {
        let mut state = lock(&self.state);
        state.fresh.clear();
        state.later.clear();
        state.weight = 0;
        drop(state);
        self.changed.notify_all();
    }

    /// Gives out nothing more.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::SystemTime;

    use super::super::hand::Hand;
    use super::*;
    use crate::http::Stop;
    use crate::http::clock::SystemClock;

    fn work() -> Work {
        let campaign = Campaign {
            id: "c".into(),
            name: "n".into(),
            status: "active".into(),
            budget: "1".into(),
            impressions: 1,
            clicks: 1,
            conversions: 1,
            created_at: SystemTime::UNIX_EPOCH,
            extra: "{}".into(),
        };
        let campaign = Arc::new(campaign);
        let grip = Arc::new(Hand::default()).take(&campaign).unwrap();
        Work::new(campaign, 1, grip)
    }

    #[test]
    fn a_task_is_never_out_of_sight_when_it_is_taken_or_put_back() {
        let inbox = Inbox::new(Arc::new(SystemClock::new(Stop::new())));
        let (in_hand, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        inbox.push([work()]);
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    let taken = || {
                        in_hand.fetch_add(1, Ordering::AcqRel);
                    };
                    let work = inbox.pop(Duration::from_secs(1), taken).unwrap();
                    inbox.put_back(work);
                    in_hand.fetch_sub(1, Ordering::AcqRel);
                }
            });
            let nothing = || inbox.is_empty_while(|| in_hand.load(Ordering::Acquire) == 0);
            let seen = (0..200_000).all(|_| !nothing());
            over.store(true, Ordering::Release);
            seen
        });
        assert!(seen);
    }
}
