//! The scheduler: one thread that owns the state of every account, takes events, hands out what the state machines want done,
//! and sleeps until the next of them is due. It makes no call and no commit itself.
//!
//! ```text
//! handle ────┐   events   ┌───────────┐   actions   ┌──▶ workers      calls to the platform
//! workers ───┼───────────▶│ scheduler │────────────▶├──▶ committers   commands to the database
//! committers ┘            └───────────┘             └──▶ heartbeat    leases to keep
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::account::{Account, Settings};
use super::calls::{ALL, Action, Done, Event, Message, Room};
use super::committers::{Books, Committers};
use super::heartbeat::Heartbeat;
use super::workers::{Line, Workers};
use crate::http::Clock;
use crate::http::stats::Stats;
use crate::platform::Api;
use crate::store::Store;
use crate::store::closing::NotRemoved;
use crate::store::command::{Part, Reply};
use crate::store::process::new_worker_id;
use crate::store::runs::Progress;
use crate::store::tokens::Sealing;
use crate::sync::Ending;

/// Records of pages that all accounts together hold, by their weight.
pub const MAX_RECORDS_HELD: usize = 20_000;
/// The longest sleep: a clock that is set on is noticed within it.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// One account to work on.
pub struct Job {
    /// How.
    pub settings: Settings,
    /// Its platform.
    pub api: Api,
    /// What is counted of its calls.
    pub stats: Arc<Stats>,
    /// Its way into the database.
    pub store: Store,
    /// What its tokens are sealed with.
    pub sealing: Sealing,
}

/// How this process's part in an account's run went.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended before its time, if it did.
    pub ending: Option<Ending>,
    /// The run as it was left, and the tasks that were left; nothing when the run was never opened, or left without an answer.
    pub left: Option<(Option<Progress>, i64)>,
    /// Why nothing was marked as removed when this process closed the run, if so.
    pub not_removed: Option<NotRemoved>,
}

/// Puts an end to the work on all accounts.
#[derive(Clone)]
pub struct Handle(Sender<Message>);

impl Handle {
    /// Nothing new is begun; what is in flight is awaited and committed.
    pub fn stop(&self, ending: Ending) {
        // When all is over there is nothing to stop.
        let _over = self.0.send(Message { account: ALL, event: Event::Stop(ending) });
    }
}

/// The scheduler, with what carries out its orders.
pub struct Scheduler {
    clock: Arc<dyn Clock>,
    events: Receiver<Message>,
    handle: Handle,
    workers: Workers,
    committers: Committers,
    heartbeat: Heartbeat,
    open: Vec<Open>,
    /// Workers that have nothing to do.
    free: usize,
    /// Records held by all accounts.
    weight: usize,
    /// Moments at which to look at accounts; one that has been put off since is in here twice.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Accounts to look at now, in turn.
    ready: VecDeque<usize>,
    /// Accounts that found no free worker, or no room for records.
    starved: VecDeque<usize>,
    left: usize,
}

/// An account that is worked on.
struct Open {
    account: Account,
    part: Part,
    run_key: Arc<str>,
    line: Arc<Line>,
    books: Arc<Books>,
    /// Its part of the weight.
    weight: usize,
    is_ready: bool,
    is_starved: bool,
    is_over: bool,
}

