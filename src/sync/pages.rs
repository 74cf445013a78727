//! Pages between their listing and their commit. While this process is alone on its run, their tasks are handed out at
//! once and the pages are held back for a moment: what is finished by then is stored with the checkpoint that covers it, and
//! never was a row in the queue. What a crash takes with it, the listing shows again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use serde_json::value::RawValue;

use super::hand::{Grip, Hand};
use super::inbox::Work;
use crate::http::budget::Memory;
use crate::http::hex::push_hex;
use crate::platform::{Campaign, Invalid};
use crate::store::queue::{Added, Failed, NewDeadLetter, NewTask, Pages, Totals};

/// Pages are held back for at most this long. A result is stored at most so much later.
const HOLD: Duration = Duration::from_millis(250);

/// The most records of pages in one transaction, about; at the end of the listing half of what is left, but not less than
/// the second: what is finished last is all that is waited for.
const PAGE_RECORDS: usize = 2_000;
const LAST_RECORDS: usize = 500;

/// A record counts for one more with every so many bytes that it has, wherever records are counted for the memory they take.
pub(super) const COUNTED_BYTES: usize = 4 << 10;

/// What records of these sizes count for.
pub(super) fn weight<'a>(records: impl IntoIterator<Item = &'a str>) -> usize {
    records.into_iter().map(|raw| weight_of(raw.len())).sum()
}

fn weight_of(bytes: usize) -> usize {
    1 + bytes / COUNTED_BYTES
}

impl Campaign {
    /// The same for what is in hand of a record.
    pub(super) fn weight(&self) -> usize {
        weight_of(self.name.len() + self.extra.len())
    }
}

/// Pages of one lister, one after another, each commit upon the one before.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// A commit was refused, or the listing has no end: nothing more of it will be committed.
    over: AtomicBool,
    /// Records by their [`weight`], and one for each lot of pages, that are neither committed nor dropped.
    uncommitted: AtomicUsize,
}

impl Chain {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub fn uncommitted(&self) -> usize {
        self.uncommitted.load(Ordering::Acquire)
    }
}

/// Where a task comes from that was handed out before its page was committed.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pages: Arc<Handed>,
    place: usize,
}

#[derive(Debug)]
struct Handed {
    number: u64,
    fates: OnceLock<Fates>,
}

/// What has become of tasks: of all, but for some, by their places.
#[derive(Debug)]
struct Fates {
    all: Fate,
    but: HashMap<usize, Fate>,
}

impl Fates {
    fn of(&self, place: usize) -> Fate {
        self.but.get(&place).copied().unwrap_or(self.all)
    }
}

/// What has become of a task, once its page is committed or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is a row like any other, held under this attempt number.
    Committed(i32),
    /// Somebody else lists, or will list, this campaign again: what comes of this task is of no use.
    Dropped,
}

impl Origin {
    /// None while they are pending.
    pub fn fate(&self) -> Option<Fate> {
        Some(self.pages.fates.get()?.of(self.place))
    }
}

/// A valid record.
pub(super) struct Record {
    pub campaign: Arc<Campaign>,
    pub raw: Box<RawValue>,
    /// Its place in the listing.
    pub seq: i64,
}

/// What the lister found on some pages.
pub(super) struct NewPages {
    /// How many pages these are.
    pub count: usize,
    pub from_page: i64,
    pub next_page: i64,
    pub page_size: i32,
    pub last: bool,
    pub totals: Option<Totals>,
    /// They end a listing that has become shorter while it was read.
    pub moved: bool,
    /// The first ones of a lister that goes on where another one was.
    pub after_another: bool,
    pub valid: Vec<Record>,
    pub invalid: Vec<(Invalid, Box<str>)>,
    /// So many of the valid ones are for this process.
    pub held: usize,
    /// Given back when they are committed, or dropped.
    pub memory: Vec<Memory>,
}

/// Pages on their way to the database, and what has come of their tasks in the meantime.
pub(super) struct PendingPages {
    pub pages: NewPages,
    pub chain: Arc<Chain>,
    number: u64,
    /// What they count for among those that are uncommitted.
    weight: usize,
    /// Their tasks are with the crew already.
    handed: Option<Arc<Handed>>,
    since: Instant,
    /// What has become of each valid record so far.
    tasks: Vec<Task>,
    /// Of those that this process holds.
    unfinished: usize,
    dead: Vec<(usize, Failed, Option<Grip>)>,
    /// Results that came in.
    results: usize,
}

enum Task {
    /// For whoever claims it.
    Free,
    /// For this process.
    Held,
    /// Synced.
    Finished(Grip),
}

