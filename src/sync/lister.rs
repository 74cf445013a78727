//! The lister: fetches page after page, and gives what it has to the writer with the run's next page. One process lists at
//! a time; fetching goes on while the last pages are being committed, and several pages may share a transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::caller::{Caller, Halt};
use super::ending::Ending;
use super::pages::{Chain, NewPages, PendingPages, Record, key_of, weight};
use super::session::{Done, Session};
use crate::http::budget::Memory;
use crate::platform::endless::{RecentIds, endless};
use crate::platform::{Invalid, Listed, ListedPage, PageNumber, read_record};
use crate::store::leases;
use crate::store::queue::Totals;

/// Pages that may wait to be committed.
pub(crate) const PAGES_AHEAD: usize = 8;
/// Records of one transaction, about.
const BATCH: usize = 2_000;
/// Records that are committed together in any case, about.
const LOT: usize = 100;
/// Records that may wait for their commit: those of one that is being made, of the next, and what is under way meanwhile. With
/// fewer, a fast process runs out of tasks before each commit; each takes about 0.6 kB.
pub(crate) const UNCOMMITTED: usize = 5_000;
/// How long the lister waits for room in its own process, before it leaves tasks to be claimed. Claiming costs a second
/// write, so a fast process is worth waiting for; a slow one is not: offset paging drifts with time.
const ROOM_PATIENCE: Duration = Duration::from_millis(250);
/// The wait before pages are fetched again that were not committed: doubles from the first to the second.
const RETAKE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a process that is not the lister looks whether it is needed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A page as it came. Its records are read by whoever takes it: fetching is what everybody waits for.
struct Fetched {
    pub page: i64,
    /// The size by which pages are numbered from here on: what was asked for, or less if the server says so.
    pub page_size: i32,
    pub records: Vec<Box<RawValue>>,
    /// Those of its records that are no JSON, each with its payload.
    pub broken: Vec<(Invalid, Box<str>)>,
    pub has_more: bool,
    pub total: Option<i64>,
    pub memory: Option<Memory>,
    /// It ends a listing that has become shorter while it was read.
    pub moved: bool,
}

impl Fetched {
    fn new(page: i64, page_size: i32, listed: ListedPage) -> Self {
        let broken = listed.broken.into_iter().map(|broken| {
            let reason = format!("page {page}, record {}: no JSON: {}", broken.place, broken.fault);
            (Invalid { id: broken.id, reason }, broken.payload.into())
        });
        Self {
            page,
            page_size,
            records: listed.records,
            broken: broken.collect(),
            has_more: listed.has_more,
            total: listed.total,
            memory: listed.memory,
            moved: false,
        }
    }

    fn weight(&self) -> usize {
        let broken = self.broken.iter().map(|(_, payload)| &**payload);
        weight(self.records.iter().map(|raw| raw.get()).chain(broken))
    }
}

/// A record and what it is.
pub struct Entry {
    /// As it came; in base64 when it is no text.
    pub raw: Box<str>,
    /// Whether it is JSON.
    pub is_json: bool,
    /// What it is.
    pub listed: Listed,
}

/// Why there is no page.
enum NoPage {
    /// The account's part is to stop.
    Halted,
    /// The listing cannot be read on: the platform refuses what it promises.
    Moved(String),
}

impl From<Halt> for NoPage {
    fn from(_: Halt) -> Self {
        Self::Halted
    }
}

/// Fetches one page.
fn fetch(caller: &Caller, page: i64, page_size: i32) -> Result<Fetched, NoPage> {
    let (mut page, mut page_size) = (page, page_size);
    loop {
        let listed = match caller.try_to_list(PageNumber(page), page_size)? {
            Ok(listed) => listed,
            Err(refusal) => return fetch_the_end(caller, page, page_size, &refusal),
        };
        if let Some(smaller) =
            listed.limit.and_then(|limit| i32::try_from(limit).ok()).filter(|limit| *limit < page_size)
        {
            // The server makes smaller pages than we count in. What it showed on this one depends on how it counts, so
            // it is asked again, in its own size, for the page that holds the first record not seen yet.
            let scope = caller.scope();
            log::info!(account = scope.account(), run = scope.run(); "the platform allows {smaller} campaigns a page, not {page_size}");
            let seen = (page - 1).saturating_mul(i64::from(page_size));
            (page, page_size) = (seen / i64::from(smaller) + 1, smaller);
            continue;
        }
        return Ok(Fetched::new(page, page_size, listed));
    }
}

