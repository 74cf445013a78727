//! The writer: pages and results in, batches out. It waits a moment for a batch to grow, never long, and whoever delivers
//! waits for it when it has too much.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::hand::Grip;
use super::pages::{Chain, Fate, PageQueue, PendingPages, Stored};
use super::salvage::{salvage, unstorable};
use super::session::{Done, Session};
use crate::foreign;
use crate::platform::Campaign;
use crate::platform::endless::endless;
use crate::store::queue::{self, Added, Failed, Pages, WorkerId};
use crate::store::{StoreError, UNIQUE_VIOLATION};

/// How long to wait for news when nothing is held back, and when something is.
const PATIENCE: Duration = Duration::from_secs(1);
const SHORT_PATIENCE: Duration = Duration::from_millis(20);

/// Commits pages and results until nothing more will come and all of it is committed.
pub(super) fn write(session: &Session) {
    let mut writer =
        Writer { session, pages: PageQueue::default(), chain: Arc::default(), barren: 0, listed: 0 };
    let mut last_flush = Instant::now();
    let mut open = true;
    while open {
        let patience = if writer.pages.is_empty() { PATIENCE } else { SHORT_PATIENCE };
        let results;
        (results, open) = session.outbox.take(patience, writer.pages.most() / 2);
        let taken = results.len();
        session.writing.store(taken, Ordering::Relaxed);
        let mut batch = Batch::default();
        for done in results {
            writer.sort(done, &mut batch);
        }
        // A leaving process holds nothing back, nor does one whose fellows wait for tasks.
        let all = !open || session.caller.stop.requested() || session.view().others > 0;
        let mut count = writer.commit_pages(all, &mut batch);
        count += batch.len();
        batch.commit(session);
        session.writing.store(0, Ordering::Relaxed);
        if taken > 0 {
            session.tell();
        }
        if count > 0 {
            session.paced(count, last_flush.elapsed());
            last_flush = Instant::now();
        }
    }
}

struct Writer<'a> {
    session: &'a Session,
    pages: PageQueue,
    /// The chain of the last pages, …
    chain: Arc<Chain>,
    /// … how many of its pages in a row brought nothing new, and what it listed in all.
    barren: usize,
    listed: i64,
}