impl PendingPages {
    /// Pages whose tasks are handed out when they are committed.
    pub fn new(pages: NewPages, chain: &Arc<Chain>, number: u64) -> Self {
        let records = pages.valid.len();
        let raw = pages.valid.iter().map(|record| record.raw.get());
        let weight = 1 + weight(raw.chain(pages.invalid.iter().map(|(_, raw)| &**raw)));
        chain.uncommitted.fetch_add(weight, Ordering::AcqRel);
        Self {
            weight,
            chain: chain.clone(),
            number,
            handed: None,
            since: Instant::now(),
            tasks: (0..records)
                .map(|place| if place < pages.held { Task::Held } else { Task::Free })
                .collect(),
            unfinished: pages.held,
            dead: Vec::new(),
            results: 0,
            pages,
        }
    }

    /// Hands the tasks out now; gives those that this process holds, and has not in hand already.
    pub fn hand_out(&mut self, hand: &Arc<Hand>) -> Vec<Work> {
        let handed = Arc::new(Handed { number: self.number, fates: OnceLock::new() });
        self.handed = Some(handed.clone());
        let mut works = Vec::new();
        for (place, record) in self.pages.valid.iter().enumerate().take(self.pages.held) {
            if let Some(grip) = hand.take(&record.campaign) {
                let origin = Origin { pages: handed.clone(), place };
                works.push(Work { origin: Some(origin), ..Work::new(record.campaign.clone(), 1, grip) });
            } else {
                self.tasks[place] = Task::Free;
                self.unfinished -= 1;
            }
        }
        works
    }

    /// Whether their tasks are with the crew.
    pub fn handed_out(&self) -> bool {
        self.handed.is_some()
    }

    /// The tasks to hand out now that they are committed, unless that was done; not those that were left out.
    pub fn not_handed_out(&self, added: &Added, hand: &Arc<Hand>) -> Vec<Work> {
        if self.handed_out() {
            return Vec::new();
        }
        let fates = self.fates(added);
        let held = self.pages.valid.iter().enumerate().take(self.pages.held);
        held.filter_map(|(place, record)| match fates.of(place) {
            Fate::Committed(attempt) => {
                Some(Work::new(record.campaign.clone(), attempt, hand.take(&record.campaign)?))
            }
            Fate::Dropped => None,
        })
        .collect()
    }

    /// What has become of the tasks that are held by their commit.
    fn fates(&self, added: &Added) -> Fates {
        let mut but = HashMap::new();
        if !added.left_out.is_empty() || !added.taken.is_empty() {
            let mut by_id: HashMap<&str, Fate> =
                added.left_out.iter().map(|id| (id.as_str(), Fate::Dropped)).collect();
            by_id.extend(added.taken.iter().map(|(id, attempt)| (id.as_str(), Fate::Committed(*attempt))));
            let valid = self.pages.valid.iter().enumerate();
            but.extend(valid.filter_map(|(place, record)| Some((place, *by_id.get(&*record.campaign.id)?))));
        }
        Fates { all: Fate::Committed(1), but }
    }

    /// Whether they should be committed now: everything is finished, or it has taken long enough.
    fn ready(&self) -> bool {
        !self.handed_out() || self.unfinished == 0 || self.since.elapsed() >= HOLD
    }

    /// The rows that a commit makes: tasks of what is not finished, campaigns of what is.
    pub fn rows<'a>(several: &'a [Self], finished: bool) -> Option<Pages<'a>> {
        let (first, last) = (several.first()?, several.last()?);
        let mut rows = Pages {
            from_page: first.pages.from_page,
            next_page: last.pages.next_page,
            page_size: last.pages.page_size,
            last: last.pages.last,
            totals: several.iter().filter_map(|pending| pending.pages.totals).reduce(Totals::and),
            moved: several.iter().any(|pending| pending.pages.moved),
            ..Pages::default()
        };
        let mut keys = HashSet::new();
        for pending in several {
            for (place, record) in pending.pages.valid.iter().enumerate() {
                let task = &pending.tasks[place];
                if finished && matches!(task, Task::Finished(_)) {
                    rows.finished.push(&record.campaign);
                    continue;
                }
                rows.tasks.push(NewTask {
                    id: &record.campaign.id,
                    seq: record.seq,
                    payload: record.raw.get(),
                    held: !matches!(task, Task::Free),
                });
            }
            // One record may stand on several pages without an id of its own.
            let letters = pending.pages.invalid.iter().map(|(invalid, raw)| dead_letter(invalid, raw));
            rows.invalid.extend(letters.filter(|letter| keys.insert(letter.key.clone())));
        }
        Some(rows)
    }

    /// Whether the record at this place is synced.
    pub fn is_finished(&self, place: usize) -> bool {
        matches!(self.tasks[place], Task::Finished(_))
    }

    /// Whether the record at this place is a task that this process holds.
    pub fn is_held(&self, place: usize) -> bool {
        !matches!(self.tasks[place], Task::Free)
    }

    fn settle(&mut self, fates: Fates) {
        if let Some(handed) = &self.handed {
            handed.fates.get_or_init(|| fates);
        }
        self.pages.memory.clear();
        self.chain.uncommitted.fetch_sub(self.weight, Ordering::AcqRel);
    }

    /// They are committed, with what was finished as campaigns so far as it is `stored`. Gives what is still to be written.
    pub fn committed(mut self, stored: &Stored, added: &Added) -> Settled {
        let fates = self.fates(added);
        let mut settled = Settled { unstored: Vec::new(), dead: Vec::new(), results: self.results };
        for (place, task) in self.tasks.drain(..).enumerate() {
            if let (Task::Finished(grip), Fate::Committed(attempt)) = (task, fates.of(place))
                && !stored.has(&self.pages.valid[place].campaign.id)
            {
                settled.unstored.push((attempt, self.pages.valid[place].campaign.clone(), grip));
            }
        }
        for (place, failed, grip) in self.dead.drain(..) {
            match fates.of(place) {
                Fate::Committed(attempt) => settled.dead.push((Failed { attempt, ..failed }, grip)),
                Fate::Dropped => settled.results += 1,
            }
        }
        self.settle(fates);
        settled
    }

    /// They will not be committed; gives how many results that leaves without use.
    pub fn dropped(mut self) -> usize {
        self.settle(Fates { all: Fate::Dropped, but: HashMap::new() });
        self.results + self.dead.len()
    }
}