/// The platform refuses a page that the one before promised: the listing has moved while it was read. Looks for the page that
/// is the last one now, which is given in place of the refused one.
fn fetch_the_end(caller: &Caller, refused: i64, page_size: i32, refusal: &str) -> Result<Fetched, NoPage> {
    let scope = caller.scope();
    log::debug!(account = scope.account(), run = scope.run(), page = refused; "{refusal}: looking for the last page");
    // All up to `served` promise more; from `beyond` on they are refused. Most often it is the page just before.
    let (mut served, mut beyond) = (0, refused);
    let mut next = refused - 1;
    while served + 1 < beyond {
        match caller.try_to_list(PageNumber(next), page_size)? {
            Ok(listed) if !listed.has_more => {
                log::debug!(account = scope.account(), run = scope.run(), page = next; "this is the last page now");
                return Ok(Fetched { page: refused, moved: true, ..Fetched::new(next, page_size, listed) });
            }
            // Some platforms promise another page behind every full one.
            Ok(listed)
                if listed.total.is_some_and(|total| next.saturating_mul(page_size.into()) >= total) =>
            {
                let last = Fetched::new(next, page_size, listed);
                return Ok(Fetched { page: refused, has_more: false, moved: next + 1 < refused, ..last });
            }
            Ok(_) => served = next,
            Err(_) => beyond = next,
        }
        next = served + (beyond - served) / 2;
    }
    let message = format!("{refusal} for page {beyond}, though page {served} says that more follow");
    Err(NoPage::Moved(message))
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
        let fetched = match fetch(self.caller, self.next.take()?, self.page_size) {
            Ok(fetched) => fetched,
            Err(NoPage::Halted) => return None,
            Err(NoPage::Moved(cause)) => {
                self.caller.end(Ending::ListingMoved { cause, again: false });
                return None;
            }
        };
        let entries = fetched.records.into_iter().map(|raw| Entry {
            listed: read_record(&raw),
            raw: raw.into(),
            is_json: true,
        });
        let broken = fetched.broken.into_iter().map(|(invalid, raw)| Entry {
            listed: Listed::Invalid(invalid),
            raw,
            is_json: false,
        });
        let is_new = |entry: &Entry| match &entry.listed {
            Listed::Valid(campaign) => self.recent.is_new(&campaign.id),
            Listed::Invalid(invalid) => self.recent.is_new(&key_of(invalid, &entry.raw)),
        };
        let entries: Vec<Entry> = entries.chain(broken).filter(is_new).collect();
        self.barren = if entries.is_empty() { self.barren + 1 } else { 0 };
        self.listed += i64::try_from(entries.len()).unwrap_or(0);
        if fetched.has_more {
            match endless(self.barren, self.listed, fetched.total) {
                Some(reason) => {
                    self.caller.end(Ending::Listing(reason));
                }
                None => (self.page_size, self.next) = (fetched.page_size, Some(fetched.page + 1)),
            }
        }
        Some(entries)
    }
}

/// Lists until the listing is done, by this process or another; and again, should the database know no more of it.
pub(super) fn list(session: &Session) {
    list_to_the_end(session);
    session.lister_gone.store(true, Ordering::Release);
    session.tell();
}

fn list_to_the_end(session: &Session) {
    let mut setbacks = Setbacks::new(session.caller.give_up_after());
    while !session.caller.stop.requested() && !session.finished.load(Ordering::Acquire) {
        let view = session.view_to_list(LOOK_AGAIN);
        if view.over || view.listing_error.is_some() || session.refusal().is_some() {
            return;
        }
        if view.listing_done {
            continue;
        }
        let worker = session.worker();
        let taken = session
            .transact(|client, account| leases::take_listing(client, account, session.run.run_id, worker));
        match taken {
            Ok(Some((page, page_size))) => {
                let wait = match setbacks.take(session.caller.clock.now(), page) {
                    Ok(wait) => wait,
                    Err(reason) => {
                        session.caller.end(Ending::DatabaseUnavailable(reason));
                        session.tell();
                        return;
                    }
                };
                session.fetching.store(true, Ordering::Release);
                session.caller.clock.sleep(wait);
                // What an earlier listing of the run has shown is looked up before it is handed out.
                let again = page > 1 || !session.run.new || !wait.is_zero();
                list_from(session, page, page_size, again);
                session.fetching.store(false, Ordering::Release);
            }
            Ok(None) => {
                session.refusals.fetch_add(1, Ordering::Relaxed);
                session.caller.clock.sleep(LOOK_AGAIN);
            }
            Err(_ended) => return,
        }
    }
}

