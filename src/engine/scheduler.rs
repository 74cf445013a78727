//! The scheduler: one thread that owns the state of every account, takes events, hands out what the state machines want done,
//! and sleeps until the next of them is due. It makes no call and no commit itself.
//!
//! ```text
//! handle ────┐   events   ┌───────────┐   actions   ┌──▶ workers      calls to the platform
//! workers ───┼───────────▶│ scheduler │────────────▶├──▶ committers   commands to the database
//! committers ┘            └───────────┘             └──▶ heartbeat    leases to keep
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::agenda::Agenda;
use super::calls::{ALL, Action, Done, Event, Message, Room};
use super::committers::{COMMITTERS, Committers, Shown};
use super::heartbeat::Heartbeat;
use super::job::{Handle, JobMaker, Surroundings};
use super::open::Open;
use super::places::Places;
use super::watch::{self, Watched};
use super::workers::Workers;
use crate::http::Clock;
use crate::http::lock::lock;
use crate::store::command::{Command, Left, Reply};
use crate::store::process::new_worker_id;
use crate::sync::{Ending, GRACE, Outcome, Recorder, Watcher, closed, lower_bound};

/// Records of pages that all accounts together hold, by their weight.
pub const MAX_RECORDS_HELD: usize = 20_000;
/// Accounts that are worked on at once: each takes some 10 kB, and what it has fetched.
pub const MAX_OPEN: usize = 1_000;
/// Accounts whose runs are being opened at once: the committers have enough to do then.
const MAX_OPENING: usize = 2 * COMMITTERS;
/// The longest sleep: a clock that is set on is noticed within it.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// The scheduler, with what carries out its orders.
pub struct Scheduler<'a> {
    clock: Arc<dyn Clock>,
    watcher: &'a dyn Watcher,
    deadline: Option<Instant>,
    recorder: Option<Arc<dyn Recorder>>,
    events: Receiver<Message>,
    handle: Handle,
    workers: Workers,
    committers: Committers,
    heartbeat: Heartbeat,
    /// Accounts that are not begun yet.
    waiting: VecDeque<JobMaker<'a>>,
    /// Accounts that other processes are at work on.
    left_to_others: VecDeque<usize>,
    next: usize,
    most_open: usize,
    /// Those whose runs are not open yet.
    opening: usize,
    open: BTreeMap<usize, Open>,
    places: Places,
    /// Workers that have nothing to do.
    free: usize,
    /// Records held by all accounts.
    weight: usize,
    agenda: Agenda,
    /// Accounts whose part is over, and not told of yet.
    over: Vec<usize>,
    /// Why nothing more is begun, if so.
    ending: Option<Ending>,
}

