//! A whole listing, page by page, for commands that store nothing.

use serde_json::value::RawValue;

use super::caller::{Caller, Halt};
use crate::platform::endless::{RecentIds, endless};
use crate::platform::{Invalid, Listed, ListedPage, PageNumber, key_of, read_record};
use crate::sync::Ending;

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
        }
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
                return Ok(Fetched { page: refused, ..Fetched::new(next, page_size, listed) });
            }
            // Some platforms promise another page behind every full one.
            Ok(listed)
                if listed.total.is_some_and(|total| next.saturating_mul(page_size.into()) >= total) =>
            {
                let last = Fetched::new(next, page_size, listed);
                return Ok(Fetched { page: refused, has_more: false, ..last });
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