impl Writer<'_> {
    fn sort(&mut self, done: Done, batch: &mut Batch) {
        match done {
            Done::Listed(pages) => self.pages.push(*pages),
            Done::Synced { attempt, campaign, origin, grip } => {
                match origin.as_ref().map(|origin| (origin, origin.fate())) {
                    Some((origin, None)) => self.pages.synced(origin, grip),
                    Some((_, Some(Fate::Dropped))) => self.session.written(1),
                    Some((_, Some(Fate::Committed(attempt)))) => batch.synced(attempt, campaign, grip),
                    None => batch.synced(attempt, campaign, grip),
                }
            }
            Done::Dead { failed, origin, grip } => {
                match origin.as_ref().map(|origin| (origin, origin.fate())) {
                    Some((origin, None)) => self.pages.dead(origin, failed, grip),
                    Some((_, Some(Fate::Dropped))) => self.session.written(1),
                    Some((_, Some(Fate::Committed(attempt)))) => {
                        batch.dead(Failed { attempt, ..failed }, grip)
                    }
                    None => batch.dead(failed, grip),
                }
            }
        }
    }

    /// Commits the pages whose time has come; gives how many results went with them.
    fn commit_pages(&mut self, all: bool, batch: &mut Batch) -> usize {
        let mut results = 0;
        loop {
            let pages = self.pages.take_ready(all);
            if pages.is_empty() {
                return results;
            }
            // Tasks that are handed out only now are not in the inbox before.
            self.session.job_begun();
            results += self.commit(pages, batch);
            self.session.job_ended();
        }
    }

    fn commit(&mut self, pages: Vec<PendingPages>, batch: &mut Batch) -> usize {
        let Some(first) = pages.first() else { return 0 };
        let chain = first.chain.clone();
        let mut stored = Stored::All;
        let mut added = if chain.is_over() { Ok(None) } else { self.add_finished(&pages) };
        if let Err(StoreError::Row { sqlstate, .. }) = &added
            && sqlstate == UNIQUE_VIOLATION
            && self.session.first.swap(false, Ordering::Relaxed)
        {
            let scope = self.session.store.scope();
            log::debug!(account = scope.account(), run = scope.run(); "the account has campaigns after all");
            added = self.add_finished(&pages);
        }
        if let Err(StoreError::Row { .. }) = added {
            let add = |rows: &Pages<'_>| self.add(rows, pages[0].pages.after_another);
            added = salvage(self.session, &pages, &add).map(|salvaged| {
                salvaged.map(|salvaged| {
                    stored = salvaged.stored;
                    if let Some((id, error)) = salvaged.refused {
                        // The run stands at these pages: what is behind them cannot be committed.
                        chain.end();
                        self.session.refuse(&id, &error);
                    }
                    salvaged.added
                })
            });
        }
        if let Ok(None) = added
            && self.was_committed(&pages)
        {
            let new = pages.iter().map(|pending| pending.pages.valid.len()).sum::<usize>();
            added = Ok(Some(Added { new: i64::try_from(new).unwrap_or(0), ..Added::default() }));
        }
        match added {
            Ok(Some(added)) => self.committed(pages, &stored, &added, batch),
            // The lease is lost, or a commit of which nobody knew was ours: the database knows where to go on.
            Ok(None) | Err(_) => {
                chain.end();
                let useless: usize = pages.into_iter().map(|pending| 1 + pending.dropped()).sum();
                self.session.inbox.forget_dropped();
                self.session.written(useless);
                0
            }
        }
    }

    /// Whether an earlier try at this commit was made of which nobody heard: then its tasks are ours, as they were handed out.
    fn was_committed(&self, pages: &[PendingPages]) -> bool {
        let (session, worker) = (self.session, self.session.worker());
        let Some(next_page) = pages.last().map(|pending| pending.pages.next_page) else { return false };
        session.in_doubt()
            && pages.iter().all(PendingPages::handed_out)
            && session
                .transact(|client, account| {
                    queue::has_reached(client, account, session.run.run_id, worker, next_page)
                })
                .unwrap_or(false)
    }

    /// Commits pages with what is finished of them as campaigns.
    fn add_finished(&self, pages: &[PendingPages]) -> Result<Option<Added>, StoreError> {
        let (Some(first), Some(rows)) = (pages.first(), PendingPages::rows(pages, true)) else {
            return Ok(None);
        };
        let first_ever = self.session.first.load(Ordering::Relaxed);
        self.add(&Pages { first: first_ever, ..rows }, first.pages.after_another)
    }

    fn add(&self, rows: &Pages<'_>, after_another: bool) -> Result<Option<Added>, StoreError> {
        let (session, worker) = (self.session, self.session.worker());
        let tasks = rows.tasks.iter().map(|task| task.payload.len());
        let finished = rows.finished.iter().map(|campaign| campaign.extra.len());
        let bytes = tasks.chain(finished).chain(rows.invalid.iter().map(|letter| letter.payload.len())).sum();
        let step = session.caller.trace.begin();
        let added = session.transact_gift(bytes, |client, account| {
            let add = if after_another { queue::add_pages_after_another } else { queue::add_pages };
            add(client, account, session.run.run_id, worker, rows)
        });
        session.caller.trace.commit(step, "sync_runs", rows.tasks.len() + rows.finished.len(), &added);
        added
    }

    fn committed(
        &mut self,
        pages: Vec<PendingPages>,
        stored: &Stored,
        added: &Added,
        batch: &mut Batch,
    ) -> usize {
        let Some(newest) = pages.last() else { return 0 };
        let (chain, last) = (newest.chain.clone(), newest.pages.last);
        let total = newest.pages.totals.map(|totals| totals.last);
        let count: usize = pages.iter().map(|pending| pending.pages.count).sum();
        // Before they settle: whoever waits for that looks at it then.
        if !chain.is_over() {
            self.look_for_the_end(&chain, count, added.new, last, total);
        }
        let mut results = 0;
        for pending in pages {
            if pending.pages.valid.len() > pending.pages.held {
                self.session.leave_free_tasks();
            }
            self.session.inbox.push(pending.not_handed_out(added, &self.session.hand));
            let settled = pending.committed(stored, added);
            results += settled.results;
            settled.dead.into_iter().for_each(|(failed, grip)| batch.dead(failed, grip));
            let unstored = settled.unstored.len();
            settled
                .unstored
                .into_iter()
                .for_each(|(attempt, campaign, grip)| batch.synced(attempt, campaign, grip));
            self.session.written(1 + settled.results - unstored);
        }
        if !added.left_out.is_empty() {
            self.session.inbox.forget_dropped();
        }
        results
    }

    /// Whether the listing is done, or has no end.
    fn look_for_the_end(
        &mut self,
        chain: &Arc<Chain>,
        pages: usize,
        new: i64,
        last: bool,
        total: Option<i64>,
    ) {
        if !Arc::ptr_eq(chain, &self.chain) {
            (self.chain, self.barren, self.listed) = (chain.clone(), 0, 0);
        }
        self.barren = if new > 0 { 0 } else { self.barren + pages };
        self.listed += new;
        if last {
            self.session.listed();
        } else if let Some(reason) = endless(self.barren, self.listed, total) {
            let scope = self.session.store.scope();
            log::debug!(account = scope.account(), run = scope.run(); "the listing does not end: {reason}");
            chain.end();
            self.session.update_view(|view| view.listing_error = Some(Ending::Listing(reason)));
        }
    }
}

#[derive(Default)]
struct Batch {
    synced: Vec<(i32, Arc<Campaign>)>,
    dead: Vec<Failed>,
    /// All of them stay in hand until they are committed.
    grips: Vec<Grip>,
}