/// Which of the finished campaigns were committed as campaigns; the others are tasks.
pub(super) enum Stored {
    All,
    Only(HashSet<String>),
}

impl Default for Stored {
    fn default() -> Self {
        Self::Only(HashSet::new())
    }
}

impl Stored {
    pub fn insert(&mut self, id: String) {
        if let Self::Only(ids) = self {
            ids.insert(id);
        }
    }

    fn has(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.contains(id),
        }
    }
}

/// What committed pages leave to be written.
pub(super) struct Settled {
    /// Finished campaigns that were committed as tasks.
    pub unstored: Vec<(i32, Arc<Campaign>, Grip)>,
    /// Results that are dealt with, or are in `unstored`.
    pub results: usize,
    /// Tasks that failed for good.
    pub dead: Vec<(Failed, Option<Grip>)>,
}

/// All pages that wait for their commit, in order.
#[derive(Default)]
pub(super) struct PageQueue {
    pages: VecDeque<PendingPages>,
}

impl PageQueue {
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    pub fn push(&mut self, pages: PendingPages) {
        self.pages.push_back(pages);
    }

    /// A task is finished whose pages are pending.
    pub fn synced(&mut self, origin: &Origin, grip: Grip) {
        if let Some(pending) = self.find(origin) {
            pending.results += 1;
            pending.tasks[origin.place] = Task::Finished(grip);
            pending.unfinished -= 1;
        }
    }

    /// A task has failed for good whose pages are pending: it is buried once it is a row.
    pub fn dead(&mut self, origin: &Origin, failed: Failed, grip: Option<Grip>) {
        if let Some(pending) = self.find(origin) {
            pending.dead.push((origin.place, failed, grip));
            pending.unfinished -= 1;
        }
    }

    fn find(&mut self, origin: &Origin) -> Option<&mut PendingPages> {
        let place = self.pages.binary_search_by_key(&origin.pages.number, |pending| pending.number).ok()?;
        self.pages.get_mut(place)
    }

    /// How many records to commit at once, about.
    pub fn most(&self) -> usize {
        match self.pages.back() {
            Some(newest) if newest.pages.last => {
                let left: usize = self.pages.iter().map(|pending| pending.weight).sum();
                (left / 2).clamp(LAST_RECORDS, PAGE_RECORDS)
            }
            _ => PAGE_RECORDS,
        }
    }

    /// The next pages that should be committed together, of one chain; `all` when nothing is to be held back.
    pub fn take_ready(&mut self, all: bool) -> Vec<PendingPages> {
        let most = self.most();
        let mut taken: Vec<PendingPages> = Vec::new();
        let mut records = 0;
        while let Some(next) = self.pages.front()
            && (all || next.ready())
            && (taken.is_empty() || records + next.weight <= most)
            && taken.last().is_none_or(|last| Arc::ptr_eq(&last.chain, &next.chain))
        {
            records += next.weight;
            taken.extend(self.pages.pop_front());
        }
        taken
    }
}

pub(super) fn dead_letter<'a>(invalid: &'a Invalid, raw: &'a str) -> NewDeadLetter<'a> {
    NewDeadLetter {
        key: key_of(invalid, raw),
        named: invalid.id.is_some(),
        cause: "invalid",
        reason: &invalid.reason,
        attempts: 0,
        payload: raw,
        retryable: false,
    }
}

/// The campaign's id, or, when there is none that could be a key, a name made of the record.
pub(crate) fn key_of(invalid: &Invalid, raw: &str) -> String {
    invalid.id.clone().unwrap_or_else(|| name_of(raw))
}

/// A name made of the record.
pub(super) fn name_of(raw: &str) -> String {
    let hash = digest(&SHA256, raw.as_bytes());
    let mut name = String::from("sha256:");
    push_hex(&mut name, &hash.as_ref()[..16]);
    name
}
