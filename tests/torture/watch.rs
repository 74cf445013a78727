//! What must hold at every moment: looked at again and again while a schedule runs, each time in one snapshot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, Statement};

use crate::ground::Database;

/// The latest run, and what adds up to it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub state: String,
    pub listed: i64,
    pub listing_done: bool,
    pub synced: i64,
    pub failed: i64,
    pub rows: i64,
    pub letters: i64,
    pub tasks: i64,
    pub waiting: i64,
    pub strays: i64,
    pub orphans: i64,
    pub twofold: Vec<String>,
}

impl Snapshot {
    /// None when there is no run yet.
    pub fn of(client: &mut Client) -> Result<Option<Self>, postgres::Error> {
        let statement = client.prepare(include_str!("snapshot.sql"))?;
        Self::by(client, &statement)
    }

    fn by(client: &mut Client, statement: &Statement) -> Result<Option<Self>, postgres::Error> {
        let row = client.query_opt(statement, &[])?;
        Ok(row.map(|row| Self {
            state: row.get("state"),
            listed: row.get("listed"),
            listing_done: row.get("listing_done"),
            synced: row.get("synced"),
            failed: row.get("failed"),
            rows: row.get("rows"),
            letters: row.get("letters"),
            tasks: row.get("tasks"),
            waiting: row.get("waiting"),
            strays: row.get("strays"),
            orphans: row.get("orphans"),
            twofold: row.get("twofold"),
        }))
    }

    pub fn is_closed(&self) -> bool {
        self.state == "complete" || self.state == "partial"
    }

    /// What is wrong with it.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                faults.push(format!("{what}: {self:?}"));
            }
        };
        must(self.twofold.is_empty(), "a campaign is two of row, task and dead letter of one run");
        let counted = self.tasks - self.waiting;
        must(self.listed == self.rows + self.letters + counted, "what was listed is not all there");
        must(self.synced == self.rows, "the count of synced campaigns is not that of rows");
        must(self.failed == self.letters, "the count of failed campaigns is not that of dead letters");
        must(self.strays == 0, "tasks of a run that is over");
        must(self.orphans == 0, "tasks held by nobody who could free them");
        must(!self.is_closed() || (self.tasks == 0 && self.listing_done), "closed before its end");
        must(
            (self.state == "partial") == (self.is_closed() && self.letters > 0),
            "closed in the wrong state",
        );
        faults
    }
}

/// Looks until it is dropped or told to end.
pub struct Watch {
    ending: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    faults: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn of(database: &Arc<Database>) -> Self {
        let (ending, looks, faults) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<Mutex<Vec<String>>>)>::default();
        let thread = std::thread::spawn({
            let (database, ending, looks, faults) =
                (database.clone(), ending.clone(), looks.clone(), faults.clone());
            move || {
                let mut client = None;
                while !ending.load(Ordering::Acquire) {
                    client = client.or_else(|| prepared(&database).ok());
                    match client.as_mut().map(|(client, statement)| Snapshot::by(client, statement)) {
                        Some(Ok(Some(snapshot))) => {
                            looks.fetch_add(1, Ordering::Relaxed);
                            let mut known = faults.lock().unwrap();
                            // One bad state is seen many times.
                            if known.is_empty() {
                                *known = snapshot.faults();
                            }
                        }
                        Some(Ok(None)) => {}
                        // The server has crashed, and comes back.
                        Some(Err(_)) | None => client = None,
                    }
                    std::thread::sleep(Duration::from_millis(15));
                }
            }
        });
        Self { ending, looks, faults, thread: Some(thread) }
    }

    /// Ends it; gives the number of looks and what was seen.
    pub fn end(mut self) -> (u64, Vec<String>) {
        self.join();
        (self.looks.load(Ordering::Relaxed), std::mem::take(&mut *self.faults.lock().unwrap()))
    }

    fn join(&mut self) {
        self.ending.store(true, Ordering::Release);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn prepared(database: &Database) -> Result<(Client, Statement), postgres::Error> {
    let mut client = database.connect()?;
    let statement = client.prepare(include_str!("snapshot.sql"))?;
    Ok((client, statement))
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.join();
    }
}
