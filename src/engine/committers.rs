//! The committers: a few threads that carry out commands to the database, each with a connection of the pool, and decide
//! nothing. What comes of a command goes to the scheduler.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use super::calls::{Event, Message};
use crate::http::lock::lock;
use crate::http::stats::Stats;
use crate::store::Store;
use crate::store::command::{Command, Part};
use crate::store::execute::execute;
use crate::store::leases::{self, Effort};
use crate::store::tokens::Sealing;

/// How many there are: a commit waits for the disk most of the time, and a database serves few at once faster than many.
pub(super) const COMMITTERS: usize = 4;

/// What the commands of one account need.
pub(super) struct Books {
    pub store: Store,
    pub sealing: Sealing,
    pub stats: Arc<Stats>,
}

struct Order {
    account: usize,
    books: Arc<Books>,
    part: Part,
    command: Command,
}

/// The queue in front of them. They end when it is dropped.
pub(super) struct Committers {
    orders: Sender<Order>,
}

impl Committers {
    pub(super) fn start(events: &Sender<Message>) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..COMMITTERS {
            let (queue, events) = (queue.clone(), events.clone());
            let work = move || work(&queue, &events);
            thread::Builder::new().name(format!("committer-{number}")).spawn(work)?;
        }
        Ok(Self { orders })
    }

    /// Has one of them carry it out; never waits.
    pub(super) fn carry_out(&self, account: usize, books: Arc<Books>, part: Part, command: Command) {
        // They end after this queue.
        let _sent = self.orders.send(Order { account, books, part, command });
    }
}

fn work(queue: &Mutex<Receiver<Order>>, events: &Sender<Message>) {
    loop {
        // One waits for the next order, the others for it.
        let order = lock(queue).recv();
        let Ok(Order { account, books, part, command }) = order else { return };
        if let Command::Leave { .. } = command {
            tell_effort(&books, &part);
        }
        let reply = execute(&books.store, &books.sealing, &part, &command);
        if events.send(Message { account, event: Event::Stored(reply) }).is_err() {
            return;
        }
    }
}

/// The counts of whoever leaves go to the run with the lease.
fn tell_effort(books: &Books, part: &Part) {
    let (run_id, worker, effort) = (part.run_id, part.worker, Effort::of(&books.stats, None));
    let told =
        books.store.run(|client, account| leases::heartbeat(client, account, run_id, worker, effort, true));
    if let Err(error) = told {
        log::debug!(account = &*part.account, run = run_id; "counts are lost: {error}");
    }
}