impl Scheduler {
    /// With so many workers; nothing is begun yet.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn new(jobs: Vec<Job>, workers: usize, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let (sender, events) = mpsc::channel();
        let pool = Workers::new(workers, sender.clone(), clock.clone()).map_err(io::Error::other)?;
        let now = clock.now();
        let open: Vec<Open> = jobs.into_iter().map(|job| Open::new(job, now)).collect();
        Ok(Self {
            committers: Committers::start(&sender)?,
            heartbeat: Heartbeat::start(&sender)?,
            workers: pool,
            handle: Handle(sender),
            events,
            free: workers.max(1),
            weight: 0,
            due: BinaryHeap::new(),
            ready: (0..open.len()).collect(),
            starved: VecDeque::new(),
            left: open.len(),
            open,
            clock,
        })
    }

    /// By which it can be stopped.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Works until all is done, or stopped; gives what came of each account, in the order of the jobs.
    #[must_use]
    pub fn run(mut self) -> Vec<Outcome> {
        while self.left > 0 {
            self.advance_all();
            if self.left == 0 {
                break;
            }
            let now = self.clock.now();
            let sleep =
                self.due.peek().map_or(MAX_SLEEP, |Reverse((at, _))| at.saturating_duration_since(now));
            match self.events.recv_timeout(sleep.min(MAX_SLEEP)) {
                Ok(message) => {
                    self.take(message);
                    while let Ok(message) = self.events.try_recv() {
                        self.take(message);
                    }
                }
                // This end is kept by the handle of its own.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.wake(self.clock.now());
        }
        let outcome = |open: Open| Outcome {
            ending: open.account.ending().cloned(),
            left: open.account.left().cloned(),
            not_removed: open.account.not_removed().cloned(),
        };
        self.open.into_iter().map(outcome).collect()
    }

    fn take(&mut self, message: Message) {
        let Message { account, event } = message;
        if account == ALL {
            if let Event::Stop(ending) = event {
                (0..self.open.len()).for_each(|account| self.tell(account, Event::Stop(ending.clone())));
            }
            return;
        }
        if let Event::Called(Done::Token(..) | Done::PagesOver | Done::Sync { .. }) = &event {
            self.free += 1;
            // Before the account that has just had it.
            self.call_starved();
        }
        self.tell(account, event);
    }

    fn tell(&mut self, account: usize, event: Event) {
        let now = self.clock.now();
        let open = &mut self.open[account];
        match &event {
            Event::Stored(Reply::Opened(Ok(opened))) => {
                open.part.run_id = opened.run.run_id;
                open.run_key = opened.run.run_key.as_str().into();
                self.heartbeat.keep(account, open.part.clone(), open.books.clone());
            }
            Event::Reborn => {
                self.heartbeat.forget(account);
                open.part.worker = new_worker_id();
            }
            _ => {}
        }
        let mut actions = Vec::new();
        open.account.on(event, now, &mut actions);
        self.carry_out(account, actions);
        self.look_at(account);
    }

    fn look_at(&mut self, account: usize) {
        let open = &mut self.open[account];
        if !open.is_over && !std::mem::replace(&mut open.is_ready, true) {
            self.ready.push_back(account);
        }
    }

    /// Looks at those whose time has come.
    fn wake(&mut self, now: Instant) {
        while let Some(Reverse((_, account))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.due.pop();
            self.look_at(account);
        }
    }

    fn advance_all(&mut self) {
        self.advance_ready();
        // One that was called has perhaps not taken what is free.
        for _ in 0..self.starved.len() {
            if self.free == 0 {
                return;
            }
            self.call_starved();
            self.advance_ready();
        }
    }

    fn advance_ready(&mut self) {
        while let Some(account) = self.ready.pop_front() {
            self.advance(account);
        }
    }

    /// Has whoever has waited longest for a worker, or for room for records, look again.
    fn call_starved(&mut self) {
        if let Some(account) = self.starved.pop_front() {
            self.open[account].is_starved = false;
            self.look_at(account);
        }
    }

    /// Lets an account do what it can.
    fn advance(&mut self, account: usize) {
        let now = self.clock.now();
        let mut room = Room { workers: self.free, records: MAX_RECORDS_HELD.saturating_sub(self.weight) };
        let mut actions = Vec::new();
        let open = &mut self.open[account];
        open.is_ready = false;
        open.account.advance(now, &mut room, &mut actions);
        self.free = room.workers;
        let weight = open.account.weight();
        self.weight = self.weight - open.weight + weight;
        open.weight = weight;
        if let Some(at) = open.account.due() {
            self.due.push(Reverse((at, account)));
        }
        let is_starved = room.workers == 0 || room.records == 0;
        if is_starved && !open.account.is_over() && !std::mem::replace(&mut open.is_starved, true) {
            self.starved.push_back(account);
        }
        if open.account.is_over() && !std::mem::replace(&mut open.is_over, true) {
            self.left -= 1;
            self.heartbeat.forget(account);
        }
        self.carry_out(account, actions);
    }

    fn carry_out(&self, account: usize, actions: Vec<Action>) {
        let open = &self.open[account];
        for action in actions {
            match action {
                Action::Call(call) => {
                    self.workers.make(account, open.line.clone(), open.run_key.clone(), call);
                }
                Action::Store(command) => {
                    self.committers.carry_out(account, open.books.clone(), open.part.clone(), command);
                }
            }
        }
    }
}

impl Open {
    fn new(job: Job, now: Instant) -> Self {
        let name: Arc<str> = job.store.account().into();
        Self {
            account: Account::new(job.settings, now),
            part: Part { account: name.clone(), run_id: 0, worker: new_worker_id() },
            run_key: "".into(),
            line: Arc::new(Line { account: name, api: job.api, stats: job.stats.clone() }),
            books: Arc::new(Books { store: job.store, sealing: job.sealing, stats: job.stats }),
            weight: 0,
            is_ready: true,
            is_starved: false,
            is_over: false,
        }
    }
}
