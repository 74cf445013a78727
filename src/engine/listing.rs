//! The lister's part: which page is fetched next and when, and what is made of a page that came.

use std::time::{Duration, Instant};

use super::account::{Account, Phase};
use super::calls::{Action, Answer, Call, Page, Room};
use super::judge;
use super::pages::Lot;
use crate::platform::CallError;
use crate::platform::endless::{RecentIds, endless};
use crate::rate::breaker::Lane;
use crate::store::command::{Checkpoint, Command};
use crate::sync::Ending;

/// Records that may wait for their commit, by their weight: those of the commit that is being made, of the next, and what is in
/// flight meanwhile. With fewer, a fast process runs out of tasks before each commit; each takes about 0.6 kB.
pub const MAX_UNCOMMITTED: usize = 5_000;
/// How long the lister waits for room in its own process before it leaves tasks to be claimed. Claiming costs a second write, so
/// a fast process is worth waiting for; a slow one is not: offset paging drifts with time.
const ROOM_PATIENCE: Duration = Duration::from_millis(250);
/// How often a process that is not the lister looks whether it is needed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The most pages of one burst.
const MAX_PAGES: usize = 8;

/// Where the listing stands.
#[derive(Debug, Default)]
pub struct Listing {
    /// The last page is in.
    pub done: bool,
    /// A burst of pages is in flight.
    pub fetching: bool,
    /// It is this process's: the next page to fetch, unless the last one was seen.
    mine: Option<Position>,
    /// It has no end.
    broken: Option<String>,
    /// Whether the lease is being asked for, and when it was asked for last.
    taking: bool,
    taken_at: Option<Instant>,
    not_before: Option<Instant>,
    failures: u32,
    unauthorized: u32,
    fetched_at: Option<Instant>,
    recent: RecentIds,
    /// What another lister had shown is not known here: the first lot is looked up first.
    after_another: bool,
    barren: usize,
    listed: i64,
    next_lot: u64,
    /// Why the last attempt at anything failed.
    pub last_failure: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    /// The page that the next lot begins at, and the page to fetch next.
    from_page: i64,
    page: i64,
    page_size: i32,
    more: bool,
}

impl Listing {
    /// The run was opened.
    pub fn begin(&mut self, done: bool, checkpoint: Option<Checkpoint>) {
        self.done |= done;
        self.take(checkpoint);
    }

    /// The listing is this process's, from here on; or it is not.
    pub fn take(&mut self, checkpoint: Option<Checkpoint>) {
        self.taking = false;
        self.mine = checkpoint.map(|at| Position {
            from_page: at.page,
            page: at.page,
            page_size: at.page_size,
            more: true,
        });
        self.after_another = checkpoint.is_some_and(|at| at.page > 1) && self.recent.is_empty();
    }

    /// The next page is not ours to commit any more.
    pub fn lose(&mut self) {
        self.mine = None;
        (self.recent, self.barren) = (RecentIds::default(), 0);
    }

    /// The run is joined again.
    pub fn begin_again(&mut self) {
        *self = Self { fetching: self.fetching, next_lot: self.next_lot, ..Self::default() };
    }

    /// Why it has no end, if so.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Whether it goes on where another process's ended, and nothing was committed since.
    #[must_use]
    pub fn is_after_another(&self) -> bool {
        self.after_another
    }

    /// Whether this process has to commit before it hands out.
    fn commits_first(&self, others: bool) -> bool {
        others || self.after_another
    }
}

