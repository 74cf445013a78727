//! One account's part in its run, from opening (`opening.rs`) to leaving. What it does with pages is in `lister.rs`, with commits in
//! `storing.rs`, with campaigns in `syncing.rs`, with the token in `login.rs`, under the rate limit in `turns.rs`; what comes of an
//! attempt is settled in `attempts.rs`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::attempt::Suspect;
use super::calls::{Action, Done, Event, News, Room, Told};
use super::listing::Listing;
use super::outstanding::{Outstanding, Results};
use super::pages::PageQueue;
use super::standstill::{self, Seen, Standstill};
use super::task::ReadyQueue;
use super::token::TokenState;
use crate::http::RateLimit;
use crate::rate::breaker::Health;
use crate::rate::concurrency::Concurrency;
use crate::rate::limiter::{Limiter, Why};
use crate::store::closing::NotRemoved;
use crate::store::command::Left;
use crate::store::dead_letters::Retry;
use crate::store::leases::LEASE_SECONDS;
use crate::store::runs::{OpenRun, Opening};
use crate::sync::{Ending, Pace, Patience};

/// The most tasks that are held without having been begun; each is about half a kilobyte.
pub const MAX_HELD: usize = 1_024;
/// Tasks are held for this time's work.
const HELD_FOR: Duration = Duration::from_millis(500);

/// A lease that is not kept ends after this time; what is held then may be others'.
const LEASE: Duration = Duration::from_millis((LEASE_SECONDS * 1_000.0) as u64);

/// How an account is to be worked on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Requests at once.
    pub workers: usize,
    /// How the run is opened.
    pub opening: Opening,
    /// Dead letters to put back first.
    pub retry: Option<Retry>,
    /// The largest share of campaigns, in percent, that may be marked as removed at once.
    pub max_removed: u8,
    /// How long changes are kept; none: for ever.
    pub keep_history: Option<Duration>,
    /// Whether its token is kept for the next run, sealed, and not only shared where another process works on the account.
    pub keeps_token: bool,
    /// Whether its outcome is to tell how the account stands afterwards.
    pub tells_standing: bool,
    /// How patient to be.
    pub patience: Patience,
    /// The rate limit, when it is known.
    pub rate_limit: Option<RateLimit>,
    /// The API's address, for messages.
    pub api: String,
    /// Where the credentials stand, for messages.
    pub credentials: Option<String>,
    /// When this process began, if other processes may have the same accounts: they share them out.
    pub shares_since: Option<Instant>,
    /// The seed of its jitter.
    pub seed: u64,
}

/// Where the account's part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Opening,
    Working,
    /// Nothing new is begun; what is in flight is awaited and committed.
    Stopping,
    Leaving,
    Over,
}

/// The state machine.
pub struct Account {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    pub(super) run: Option<OpenRun>,
    pub(super) others: bool,
    pub(super) listing: Listing,
    pub(super) pages: PageQueue,
    pub(super) ready: ReadyQueue,
    pub(super) results: Results,
    /// Lots that were dropped: what comes of their tasks is of no use.
    pub(super) doomed_lots: Vec<RangeInclusive<u64>>,
    /// Tasks that the database says are held here, and that are not in hand.
    pub(super) unknown: Vec<(String, i32)>,
    /// Tasks in hand that the database has under another attempt number: they were put back before the listing showed them.
    pub(super) taken: HashMap<String, i32>,
    /// Tasks that the database said are held here, and that were not in hand: how often each was taken again since.
    pub(super) retaken: HashMap<String, u8>,
    /// Campaigns that can be written in no form: how many, and the first one with the database's words.
    pub(super) unstorable: (usize, Option<(String, String)>),
    /// Tasks that fail and fail, until the listing has shown whether it answers.
    pub(super) suspects: Vec<Suspect>,
    /// What the last failed attempt at anything said.
    pub(super) last_failure: Option<String>,
    /// Bursts of syncs in flight, and the ids of their tasks.
    pub(super) in_flight: usize,
    pub(super) tasks_in_flight: HashSet<String>,
    pub(super) limiter: Limiter,
    pub(super) health: Health,
    pub(super) token: TokenState,
    pub(super) outstanding: Outstanding,
    pub(super) concurrency: Concurrency,
    pub(super) free_tasks: bool,
    /// Committed results a second.
    pub(super) pace: f64,
    pub(super) ending: Option<Ending>,
    /// Since when, and for what, the limiter has let nothing through.
    pub(super) blocked: Option<(Instant, Instant, Why)>,
    /// The listing is asked as a sign of life, for the sake of the last few tasks.
    pub(super) probing: bool,
    due: Option<Instant>,
    /// The time of the latest `advance`.
    now: Instant,
    pub(super) jitter: u64,
    /// When its part began.
    pub(super) begun: Instant,
    /// Until when nobody else may have taken its tasks.
    pub(super) kept_until: Instant,
    /// What is in flight is not waited for any more.
    abandoned: bool,
    /// Another process is at work on it: it waits until this process has nothing else to begin with.
    pub(super) is_left_to_others: bool,
    /// It is not left to others any more.
    pub(super) helps: bool,
    /// How long it has waited for the rate limit.
    pub(super) waited: Duration,
    /// What a standstill is noticed by.
    pub(super) seen: Seen,
    standstill: Standstill,
    /// The run as this process left it.
    left: Option<Left>,
    pub(super) not_removed: Option<NotRemoved>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, {} ready, {} bursts in flight, listing {:?}, pages {}, results {}, {:?}, limiter {:?}, ending {:?}, due {:?}",
            self.phase,
            self.ready.len(),
            self.in_flight,
            self.listing,
            self.pages.weight(),
            self.results.len(),
            self.outstanding,
            self.blocked,
            self.ending,
            self.due,
        )
    }
}

