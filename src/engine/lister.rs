//! The lister's part: which page is fetched next and when, and what is made of a page that came.

use std::time::{Duration, Instant};

use super::account::{Account, Phase};
use super::attempt::Attempt;
use super::calls::{Action, Answer, Asked, Call, Page, Room, Told};
use super::listing::{Position, Seeking};
use super::pages::Lot;
use crate::platform::CallError;
use crate::platform::endless::endless;
use crate::rate::breaker::Lane;
use crate::rate::limiter::Permit;
use crate::store::command::{Checkpoint, Command};
use crate::sync::Ending;
use crate::sync::decision::Decision;

/// Records that may wait for their commit, by their weight: those of the commit that is being made, of the next, and what is in
/// flight meanwhile. With fewer, a fast process runs out of tasks before each commit; each takes about 0.6 kB.
pub const MAX_UNCOMMITTED: usize = 5_000;
/// How long the lister waits for room in its own process before it leaves tasks to be claimed. Claiming costs a second write, so
/// a fast process is worth waiting for; a slow one is not: offset paging drifts with time.
const ROOM_PATIENCE: Duration = Duration::from_millis(250);
/// How often a process that is not the lister looks whether it is needed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The most pages of one burst.
pub const MAX_PAGES: usize = 8;

impl Account {
    /// Fetches the next pages, if they are wanted now; becomes the lister, if nobody is.
    pub(super) fn list(&mut self, now: Instant, room: &mut Room, actions: &mut Vec<Action>) {
        let given_up = self.listing.broken.is_some() || self.unstorable.0 > 0;
        if self.listing.done || self.listing.fetching || given_up {
            return;
        }
        let Some(position) = self.listing.mine else {
            self.take_listing(now, actions);
            return;
        };
        let seeks = self.listing.seeking.as_ref().map(|seeking| seeking.next);
        if !position.more || room.workers == 0 || room.records == 0 {
            return;
        }
        if seeks.is_none() && !self.wants_pages(now) {
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
        let one = seeks.is_some()
            || self.listing.attempts > 0
            || self.listing.barren > 0
            || self.limiter.limit().is_some();
        let most = if one { 1 } else { pages.clamp(1, MAX_PAGES) };
        let turns = self.turn(most, 0, now, actions);
        // The breaker's trial last: one that is not used is lost.
        if turns == 0 || self.phase != Phase::Working || self.health.admit(Lane::List, now).is_err() {
            return;
        }
        self.limiter.take(u32::try_from(turns).unwrap_or(u32::MAX), now);
        self.listing.fetching = true;
        self.listing.fetched_at = Some(now);
        room.workers -= 1;
        self.seen.moves += 1;
        self.listing.attempts += 1;
        let (page, page_size) = (seeks.unwrap_or(position.page), position.page_size);
        let (permit, attempt) = (self.limiter.permit(), self.listing.attempts);
        actions.push(Action::Call(Call::Pages { token, page, page_size, most: turns, attempt, permit }));
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
        if self.others || self.ready.weight() <= self.capacity() / 2 {
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

    /// The listing is this process's from here on, if it is.
    pub(super) fn take_on(&mut self, checkpoint: Option<Checkpoint>, now: Instant) {
        self.listing.leave();
        let Some(at) = checkpoint else {
            self.seen.refusals += 1;
            return;
        };
        let wait = match self.listing.setbacks.take(self.settings.patience.give_up_after, now, at.page) {
            Ok(wait) => wait,
            Err(reason) => return self.end(Ending::DatabaseUnavailable(reason)),
        };
        let listing = &mut self.listing;
        let (from_page, page, page_size) = (at.page, at.page, at.page_size);
        listing.mine = Some(Position { first: page, from_page, page, page_size, more: true });
        listing.answered();
        if !wait.is_zero() {
            listing.not_before = Some(now + wait);
        }
        // What an earlier listing of the run has shown is looked up before it is handed out.
        let again = page > 1 || listing.resumed || !wait.is_zero();
        listing.after_another = again && listing.recent.is_empty();
    }

    pub(super) fn on_page(
        &mut self,
        (generation, page, permit): (u64, i64, Option<Permit>),
        answer: Answer,
        result: Result<Page, CallError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.observe(&answer, permit, actions);
        let sent_at = answer.sent_at;
        let error = match result {
            Ok(listed) => {
                self.succeeded(Lane::List, generation, sent_at, now, actions);
                if !self.probed(true, now, actions) {
                    self.listing.answered();
                    self.found(listed, now, actions);
                }
                return;
            }
            Err(error) => error,
        };
        let asked = Asked::Page(page);
        let number = self.listing.attempts.max(1);
        let attempt = Attempt { asked, number, generation: Some(generation), answer, error };
        let mut history = self.listing.history;
        self.note(&attempt, &mut history, now, actions);
        if self.probing {
            // Asked as a sign of life: it has given none.
            self.listing.answered();
            self.conclude(attempt, &history, now, actions);
            self.probed(false, now, actions);
            return;
        }
        self.listing.history = history;
        let refusal = attempt.error.to_string();
        let decision = self.conclude(attempt, &history, now, actions);
        self.listing.not_before = Self::next_attempt(&decision, now);
        if decision == Decision::PageGone {
            self.listing.answered();
            self.seek(page, refusal);
        }
    }

    /// The platform refuses a page that the one before promised: the listing has moved while it was read. Looks for the page
    /// that is the last one now, which is taken in place of the refused one. Most often it is the page just before.
    fn seek(&mut self, page: i64, refusal: String) {
        let next = match &mut self.listing.seeking {
            Some(seeking) => {
                seeking.beyond = page;
                seeking.served + (seeking.beyond - seeking.served) / 2
            }
            None => page - 1,
        };
        let seeking = self.listing.seeking.get_or_insert(Seeking {
            refused: page,
            served: 0,
            beyond: page,
            next,
            refusal,
        });
        seeking.next = next;
        self.seek_on();
    }

    /// Ends the search when there is no page left between those that promise more and those that are refused.
    fn seek_on(&mut self) {
        let Some(Seeking { refused, served, beyond, refusal, .. }) = self.listing.seeking.clone() else {
            return;
        };
        if served + 1 < beyond {
            return;
        }
        let cause = format!("{refusal} for page {beyond}, though page {served} says that more follow");
        // A run that stood at this page before has come no further.
        let first = self.listing.mine.is_some_and(|position| position.first == refused);
        self.listing.give_up(Ending::ListingMoved { cause, again: first && self.listing.resumed });
    }

    /// Takes a page in: as the next one, or for what it says of the listing's end.
    fn found(&mut self, mut page: Page, now: Instant, actions: &mut Vec<Action>) {
        let Some(seeking) = &mut self.listing.seeking else {
            return self.listed(page, now, actions);
        };
        if page.page != seeking.next {
            return;
        }
        let (next, refused) = (seeking.next, seeking.refused);
        let size = i64::from(page.page_size);
        // Some platforms promise another page behind every full one.
        let is_full = page.total.is_some_and(|total| next.saturating_mul(size) >= total);
        if page.has_more && !is_full {
            seeking.served = next;
            seeking.next = seeking.served + (seeking.beyond - seeking.served) / 2;
            return self.seek_on();
        }
        self.listing.seeking = None;
        page.moved = !page.has_more || next + 1 < refused;
        (page.page, page.has_more) = (refused, false);
        self.listed(page, now, actions);
    }

    /// Makes a lot of a page, and hands its tasks out if nobody else has to be asked.
    fn listed(&mut self, page: Page, now: Instant, actions: &mut Vec<Action>) {
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
            actions.push(Action::Tell(Told::SmallerPages(smaller, page.page_size)));
            return;
        }
        let mut lot = Lot::new(self.listing.next_lot, position.from_page, now);
        self.listing.next_lot += 1;
        (lot.pages, lot.next_page, lot.page_size) = (1, page.page + 1, page.page_size);
        (lot.last, lot.total, lot.moved) = (!page.has_more, page.total, page.moved);
        lot.memory.extend(page.memory);
        let recent = &mut self.listing.recent;
        lot.records = page.records.into_iter().filter(|record| recent.is_new(&record.campaign.id)).collect();
        lot.invalid = page.invalid.into_iter().filter(|letter| recent.is_new(&letter.id)).collect();
        if lot.records.is_empty() && lot.invalid.is_empty() {
            // Whether a listing without news has an end is seen at its commit: nothing is asked for ahead of that.
            self.listing.barren += 1;
        }
        (position.from_page, position.page, position.more) = (page.page + 1, page.page + 1, page.has_more);
        self.listing.mine = Some(position);
        let room = self.capacity().saturating_sub(self.ready.weight());
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
    pub(super) fn look_for_the_end(
        &mut self,
        (pages, shown): (usize, usize),
        new: i64,
        (last, total): (bool, Option<i64>),
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.listing.after_another = false;
        self.listing.barren = self.listing.round.barren(pages, shown, new > 0);
        self.listing.listed += new;
        if last {
            (self.listing.done, self.listing.done_at) = (true, Some(now));
            self.free_tasks = true;
        } else if let Some(reason) = endless(self.listing.barren, self.listing.listed, total) {
            actions.push(Action::Tell(Told::Endless(reason.clone())));
            self.listing.give_up(Ending::Listing(reason));
        }
    }
}
