//! The committers: a few threads that carry out commands to the database, each with a connection of the pool, and decide
//! nothing. What comes of a command goes to the scheduler. One that finds the database away is put off: no thread waits with it,
//! and where one node of several is down, the accounts of the others go on.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::calls::{Event, Message};
use super::orders::Orders;
use crate::http::lock::lock;
use crate::http::stats::Stats;
use crate::store::command::{Command, Part, Reply};
use crate::store::execute::execute;
use crate::store::leases::{self, Effort};
use crate::store::tokens::Sealing;
use crate::store::{Store, StoreError};
use crate::sync::Pace;
use crate::sync::trace::Trace;

/// How many there are: a commit waits for the disk most of the time, and a database serves few at once faster than many.
pub(super) const COMMITTERS: usize = 4;

/// What the commands of one account need, and what the scheduler shows of it to others.
pub(super) struct Books {
    pub store: Store,
    pub sealing: Sealing,
    pub stats: Arc<Stats>,
    pub trace: Arc<Trace>,
    pub shown: Mutex<Shown>,
    told: Mutex<ToldEffort>,
}

/// What others are shown of an account.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub pace: Pace,
    /// It has nothing to do but to wait for other processes.
    pub waits_for_others: bool,
}

/// What the database was told of this process's effort: of a worker that was taken for dead it keeps what that one told.
#[derive(Default)]
struct ToldEffort {
    by_earlier_workers: Effort,
    by_this_worker: Effort,
}

impl Books {
    pub(super) fn new(store: Store, sealing: Sealing, stats: Arc<Stats>, trace: Arc<Trace>) -> Self {
        Self { store, sealing, stats, trace, shown: Mutex::default(), told: Mutex::default() }
    }

    /// Counts for the heartbeat, of this worker alone.
    pub(super) fn effort(&self) -> Effort {
        let limit = lock(&self.shown).pace.limit;
        Effort::of(&self.stats, limit).since(lock(&self.told).by_earlier_workers)
    }

    /// The database has these counts from this worker.
    pub(super) fn effort_told(&self, effort: Effort) {
        lock(&self.told).by_this_worker = effort;
    }

    /// This process goes on as another worker.
    pub(super) fn reborn(&self) {
        let mut told = lock(&self.told);
        told.by_earlier_workers = told.by_earlier_workers.and(std::mem::take(&mut told.by_this_worker));
    }
}

struct Order {
    account: usize,
    books: Arc<Books>,
    part: Part,
    command: Command,
    urgent: bool,
    /// Since when it finds the database away, and the last pause.
    failing: Option<(Instant, Option<Duration>)>,
}

/// Orders that are put off, and until when.
type PutOff = Arc<Mutex<Vec<(Instant, Order)>>>;

/// The queue in front of them. They end when it is dropped.
pub(super) struct Committers {
    orders: Arc<Orders<Order>>,
    put_off: PutOff,
}

impl Committers {
    pub(super) fn start(events: &Sender<Message>) -> io::Result<Self> {
        // Dropped on the way, it dismisses those that are there.
        let committers = Self { orders: Arc::default(), put_off: PutOff::default() };
        for number in 0..COMMITTERS {
            let (orders, put_off) = (committers.orders.clone(), committers.put_off.clone());
            let events = events.clone();
            let work = move || work(&orders, &put_off, &events);
            thread::Builder::new().name(format!("committer-{number}")).spawn(work)?;
        }
        Ok(committers)
    }

    /// Has one of them carry it out, an urgent one before the others; never waits.
    pub(super) fn carry_out(
        &self,
        account: usize,
        books: Arc<Books>,
        part: Part,
        (command, urgent): (Command, bool),
    ) {
        self.give(Order { account, books, part, command, urgent, failing: None });
    }

    /// Has those carried out that were put off until now, or whose account is to stop; gives the next moment to ask for it.
    pub(super) fn go_on(&self, now: Instant) -> Option<Instant> {
        let mut put_off = lock(&self.put_off);
        for (_, order) in put_off.extract_if(.., |(at, order)| *at <= now || order.books.store.stops()) {
            self.give(order);
        }
        put_off.iter().map(|(at, _)| *at).min()
    }

    fn give(&self, order: Order) {
        let urgent = order.urgent;
        self.orders.give(order, urgent);
    }
}

impl Drop for Committers {
    fn drop(&mut self) {
        self.orders.end();
    }
}

fn work(orders: &Orders<Order>, put_off: &PutOff, events: &Sender<Message>) {
    while let Some(mut order) = orders.take() {
        let begun = Instant::now();
        let store = order.books.store.trying_once(order.failing.is_some());
        let Order { account, books, part, command, failing, .. } = &mut order;
        let account = *account;
        if let Command::Leave { .. } = command {
            tell_effort(&store, books, part);
        }
        let step = books.trace.begin();
        let reply = execute(&store, &books.sealing, part, command);
        if let Some(StoreError::Unavailable { .. }) = reply.error()
            && store.can_begin_anew()
        {
            let (since, pause) = failing.get_or_insert((begun, None));
            if !store.gives_up(*since) {
                let at = store.try_again_at(pause);
                lock(put_off).push((at, order));
                if events.send(Message { account, event: Event::PutOff }).is_err() {
                    return;
                }
                continue;
            }
        }
        match (&*command, &reply) {
            (Command::CommitPages(pages), Reply::Committed(committed)) => {
                let rows = pages.tasks.len() + pages.finished.len();
                books.trace.commit(step, "sync_runs", rows, committed);
            }
            (Command::Finish { synced, dead }, Reply::Finished(finished)) => {
                let (table, rows) = match synced.len() {
                    0 => ("dead_letters", dead.len()),
                    synced => ("campaigns", synced + dead.len()),
                };
                books.trace.commit(step, table, rows, finished);
            }
            _ => {}
        }
        if events.send(Message { account, event: Event::Stored(reply) }).is_err() {
            return;
        }
    }
}

/// The counts of whoever leaves go to the run with the lease.
fn tell_effort(store: &Store, books: &Books, part: &Part) {
    let (run_id, worker, effort) = (part.run_id, part.worker, books.effort());
    let told = store.run(|client, account| leases::heartbeat(client, account, run_id, worker, effort, true));
    match told {
        Ok(_) => {}
        Err(error @ StoreError::Unavailable { .. }) => {
            log::debug!(account = &*part.account, run = run_id; "left without a word; the lease ends by itself: {error}");
        }
        Err(error) => log::debug!(account = &*part.account, run = run_id; "counts are lost: {error}"),
    }
}