impl<'a> Scheduler<'a> {
    /// Nothing is begun yet; a job is made when there is room for it.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn new(jobs: impl Iterator<Item = JobMaker<'a>>, surroundings: Surroundings<'a>) -> io::Result<Self> {
        let Surroundings { workers, open, clock, deadline, recorder, watcher } = surroundings;
        let (sender, events) = mpsc::channel();
        let pool = Workers::new(workers, sender.clone(), clock.clone()).map_err(io::Error::other)?;
        Ok(Self {
            committers: Committers::start(&sender)?,
            heartbeat: Heartbeat::start(&sender)?,
            workers: pool,
            handle: Handle(sender),
            events,
            waiting: jobs.collect(),
            left_to_others: VecDeque::new(),
            next: 0,
            most_open: open.max(1),
            opening: 0,
            open: BTreeMap::new(),
            places: Places::new(workers.max(1)),
            free: workers.max(1),
            weight: 0,
            agenda: Agenda::default(),
            over: Vec::new(),
            ending: None,
            clock,
            watcher,
            deadline,
            recorder,
        })
    }

    /// By which it can be stopped.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Works until all is done, or stopped; `ended` is told what came of each account as soon as it is over.
    pub fn run(mut self, ended: &mut dyn FnMut(Outcome)) {
        let watched = Watched { watcher: self.watcher, deadline: self.deadline, clock: self.clock.clone() };
        let kept = self.heartbeat.kept();
        let (ends, ended_watch) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let watch = move || watch::watch(&watched, &kept, &ended_watch);
            // Without it nothing is shown.
            let _refused = std::thread::Builder::new().name("watch".into()).spawn_scoped(scope, watch);
            self.work(ended);
            drop(ends);
        });
    }

    fn work(&mut self, ended: &mut dyn FnMut(Outcome)) {
        loop {
            self.begin_more(ended);
            self.advance_all();
            for account in std::mem::take(&mut self.over) {
                if let Some(open) = self.open.remove(&account) {
                    ended(self.outcome(&open));
                }
            }
            if self.begin_more(ended) {
                continue;
            }
            if self.open.is_empty() {
                return;
            }
            let now = self.clock.now();
            let due = self.agenda.next_due().into_iter().chain(self.committers.go_on(now)).min();
            let sleep = due.map_or(MAX_SLEEP, |at| at.saturating_duration_since(now));
            match self.events.recv_timeout(sleep.min(MAX_SLEEP)) {
                Ok(message) => {
                    self.take(message);
                    while let Ok(message) = self.events.try_recv() {
                        self.take(message);
                    }
                }
                // This end is kept by the handle of its own.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.agenda.wake(self.clock.now());
        }
    }

    /// Begins with more accounts, as long as there is room and a worker has nothing to do: those that are begun come to their
    /// end the sooner, with fewer commits. Whether there were any.
    fn begin_more(&mut self, ended: &mut dyn FnMut(Outcome)) -> bool {
        let mut begun = false;
        while self.open.len() < self.most_open
            && (self.ending.is_some() || self.free > 0 && self.opening < MAX_OPENING)
        {
            let Some(beginning) = self.waiting.pop_front() else { break };
            begun = true;
            let job = match beginning() {
                Ok(job) => job,
                Err(outcome) => {
                    ended(*outcome);
                    continue;
                }
            };
            if let Some(ending) = &self.ending {
                let elapsed = self.clock.now().saturating_duration_since(job.begun);
                ended(Outcome::without_run(job.store.account(), ending.clone(), elapsed));
                continue;
            }
            self.opening += 1;
            self.places.join(self.next, job.settings.workers + 1);
            self.agenda.look_at(self.next);
            self.open.insert(self.next, Open::new(job, &self.clock, self.recorder.as_ref()));
            self.next += 1;
        }
        self.help_more() || begun
    }

    /// Helps with what is left to others, when there is nothing else to begin with, or no room for it. Whether there was any.
    fn help_more(&mut self) -> bool {
        let mut helps = false;
        while self.free > 0
            && self.opening < MAX_OPENING
            && (self.waiting.is_empty() || self.open.len() >= self.most_open)
        {
            let Some(account) = self.left_to_others.pop_front() else { break };
            let open = self.open.get_mut(&account).filter(|open| open.account.is_left_to_others());
            let Some(open) = open else { continue };
            open.account.help();
            open.is_opening = true;
            self.opening += 1;
            self.places.join(account, open.account.settings.workers + 1);
            self.agenda.look_at(account);
            helps = true;
        }
        helps
    }

    /// Another process is at work on this account, or has done the work: it goes through the file from here on, and this one
    /// from another place.
    fn is_elsewhere(&mut self, account: usize) {
        if self.open.get(&account).is_some_and(|open| open.account.is_left_to_others()) {
            self.left_to_others.push_back(account);
        }
        self.places.quit(account);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let place = (self.clock.random() * self.waiting.len() as f64) as usize;
        self.waiting.rotate_left(place.min(self.waiting.len()));
    }

    /// What came of an account's part.
    fn outcome(&self, open: &Open) -> Outcome {
        open.books.store.given_up();
        let Left { run, pending, standing } = open.account.left().cloned().unwrap_or_default();
        let mut outcome = Outcome { run, pending, standing, ..Outcome::new(&open.part.account) };
        outcome.not_removed = open.account.not_removed().cloned();
        outcome.ending = open.account.ending().filter(|_| !closed(&outcome)).cloned();
        outcome.elapsed = self.clock.now().saturating_duration_since(open.begun);
        outcome.lower_bound = outcome
            .run
            .as_ref()
            .and_then(|run| lower_bound(run.limited - run.rate_limited, open.account.limit()));
        outcome.counts = open.line.journal.stats.counts();
        outcome.waited = open.account.waited();
        if let Some(run) = &outcome.run {
            let pace = lock(&open.books.shown).pace.clone();
            self.watcher.progress(
                &outcome.account,
                run,
                &crate::sync::Pace { limit: pace.limit, ..Default::default() },
            );
        }
        open.line.journal.over(&outcome);
        self.watcher.finished(&outcome.account);
        outcome
    }

    fn take(&mut self, message: Message) {
        let Message { account, event } = message;
        if account == ALL {
            if let Event::Stop(ending) = &event {
                self.ending.get_or_insert_with(|| ending.clone());
            }
            for account in self.open.keys().copied().collect::<Vec<usize>>() {
                match &event {
                    Event::Stop(ending) => self.tell(account, Event::Stop(ending.clone())),
                    Event::Abandon => self.abandon(account),
                    _ => {}
                }
            }
            return;
        }
        let Some(open) = self.open.get_mut(&account) else {
            // A token came when its account needed none any more.
            if let Event::Called(Done::Token(..) | Done::PagesOver { .. } | Done::Sync { .. }) = &event {
                self.free += 1;
                self.agenda.call_starved();
            }
            return;
        };
        if let Some(answered) = open.worker_is_free(&event) {
            self.free += 1;
            self.places.leave(account, answered);
            // Before the account that has just had it.
            self.agenda.call_starved();
        }
        self.tell(account, event);
    }

    fn tell(&mut self, account: usize, event: Event) {
        let now = self.clock.now();
        let Some(open) = self.open.get_mut(&account) else { return };
        // One that is put off is in nobody's way.
        if let Event::Stored(Reply::Opened(_) | Reply::Elsewhere(_)) | Event::PutOff = &event
            && std::mem::replace(&mut open.is_opening, false)
        {
            self.opening -= 1;
        }
        match &event {
            Event::Stored(Reply::Opened(Ok(opened))) => {
                open.part.run_id = opened.run.run_id;
                open.run_key = opened.run.run_key.as_str().into();
                self.heartbeat.keep(account, open.part.clone(), open.books.clone());
                self.watcher.joined(&open.part.account, opened.run.run_id, !opened.run.new);
            }
            Event::Reborn => {
                self.heartbeat.forget(account);
                open.part.worker = new_worker_id();
            }
            _ => {}
        }
        let mut actions = Vec::new();
        let is_elsewhere = matches!(event, Event::Stored(Reply::Elsewhere(_)));
        open.account.on(event, now, &mut actions);
        if is_elsewhere {
            self.is_elsewhere(account);
        }
        self.carry_out(account, actions);
        self.agenda.look_at(account);
    }

    /// Nothing waits any more for what is in flight.
    fn abandon(&mut self, account: usize) {
        let Some(open) = self.open.get_mut(&account) else { return };
        if !open.is_over && !std::mem::replace(&mut open.is_abandoned, true) {
            open.account.abandon();
            open.line.api.abandon();
            self.agenda.look_at(account);
        }
    }

    fn advance_all(&mut self) {
        self.advance_ready();
        // One that was called has perhaps not taken what is free.
        for _ in 0..self.agenda.starved() {
            if self.free == 0 {
                return;
            }
            self.agenda.call_starved();
            self.advance_ready();
        }
    }

    fn advance_ready(&mut self) {
        while let Some(account) = self.agenda.next() {
            self.advance(account);
        }
    }

    /// Lets an account do what it can.
    fn advance(&mut self, account: usize) {
        let now = self.clock.now();
        let workers = self.places.allowed(account, self.free);
        let mut room = Room { workers, records: MAX_RECORDS_HELD.saturating_sub(self.weight) };
        let mut actions = Vec::new();
        let Some(open) = self.open.get_mut(&account) else { return };
        if open.is_over {
            return;
        }
        open.account.advance(now, &mut room, &mut actions);
        let taken = workers - room.workers;
        self.places.take(account, taken);
        self.free -= taken;
        let weight = open.account.weight();
        self.weight = self.weight - open.weight + weight;
        open.weight = weight;
        *lock(&open.books.shown) =
            Shown { pace: open.account.pace(now), waits_for_others: open.account.waits_for_others() };
        if let Some(at) = open.account.due() {
            self.agenda.look_at_by(at, account);
        }
        let mut abandons = false;
        if open.account.ending().is_some() {
            let stopped_at = *open.stopped_at.get_or_insert_with(|| {
                // What waits for the database, or for its own machine, gives up.
                open.stop.request();
                now
            });
            abandons = now >= stopped_at + GRACE;
            if !abandons {
                self.agenda.look_at_by(stopped_at + GRACE, account);
            }
        }
        let is_starved = room.workers == 0 || room.records == 0;
        if is_starved && !open.account.is_over() && !open.account.is_left_to_others() {
            self.agenda.starve(account);
        }
        if open.account.is_over() && !std::mem::replace(&mut open.is_over, true) {
            self.over.push(account);
            if std::mem::replace(&mut open.is_opening, false) {
                self.opening -= 1;
            }
            self.places.quit(account);
            self.heartbeat.forget(account);
        }
        if abandons {
            self.abandon(account);
        }
        self.carry_out(account, actions);
    }

    fn carry_out(&self, account: usize, actions: Vec<Action>) {
        let Some(open) = self.open.get(&account) else { return };
        for action in actions {
            match action {
                Action::Call(call) => {
                    self.workers.make(account, open.line.clone(), open.run_key.clone(), call);
                }
                Action::Store(command) => {
                    if let Command::Leave { .. } = command {
                        self.heartbeat.forget(account);
                    }
                    let urgent = match command {
                        // While a turn is waited for, the rate limit's time goes by.
                        Command::Reserve(_) => true,
                        // An account under a limit of its user's waits most of its time: the sooner it begins, the better.
                        Command::Open { .. } => open.account.limit().is_some(),
                        _ => false,
                    };
                    let order = (command, urgent);
                    self.committers.carry_out(account, open.books.clone(), open.part.clone(), order);
                }
                Action::Tell(told) => open.line.journal.told(told),
            }
        }
    }
}
