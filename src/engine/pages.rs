//! Lots of pages between their listing and their commit. While this process is alone on its run, their tasks are handed out at
//! once and the lot is held back for a moment: what is finished by then is stored with the checkpoint that covers it and never
//! is a row in the queue. What a crash takes with it, the listing shows again.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::task::Task;
use crate::http::budget::Memory;
use crate::platform::{Campaign, weight_of};
use crate::store::command::{DeadTask, NewCampaign, NewDeadLetter, NewTask, Pages};
use crate::store::queue::Totals;

/// A lot is held back for at most this long: a result is stored at most so much later.
const HOLD: Duration = Duration::from_millis(250);
/// The most records of pages in one transaction, about.
pub const MAX_RECORDS: usize = 2_000;

/// A valid record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The campaign.
    pub campaign: Arc<Campaign>,
    /// The record as it was listed.
    pub payload: Arc<str>,
    /// Its place in the listing.
    pub seq: i64,
}

impl Record {
    /// What it counts for.
    #[must_use]
    pub fn weight(&self) -> usize {
        weight_of(self.payload.len())
    }
}

/// What has become of a record since it was handed out.
#[derive(Clone, Debug)]
enum Fate {
    Open,
    Synced,
    Dead(DeadTask),
}

/// Pages that are committed together.
#[derive(Debug)]
pub struct Lot {
    /// Counts the lots of this process.
    pub number: u64,
    /// How many pages these are.
    pub pages: usize,
    /// The page that the run stands at before them.
    pub from_page: i64,
    /// The page that it stands at after them.
    pub next_page: i64,
    /// The size that pages are numbered by from there on.
    pub page_size: i32,
    /// Whether the last page is among them.
    pub last: bool,
    /// The platform's word on the number of campaigns.
    pub total: Option<i64>,
    /// They end a listing that has become shorter while it was read.
    pub moved: bool,
    /// Given back when they are committed, or dropped.
    pub memory: Vec<Memory>,
    /// The valid records.
    pub records: Vec<Record>,
    /// Those that are none.
    pub invalid: Vec<NewDeadLetter>,
    /// The first this many of the valid ones are for this process.
    pub held: usize,
    /// Whether their tasks are handed out already.
    pub handed_out: bool,
    /// When it was made.
    pub since: Instant,
    fates: Vec<Fate>,
    open: usize,
}

impl Lot {
    /// A lot without records.
    #[must_use]
    pub fn new(number: u64, from_page: i64, since: Instant) -> Self {
        Self {
            number,
            pages: 0,
            from_page,
            next_page: from_page,
            page_size: 0,
            last: false,
            total: None,
            moved: false,
            memory: Vec::new(),
            records: Vec::new(),
            invalid: Vec::new(),
            held: 0,
            handed_out: false,
            since,
            fates: Vec::new(),
            open: 0,
        }
    }

    /// How many records the listing had not shown just before.
    #[must_use]
    pub fn shown(&self) -> usize {
        self.records.len() + self.invalid.len()
    }

    /// What its records count for.
    #[must_use]
    pub fn weight(&self) -> usize {
        let invalid = self.invalid.iter().map(|letter| weight_of(letter.payload.len()));
        1 + self.records.iter().map(Record::weight).chain(invalid).sum::<usize>()
    }

    /// Hands the tasks out that this process holds.
    pub fn hand_out(&mut self, held: usize) -> Vec<Task> {
        self.held = held.min(self.records.len());
        self.open = self.held;
        self.fates = vec![Fate::Open; self.records.len()];
        self.handed_out = true;
        let held = self.records.iter().take(self.held).enumerate();
        held.map(|(place, record)| Task {
            origin: Some((self.number, place)),
            ..Task::new(record.campaign.clone(), 1)
        })
        .collect()
    }

    /// How many of its records have come to something.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.fates.iter().filter(|fate| !matches!(fate, Fate::Open)).count()
    }

    /// Whether to commit it now: everything is finished, or it has taken long enough.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        !self.handed_out || self.open == 0 || now >= self.since + HOLD
    }

    /// When it is ready at the latest.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        self.since + HOLD
    }

    /// What is to be stored of a campaign that was committed as a task although it is finished, if it is at this place.
    #[must_use]
    pub fn is_synced(&self, place: usize) -> bool {
        matches!(self.fates.get(place), Some(Fate::Synced))
    }

    fn set(&mut self, place: usize, fate: Fate) {
        if let Some(known @ Fate::Open) = self.fates.get_mut(place) {
            *known = fate;
            self.open = self.open.saturating_sub(1);
        }
    }
}

