//! Looks at the runs from outside while they are worked on: shows progress, names the process that is waited for, and says when
//! the deadline cannot be met.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::committers::Books;
use super::heartbeat::Kept;
use crate::http::Clock;
use crate::http::lock::lock;
use crate::store::command::Part;
use crate::store::leases::LEASE_SECONDS;
use crate::store::overview::{self, Silent};
use crate::store::queue::WorkerId;
use crate::store::runs::{self, Progress};
use crate::sync::{Pace, Watcher, lower_bound};

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Between two questions for a silent process.
const SEEK_AGAIN: Duration = Duration::from_secs(1);
/// Accounts that one look asks the database about: the others have their turn at the next ones.
const ACCOUNTS_A_LOOK: usize = 20;

/// What looking needs.
pub(super) struct Watched<'a> {
    pub watcher: &'a dyn Watcher,
    pub deadline: Option<Instant>,
    pub clock: Arc<dyn Clock>,
}

/// What is remembered from look to look.
#[derive(Default)]
struct Memory {
    next: usize,
    warned: HashSet<usize>,
    sought: HashMap<usize, Instant>,
    silent: HashMap<usize, Silent>,
    named: HashMap<usize, WorkerId>,
}

/// Looks until `ended` is dropped.
pub(super) fn watch(watched: &Watched<'_>, kept: &Kept, ended: &Receiver<()>) {
    let mut memory = Memory::default();
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_AGAIN) {
        let mut all: Vec<(usize, Part, Arc<Books>)> = lock(kept)
            .iter()
            .map(|(account, (part, books))| (*account, part.clone(), books.clone()))
            .collect();
        // From where the last look ended.
        let begin = all.partition_point(|(account, ..)| *account < memory.next);
        all.rotate_left(begin);
        for (account, part, books) in all.into_iter().take(ACCOUNTS_A_LOOK) {
            memory.next = account + 1;
            look(watched, &mut memory, account, &part, &books);
        }
    }
}

fn look(watched: &Watched<'_>, memory: &mut Memory, account: usize, part: &Part, books: &Books) {
    let now = watched.clock.now();
    let shown = lock(&books.shown).clone();
    if !shown.waits_for_others {
        memory.silent.remove(&account);
    } else if memory.sought.get(&account).is_none_or(|at| now.saturating_duration_since(*at) >= SEEK_AGAIN) {
        memory.sought.insert(account, now);
        seek_silent(memory, account, part, books);
    }
    let warns = watched.deadline.filter(|_| !memory.warned.contains(&account));
    if warns.is_none() && !watched.watcher.watching() {
        return;
    }
    let run_id = part.run_id;
    let found = books.store.look(|client, account| runs::progress(client, account, run_id));
    let Some(run) = found.ok().flatten() else { return };
    let pace = Pace { silent: memory.silent.get(&account).cloned(), ..shown.pace };
    watched.watcher.progress(&part.account, &run, &pace);
    if let Some(deadline) = warns
        && warn_of_deadline(part, &run, &pace, deadline.saturating_duration_since(now))
    {
        memory.warned.insert(account);
    }
}

/// The process whose tasks are waited for, when that gives no sign of life; it is named in the log once.
fn seek_silent(memory: &mut Memory, account: usize, part: &Part, books: &Books) {
    let worker = part.worker;
    let found = books.store.look(|client, account| overview::silent(client, account, worker));
    let Some((found, silent)) = found.ok().flatten() else {
        memory.silent.remove(&account);
        return;
    };
    if memory.named.insert(account, found) != Some(found) {
        log::info!(account = &*part.account, run = part.run_id; "{silent}; that is free for others {LEASE_SECONDS} s after its last sign of life");
    }
    memory.silent.insert(account, silent);
}

/// Says, as soon as the size of the job and the limit are known, that the deadline cannot be met. True when it has been
/// looked into.
fn warn_of_deadline(part: &Part, run: &Progress, pace: &Pace, left: Duration) -> bool {
    let (Some(total), Some(limit)) = (run.total, pace.limit) else { return false };
    let pages = total / i64::from(run.page_size.max(1)) - (run.next_page - 1);
    let requests = total - run.synced - run.failed + if run.listing_done { 0 } else { pages.max(0) };
    let needed = lower_bound(requests, Some(limit)).unwrap_or_default();
    if needed > left {
        log::warn!(
            account = &*part.account, run = part.run_id;
            "the deadline cannot be met: {requests} requests under a limit of {limit} take at least {} s, {} s are left; the next run does the rest",
            needed.as_secs(),
            left.as_secs()
        );
    }
    true
}
