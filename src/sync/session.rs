//! One account's part in a run, as its threads share it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use ring::digest::{Context, SHA256};
use serde_json::value::RawValue;

use super::caller::Caller;
use super::crew::Seat;
use super::ending::Ending;
use super::hand::{Grip, Hand};
use super::inbox::{Inbox, Work};
use super::outbox::Outbox;
use super::pages::{COUNTED_BYTES, Origin, PendingPages};
use super::standstill::Seen;
use crate::foreign;
use crate::http::concurrency::Concurrency;
use crate::http::hex::push_hex;
use crate::http::lock::lock;
use crate::platform::{Campaign, Listed, read_record};
use crate::store::leases::{self, Beat, Effort};
use crate::store::process::{self, Process};
use crate::store::queue::{self, Failed, Held, WorkerId};
use crate::store::runs::OpenRun;
use crate::store::{self, Store, StoreError};

/// The most tasks that this process holds without having begun them; each is about half a kilobyte.
pub(crate) const MOST_HELD: usize = 1_024;
/// It holds what it can do in this time.
const HELD_SECONDS: f64 = 0.5;
/// The longest that a refused campaign's id may be in a message, in characters.
const REFUSED_ID_CHARACTERS: usize = 100;
/// A record's size, before any was claimed.
const UNKNOWN_BYTES: usize = 64 << 10;
/// How often a task is worked again that the database says is still held: a database that forgets does so rarely, and one that
/// never lets the task go is to be told.
pub(crate) const MAX_RETAKEN: u8 = 2;
/// So few results are written in no time.
const FEW_UNWRITTEN: usize = 250;

/// What the writer is given: pages, and what tasks have come to.
pub(super) enum Done {
    /// Pages to be committed.
    Listed(Box<PendingPages>),
    Synced {
        attempt: i32,
        campaign: Arc<Campaign>,
        origin: Option<Origin>,
        grip: Grip,
    },
    Dead {
        failed: Failed,
        origin: Option<Origin>,
        grip: Option<Grip>,
    },
}

impl Done {
    /// What it counts for; pages have a bound of their own.
    pub fn weight(&self) -> usize {
        match self {
            Self::Synced { campaign, .. } => campaign.weight(),
            Self::Listed(_) | Self::Dead { .. } => 1,
        }
    }
}

/// What this process knows of its run.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub listing_done: bool,
    pub listing_error: Option<Ending>,
    /// Another process has closed or abandoned it.
    pub over: bool,
    pub others: i64,
    /// How often this process has committed the listing's end.
    listings: u64,
}

/// What the database was told of this process's effort: of a worker that was taken for dead it keeps what that one told.
#[derive(Default)]
struct ToldEffort {
    by_earlier_workers: Effort,
    by_this_worker: Effort,
}

/// Campaigns that can be written in no form: how many, and the first one's id with the database's words.
#[derive(Default)]
struct Refusal {
    count: usize,
    first: Option<(String, String)>,
}

pub(super) struct Session {
    pub caller: Arc<Caller>,
    pub store: Store,
    pub run: OpenRun,
    pub inbox: Inbox,
    pub hand: Arc<Hand>,
    pub concurrency: Concurrency,
    pub seat: Seat,
    pub workers: usize,
    worker: AtomicI64,
    /// What the database was told of this process's effort; held while a lost lease is replaced.
    told_effort: Mutex<ToldEffort>,
    pub outbox: Outbox,
    /// Pages and results that the writer has not committed yet.
    unwritten: AtomicUsize,
    /// Results that the writer has in hand.
    pub writing: AtomicUsize,
    /// Jobs that are with the crew or on their way to it, and pages that are being committed.
    under_way: AtomicUsize,
    pub free_tasks: AtomicBool,
    /// This process has handed the listing's last page out.
    pub all_listed: AtomicBool,
    /// No campaign of the account is stored that this run has not stored.
    pub first: AtomicBool,
    /// Tasks may have been given to this process by a transaction of whose commit it did not hear.
    doubt: AtomicBool,
    refusal: Mutex<Refusal>,
    /// Tasks that were taken in again, and how often.
    retaken: Mutex<HashMap<String, u8>>,
    /// Pages are being fetched, or are on their way to the writer.
    pub fetching: AtomicBool,
    /// This process lists no more.
    pub lister_gone: AtomicBool,
    /// What [`Seen`] counts.
    moves: AtomicU64,
    pub refusals: AtomicU64,
    pub beats: AtomicU64,
    pace: AtomicU64,
    /// The mean size of the records that were claimed last.
    claimed_bytes: AtomicUsize,
    pages: AtomicU64,
    /// Whether the run lists.
    lists: AtomicBool,
    view: Mutex<View>,
    view_changed: Condvar,
    news: Mutex<u64>,
    told: Condvar,
    /// This process has committed its last; the lease may go.
    pub finished: AtomicBool,
}

