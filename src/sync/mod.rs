//! The job: lister -> queue -> workers -> writer, and a run's life from open to closed.
//!
//! Each account has its own threads for listing, pumping, writing and keeping the lease; the requests themselves are made
//! by the crew, a pool of fixed size for all accounts.

mod attempt;
mod caller;
mod calls;
mod conclude;
mod crew;
mod decision;
mod ending;
mod hand;
mod inbox;
mod keeper;
mod lister;
mod outbox;
mod pages;
mod salvage;
mod session;
mod spans;
mod standstill;
mod trace;
mod workers;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

pub(crate) use caller::GRACE;
pub use caller::{Caller, Halt, Patience};
pub use crew::{Crew, Seat};
pub use ending::{Ending, most_serious};
pub use lister::{Entry, Listing};
#[cfg(feature = "next-engine")]
pub(crate) use pages::key_of;
pub use spans::{Recorder, Span, Value};

#[cfg(test)]
pub(crate) use decision::DOUBTED;
#[cfg(test)]
pub(crate) use lister::{PAGES_AHEAD, UNCOMMITTED};
#[cfg(test)]
pub(crate) use outbox::MOST as MOST_RESULTS;
#[cfg(test)]
pub(crate) use session::{MAX_RETAKEN, MOST_HELD};

use session::Session;
use standstill::Standstill;

use crate::http::RateLimit;
use crate::http::concurrency::Concurrency;
use crate::http::stats::Counts;
use crate::store::closing::{self, Closing, NotRemoved};
pub use crate::store::dead_letters::Retry;
use crate::store::join::{self, Joined};
use crate::store::leases::LEASE_SECONDS;
use crate::store::overview::{self, Silent, Standing};
use crate::store::queue::{self, WorkerId};
use crate::store::runs::{self, Opening, Progress};
use crate::store::{Store, StoreError, UNIQUE_VIOLATION, history, leases, process};

/// How often the conductor looks at the queue when nothing happens here.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often it looks whether others have come to the end, when it has nothing left to do, with one short question: while
/// they have much to do, and when they have little.
const LOOK_FOR_THE_END: Duration = Duration::from_millis(100);
const LOOK_NEAR_THE_END: Duration = Duration::from_millis(15);
/// How many batches of old changes a run deletes at most.
pub(crate) const PRUNED_BATCHES: u32 = 100;
/// How often it asks for free tasks of which nobody has told it.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What one account's part in a run needs.
pub struct Job {
    /// Calls the platform.
    pub caller: Arc<Caller>,
    /// Keeps the queue.
    pub store: Store,
    /// How the run is opened.
    pub opening: Opening,
    /// How many of the crew this account may use at once.
    pub workers: usize,
    /// The largest share of campaigns, in percent, that may be marked as removed at once.
    pub max_removed: u8,
    /// How long changes are kept; none: for ever, and this run writes none.
    pub keep_history: Option<Duration>,
    /// When to stop in order.
    pub deadline: Option<Instant>,
    /// Dead letters to put back first.
    pub retry: Option<Retry>,
    /// Whether its outcome is to tell how the account stands afterwards.
    pub tells_standing: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The account's name.
    pub account: String,
    /// The run as it stands now; none when it never came to one.
    pub run: Option<Progress>,
    /// Tasks that are left.
    pub pending: i64,
    /// Why it ended before its time, if it did.
    pub ending: Option<Ending>,
    /// How long this process took.
    pub elapsed: Duration,
    /// The least time in which the run's requests can be made under the rate limit, when one is known.
    pub lower_bound: Option<Duration>,
    /// This process has closed the run, and nothing might be marked as removed for this reason.
    pub not_removed: Option<NotRemoved>,
    /// What this process sent, and what came of it.
    pub counts: Counts,
    /// How long it waited for the rate limit.
    pub waited: Duration,
    /// How the account stands now, when that was wanted and the database has told.
    pub standing: Option<Standing>,
}

impl Outcome {
    /// It ended before there was a run.
    #[must_use]
    pub fn without_run(account: &str, ending: Ending, elapsed: Duration) -> Self {
        Self { ending: Some(ending), elapsed, ..Self::new(account) }
    }

