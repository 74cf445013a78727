//! The writer: results in, batches out. It waits a moment for a batch to grow, never long, and whoever delivers waits for
//! it when it has too much.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::session::{Done, Session};
use crate::platform::Campaign;
use crate::store::StoreError;
use crate::store::queue::{self, Failed, WorkerId};

/// The most results of one transaction.
const BATCH: usize = 1_000;
/// A result is committed at most this much later, for the sake of others.
const LINGER: Duration = Duration::from_millis(20);
/// Results that may wait for the writer.
pub(super) const QUEUED: usize = 2_000;

/// Commits results until [`Done::End`] has come and everything before it is committed.
pub(super) fn write(session: &Session, results: &Receiver<Done>) {
    let mut last_flush = Instant::now();
    let mut open = true;
    while open {
        let Ok(first) = results.recv() else { return };
        let mut batch = Batch::default();
        open = batch.add(first);
        let until = Instant::now() + LINGER;
        while open && batch.len() < BATCH {
            match results.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(done) => open = batch.add(done),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let count = batch.len();
        batch.commit(session);
        session.paced(count, last_flush.elapsed());
        last_flush = Instant::now();
        session.written(count);
    }
}

#[derive(Default)]
struct Batch {
    synced: Vec<(i32, Box<Campaign>)>,
    dead: Vec<Failed>,
}

impl Batch {
    /// False when nothing more will come.
    fn add(&mut self, done: Done) -> bool {
        match done {
            Done::Synced { attempt, campaign } => self.synced.push((attempt, campaign)),
            Done::Dead(failed) => self.dead.push(failed),
            Done::End => return false,
        }
        true
    }

    fn len(&self) -> usize {
        self.synced.len() + self.dead.len()
    }

    fn commit(mut self, session: &Session) {
        let synced: Vec<(i32, &Campaign)> =
            self.synced.iter().map(|(attempt, campaign)| (*attempt, &**campaign)).collect();
        complete(session, &synced, &mut self.dead);
        if !self.dead.is_empty() {
            let worker = session.worker();
            let step = session.caller.trace.begin();
            let buried = session.transact(|client, account| queue::bury(client, account, worker, &self.dead));
            session.caller.trace.commit(step, "dead_letters", self.dead.len(), &buried);
            check_lease(session, worker, buried, self.dead.len());
        }
    }
}

/// Stores campaigns; when one of them cannot be stored, halves are tried until it is alone, and becomes a dead letter.
fn complete(session: &Session, synced: &[(i32, &Campaign)], dead: &mut Vec<Failed>) {
    if synced.is_empty() {
        return;
    }
    let worker = session.worker();
    let step = session.caller.trace.begin();
    let stored = session.transact(|client, account| queue::complete(client, account, worker, synced));
    session.caller.trace.commit(step, "campaigns", synced.len(), &stored);
    match stored {
        Err(StoreError::Row { sqlstate, message }) => match synced {
            [(attempt, campaign)] => dead.push(Failed {
                id: campaign.id.clone(),
                attempt: *attempt,
                cause: "unstorable",
                reason: format!("Postgres cannot store it: {message} (SQLSTATE {sqlstate})"),
                tries: 1,
                retryable: true,
            }),
            _ => {
                let (one, other) = synced.split_at(synced.len() / 2);
                complete(session, one, dead);
                complete(session, other, dead);
            }
        },
        stored => check_lease(session, worker, stored, synced.len()),
    }
}

fn check_lease(session: &Session, worker: WorkerId, done: Result<Option<i64>, StoreError>, expected: usize) {
    match done {
        Ok(None) => session.lease_lost(worker),
        Ok(Some(held)) if usize::try_from(held) != Ok(expected) => {
            log::debug!(account = session.store.account(); "{expected} results, {held} of them for tasks still held");
        }
        Ok(Some(_)) => {}
        // The account's part has ended for it; whatever was not committed is done again by the next run.
        Err(error) => log::debug!(account = session.store.account(); "not committed: {error}"),
    }
}
