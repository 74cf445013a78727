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
use crate::store::{StoreError, leases, runs};
use crate::sync::Ending;

/// Between heartbeats: a fifth of a lease, so that four may fail.
const INTERVAL: Duration = Duration::from_secs(2);

pub(super) type Kept = Arc<Mutex<BTreeMap<usize, (Part, Arc<Books>)>>>;

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
                let mut reborn = Vec::new();
                for (account, part, books) in all {
                    let Some(event) = beat(&part, &books) else { continue };
                    // What was seen of a part that is leaving, or over, by now is of no use.
                    if lock(&theirs).get(&account).is_none_or(|(now, _)| *now != part) {
                        continue;
                    }
                    if let Event::Reborn = event {
                        books.reborn();
                        reborn.push(part);
                    }
                    if events.send(Message { account, event }).is_err() {
                        return;
                    }
                }
                warn_of_silence(&reborn);
                // Those of hundreds of accounts leave the database time for everything else.
                let took = begun.elapsed();
                wait = INTERVAL.saturating_sub(took).max(took.min(INTERVAL));
            }
        })?;
        Ok(Self { kept, _ends: ends })
    }

    /// Those that are kept.
    pub(super) fn kept(&self) -> Kept {
        self.kept.clone()
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

/// One line, however many accounts it befell.
fn warn_of_silence(reborn: &[Part]) {
    const SILENT: &str = "this process was silent for too long, its tasks went to others; going on with new ones (was the machine suspended, or far too busy?)";
    match reborn {
        [] => {}
        [part] => log::warn!(account = &*part.account, run = part.run_id; "{SILENT}"),
        several => log::warn!("{} accounts: {SILENT}", several.len()),
    }
}

fn beat(part: &Part, books: &Books) -> Option<Event> {
    let (run_id, worker, effort) = (part.run_id, part.worker, books.effort());
    let asked_at = Instant::now();
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
        Err(error @ StoreError::Unavailable { .. }) => {
            log::debug!(account = &*part.account, run = run_id; "no heartbeat: {error}");
            return None;
        }
        Err(error) => {
            log::debug!(account = &*part.account, run = run_id; "no heartbeat: {error}");
            return Some(Event::Stop(Ending::from(error)));
        }
    };
    let Some(beat) = beat else {
        let (others, listing_done, lists, freed) = (false, false, false, false);
        return Some(Event::News(News { asked_at, others, listing_done, lists, freed, over: Some(true) }));
    };
    if !beat.alive {
        return Some(Event::Reborn);
    }
    books.effort_told(effort);
    // Only after a heartbeat: its own lease may be over else, and it would end itself.
    let freed = beat.neighbours && end_leases(part, books);
    Some(Event::News(News {
        asked_at,
        others: beat.others > 0,
        listing_done: beat.listing_done,
        lists: beat.lists,
        freed,
        over: beat.over.then_some(abandoned),
    }))
}

/// Ends the leases of the dead; whether there were any.
fn end_leases(part: &Part, books: &Books) -> bool {
    let (account, run) = (&*part.account, part.run_id);
    match books.store.look(leases::take_over) {
        Ok(dead) => {
            dead.iter().for_each(|ended| log::info!(account, run; "{ended}"));
            !dead.is_empty()
        }
        Err(error) => {
            log::debug!(account, run; "dead workers not looked for: {error}");
            false
        }
    }
}
