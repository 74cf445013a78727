//! The lister: fetches page after page, and commits what it has with the run's next page. One process lists at a time;
//! fetching goes on while the last pages are being committed, and several pages may share a transaction.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde_json::value::RawValue;

use super::caller::{Caller, Halt};
use super::ending::Ending;
use super::inbox::Work;
use super::session::Session;
use crate::platform::{Campaign, Invalid, Listed, PageNumber, read_record};
use crate::store::leases;
use crate::store::queue::{self, Added, NewDeadLetter, NewTask, Pages};

/// Pages that may wait to be committed.
const PAGES_AHEAD: usize = 8;
/// Records of one transaction, about.
const BATCH: usize = 2_000;
/// Ids that are remembered to tell repetitions without asking the database; a page repeats its neighbours, if any.
const REMEMBERED: usize = 16_384;
/// Pages in a row without one new record: the listing goes round in circles.
const BARREN_PAGES: usize = 2;
/// A listing longer than twice what the platform says, and this, has no end.
const UNTOLD: i64 = 10_000;
/// How long the lister waits for room in its own process, before it leaves tasks to be claimed. Claiming costs a second
/// write, so a fast process is worth waiting for; a slow one is not: offset paging drifts with time.
const ROOM_PATIENCE: Duration = Duration::from_millis(250);
/// How often a process that is not the lister looks whether it is needed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A page, checked.
struct Fetched {
    pub page: i64,
    /// The size by which pages are numbered from here on: what was asked for, or less if the server says so.
    pub page_size: i32,
    pub entries: Vec<Entry>,
    pub has_more: bool,
    pub total: Option<i64>,
}

/// A record and what it is.
pub struct Entry {
    /// As it came.
    pub raw: Box<RawValue>,
    /// What it is.
    pub listed: Listed,
}

/// Fetches one page and checks its records.
fn fetch(caller: &Caller, page: i64, page_size: i32) -> Result<Fetched, Halt> {
    let (mut page, mut page_size) = (page, page_size);
    loop {
        let listed = caller.list_page(PageNumber(page), page_size)?;
        if let Some(smaller) =
            listed.limit.and_then(|limit| i32::try_from(limit).ok()).filter(|limit| *limit < page_size)
        {
            // The server makes smaller pages than we count in. What it showed on this one depends on how it counts, so
            // it is asked again, in its own size, for the page that holds the first record not seen yet.
            log::info!("the platform allows {smaller} campaigns a page, not {page_size}");
            let seen = (page - 1).saturating_mul(i64::from(page_size));
            (page, page_size) = (seen / i64::from(smaller) + 1, smaller);
            continue;
        }
        let entries =
            listed.records.into_iter().map(|raw| Entry { listed: read_record(&raw), raw }).collect();
        return Ok(Fetched { page, page_size, entries, has_more: listed.has_more, total: listed.total });
    }
}

/// Why a listing that goes on has no end, if so.
fn endless(barren: usize, listed: i64, total: Option<i64>) -> Option<String> {
    if barren >= BARREN_PAGES {
        return Some(format!("{barren} pages in a row brought nothing new, and has_more is still true"));
    }
    let total = total?;
    (listed > total.saturating_mul(2).saturating_add(UNTOLD))
        .then(|| format!("it has {listed} campaigns so far where the platform says {total}"))
}

/// A whole listing, page by page, for those who store nothing: repetitions of the last pages are left out. When it ends
/// early, [`Caller::ending`] tells why.
pub struct Listing<'a> {
    caller: &'a Caller,
    page_size: i32,
    next: Option<i64>,
    recent: RecentIds,
    barren: usize,
    listed: i64,
}

impl<'a> Listing<'a> {
    /// A listing from its first page.
    #[must_use]
    pub fn new(caller: &'a Caller, page_size: i32) -> Self {
        Self { caller, page_size, next: Some(1), recent: RecentIds::default(), barren: 0, listed: 0 }
    }
}

