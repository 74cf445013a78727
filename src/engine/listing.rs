//! Where an account's listing stands.

use std::time::{Duration, Instant};

use crate::platform::endless::{RecentIds, Round};
use crate::sync::Ending;
use crate::sync::decision::History;

/// The wait before pages are fetched again that were not committed: doubles from the first to the second.
const RETAKE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Where the listing stands.
#[derive(Debug, Default)]
pub struct Listing {
    /// The last page is in.
    pub done: bool,
    /// Since when that is known.
    pub(super) done_at: Option<Instant>,
    /// A burst of pages is in flight.
    pub fetching: bool,
    /// It is this process's: the next page to fetch, unless the last one was seen.
    pub(super) mine: Option<Position>,
    /// The platform refuses a page that it has promised: where does the listing end now?
    pub(super) seeking: Option<Seeking>,
    /// It cannot be brought to its end.
    pub(super) broken: Option<Ending>,
    /// Whether the lease is being asked for, and when it was asked for last.
    pub(super) taking: bool,
    pub(super) taken_at: Option<Instant>,
    pub(super) not_before: Option<Instant>,
    /// What became of the attempts at the next page.
    pub(super) history: History,
    pub(super) attempts: u32,
    pub(super) fetched_at: Option<Instant>,
    pub(super) recent: RecentIds,
    /// The run was there before this process came to it.
    pub(super) resumed: bool,
    /// What another lister had shown is not known here: the first lot is looked up first.
    pub(super) after_another: bool,
    pub(super) setbacks: Setbacks,
    pub(super) barren: usize,
    pub(super) round: Round,
    pub(super) listed: i64,
    pub(super) next_lot: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// The page that this process began with.
    pub(super) first: i64,
    /// The page that the next lot begins at, and the page to fetch next.
    pub(super) from_page: i64,
    pub(super) page: i64,
    pub(super) page_size: i32,
    pub(super) more: bool,
}

/// The search for the page that is the last one now: all up to `served` promise more, from `beyond` on they are refused.
#[derive(Clone, Debug)]
pub(super) struct Seeking {
    pub(super) refused: i64,
    pub(super) served: i64,
    pub(super) beyond: i64,
    pub(super) next: i64,
    /// What the platform said.
    pub(super) refusal: String,
}

/// How often the listing was taken on in vain: pages that were fetched and not committed are fetched again.
#[derive(Debug, Default)]
pub(super) struct Setbacks {
    /// The page that the run stands at, since when, and how often it was taken on there.
    at: Option<(i64, Instant, u32)>,
}

impl Setbacks {
    /// The listing is taken on at this page: after how long its pages may be fetched, or why no more.
    pub(super) fn take(&mut self, most: Duration, now: Instant, page: i64) -> Result<Duration, String> {
        let (at, since, times) = match self.at {
            None => (page, now, 0),
            Some((before, ..)) if page > before => (page, now, 1),
            Some((before, since, times)) => (before, since, times.saturating_add(1)),
        };
        self.at = Some((at, since, times));
        let passed = now.saturating_duration_since(since);
        if times > 1 && passed >= most {
            return Err(format!(
                "the pages from page {page} on were fetched {times} times in {} s (--give-up-after) and could not be committed: other processes, or triggers of the database, take the listing away",
                passed.as_secs()
            ));
        }
        let doubled = RETAKE.0.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1)));
        let wait = doubled.min(RETAKE.1).min(most.saturating_sub(passed).max(RETAKE.0));
        Ok(if times == 0 { Duration::ZERO } else { wait })
    }
}

impl Listing {
    /// The run was opened, or joined: then it was there before.
    pub fn begin(&mut self, done: bool, resumed: bool, now: Instant) {
        (self.done, self.resumed) = (done, resumed || self.resumed);
        self.done_at = done.then_some(now);
    }

    /// The listing is not this process's.
    pub fn leave(&mut self) {
        (self.taking, self.mine) = (false, None);
    }

    /// The next page is not ours to commit any more.
    pub fn lose(&mut self) {
        (self.mine, self.seeking) = (None, None);
        (self.recent, self.barren, self.round) = (RecentIds::default(), 0, Round::default());
    }

    /// The run is joined again.
    pub fn begin_again(&mut self) {
        let setbacks = std::mem::take(&mut self.setbacks);
        let (fetching, next_lot) = (self.fetching, self.next_lot);
        *self = Self { fetching, next_lot, setbacks, resumed: true, ..Self::default() };
    }

    /// What the database says, as it was asked at this moment. Tells whether it has forgotten that the listing is done.
    pub fn heard(&mut self, done: bool, asked_at: Instant) -> bool {
        let forgotten = !done && self.done && self.done_at.is_some_and(|at| at < asked_at);
        if forgotten {
            self.lose();
        }
        if done != self.done && (done || forgotten) {
            (self.done, self.done_at) = (done, done.then_some(asked_at));
        }
        forgotten
    }

    /// Why it cannot be brought to its end, if so.
    #[must_use]
    pub fn broken(&self) -> Option<&Ending> {
        self.broken.as_ref()
    }

    /// It cannot be brought to its end.
    pub fn give_up(&mut self, ending: Ending) {
        self.broken = Some(ending);
        (self.mine, self.seeking) = (None, None);
    }

    /// Whether it goes on where another process's ended, and nothing was committed since.
    #[must_use]
    pub fn is_after_another(&self) -> bool {
        self.after_another
    }

    /// Whether this process has to commit before it hands out.
    pub(super) fn commits_first(&self, others: bool) -> bool {
        others || self.after_another
    }

    /// A page was answered well.
    pub(super) fn answered(&mut self) {
        (self.history, self.attempts, self.not_before) = (History::default(), 0, None);
    }
}