impl Batch {
    fn synced(&mut self, attempt: i32, campaign: Arc<Campaign>, grip: Grip) {
        self.synced.push((attempt, campaign));
        self.grips.push(grip);
    }

    fn dead(&mut self, failed: Failed, grip: Option<Grip>) {
        self.dead.push(failed);
        self.grips.extend(grip);
    }

    fn len(&self) -> usize {
        self.synced.len() + self.dead.len()
    }

    fn commit(mut self, session: &Session) {
        let count = self.len();
        let synced: Vec<(i32, &Campaign)> =
            self.synced.iter().map(|(attempt, campaign)| (*attempt, &**campaign)).collect();
        complete(session, &synced, &mut self.dead);
        make_dead_letters(session, &mut self.dead);
        // Before it is told: who has nothing left to write has nothing in hand.
        self.grips.clear();
        session.written(count);
    }
}

/// Stores campaigns; when one of them cannot be stored, halves are tried until it is alone, and becomes a dead letter.
fn complete(session: &Session, synced: &[(i32, &Campaign)], dead: &mut Vec<Failed>) {
    if synced.is_empty() {
        return;
    }
    let stored = complete_together(session, synced);
    if matches!(stored, Err(StoreError::Row { .. })) {
        // Where nothing at all can be completed, it is no campaign's fault.
        match complete_together(session, &[]) {
            Err(error) => session.end_by(&error),
            Ok(_) => complete_apart(session, synced, stored, dead),
        }
    } else {
        check_lease(session, session.worker(), stored, synced.len());
    }
}

fn complete_together(session: &Session, synced: &[(i32, &Campaign)]) -> Result<Option<i64>, StoreError> {
    let worker = session.worker();
    let step = session.caller.trace.begin();
    let bytes = synced.iter().map(|(_, campaign)| campaign.extra.len()).sum();
    let complete =
        |client: &mut crate::store::Client, account: &str| queue::complete(client, account, worker, synced);
    let stored = session.transact_rows(bytes, complete);
    session.caller.trace.commit(step, "campaigns", synced.len(), &stored);
    stored
}

/// Goes on after what came of writing them together.
fn complete_apart(
    session: &Session,
    synced: &[(i32, &Campaign)],
    together: Result<Option<i64>, StoreError>,
    dead: &mut Vec<Failed>,
) {
    match (together, synced) {
        (Err(error @ StoreError::Row { .. }), [(attempt, campaign)]) if error.is_rows_fault() => {
            dead.push(Failed {
                id: campaign.id.clone(),
                attempt: *attempt,
                cause: "unstorable",
                reason: unstorable(&error),
                tries: 1,
                retryable: true,
            });
        }
        (Err(error @ StoreError::Row { .. }), [(_, campaign)]) => session.refuse(&campaign.id, &error),
        (Err(StoreError::Row { .. }), several) => {
            let (one, other) = several.split_at(several.len() / 2);
            for half in [one, other] {
                complete_apart(session, half, complete_together(session, half), dead);
            }
        }
        (stored, _) => check_lease(session, session.worker(), stored, synced.len()),
    }
}

/// Makes dead letters of tasks; when one of them cannot be written, halves are tried until it is alone. What can be written
/// in no way stays a task, and the run ends with the reason once all else is done.
fn make_dead_letters(session: &Session, dead: &mut [Failed]) {
    if dead.is_empty() {
        return;
    }
    let worker = session.worker();
    let step = session.caller.trace.begin();
    let written = session.transact_rows(0, |client, account| queue::bury(client, account, worker, dead));
    session.caller.trace.commit(step, "dead_letters", dead.len(), &written);
    match (written, dead) {
        (Err(StoreError::Row { .. }), [one]) if !one.reason.is_ascii() => {
            one.reason = foreign::ascii(&one.reason);
            make_dead_letters(session, std::slice::from_mut(one));
        }
        (Err(error @ StoreError::Row { .. }), [one]) => session.refuse(&one.id, &error),
        (Err(StoreError::Row { .. }), several) => {
            let (one, other) = several.split_at_mut(several.len() / 2);
            make_dead_letters(session, one);
            make_dead_letters(session, other);
        }
        (written, dead) => check_lease(session, worker, written, dead.len()),
    }
}

fn check_lease(session: &Session, worker: WorkerId, done: Result<Option<i64>, StoreError>, expected: usize) {
    let scope = session.store.scope();
    match done {
        Ok(None) => session.lease_lost(worker),
        Ok(Some(held)) if usize::try_from(held) != Ok(expected) => {
            log::debug!(account = scope.account(), run = scope.run(); "{expected} results, {held} of them for tasks still held");
        }
        Ok(Some(_)) => {}
        // The account's part has ended for it; whatever was not committed is done again by the next run.
        Err(error) => log::debug!(account = scope.account(), run = scope.run(); "not committed: {error}"),
    }
}