    fn new(account: &str) -> Self {
        Self {
            account: account.to_owned(),
            run: None,
            pending: 0,
            ending: None,
            elapsed: Duration::ZERO,
            lower_bound: None,
            not_removed: None,
            counts: Counts::default(),
            waited: Duration::ZERO,
            standing: None,
        }
    }

    /// The documented exit code.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match (&self.ending, &self.run) {
            (Some(ending), _) => ending.exit_code(),
            (None, Some(run)) if run.failed > 0 || run.state == "partial" => 3,
            (None, _) => 0,
        }
    }
}

/// What this process waits for.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Nothing has succeeded yet.
    pub connecting: bool,
    /// How long it still waits for the rate limit, as far as is known.
    pub waiting: Option<Duration>,
    /// The rate limit, when one is known.
    pub limit: Option<RateLimit>,
    /// The process whose tasks it waits for, when that gives no sign of life.
    pub silent: Option<Silent>,
}

/// Watches a run from outside, for progress.
pub trait Watcher: Send + Sync {
    /// The run has been opened or joined.
    fn joined(&self, account: &str, run_id: i64, resumed: bool);
    /// Whether anybody sees what [`Self::progress`] is told.
    fn watching(&self) -> bool;
    /// A look at the run, a few times a second.
    fn progress(&self, account: &str, run: &Progress, pace: &Pace);
    /// This process's part is over.
    fn finished(&self, account: &str);
}

/// Works on the account's open run, or a new one, until it is closed or this process has to stop.
pub fn run(job: &Job, seat: Seat, watcher: &dyn Watcher) -> Outcome {
    let begun = job.caller.clock.now();
    let mut outcome = Outcome::new(job.store.account());
    let worker = process::new_worker_id();
    match join(job, worker) {
        Ok(joined) => conduct(job, joined, worker, seat, watcher, &mut outcome),
        Err(error) => {
            job.caller.end(Ending::from(error));
        }
    }
    job.caller.finish();
    outcome.ending = job.caller.ending().filter(|_| !closed(&outcome));
    outcome.elapsed = job.caller.clock.now().saturating_duration_since(begun);
    outcome.lower_bound = outcome
        .run
        .as_ref()
        .and_then(|run| lower_bound(run.limited - run.rate_limited, job.caller.limiter.limit()));
    outcome.counts = job.caller.counts();
    outcome.waited = job.caller.waited();
    job.caller.trace.run(&outcome);
    watcher.finished(&outcome.account);
    outcome
}

/// A run that was closed is done, even if a signal came at the last moment.
fn closed(outcome: &Outcome) -> bool {
    outcome.run.as_ref().is_some_and(|run| run.state == "complete" || run.state == "partial")
}

/// The least time for so many requests: the last of them cannot be sent before its window opens.
#[must_use]
pub fn lower_bound(requests: i64, limit: Option<RateLimit>) -> Option<Duration> {
    let limit = limit?;
    let windows = (requests - 1).max(0) / i64::from(limit.requests.get());
    Some(limit.window * u32::try_from(windows).unwrap_or(u32::MAX))
}

fn join(job: &Job, worker: WorkerId) -> Result<Joined, StoreError> {
    // Two processes that open at once: one of them inserts, the other then finds. And what a try has done of whose end nobody
    // heard, the next one does not see.
    let (mut tries, mut abandoned, mut requeued) = (0, None, 0);
    loop {
        let joined = job.store.run(|client, account| {
            let joined = join::join(client, account, &job.opening, job.retry.as_ref(), worker)?;
            requeued = requeued.max(joined.requeued);
            abandoned = abandoned.take().or(joined.abandoned);
            Ok(joined.run)
        });
        match joined {
            Err(StoreError::Row { sqlstate, .. }) if sqlstate == UNIQUE_VIOLATION && tries < 10 => tries += 1,
            other => return other.map(|run| Joined { run, abandoned, requeued }),
        }
    }
}