impl Iterator for Listing<'_> {
    type Item = Vec<Entry>;

    fn next(&mut self) -> Option<Vec<Entry>> {
        let mut fetched = fetch(self.caller, self.next.take()?, self.page_size).ok()?;
        fetched.entries.retain(|entry| match &entry.listed {
            Listed::Valid(campaign) => self.recent.is_new(&campaign.id),
            Listed::Invalid(invalid) => self.recent.is_new(&key_of(invalid, &entry.raw)),
        });
        self.barren = if fetched.entries.is_empty() { self.barren + 1 } else { 0 };
        self.listed += i64::try_from(fetched.entries.len()).unwrap_or(0);
        if fetched.has_more {
            match endless(self.barren, self.listed, fetched.total) {
                Some(reason) => {
                    self.caller.end(Ending::Listing(reason));
                }
                None => (self.page_size, self.next) = (fetched.page_size, Some(fetched.page + 1)),
            }
        }
        Some(fetched.entries)
    }
}

/// Lists until the listing is done, by this process or another.
pub(super) fn list(session: &Session) {
    while !session.caller.stop.requested() && !session.finished.load(Ordering::Acquire) {
        let view = session.view();
        if view.listing_done || view.over || view.listing_error.is_some() {
            return;
        }
        let worker = session.worker();
        let taken = session
            .transact(|client, account| leases::take_listing(client, account, session.run.run_id, worker));
        match taken {
            Ok(Some((page, page_size))) => list_from(session, page, page_size),
            Ok(None) => session.caller.clock.sleep(LOOK_AGAIN),
            Err(_ended) => return,
        }
    }
}

fn list_from(session: &Session, first_page: i64, page_size: i32) {
    let (sender, receiver) = sync_channel(PAGES_AHEAD);
    std::thread::scope(|scope| {
        scope.spawn(|| fetch_pages(session, first_page, page_size, sender));
        // Dropped at its end, the receiver ends the fetching too.
        Committer::new(session, first_page, receiver).run();
    });
}

fn fetch_pages(session: &Session, first_page: i64, page_size: i32, pages: SyncSender<Fetched>) {
    let (mut page, mut page_size, mut more) = (first_page, page_size, true);
    while more {
        let Ok(fetched) = fetch(&session.caller, page, page_size) else { return };
        (page, page_size, more) = (fetched.page + 1, fetched.page_size, fetched.has_more);
        if pages.send(fetched).is_err() {
            return;
        }
    }
}

struct Committer<'a> {
    session: &'a Session,
    pages: Receiver<Fetched>,
    next_page: i64,
    recent: RecentIds,
    barren: usize,
    listed: i64,
}

impl<'a> Committer<'a> {
    fn new(session: &'a Session, next_page: i64, pages: Receiver<Fetched>) -> Self {
        Self { session, pages, next_page, recent: RecentIds::default(), barren: 0, listed: 0 }
    }

    fn run(mut self) {
        while let Ok(first) = self.pages.recv() {
            let mut batch = vec![first];
            let mut records = batch[0].entries.len();
            // While there is enough to do, pages gather: one transaction for several costs less than one for each.
            self.await_room();
            // Not more than this process can take at once, if it can help it.
            let most = BATCH.min(self.session.capacity() / 2);
            while records < most
                && let Ok(page) = self.pages.try_recv()
            {
                records += page.entries.len();
                batch.push(page);
            }
            // Its tasks are not in the inbox before they are committed.
            self.session.job_begun();
            let go_on = self.commit(batch);
            self.session.job_ended();
            if !go_on {
                return;
            }
        }
    }

    /// False when there is nothing more to do for this lister.
    fn commit(&mut self, batch: Vec<Fetched>) -> bool {
        let (pages, last) = (batch.len(), batch.last().is_some_and(|page| !page.has_more));
        let total = batch.iter().rev().find_map(|page| page.total);
        let next_page = batch.last().map_or(self.next_page, |page| page.page + 1);
        let page_size = batch.last().map_or(self.session.run.page_size, |page| page.page_size);
        let taken_over = self.next_page > 1 && self.recent.is_empty();
        let records = self.new_records(batch);
        let room = self.session.inbox.room(self.session.capacity(), 0, Duration::ZERO);
        let tasks = records.valid.iter().enumerate().map(|(place, (campaign, raw, seq))| NewTask {
            id: &campaign.id,
            seq: *seq,
            payload: raw.get(),
            held: place < room,
        });
        let commit = Pages {
            from_page: self.next_page,
            next_page,
            page_size,
            last,
            total,
            tasks: tasks.collect(),
            invalid: records.invalid.iter().map(|(invalid, raw)| dead_letter(invalid, raw)).collect(),
        };
        let worker = self.session.worker();
        let step = self.session.caller.trace.begin();
        let added = self.session.transact_gift(|client, account| {
            let add = if taken_over { queue::add_pages_after_another } else { queue::add_pages };
            add(client, account, self.session.run.run_id, worker, &commit)
        });
        self.session.caller.trace.commit(step, "sync_tasks", commit.tasks.len(), &added);
        drop(commit);
        match added {
            Ok(Some(added)) => {
                self.next_page = next_page;
                self.after_commit(records, room, &added, pages, last, total)
            }
            // The lease is lost, or a commit of which nobody knew was ours: the database knows where to go on.
            Ok(None) | Err(_) => false,
        }
    }