impl Session {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        caller: Arc<Caller>,
        store: Store,
        run: OpenRun,
        worker: WorkerId,
        concurrency: Concurrency,
        seat: Seat,
        workers: usize,
    ) -> Self {
        Self {
            inbox: Inbox::new(caller.clock.clone()),
            hand: Arc::default(),
            lists: AtomicBool::new(run.lists),
            view_changed: Condvar::new(),
            caller,
            store,
            concurrency,
            seat,
            workers,
            worker: AtomicI64::new(worker),
            told_effort: Mutex::default(),
            outbox: Outbox::default(),
            unwritten: AtomicUsize::new(0),
            writing: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            // A new run that lists has none yet.
            free_tasks: AtomicBool::new(!run.new || !run.lists),
            first: AtomicBool::new(run.first),
            all_listed: AtomicBool::new(false),
            doubt: AtomicBool::new(false),
            refusal: Mutex::default(),
            retaken: Mutex::default(),
            fetching: AtomicBool::new(false),
            lister_gone: AtomicBool::new(false),
            moves: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            beats: AtomicU64::new(0),
            pace: AtomicU64::new(0),
            claimed_bytes: AtomicUsize::new(UNKNOWN_BYTES),
            pages: AtomicU64::new(0),
            view: Mutex::new(View { listing_done: run.listing_done, ..View::default() }),
            news: Mutex::new(0),
            told: Condvar::new(),
            finished: AtomicBool::new(false),
            run,
        }
    }

    /// This process, as the database knows it.
    pub fn worker(&self) -> WorkerId {
        self.worker.load(Ordering::Acquire)
    }

    /// The same key for every attempt at one campaign in one run, by any process.
    pub fn idempotency_key(&self, id: &str) -> String {
        let mut context = Context::new(&SHA256);
        for part in [self.store.account(), "\0", &self.run.run_key, "\0", id] {
            context.update(part.as_bytes());
        }
        let hash = context.finish();
        let mut key = String::with_capacity(32);
        push_hex(&mut key, &hash.as_ref()[..16]);
        key
    }

    /// Runs a transaction; a failure ends this account's part.
    #[track_caller]
    pub fn transact<T>(
        &self,
        transaction: impl FnMut(&mut store::Client, &str) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        self.store.run(transaction).inspect_err(|error| self.end_by(error))
    }

    /// The same for a transaction that writes rows of campaigns, of about so many bytes: one that is refused is the caller's.
    #[track_caller]
    pub fn transact_rows<T>(
        &self,
        bytes: usize,
        transaction: impl FnMut(&mut store::Client, &str) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        self.store.run_sized(bytes, transaction).inspect_err(|error| {
            if !matches!(error, StoreError::Row { .. }) {
                self.end_by(error);
            }
        })
    }

    /// The same for a transaction that gives tasks to this process. When it had to be tried again, an earlier try may have
    /// been committed all the same, and what it gave is held without being known here: see [`Self::go_by_the_database`].
    #[track_caller]
    pub fn transact_gift<T>(
        &self,
        bytes: usize,
        mut transaction: impl FnMut(&mut store::Client, &str) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let mut tries = 0;
        let given = self.transact_rows(bytes, |client, account| {
            tries += 1;
            transaction(client, account)
        });
        if tries > 1 {
            self.doubt.store(true, Ordering::Release);
        }
        given
    }

    /// Ends this account's part because of the database.
    pub fn end_by(&self, error: &StoreError) {
        self.caller.end(Ending::from(error.clone()));
        self.tell();
    }

    /// This campaign can be stored neither as it is nor as a dead letter: its task, or its page, is left to the next run,
    /// and this one ends with the reason once all else is done.
    pub fn refuse(&self, id: &str, error: &StoreError) {
        let scope = self.store.scope();
        log::debug!(account = scope.account(), run = scope.run(), campaign = id; "neither stored nor a dead letter: {error}");
        let mut refusal = lock(&self.refusal);
        refusal.count += 1;
        refusal
            .first
            .get_or_insert_with(|| (foreign::one_line(id, REFUSED_ID_CHARACTERS), error.to_string()));
    }

    /// Why campaigns are left to the next run, if some are.
    pub fn refusal(&self) -> Option<Ending> {
        let refusal = lock(&self.refusal);
        let (id, error) = refusal.first.as_ref()?;
        let others = match refusal.count - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(Ending::DatabaseRefused(format!(
            "campaign {id:?}{others} can be stored neither as a campaign nor as a dead letter: {error}; remove what refuses the row, then run again to resume"
        )))
    }

    /// Whether there was a commit of which this process did not hear.
    pub fn in_doubt(&self) -> bool {
        self.doubt.load(Ordering::Acquire)
    }

    /// Takes in what the database says that this process holds, if it has nothing in hand: of a commit of whose answer it did not
    /// hear, or because the database has forgotten what became of it.
    pub fn go_by_the_database(&self) {
        let moves = self.moves.load(Ordering::Acquire);
        if !self.idle() {
            return;
        }
        self.doubt.store(false, Ordering::Release);
        let worker = self.worker();
        let Ok(mut held) = self.transact(|client, account| queue::held(client, account, worker)) else {
            return;
        };
        let mut retaken = lock(&self.retaken);
        held.retain(|task| retaken.get(&task.id).is_none_or(|times| *times < MAX_RETAKEN));
        if held.is_empty() || self.moves.load(Ordering::Acquire) != moves || worker != self.worker() {
            return;
        }
        held.iter().for_each(|task| *retaken.entry(task.id.clone()).or_default() += 1);
        let scope = self.store.scope();
        log::info!(account = scope.account(), run = scope.run(); "{} task(s) that this process holds without having them in hand are worked", held.len());
        self.take_in(held);
    }

    /// There are tasks that nobody holds.
    pub fn leave_free_tasks(&self) {
        self.free_tasks.store(true, Ordering::Release);
    }

    /// A number for pages on their way to the writer, counting up.
    pub fn number_pages(&self) -> u64 {
        self.pages.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands a result to the writer; waits while the writer has too much to do.
    pub fn deliver(&self, done: Done) {
        self.moves.fetch_add(1, Ordering::AcqRel);
        self.unwritten.fetch_add(1, Ordering::AcqRel);
        self.outbox.put(done);
    }

    /// The writer has dealt with so many results.
    pub fn written(&self, count: usize) {
        self.unwritten.fetch_sub(count, Ordering::AcqRel);
        self.tell();
    }

    pub fn job_begun(&self) {
        self.moves.fetch_add(1, Ordering::AcqRel);
        self.under_way.fetch_add(1, Ordering::AcqRel);
    }

    /// It was not to be, and its task is back where it came from: no news.
    pub fn job_put_back(&self) {
        self.under_way.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn job_ended(&self) {
        if self.under_way.fetch_sub(1, Ordering::AcqRel) == 1 && self.inbox.len() == 0 {
            self.outbox.hurry();
        }
        self.tell();
    }

    /// Whether nothing is with the crew.
    pub fn resting(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }

    /// Whether the writer has committed all it was given.
    pub fn idle_writer(&self) -> bool {
        self.unwritten.load(Ordering::Acquire) == 0
    }

    /// How many requests may be under way at once: all, but fewer at the end of the listing while more is to be written than
    /// to be synced. Where the database shares the machine, they would take from it what it needs to catch up, and then all
    /// wait for it.
    pub fn most_at_once(&self) -> usize {
        if !self.all_listed.load(Ordering::Relaxed) || self.free_tasks.load(Ordering::Relaxed) {
            return self.workers;
        }
        // Not what is held back for its page.
        let unwritten = self.outbox.len() + self.writing.load(Ordering::Relaxed);
        at_once(self.workers, unwritten, self.inbox.len())
    }

    /// Whether this process has nothing in hand at all.
    pub fn idle(&self) -> bool {
        // In this order: a task goes from the inbox to the crew, or back, and then to the writer, and never out of sight.
        self.inbox.is_empty_while(|| self.resting()) && self.idle_writer()
    }

    /// What this process has seen so far, when nothing is under way that could move the run on: it has nothing in hand, fetches
    /// no pages, and is alone.
    pub fn standstill(&self) -> Option<Seen> {
        let still = self.idle() && !self.fetching.load(Ordering::Acquire) && self.view().others == 0;
        still.then(|| Seen {
            moves: self.moves.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
            beats: self.beats.load(Ordering::Relaxed),
        })
    }

    /// Something has changed that somebody may be waiting for.
    pub fn tell(&self) {
        *lock(&self.news) += 1;
        self.told.notify_all();
    }

    /// Waits for news, for at most `timeout`; `seen` is what the last call gave.
    pub fn await_news(&self, seen: u64, timeout: Duration) -> u64 {
        let guard = lock(&self.news);
        let (guard, _) = self
            .told
            .wait_timeout_while(guard, timeout, |news| *news == seen)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }

    pub fn view(&self) -> View {
        lock(&self.view).clone()
    }

    pub fn update_view(&self, update: impl FnOnce(&mut View)) {
        update(&mut lock(&self.view));
        self.view_changed.notify_all();
        self.tell();
    }

    /// The same for the lister; waits for a change while the listing is done, for at most `timeout`.
    pub fn view_to_list(&self, timeout: Duration) -> View {
        let view = lock(&self.view);
        if !view.listing_done {
            return view.clone();
        }
        self.view_changed.wait_timeout(view, timeout).unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// This process has committed the last page.
    pub fn listed(&self) {
        self.leave_free_tasks();
        self.update_view(|view| {
            view.listing_done = true;
            view.listings += 1;
        });
    }

    /// What the database says of the run; `before` is how it looked from here when it was asked.
    pub fn heard(&self, before: &View, beat: &Beat) {
        if beat.lists && !self.lists.swap(true, Ordering::AcqRel) {
            // A `sync` has joined: what was put back waits for its listing.
            self.inbox.clear();
        }
        let mut lost = false;
        self.update_view(|view| {
            // Unless the last page was committed meanwhile, the database knows.
            let listing_done = beat.listing_done || view.listings != before.listings;
            lost = view.listing_done && !listing_done;
            view.listing_done = listing_done;
            view.over |= beat.over;
            view.others = beat.others;
        });
        if lost {
            self.all_listed.store(false, Ordering::Release);
            let scope = self.store.scope();
            log::debug!(account = scope.account(), run = scope.run(); "the listing is to go on");
        }
        if beat.listing_done && !before.listing_done {
            self.leave_free_tasks();
        }
    }

    /// Whether the run lists: one of `retry` does not, until a `sync` joins it.
    pub fn lists(&self) -> bool {
        self.lists.load(Ordering::Acquire)
    }

    /// The writer has committed so many in this time.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn paced(&self, count: usize, since: Duration) {
        let pace = count as f64 / since.as_secs_f64().max(0.001);
        let mixed = (self.pace.load(Ordering::Relaxed) as f64).midpoint(pace);
        self.pace.store(mixed as u64, Ordering::Relaxed);
    }

    /// How many tasks to hold: what can be done in half a second, and not less than four for each worker; four times that
    /// before anything is known.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn capacity(&self) -> usize {
        let pace = self.pace.load(Ordering::Relaxed);
        if pace == 0 {
            return (self.workers * 16).min(MOST_HELD);
        }
        ((pace as f64 * HELD_SECONDS) as usize).clamp((self.workers * 4).min(MOST_HELD), MOST_HELD)
    }

    /// How many tasks to claim: what there is room for, by the size of the last ones.
    pub fn room(&self) -> usize {
        let room = self.capacity().saturating_sub(self.inbox.weight());
        let weight = 1 + self.claimed_bytes.load(Ordering::Relaxed) / COUNTED_BYTES;
        if room == 0 { 0 } else { (room / weight).max(1) }
    }

    /// Counts for the heartbeat, of this worker alone.
    pub fn effort(&self) -> Effort {
        self.whole_effort().since(lock(&self.told_effort).by_earlier_workers)
    }

    /// The database has these counts from this worker.
    pub fn effort_told(&self, worker: WorkerId, effort: Effort) {
        let mut told = lock(&self.told_effort);
        if self.worker() == worker {
            told.by_this_worker = effort;
        }
    }

    fn whole_effort(&self) -> Effort {
        Effort::of(&self.caller.stats, self.caller.limiter.limit())
    }

    /// Registers this process again.
    fn register(&self) -> Result<(), StoreError> {
        let (run_id, worker) = (self.run.run_id, process::new_worker_id());
        self.transact(|client, account| {
            leases::register(client, account, run_id, worker, Process::current())
        })?;
        self.worker.store(worker, Ordering::Release);
        Ok(())
    }

    /// Another process took this one for dead: nothing it holds is its own any more, and results that are still under way
    /// will find no task. It goes on as a new worker.
    pub fn lease_lost(&self, lost: WorkerId) {
        // Writer and keeper notice it at the same moment: with two new workers, what one of them takes would be nobody's.
        let mut told = lock(&self.told_effort);
        if self.worker() != lost || self.finished.load(Ordering::Acquire) {
            return;
        }
        let scope = self.store.scope();
        log::warn!(account = scope.account(), run = scope.run(); "this process was silent for too long, its tasks went to others; going on with new ones (was the machine suspended, or far too busy?)");
        self.inbox.clear();
        if self.register().is_ok() {
            told.by_earlier_workers = told.by_earlier_workers.and(std::mem::take(&mut told.by_this_worker));
            self.leave_free_tasks();
        }
        self.tell();
    }

    /// Takes claimed tasks in; one whose record is no campaign (any more) is a dead letter.
    pub fn take_in(&self, claimed: Vec<Held>) {
        let bytes = claimed.iter().map(|held| held.payload.len()).sum::<usize>() / claimed.len().max(1);
        if bytes > 0 {
            self.claimed_bytes.store(bytes, Ordering::Relaxed);
        }
        for held in claimed {
            match RawValue::from_string(held.payload).map(|raw| read_record(&raw)) {
                Ok(Listed::Valid(campaign)) if campaign.id == held.id => {
                    // In hand already, it is looked for again when that has come to its end.
                    let grip = self.hand.take(&campaign);
                    self.inbox.push(grip.map(|grip| Work::new(campaign, held.attempt, grip)));
                }
                Ok(Listed::Invalid(invalid)) => {
                    self.deliver(invalid_record(held.id, held.attempt, invalid.reason))
                }
                Ok(Listed::Valid(_)) | Err(_) => {
                    let reason = "the stored record is not this campaign's".to_owned();
                    self.deliver(invalid_record(held.id, held.attempt, reason));
                }
            }
        }
    }
}