fn tell_of(job: &Job, joined: &Joined) {
    let (account, run_id) = (job.store.account(), joined.run.run_id);
    if let Some(lost) = &joined.abandoned {
        let why = if job.opening.fresh {
            "--fresh".to_owned()
        } else {
            let (idle, most) = (lost.idle.as_secs(), job.opening.max_age.as_secs());
            format!("nothing has happened in it for {idle} s, longer than --max-run-age ({most} s)")
        };
        log::warn!(
            account = account, run = lost.run_id;
            "run {} abandoned: {why}; of {} campaigns listed {} are synced, {} that were pending are left to run {run_id}",
            lost.run_id, lost.listed, lost.synced, lost.pending
        );
    }
    if joined.run.new {
        log::debug!(account = account, run = run_id; "new run");
    } else {
        log::info!(account = account, run = run_id; "going on with the open run");
    }
    if job.retry.is_some() {
        log::info!(account = account, run = run_id; "{} dead letter(s) put back", joined.requeued);
    }
}

fn conduct(
    job: &Job,
    joined: Joined,
    worker: WorkerId,
    seat: Seat,
    watcher: &dyn Watcher,
    outcome: &mut Outcome,
) {
    let account = job.store.account();
    let run_id = joined.run.run_id;
    job.store.scope().joined(run_id);
    tell_of(job, &joined);
    log::debug!(account = account, run = run_id; "requests carry the trace id {}", job.caller.trace.id());
    watcher.joined(account, run_id, !joined.run.new);
    let concurrency = Concurrency::new(job.workers, job.caller.clock.clone());
    let session = Arc::new(Session::new(
        job.caller.clone(),
        job.store.clone(),
        joined.run,
        worker,
        concurrency,
        seat,
        job.workers,
    ));
    // Threads that call the platform.
    let calling = AtomicUsize::new(2);
    let done = || {
        calling.fetch_sub(1, Ordering::AcqRel);
        session.tell();
    };
    std::thread::scope(|scope| {
        // The writer first: whoever delivers relies on it. When one is refused, the others see at once that it is over.
        start(scope, &job.caller, || writer::write(&session));
        start(scope, &job.caller, || keeper::keep(&session));
        let calls: [fn(&Arc<Session>); 2] = [|session| lister::list(session), workers::pump];
        for call in calls {
            let (session, done) = (&session, &done);
            let called = move || {
                call(session);
                done();
            };
            if start(scope, &job.caller, called).is_none() {
                done();
            }
        }
        outcome.not_removed = steer(job, &session, watcher);
        session.inbox.close();
        if !session.caller.stop.requested() {
            session.finished.store(true, Ordering::Release);
        }
        // The lister may wait for a change.
        session.update_view(|_| ());
        let (mut news, over) = (0, job.caller.clock.now());
        while calling.load(Ordering::Acquire) > 0 || !session.resting() {
            news = session.await_news(news, LOOK_AGAIN);
            if job.caller.clock.now().saturating_duration_since(over) >= GRACE {
                job.caller.abandon();
            }
        }
        session.outbox.close();
        while !session.idle_writer() {
            news = session.await_news(news, LOOK_AGAIN);
        }
        session.finished.store(true, Ordering::Release);
        session.tell();
    });
    session.inbox.clear();
    leave(job, &session);
    match job.store.run(|client, account| runs::progress(client, account, run_id)) {
        Ok(run) => outcome.run = run,
        // What nobody can look up is no success.
        Err(error) => drop(job.caller.end(Ending::from(error))),
    }
    if !closed(outcome) {
        outcome.pending = job.store.run(|client, account| queue::count(client, account, run_id)).unwrap_or(0);
    }
    if let Some(run) = &outcome.run {
        if job.tells_standing {
            outcome.standing = job.store.run(overview::standing).ok();
        }
        watcher.progress(account, run, &Pace { limit: job.caller.limiter.limit(), ..Pace::default() });
    }
}

/// Starts a thread of the run. When the system has none left, this process's part in the run ends, and nothing is given.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    caller: &Caller,
    work: impl FnOnce() + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, ()>> {
    match std::thread::Builder::new().spawn_scoped(scope, work) {
        Ok(thread) => Some(thread),
        Err(error) => {
            caller.end(Ending::NoThread(error.to_string()));
            None
        }
    }
}