/// The lots that wait for their commit, in order.
#[derive(Debug, Default)]
pub struct PageQueue {
    lots: VecDeque<Lot>,
    /// What their records count for.
    weight: usize,
}

impl PageQueue {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lots.is_empty()
    }

    /// What the records of all lots count for.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Adds the next one.
    pub fn push(&mut self, lot: Lot) {
        self.weight += lot.weight();
        self.lots.push_back(lot);
    }

    /// A task is synced whose lot waits; false when its lot does not.
    pub fn synced(&mut self, (number, place): (u64, usize)) -> bool {
        let found = self.find(number);
        found.map(|lot| lot.set(place, Fate::Synced)).is_some()
    }

    /// A task has failed permanently whose lot waits.
    ///
    /// # Errors
    /// Gives it back when its lot does not wait.
    pub fn dead(&mut self, (number, place): (u64, usize), dead: DeadTask) -> Result<(), DeadTask> {
        match self.find(number) {
            Some(lot) => {
                lot.set(place, Fate::Dead(dead));
                Ok(())
            }
            None => Err(dead),
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut Lot> {
        let place = self.lots.binary_search_by_key(&number, |lot| lot.number).ok()?;
        self.lots.get_mut(place)
    }

    /// When the first lot is ready at the latest.
    #[must_use]
    pub fn ready_at(&self) -> Option<Instant> {
        self.lots.front().map(Lot::ready_at)
    }

    /// Takes the lots to commit together; `all` when nothing is to be held back.
    pub fn take_ready(&mut self, all: bool, now: Instant) -> Vec<Lot> {
        let (mut taken, mut weight) = (Vec::new(), 0);
        while let Some(next) = self.lots.front()
            && (all || next.is_ready(now))
            && (taken.is_empty() || weight + next.weight() <= MAX_RECORDS)
        {
            weight += next.weight();
            taken.extend(self.lots.pop_front());
        }
        self.weight -= weight;
        taken
    }

    /// Drops all lots; gives their numbers.
    pub fn drop_all(&mut self) -> Vec<u64> {
        self.weight = 0;
        self.lots.drain(..).map(|lot| lot.number).collect()
    }
}

/// What a commit of these lots is asked to store; `leaving` when this process holds nothing any more.
#[must_use]
pub fn rows(lots: &[Lot], leaving: bool) -> Option<Pages> {
    let (first, last) = (lots.first()?, lots.last()?);
    let mut rows = Pages {
        from_page: first.from_page,
        next_page: last.next_page,
        page_size: last.page_size,
        last: last.last,
        totals: Totals::of(lots.iter().map(|lot| lot.total)),
        moved: lots.iter().any(|lot| lot.moved),
        ..Pages::default()
    };
    let mut keys = HashSet::new();
    for lot in lots {
        for (place, record) in lot.records.iter().enumerate() {
            match lot.fates.get(place) {
                Some(Fate::Synced) => rows.finished.push(NewCampaign {
                    campaign: record.campaign.clone(),
                    seq: record.seq,
                    payload: record.payload.clone(),
                }),
                Some(Fate::Dead(dead)) => rows.dead.push(NewDeadLetter {
                    id: dead.id.clone(),
                    named: true,
                    cause: dead.cause,
                    reason: dead.reason.clone(),
                    attempts: dead.tries,
                    payload: record.payload.clone(),
                    retryable: true,
                    seq: Some(record.seq),
                }),
                Some(Fate::Open) | None => rows.tasks.push(NewTask {
                    id: record.campaign.id.clone(),
                    seq: record.seq,
                    payload: record.payload.clone(),
                    held: place < lot.held && !leaving,
                }),
            }
        }
        // One record may stand on several pages without an id of its own.
        rows.dead.extend(lot.invalid.iter().filter(|letter| keys.insert(letter.id.clone())).cloned());
    }
    Some(rows)
}