    fn after_commit(
        &mut self,
        records: Records,
        room: usize,
        added: &Added,
        pages: usize,
        last: bool,
        total: Option<i64>,
    ) -> bool {
        let held: HashSet<&str> = added.left_out.iter().map(String::as_str).collect();
        if records.valid.len() > room {
            self.session.free_tasks.store(true, Ordering::Release);
        }
        let mine =
            records.valid.into_iter().take(room).filter(|(campaign, ..)| !held.contains(&*campaign.id));
        self.session.inbox.push(mine.map(|(campaign, ..)| Work::new(campaign, 1)));
        self.barren = if added.new > 0 { 0 } else { self.barren + pages };
        self.listed += added.new;
        if last {
            self.session.update_view(|view| view.listing_done = true);
            return false;
        }
        if let Some(reason) = endless(self.barren, self.listed, total) {
            log::warn!(account = self.session.store.account(); "the listing does not end: {reason}");
            self.session.update_view(|view| view.listing_error = Some(reason));
            return false;
        }
        self.session.tell();
        true
    }

    /// The records that were not seen just before.
    fn new_records(&mut self, batch: Vec<Fetched>) -> Records {
        let mut records = Records::default();
        for page in batch {
            let first = (page.page - 1).saturating_mul(i64::from(page.page_size));
            for (place, entry) in (first..).zip(page.entries) {
                match entry.listed {
                    Listed::Valid(campaign) => {
                        if self.recent.is_new(&campaign.id) {
                            records.valid.push((campaign, entry.raw, place));
                        }
                    }
                    Listed::Invalid(invalid) => {
                        if invalid.id.as_ref().is_none_or(|id| self.recent.is_new(id)) {
                            records.invalid.push((invalid, entry.raw));
                        }
                    }
                }
            }
        }
        // One record may stand in a batch twice without an id of its own.
        let mut seen = HashSet::new();
        records.invalid.retain(|(invalid, raw)| seen.insert(key_of(invalid, raw)));
        records
    }

    /// Waits until half of what this process can take is done.
    fn await_room(&self) {
        let patience = if self.session.view().others > 0 { Duration::ZERO } else { ROOM_PATIENCE };
        let capacity = self.session.capacity();
        self.session.inbox.room(capacity, capacity / 2, patience);
    }
}

#[derive(Default)]
struct Records {
    valid: Vec<(Box<Campaign>, Box<RawValue>, i64)>,
    invalid: Vec<(Invalid, Box<RawValue>)>,
}

fn dead_letter<'a>(invalid: &'a Invalid, raw: &'a RawValue) -> NewDeadLetter<'a> {
    NewDeadLetter {
        key: key_of(invalid, raw),
        named: invalid.id.is_some(),
        reason: &invalid.reason,
        payload: raw.get(),
    }
}

/// The campaign's id, or, when there is none that could be a key, a name made of the record.
fn key_of(invalid: &Invalid, raw: &RawValue) -> String {
    invalid.id.clone().unwrap_or_else(|| {
        let hash = digest(&SHA256, raw.get().as_bytes());
        let hex = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("sha256:{hex}")
    })
}

/// The ids of the last pages, as hashes: a collision would hide a campaign, so the hashes are 128 bits, of two random keys.
#[derive(Default)]
struct RecentIds {
    keys: (RandomState, RandomState),
    order: VecDeque<(u64, u64)>,
    known: HashSet<(u64, u64)>,
}

impl RecentIds {
    fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn is_new(&mut self, id: &str) -> bool {
        let hash = (self.keys.0.hash_one(id), self.keys.1.hash_one(id));
        if !self.known.insert(hash) {
            return false;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(hash);
        true
    }
}