impl Account {
    /// An account whose run is to be opened.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            phase: Phase::Opening,
            run: None,
            others: false,
            listing: Listing::default(),
            pages: PageQueue::default(),
            ready: ReadyQueue::default(),
            results: Results::default(),
            doomed_lots: Vec::new(),
            unknown: Vec::new(),
            retaken: HashMap::new(),
            unstorable: (0, None),
            suspects: Vec::new(),
            last_failure: None,
            taken: HashMap::new(),
            in_flight: 0,
            tasks_in_flight: HashSet::new(),
            limiter: Limiter::new(settings.rate_limit, settings.patience.max_wait),
            health: Health::new(settings.patience.give_up_after, settings.patience.max_wait),
            token: TokenState::default(),
            outstanding: Outstanding::default(),
            concurrency: Concurrency::new(settings.workers),
            free_tasks: false,
            pace: 0.0,
            ending: None,
            blocked: None,
            probing: false,
            due: None,
            now,
            jitter: settings.seed,
            begun: now,
            kept_until: now,
            abandoned: false,
            is_left_to_others: false,
            helps: false,
            waited: Duration::ZERO,
            seen: Seen::default(),
            standstill: Standstill::new(settings.patience.give_up_after),
            left: None,
            not_removed: None,
            settings,
        }
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// When to call [`advance`](Self::advance) again, if nothing happens before.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Why it ended before its time, if it did.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The run as this process left it.
    #[must_use]
    pub fn left(&self) -> Option<&Left> {
        self.left.as_ref()
    }

    /// The rate limit, when one is known.
    #[must_use]
    pub fn limit(&self) -> Option<RateLimit> {
        self.limiter.limit()
    }

    /// How long it has waited for the rate limit.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// What it waits for.
    #[must_use]
    pub fn pace(&self, now: Instant) -> Pace {
        let until = self.blocked.filter(|(_, _, why)| *why != Why::Pacing).map(|(_, until, _)| until);
        Pace {
            connecting: !self.health.proven(),
            waiting: until.map(|until| until.saturating_duration_since(now)).filter(|wait| !wait.is_zero()),
            limit: self.limiter.limit(),
            silent: None,
        }
    }

    /// Whether its token is for others too.
    pub(super) fn shares_token(&self) -> bool {
        self.others || self.settings.keeps_token
    }

    /// Whether it waits for what other processes hold.
    #[must_use]
    pub fn waits_for_others(&self) -> bool {
        self.phase == Phase::Working && self.is_idle()
    }

    /// What is in flight is not waited for any more: whatever comes of it is none of a campaign's doing.
    pub fn abandon(&mut self) {
        self.abandoned = true;
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether something is in flight, and worth waiting for.
    pub(super) fn awaits_calls(&self) -> bool {
        !self.abandoned && (self.in_flight > 0 || self.listing.fetching || self.token.pending)
    }

    /// Why nothing was marked as removed when this process closed the run, if so.
    #[must_use]
    pub fn not_removed(&self) -> Option<&NotRemoved> {
        self.not_removed.as_ref()
    }

    /// The records that are fetched and not committed, by their weight.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.pages.weight()
    }

    /// Whether its tasks are its own: nobody else works on the account, or the lease was kept, or asked for, a short time ago.
    pub(super) fn holds_its_tasks(&self, now: Instant) -> bool {
        !self.others || now < self.kept_until
    }

    /// The lease is asked for.
    pub(super) fn asks_for_a_lease(&mut self, now: Instant) {
        self.kept_until = now + LEASE;
    }

    /// Takes in what has happened.
    pub fn on(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Called(Done::Token(answer, result)) => self.on_token(answer, result, now, actions),
            Event::Called(Done::Page { generation, page, permit, answer, result }) => {
                self.on_page((generation, page, permit), answer, result, now, actions);
            }
            Event::Called(Done::PagesOver { permit, unsent }) => {
                self.limiter.untake(permit, unsent, now);
                // A sign of life that was asked for too late to be sent is asked for anew.
                (self.listing.fetching, self.probing) = (false, false);
            }
            Event::Called(Done::Sync { generation, permit, done, unsent }) => {
                self.on_synced((generation, permit), done, unsent, now, actions);
            }
            Event::Stored(reply) => self.on_stored(reply, now, actions),
            Event::News(news) => self.on_news(news, actions),
            Event::Reborn => self.begin_again(),
            Event::Stop(ending) => self.end(ending),
            Event::Abandon => self.abandon(),
            Event::PutOff => {}
        }
    }

    /// Gives the actions that can be carried out now, within `room`, which it lessens.
    pub fn advance(&mut self, now: Instant, room: &mut Room, actions: &mut Vec<Action>) {
        (self.due, self.now) = (None, now);
        let orders = self.limiter.settle(now);
        self.tell(orders, actions);
        self.tell_of_late_arrivals(now, actions);
        if self.phase == Phase::Opening {
            self.open(now, actions);
        }
        if self.phase == Phase::Working {
            self.give_up(now);
        }
        if self.phase == Phase::Working {
            self.share_token(now, actions);
            self.commit(now, actions);
            self.list(now, room, actions);
            self.probe(now, room, actions);
            self.sync(now, room, actions);
            self.release(actions);
            self.compare(actions);
            self.claim(now, actions);
            self.close(now, actions);
            self.stand_still(now, actions);
        }
        if self.phase == Phase::Stopping {
            self.commit(now, actions);
            self.stop();
        }
        if self.phase == Phase::Leaving {
            self.leave(actions);
        }
    }

    /// Names a moment at which to look again. What could not be done by now waits for something else.
    pub(super) fn due_at(&mut self, at: Instant) {
        if at > self.now {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }

    /// Ends this process's part; the first reason counts. What is in flight is awaited, and committed if the database can.
    pub(super) fn end(&mut self, ending: Ending) {
        let unopened = self.phase == Phase::Opening && !self.outstanding.opening;
        let ending = ending.with_credentials_in(self.settings.credentials.as_deref());
        self.ending.get_or_insert(ending);
        match self.phase {
            Phase::Opening if unopened => self.phase = Phase::Over,
            Phase::Working => self.phase = Phase::Stopping,
            Phase::Opening | Phase::Stopping | Phase::Leaving | Phase::Over => {}
        }
    }

    fn on_news(&mut self, news: News, actions: &mut Vec<Action>) {
        self.seen.beats += 1;
        self.kept_until = self.kept_until.max(news.asked_at + LEASE);
        self.others = news.others;
        self.free_tasks |= news.freed;
        if let Some(run) = self.run.as_mut()
            && news.lists
            && !run.lists
        {
            run.lists = true;
            // A `sync` has joined: what was put back waits for its listing.
            self.ready = ReadyQueue::default();
        }
        if news.listing_done && !self.listing.done {
            self.free_tasks = true;
        }
        if self.listing.heard(news.listing_done, news.asked_at) {
            actions.push(Action::Tell(Told::ListingForgotten));
        }
        match news.over {
            Some(true) => self.end(Ending::Abandoned),
            Some(false) if self.phase == Phase::Working && self.is_idle() => self.phase = Phase::Leaving,
            _ => {}
        }
    }

    fn give_up(&mut self, now: Instant) {
        if let Some(after) = self.health.given_up(now) {
            let last = self.last_failure.clone().unwrap_or_default();
            self.end(Ending::GaveUp { after, api: self.settings.api.clone(), last });
        } else if let Some(at) = self.health.gives_up_at() {
            self.due_at(at);
        }
    }

    /// Ends the part when nothing moves although nothing is left to be done: somebody keeps the run's rows from being changed.
    fn stand_still(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // Others may be at work, unless they wait for what is held here.
        let alone = !self.others || self.outstanding.stuck;
        let seen = (self.is_empty_handed() && alone).then_some(self.seen);
        if let Some(time) = self.standstill.look(now, seen) {
            match self.outstanding.left_tasks.take() {
                Some(pending) => self.end(standstill::ending(time, self.listing.done, pending)),
                None => self.count_tasks(actions),
            }
        }
    }

    /// How many tasks to hold: what can be done in half a second, and at least four for each worker; four times that before
    /// anything is known.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn capacity(&self) -> usize {
        let workers = self.settings.workers;
        if self.pace == 0.0 {
            return (workers * 16).min(MAX_HELD);
        }
        ((self.pace * HELD_FOR.as_secs_f64()) as usize).clamp((workers * 4).min(MAX_HELD), MAX_HELD)
    }

    /// Whether nothing is in hand, and nothing is asked for.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty_handed() && !self.outstanding.claiming
    }

    /// Whether nothing is in hand at all.
    fn is_empty_handed(&self) -> bool {
        self.ready.is_empty()
            && self.suspects.is_empty()
            && self.in_flight == 0
            && !self.listing.fetching
            && self.pages.is_empty()
            && self.results.is_empty()
            && !self.outstanding.committing
    }

    pub(super) fn has_left(&mut self, left: Left) {
        // Whoever waits for the others' tasks may see that the run is over before it hears how it ended.
        if left.run.as_ref().is_some_and(|run| run.state == "abandoned") {
            self.end(Ending::Abandoned);
        }
        self.left = Some(left);
        self.phase = Phase::Over;
    }
}
