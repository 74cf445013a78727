//! The crew: a rayon pool of fixed size that makes the sync requests of all accounts, and the pump that gives it work
//! when a request may be sent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::caller::After;
use super::inbox::Work;
use super::session::{Done, Session};
use super::trace::CampaignSpan;
use crate::http::concurrency::Outcome;
use crate::http::health::Lane;
use crate::http::lock::lock;
use crate::store::queue::Failed;

/// A worker's stack: its deepest calls are TLS and JSON of a known shape.
const STACK_BYTES: usize = 512 << 10;
/// A turn that is older was not used at once, as the limiter asks for.
const STALE: Duration = Duration::from_millis(500);
/// How long the pump waits before it looks again whether it should end.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The pool and its free places. A place is taken before a job is given to the pool, so no job waits behind others of
/// which nobody knows how long they take. Whoever waits gets the next free place in turn: each account asks for one at a
/// time, so all have a fair share.
pub struct Crew {
    /// Each of its threads does our jobs until the crew is dismissed. Given one by one to rayon, jobs would have every idle
    /// thread look for them at every other, again and again before it sleeps: with 256 threads that is most of the work.
    _pool: rayon::ThreadPool,
    jobs: Arc<Jobs>,
    places: Mutex<Places>,
    freed: Condvar,
    /// How many wait, for those who would keep a place.
    waiting: AtomicUsize,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Jobs {
    queue: Mutex<JobQueue>,
    given: Condvar,
}

#[derive(Default)]
struct JobQueue {
    jobs: VecDeque<Job>,
    dismissed: bool,
}

impl Jobs {
    fn give(&self, job: Job) {
        lock(&self.queue).jobs.push_back(job);
        self.given.notify_one();
    }