impl Account {
    /// Fetches the next pages, if they are wanted now; becomes the lister, if nobody is.
    pub(super) fn list(&mut self, now: Instant, room: &mut Room, actions: &mut Vec<Action>) {
        if self.listing.done || self.listing.fetching || self.listing.broken.is_some() {
            return;
        }
        let Some(position) = self.listing.mine else {
            self.take_listing(now, actions);
            return;
        };
        if !position.more || !self.wants_pages(now) || room.workers == 0 || room.records == 0 {
            return;
        }
        if let Some(at) = self.listing.not_before.filter(|at| now < *at) {
            self.due_at(at);
            return;
        }
        let Some(token) = self.token_to_send(now, room, actions) else { return };
        if room.workers == 0 {
            return;
        }
        if let Some(at) = self.health.closed_until(Lane::List, now) {
            self.due_at(at);
            return;
        }
        let pages = self.capacity() / 2 / usize::try_from(position.page_size).unwrap_or(1).max(1);
        // Turns under a limit are for now, and a page takes its time.
        let one = self.listing.failures > 0 || self.listing.barren > 0 || self.limiter.limit().is_some();
        let most = if one { 1 } else { pages.clamp(1, MAX_PAGES) };
        let turns = self.turn(most, now, actions);
        // The breaker's trial last: one that is not used is lost.
        if turns == 0 || self.phase != Phase::Working || self.health.admit(Lane::List, now).is_err() {
            return;
        }
        self.limiter.take(u32::try_from(turns).unwrap_or(u32::MAX), now);
        self.listing.fetching = true;
        self.listing.fetched_at = Some(now);
        room.workers -= 1;
        let (page, page_size) = (position.page, position.page_size);
        let until = self.limiter.good_until();
        actions.push(Action::Call(Call::Pages { token, page, page_size, most: turns, until }));
    }

    /// Whether there is room for more pages, and no reason to wait for a commit first.
    fn wants_pages(&mut self, now: Instant) -> bool {
        let waits = self.listing.barren > 0 || self.listing.commits_first(self.others);
        if waits && (!self.pages.is_empty() || self.outstanding.committing) {
            return false;
        }
        if self.pages.weight() + self.outstanding.weight >= MAX_UNCOMMITTED {
            return false;
        }
        if self.others || self.ready.len() <= self.capacity() / 2 {
            return true;
        }
        let patient_until = self.listing.fetched_at.map_or(now, |at| at + ROOM_PATIENCE);
        if now < patient_until {
            self.due_at(patient_until);
        }
        now >= patient_until
    }

    fn take_listing(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let at = self.listing.taken_at.map_or(now, |at| at + LOOK_AGAIN);
        if self.listing.taking {
            return;
        }
        if now < at || self.outstanding.committing {
            self.due_at(at.max(now + Duration::from_millis(1)));
            return;
        }
        (self.listing.taking, self.listing.taken_at) = (true, Some(now));
        actions.push(Action::Store(Command::TakeListing));
    }

    pub(super) fn on_page(
        &mut self,
        answer: &Answer,
        result: Result<Page, CallError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.observe(answer, actions);
        if self.probed(result.is_ok(), answer.sent_at) {
            return;
        }
        match result {
            Ok(page) if page.served.is_some_and(|served| served != page.page) => {
                let message = format!("asked for page {}, the platform served another", page.page);
                self.page_failed(None, message, now);
            }
            Ok(page) => {
                if let Some(token) = self.token.usable(now).map(|token| token.generation) {
                    self.token.accepted(token);
                }
                self.health.success(Lane::List, answer.sent_at);
                (self.listing.failures, self.listing.unauthorized, self.listing.not_before) = (0, 0, None);
                self.listed(page, now);
            }
            Err(CallError::RateLimited { .. }) => self.health.refused(now),
            Err(CallError::Shortage(shortage)) => {
                self.listing.last_failure = Some(shortage.to_string());
                self.health.hampered(now);
                self.listing.not_before = Some(now + judge::SHORTAGE);
            }
            Err(CallError::Unauthorized) => {
                self.listing.unauthorized += 1;
                let generation = self.token.usable(now).map_or(0, |token| token.generation);
                let never_accepted = self.token.refused(generation);
                let times = self.listing.unauthorized;
                if (times >= 2 && never_accepted) || times > self.settings.policy.max_attempts {
                    self.end(Ending::CredentialsRefused("a fresh token was refused as well (401)".into()));
                }
            }
            Err(CallError::Retry { hint, message, .. }) => self.page_failed(hint, message, now),
            Err(error @ CallError::Refused { status: 403, .. }) => {
                self.end(Ending::CredentialsRefused(error.to_string()));
            }
            Err(error @ CallError::Refused { .. }) => self.end(Ending::RequestRefused(error.to_string())),
        }
    }