/// How often the listing was taken on in vain: pages that were fetched and not committed are fetched again.
struct Setbacks {
    most: Duration,
    /// The page that the run stands at, since when, and how often it was taken on there.
    at: Option<(i64, Instant, u32)>,
}

impl Setbacks {
    fn new(most: Duration) -> Self {
        Self { most, at: None }
    }

    /// The listing is taken on at this page: after how long its pages may be fetched, or why no more.
    fn take(&mut self, now: Instant, page: i64) -> Result<Duration, String> {
        let (at, since, times) = match self.at {
            None => (page, now, 0),
            Some((before, ..)) if page > before => (page, now, 1),
            Some((before, since, times)) => (before, since, times.saturating_add(1)),
        };
        self.at = Some((at, since, times));
        let passed = now.saturating_duration_since(since);
        if times > 1 && passed >= self.most {
            return Err(format!(
                "the pages from page {page} on were fetched {times} times in {} s (--give-up-after) and could not be committed: other processes, or triggers of the database, take the listing away",
                passed.as_secs()
            ));
        }
        let doubled = RETAKE.0.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1)));
        let wait = doubled.min(RETAKE.1).min(self.most.saturating_sub(passed).max(RETAKE.0));
        Ok(if times == 0 { Duration::ZERO } else { wait })
    }
}

fn list_from(session: &Session, first_page: i64, page_size: i32, again: bool) {
    let (sender, receiver) = sync_channel(PAGES_AHEAD);
    std::thread::scope(|scope| {
        // Refused, it drops the sender: then there is nothing to feed.
        super::start(scope, &session.caller, || fetch_pages(session, first_page, page_size, sender));
        // Dropped at its end, the receiver ends the fetching too.
        Feeder::new(session, first_page, again, receiver).run();
    });
}

fn fetch_pages(session: &Session, first_page: i64, page_size: i32, pages: SyncSender<Came>) {
    let (mut page, mut page_size, mut more) = (first_page, page_size, true);
    while more {
        let came = match fetch(&session.caller, page, page_size) {
            Ok(fetched) => {
                (page, page_size, more) = (fetched.page + 1, fetched.page_size, fetched.has_more);
                Ok(fetched)
            }
            Err(NoPage::Halted) => return,
            Err(NoPage::Moved(cause)) => {
                more = false;
                // A run that stood at this page before has come no further.
                Err(Ending::ListingMoved { cause, again: page == first_page && !session.run.new })
            }
        };
        if pages.send(came).is_err() {
            return;
        }
    }
}

/// A page, or why none follows.
type Came = Result<Fetched, Ending>;

/// Makes commits of fetched pages, and hands their tasks out.
struct Feeder<'a> {
    session: &'a Session,
    pages: Receiver<Came>,
    /// Why no page follows those that came.
    end: Option<Ending>,
    chain: Arc<Chain>,
    next_page: i64,
    /// The run was listed before.
    again: bool,
    recent: RecentIds,
}

impl<'a> Feeder<'a> {
    fn new(session: &'a Session, next_page: i64, again: bool, pages: Receiver<Came>) -> Self {
        let (chain, recent) = (Arc::default(), RecentIds::default());
        Self { session, pages, end: None, chain, next_page, again, recent }
    }

    fn run(mut self) {
        while let Ok(came) = self.pages.recv() {
            let first = match came {
                Ok(first) => first,
                Err(end) => {
                    self.end = Some(end);
                    break;
                }
            };
            let mut records = first.weight();
            let mut batch = vec![first];
            // While there is enough to do, pages gather: one transaction for several costs less than one for each.
            self.await_room();
            // Not more than this process can take at once, if it can help it.
            let most = BATCH.min(self.session.capacity() / 2);
            while records < most
                && let Ok(came) = self.pages.try_recv()
            {
                match came {
                    Ok(page) => {
                        records += page.weight();
                        batch.push(page);
                    }
                    // Nothing comes behind it.
                    Err(end) => self.end = Some(end),
                }
            }
            self.feed(batch, records);
            if self.chain.is_over() {
                return;
            }
        }
        // Whoever lists next goes on from what is committed.
        self.await_commits(0);
        if let Some(end) = self.end.filter(|_| !self.chain.is_over()) {
            self.session.update_view(|view| view.listing_error = Some(end));
        }
    }