    /// The next job; nothing when the crew is dismissed.
    fn take(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            match queue.jobs.pop_front() {
                None if queue.dismissed => return None,
                None => queue = self.given.wait(queue).unwrap_or_else(PoisonError::into_inner),
                job => return job,
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        lock(&self.jobs.queue).dismissed = true;
        self.jobs.given.notify_all();
    }
}

struct Places {
    free: usize,
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

impl Crew {
    /// A crew of so many threads.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn new(size: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(size)
            .stack_size(STACK_BYTES)
            .thread_name(|n| format!("worker-{n}"))
            .build()?;
        let jobs = Arc::new(Jobs::default());
        let shared = jobs.clone();
        pool.spawn_broadcast(move |_| {
            while let Some(job) = shared.take() {
                job();
            }
        });
        let places = Places { free: size, waiting: VecDeque::new(), next_ticket: 0 };
        Ok(Self {
            _pool: pool,
            jobs,
            places: Mutex::new(places),
            freed: Condvar::new(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Takes a place, in turn; false when `given_up` says so before there is one.
    fn take_place(&self, given_up: impl Fn() -> bool) -> bool {
        let mut places = lock(&self.places);
        if places.free > 0 && places.waiting.is_empty() {
            places.free -= 1;
            return true;
        }
        let ticket = places.next_ticket;
        places.next_ticket += 1;
        places.waiting.push_back(ticket);
        self.waiting.store(places.waiting.len(), Ordering::Relaxed);
        let mut taken = false;
        while !taken && !given_up() {
            if places.free > 0 && places.waiting.front() == Some(&ticket) {
                places.free -= 1;
                taken = true;
            } else {
                let waited = self.freed.wait_timeout(places, LOOK_AGAIN);
                places = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        places.waiting.retain(|other| *other != ticket);
        self.waiting.store(places.waiting.len(), Ordering::Relaxed);
        if places.free > 0 && !places.waiting.is_empty() {
            self.freed.notify_all();
        }
        taken
    }

    fn leave_place(&self) {
        let mut places = lock(&self.places);
        places.free += 1;
        if !places.waiting.is_empty() {
            self.freed.notify_all();
        }
    }

    /// Whether somebody waits for a place.
    fn wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Gives the crew one task after another, each at the moment when its request may be sent. Returns when a stop is
/// requested or the inbox is closed.
pub(super) fn pump(session: &Arc<Session>) {
    let caller = &session.caller;
    let mut news = 0;
    let over = || caller.stop.requested() || session.finished.load(Ordering::Acquire);
    while !over() {
        let Some(work) = session.inbox.pop(LOOK_AGAIN, || session.job_begun()) else { continue };
        let Some(work) = past_breaker(session, work) else {
            session.job_put_back();
            continue;
        };
        if !session.concurrency.try_acquire(session.most_at_once()) {
            session.inbox.put_back(work);
            session.job_put_back();
            news = session.await_news(news, LOOK_AGAIN);
            continue;
        }
        let unused = |work: Work| {
            session.concurrency.release(Outcome::Neutral, caller.clock.now());
            session.inbox.put_back(work);
            session.job_put_back();
        };
        if !session.crew.take_place(over) {
            unused(work);
            continue;
        }
        let asked = Instant::now();
        match caller.try_turn() {
            Ok(None) => {
                let session = session.clone();
                session.crew.clone().jobs.give(Box::new(move || begin(&session, work, asked)));
            }
            Ok(Some(wait)) => {
                session.crew.leave_place();
                unused(work);
                let _halted = caller.wait_for_turn(wait);
            }
            Err(_halted) => {
                session.crew.leave_place();
                unused(work);
            }
        }
    }
}

/// Begins a job, unless its turn is stale: a process that was stopped in between must not send as if no time had passed.
fn begin(session: &Arc<Session>, work: Work, asked: Instant) {
    let lag = asked.elapsed();
    if lag < STALE || session.caller.limiter.unlimited() {
        session.caller.limiter.lagged(lag);
        return run(session, work);
    }
    session.inbox.put_back(work);
    session.concurrency.release(Outcome::Neutral, asked);
    session.crew.leave_place();
    session.job_ended();
}

/// A worker's job: one task, and then others for as long as there is no need to wait for anything.
fn run(session: &Arc<Session>, mut work: Work) {
    loop {
        let key = session.idempotency_key(&work.campaign.id);
        let (after, outcome, sent_at) = session.caller.sync(&mut work, &key);
        settle(session, work, after);
        session.concurrency.release(outcome, sent_at);
        match next(session) {
            Some(another) => work = another,
            None => break,
        }
    }
    session.crew.leave_place();
    session.job_ended();
}

fn next(session: &Session) -> Option<Work> {
    if session.caller.stop.requested()
        || session.crew.wanted()
        || !session.concurrency.try_acquire(session.most_at_once())
    {
        return None;
    }
    // The turn first: a task that has none would go back, and with it the breaker's trial would be lost.
    let turn = session.caller.limiter.try_acquire_at_once();
    let work = turn.then(|| session.inbox.try_pop()).flatten().and_then(|work| past_breaker(session, work));
    if work.is_none() {
        session.concurrency.release(Outcome::Neutral, Instant::now());
    }
    work
}

/// The task, if it may be tried now; else it waits in the inbox.
fn past_breaker(session: &Session, work: Work) -> Option<Work> {
    if !session.caller.needs_breaker(&work) {
        return Some(work);
    }
    match session.caller.health.admit(Lane::Sync) {
        Ok(()) => Some(work),
        Err(wait) => {
            session.inbox.push_later(work, wait);
            None
        }
    }
}

fn settle(session: &Session, mut work: Work, after: After) {
    match after {
        After::Synced => {
            work.span.as_deref_mut().into_iter().for_each(CampaignSpan::synced);
            session.deliver(Done::Synced {
                attempt: work.attempt,
                campaign: work.campaign,
                origin: work.origin,
            });
        }
        After::Dead { cause, reason } => bury(session, work, cause, reason),
        After::Again(wait) if wait.is_zero() => session.inbox.put_back(work),
        After::Again(wait) => {
            let view = session.view();
            let remaining = session.inbox.len() + 1;
            let last = view.listing_done && view.others == 0 && work.tries > 0;
            if last
                && session.caller.is_last_straw(&work, remaining, !session.run.lists, session.run.page_size)
            {
                let reason = format!("failed {} times, while the listing answers", work.tries);
                let (scope, id) = (session.store.scope(), work.campaign.id.as_str());
                log::debug!(account = scope.account(), run = scope.run(), campaign = id, attempt = work.tries; "{reason}: a dead letter");
                bury(session, work, "failing", reason);
            } else {
                session.inbox.push_later(work, wait);
            }
        }
        // It stays held in the database, and is free again as soon as this process leaves.
        After::Halted => {}
    }
}

fn bury(session: &Session, mut work: Work, cause: &'static str, reason: String) {
    work.span.as_mut().into_iter().for_each(|span| span.dead(cause, &reason));
    let tries = i32::try_from(work.tries.max(1)).unwrap_or(i32::MAX);
    let id = work.campaign.id.clone();
    let failed = Failed { id, attempt: work.attempt, cause, reason, tries, retryable: true };
    session.deliver(Done::Dead { failed, origin: work.origin });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_to_those_who_wait_in_turn_and_none_is_lost() {
        let crew = Crew::new(2).unwrap();
        let order = Mutex::new(Vec::new());
        assert!(crew.take_place(|| false) && crew.take_place(|| false));
        assert!(!crew.take_place(|| true), "whoever gives up has none");
        std::thread::scope(|scope| {
            for n in 0..6 {
                let (crew, order) = (&crew, &order);
                scope.spawn(move || {
                    assert!(crew.take_place(|| false));
                    lock(order).push(n);
                    crew.leave_place();
                });
                // Each has its ticket before the next one asks.
                while lock(&crew.places).next_ticket < n + 2 {
                    std::thread::yield_now();
                }
            }
            assert!(crew.wanted());
            crew.leave_place();
        });
        assert_eq!(*lock(&order), (0..6).collect::<Vec<u64>>());
        crew.leave_place();
        assert_eq!(lock(&crew.places).free, 2);
        assert!(!crew.wanted());
    }
}