/// Claims tasks while there are any, closes the run when all is done, and looks at the clock. Returns when this process's
/// part is over.
fn steer(job: &Job, session: &Session, watcher: &dyn Watcher) -> Option<NotRemoved> {
    let (mut news, mut asked, mut looked) = (0, session.caller.clock.now(), None::<Instant>);
    let (mut warned, mut compared) = (job.deadline.is_none(), asked);
    let (mut silent, mut sought, mut named) = (None::<Silent>, asked, None);
    let mut standstill = Standstill::new(session.caller.give_up_after());
    loop {
        let now = session.caller.clock.now();
        if job.deadline.is_some_and(|deadline| now >= deadline) {
            session.caller.end(Ending::Deadline);
        }
        let view = session.view();
        if session.caller.stop.requested() {
            return None;
        }
        if view.over {
            return after_the_end(session);
        }
        let curious = !warned || watcher.watching();
        if curious && looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_AGAIN) {
            looked = Some(now);
            let run = look(session, watcher, silent.clone());
            warned = warned || run.is_some_and(|run| warn_of_deadline(job, session, &run));
        }
        let due = now.saturating_duration_since(asked) >= ASK_AGAIN;
        if session.inbox.weight() < session.capacity() / 2
            && (session.free_tasks.load(Ordering::Acquire) || due)
        {
            asked = now;
            claim(session);
        }
        let idle = session.idle();
        let mut pause = LOOK_AGAIN;
        if idle {
            // What can be written in no form stays a task of ours, and the run ends with the reason.
            let due = session.in_doubt() || now.saturating_duration_since(compared) >= ASK_AGAIN;
            if due && session.refusal().is_none() {
                compared = now;
                session.go_by_the_database();
            }
            match try_to_close(job, session, &view) {
                Some(Closing::Open { near }) => {
                    session.refusals.fetch_add(1, Ordering::Relaxed);
                    pause = if near { LOOK_NEAR_THE_END } else { LOOK_FOR_THE_END };
                }
                None => {}
                Some(Closing::Over) => {
                    session.update_view(|view| view.over = true);
                    continue;
                }
                Some(Closing::Closed(not_removed)) => {
                    prune_history(job, session);
                    return not_removed;
                }
            }
            if now.saturating_duration_since(sought) >= ASK_AGAIN {
                sought = now;
                silent = seek_silent(session, &mut named);
            }
            let listed = view.listing_done || session.lister_gone.load(Ordering::Acquire);
            if listed
                && session.idle()
                && !session.free_tasks.load(Ordering::Acquire)
                && let Some(ending) = session.refusal()
            {
                session.caller.end(ending);
                return None;
            }
        }
        if !idle {
            silent = None;
        }
        if let Some(time) = standstill.look(session.caller.clock.now(), session.standstill()) {
            let pending =
                session.transact(|client, account| queue::count(client, account, session.run.run_id)).ok()?;
            session.caller.end(standstill::ending(time, view.listing_done, pending));
            return None;
        }
        news = session.await_news(news, pause);
    }
}

fn look(session: &Session, watcher: &dyn Watcher, silent: Option<Silent>) -> Option<Progress> {
    let run_id = session.run.run_id;
    let run = session.store.run(|client, account| runs::progress(client, account, run_id)).ok().flatten()?;
    let caller = &session.caller;
    let pace = Pace {
        connecting: caller.connecting(),
        waiting: caller.waiting(),
        limit: caller.limiter.limit(),
        silent,
    };
    watcher.progress(session.store.account(), &run, &pace);
    Some(run)
}

/// The process whose tasks are waited for, when that gives no sign of life; it is named in the log once.
fn seek_silent(session: &Session, named: &mut Option<WorkerId>) -> Option<Silent> {
    let worker = session.worker();
    let (found, silent) =
        session.store.run(|client, account| overview::silent(client, account, worker)).ok().flatten()?;
    if named.replace(found) != Some(found) {
        let scope = session.store.scope();
        log::info!(account = scope.account(), run = scope.run(); "{silent}; that is free for others {LEASE_SECONDS} s after its last sign of life");
    }
    Some(silent)
}