    /// Feeds pages that came together, of so many records.
    fn feed(&mut self, batch: Vec<Fetched>, records: usize) {
        let after_another = self.again && self.recent.is_empty();
        // Others would have to wait for their share; and what another lister had shown is looked up first.
        let commit_first = self.session.view().others > 0 || after_another;
        let room = self.session.inbox.room(self.session.capacity(), 0, Duration::ZERO);
        // A few more than there is room for are better off here than as free tasks.
        let mut room = if records <= 2 * room { usize::MAX } else { room };
        if commit_first {
            self.feed_lot(batch, &mut room, after_another, commit_first);
            return;
        }
        // A few at a time, each lot can be committed as soon as it is finished.
        let (mut lot, mut weight) = (Vec::new(), 0);
        let mut pages = batch.into_iter().peekable();
        while let Some(page) = pages.next()
            && !self.chain.is_over()
        {
            weight += page.weight();
            lot.push(page);
            if weight >= LOT || pages.peek().is_none() {
                weight = 0;
                self.feed_lot(std::mem::take(&mut lot), &mut room, after_another, commit_first);
            }
        }
    }

    /// Feeds pages that are committed together.
    fn feed_lot(&mut self, mut lot: Vec<Fetched>, room: &mut usize, after_another: bool, commit_first: bool) {
        let Some(newest) = lot.last() else { return };
        let (next_page, page_size, last) = (newest.page + 1, newest.page_size, !newest.has_more);
        let (count, totals) = (lot.len(), Totals::of(lot.iter().map(|page| page.total)));
        let moved = lot.iter().any(|page| page.moved);
        let memory = lot.iter_mut().filter_map(|page| page.memory.take()).collect();
        let records = self.new_records(lot);
        let barren = records.valid.is_empty() && records.invalid.is_empty();
        // At least one, where there is any room: it may be larger than that.
        let mut held = 0;
        while held < records.valid.len() && *room > 0 {
            *room = room.saturating_sub(records.valid[held].campaign.weight());
            held += 1;
        }
        let pages = NewPages {
            count,
            from_page: self.next_page,
            next_page,
            page_size,
            last,
            totals,
            moved,
            after_another,
            held,
            memory,
            valid: records.valid,
            invalid: records.invalid,
        };
        self.next_page = next_page;
        let mut pending = PendingPages::new(pages, &self.chain, self.session.number_pages());
        if commit_first {
            self.session.deliver(Done::Listed(Box::new(pending)));
            self.await_commits(0);
        } else {
            let works = pending.hand_out(&self.session.hand);
            self.session.deliver(Done::Listed(Box::new(pending)));
            self.session.inbox.push(works);
            self.session.all_listed.store(last, Ordering::Release);
            // Whether a listing without news has an end is seen at its commit: nothing is asked for ahead of that.
            self.await_commits(if barren { 0 } else { UNCOMMITTED });
        }
    }

    /// Waits until there are no more uncommitted records than this.
    fn await_commits(&self, most: usize) {
        let mut news = 0;
        while self.chain.uncommitted() > most && !self.chain.is_over() {
            news = self.session.await_news(news, LOOK_AGAIN);
        }
    }

    /// The records that were not seen just before.
    fn new_records(&mut self, batch: Vec<Fetched>) -> Records {
        let mut records = Records::default();
        for page in batch {
            let first = (page.page - 1).saturating_mul(i64::from(page.page_size));
            let broken = page.broken.into_iter();
            records.invalid.extend(
                broken.filter(|(invalid, _)| invalid.id.as_ref().is_none_or(|id| self.recent.is_new(id))),
            );
            for (place, raw) in (first..).zip(page.records) {
                match read_record(&raw) {
                    Listed::Valid(campaign) => {
                        if self.recent.is_new(&campaign.id) {
                            records.valid.push(Record { campaign, raw, seq: place });
                        }
                    }
                    Listed::Invalid(invalid) => {
                        if invalid.id.as_ref().is_none_or(|id| self.recent.is_new(id)) {
                            records.invalid.push((invalid, raw.into()));
                        }
                    }
                }
            }
        }
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
    valid: Vec<Record>,
    invalid: Vec<(Invalid, Box<str>)>,
}
