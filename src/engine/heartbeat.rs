//! The heartbeat: one thread that keeps the leases of this process on all its accounts, ends those of the dead, and tells the
//! scheduler what has become of the runs.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::calls::{Event, Message, News};
use super::committers::Books;
use crate::http::lock::lock;
use crate::store::command::Part;
use crate::store::leases::Effort;
use crate::store::{leases, runs};

/// Between heartbeats: a fifth of a lease, so that four may fail.
const INTERVAL: Duration = Duration::from_secs(2);

type Kept = Arc<Mutex<BTreeMap<usize, (Part, Arc<Books>)>>>;

/// The leases that are kept. The thread ends when this is dropped.
pub(super) struct Heartbeat {
    kept: Kept,
    _ends: Sender<()>,
}

impl Heartbeat {
    pub(super) fn start(events: &Sender<Message>) -> io::Result<Self> {
        let (ends, ended) = mpsc::channel::<()>();
        let (kept, events) = (Kept::default(), events.clone());
        let theirs = kept.clone();
        thread::Builder::new().name("heartbeat".into()).spawn(move || {
            let mut wait = INTERVAL;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
                let begun = Instant::now();
                let all: Vec<(usize, Part, Arc<Books>)> = lock(&theirs)
                    .iter()
                    .map(|(account, (part, books))| (*account, part.clone(), books.clone()))
                    .collect();
                for (account, part, books) in all {
                    let Some(event) = beat(&part, &books) else { continue };
                    // What was seen of a part that is over by now is of no use.
                    let goes_on = lock(&theirs).get(&account).is_some_and(|(now, _)| *now == part);
                    if goes_on && events.send(Message { account, event }).is_err() {
                        return;
                    }
                }
                wait = INTERVAL.saturating_sub(begun.elapsed()).max(INTERVAL / 10);
            }
        })?;
        Ok(Self { kept, _ends: ends })
    }

    /// From now on this part's lease is kept.
    pub(super) fn keep(&self, account: usize, part: Part, books: Arc<Books>) {
        lock(&self.kept).insert(account, (part, books));
    }

    /// The account's lease is not kept any more.
    pub(super) fn forget(&self, account: usize) {
        lock(&self.kept).remove(&account);
    }
}

fn beat(part: &Part, books: &Books) -> Option<Event> {
    let (run_id, worker, effort) = (part.run_id, part.worker, Effort::of(&books.stats, None));
    let beat = books.store.beat(|client, account| {
        let beat = leases::heartbeat(client, account, run_id, worker, effort, false)?;
        let abandoned = match &beat {
            Some(beat) if !beat.over => false,
            _ => runs::progress(client, account, run_id)?.is_none_or(|run| run.state == "abandoned"),
        };
        Ok((beat, abandoned))
    });
    let (beat, abandoned) = match beat {
        Ok(beat) => beat,
        // The next one follows soon.
        Err(error) => {
            log::debug!(account = &*part.account, run = run_id; "no heartbeat: {error}");
            return None;
        }
    };
    let Some(beat) = beat else {
        return Some(Event::News(News { others: false, listing_done: false, over: Some(true) }));
    };
    if !beat.alive {
        return Some(Event::Reborn);
    }
    // Only after a heartbeat: its own lease may be over else, and it would end itself.
    if beat.neighbours
        && let Err(error) = books.store.beat(|client, account| leases::reap(client, account, 0))
    {
        log::debug!(account = &*part.account, run = run_id; "dead workers not looked for: {error}");
    }
    let over = beat.over.then_some(abandoned);
    Some(Event::News(News { others: beat.others > 0, listing_done: beat.listing_done, over }))
}