/// How many of the workers may be busy at the end of a listing.
fn at_once(workers: usize, unwritten: usize, left: usize) -> usize {
    match unwritten {
        few if few <= left.max(FEW_UNWRITTEN) => workers,
        some if some <= 2 * left.max(FEW_UNWRITTEN) => workers.div_ceil(2),
        _ => workers.div_ceil(4),
    }
}

fn invalid_record(id: String, attempt: i32, reason: String) -> Done {
    let failed = Failed { id, attempt, cause: "invalid", reason, tries: 0, retryable: true };
    Done::Dead { failed, origin: None, grip: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fewer_requests_are_made_while_more_is_to_be_written_than_to_be_synced() {
        for (unwritten, left, expected) in [
            (900, 900, 16),
            (901, 900, 8),
            (1_800, 900, 8),
            (1_801, 900, 4),
            (250, 0, 16),
            (500, 0, 8),
            (501, 0, 4),
        ] {
            assert_eq!(at_once(16, unwritten, left), expected, "{unwritten} unwritten, {left} left");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_to_be_written_one_worker_goes_on(workers in 1_usize..300, unwritten: u32, left: u16) {
            let most = at_once(workers, unwritten as usize, left.into());
            prop_assert!((1..=workers).contains(&most));
        }
    }
}