    fn page_failed(&mut self, hint: Option<Duration>, message: String, now: Instant) {
        self.health.failure(Lane::List, now);
        self.listing.last_failure = Some(message);
        self.listing.failures += 1;
        if let Some(wait) = hint.filter(|hint| *hint > self.settings.policy.max_wait) {
            self.end(Ending::WaitTooLong { wait, allowed: self.settings.policy.max_wait });
            return;
        }
        let jitter = self.jitter();
        let wait = judge::backoff(self.listing.failures, hint, jitter) + self.health.spend_retry();
        self.listing.not_before = Some(now + wait);
    }

    /// Makes a lot of a page, and hands its tasks out if nobody else has to be asked.
    fn listed(&mut self, page: Page, now: Instant) {
        let Some(mut position) = self.listing.mine.filter(|position| position.page == page.page) else {
            // It belongs to a listing that this process has lost.
            return;
        };
        if position.page_size != page.page_size {
            return;
        }
        let smaller = page.limit.and_then(|limit| i32::try_from(limit).ok());
        if let Some(smaller) = smaller.filter(|limit| *limit > 0 && *limit < page.page_size) {
            // The platform makes smaller pages than we count in. It is asked again, in its own size, for the page that holds
            // the first record not seen yet.
            let seen = (page.page - 1).saturating_mul(i64::from(page.page_size));
            (position.page, position.page_size) = (seen / i64::from(smaller) + 1, smaller);
            self.listing.mine = Some(position);
            return;
        }
        let mut lot = Lot::new(self.listing.next_lot, position.from_page, now);
        self.listing.next_lot += 1;
        (lot.pages, lot.next_page, lot.page_size) = (1, page.page + 1, page.page_size);
        (lot.last, lot.total) = (!page.has_more, page.total);
        let recent = &mut self.listing.recent;
        lot.records = page.records.into_iter().filter(|record| recent.is_new(&record.campaign.id)).collect();
        lot.invalid =
            page.invalid.into_iter().filter(|letter| !letter.named || recent.is_new(&letter.id)).collect();
        if lot.records.is_empty() && lot.invalid.is_empty() {
            // Whether a listing without news has an end is seen at its commit: nothing is asked for ahead of that.
            self.listing.barren += 1;
        }
        (position.from_page, position.page, position.more) = (page.page + 1, page.page + 1, page.has_more);
        self.listing.mine = Some(position);
        let room = self.capacity().saturating_sub(self.ready.len());
        // A few more than there is room for are better off here than as free tasks.
        let held = if lot.records.len() <= 2 * room { lot.records.len() } else { room };
        if self.listing.commits_first(self.others) {
            lot.held = held;
        } else {
            lot.hand_out(held).into_iter().for_each(|task| self.ready.push(task));
        }
        self.pages.push(lot);
    }

    /// Lots are committed: is the listing done, or has it no end?
    pub(super) fn look_for_the_end(&mut self, pages: usize, new: i64, last: bool, total: Option<i64>) {
        self.listing.after_another = false;
        self.listing.barren = if new > 0 { 0 } else { self.listing.barren.max(pages) };
        self.listing.listed += new;
        if last {
            self.listing.done = true;
        } else if let Some(reason) = endless(self.listing.barren, self.listing.listed, total) {
            self.listing.broken = Some(reason);
            self.listing.mine = None;
        }
    }
}