/// Says, as soon as the size of the job and the limit are known, that the deadline cannot be met. True when it has been
/// looked into.
fn warn_of_deadline(job: &Job, session: &Session, run: &Progress) -> bool {
    let (Some(deadline), Some(total), Some(limit)) =
        (job.deadline, run.total, session.caller.limiter.limit())
    else {
        return false;
    };
    let pages = total / i64::from(run.page_size.max(1)) - (run.next_page - 1);
    let requests = total - run.synced - run.failed + if run.listing_done { 0 } else { pages.max(0) };
    let needed = lower_bound(requests, Some(limit)).unwrap_or_default();
    let left = deadline.saturating_duration_since(session.caller.clock.now());
    if needed > left {
        log::warn!(
            account = session.store.account(), run = session.run.run_id;
            "the deadline cannot be met: {requests} requests under a limit of {limit} take at least {} s, {} s are left; the next run does the rest",
            needed.as_secs(),
            left.as_secs()
        );
    }
    true
}

fn claim(session: &Session) {
    let room = session.room();
    let most = i64::try_from(room).unwrap_or(0);
    let worker = session.worker();
    session.free_tasks.store(false, Ordering::Release);
    let claimed = session.transact_gift(0, |client, account| queue::claim(client, account, worker, most));
    // No row of a campaign's is written: what is refused is this process.
    if let Ok(claimed) = claimed.inspect_err(|error| session.end_by(error)) {
        if claimed.len() == room {
            session.leave_free_tasks();
        }
        session.take_in(claimed);
    }
}

fn try_to_close(job: &Job, session: &Session, view: &session::View) -> Option<Closing> {
    if !view.listing_done {
        let ending = view.listing_error.clone()?;
        let run_id = session.run.run_id;
        if session.transact(|client, account| queue::any(client, account, run_id)).ok()? {
            session.refusals.fetch_add(1, Ordering::Relaxed);
        } else {
            if let Ending::ListingMoved { again: true, .. } = &ending {
                let (run_id, reason) = (session.run.run_id, ending.to_string());
                session.transact(|client, account| runs::abandon(client, account, run_id, &reason)).ok()?;
            }
            session.caller.end(ending);
        }
        return None;
    }
    let run_id = session.run.run_id;
    let known = (session.first.load(Ordering::Relaxed), view.others == 0);
    session.transact(|client, account| closing::close(client, account, run_id, job.max_removed, known)).ok()
}

/// Deletes changes that are older than they are to be kept. What is too much for once is left to the next run.
fn prune_history(job: &Job, session: &Session) {
    let Some(kept) = job.keep_history.filter(|_| !session.first.load(Ordering::Relaxed)) else { return };
    for _ in 0..PRUNED_BATCHES {
        match job.store.run(|client, account| history::prune(client, account, kept)) {
            Ok(deleted) if deleted >= u64::from(history::BATCH) => {}
            Ok(_) => return,
            Err(error) => {
                let (account, run) = (job.store.account(), session.run.run_id);
                log::warn!(account, run; "changes older than --keep-history are left to the next run: {error}");
                return;
            }
        }
    }
}

/// Another process has closed the run; or has abandoned it, and then ours is not done.
fn after_the_end(session: &Session) -> Option<NotRemoved> {
    let run_id = session.run.run_id;
    let run = session.transact(|client, account| runs::progress(client, account, run_id)).ok().flatten();
    if run.is_none_or(|run| run.state == "abandoned") {
        session.caller.end(Ending::Abandoned);
    }
    None
}

/// Ends the lease: what is still held is free for others at once, and the counts go to the run.
fn leave(job: &Job, session: &Session) {
    let (run_id, worker, effort) = (session.run.run_id, session.worker(), session.effort());
    let left = job.store.run(|client, account| {
        leases::heartbeat(client, account, run_id, worker, effort, true)?;
        leases::reap(client, account, worker)
    });
    if let Err(error) = left {
        if !matches!(error, StoreError::Unavailable { .. }) {
            // Its tasks at least are free, if the database lets that be written.
            let _best_effort = job.store.run(|client, account| queue::release(client, account, worker));
            let _best_effort = job.store.run(|client, account| leases::reap(client, account, worker));
        }
        log::debug!(account = job.store.account(), run = run_id; "left without a word; the lease ends by itself: {error}");
    }
    if let Some(ending) = job.caller.ending() {
        let reason = ending.to_string();
        let _already_told = job.store.run(|client, account| runs::stop(client, account, run_id, &reason));
    }
}
