//! A model of the store: the same commands as Postgres, in memory, on virtual time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use campaign_sync::http::RateLimit;
use campaign_sync::http::token::{Kept, Turn};
use campaign_sync::rate::ledger::{Ask, Correction, Gate, Grant, Mark, Order};
use campaign_sync::rate::window::shifted;
use campaign_sync::store::closing::{Closing, NotRemoved, Reason};
use campaign_sync::store::command::{
    Checkpoint, Claimed, Command, Committed, Elsewhere, Finished, Holding, Left, Opened, Pages, Part, Reply,
    Sharing,
};
use campaign_sync::store::dead_letters::Retry;
use campaign_sync::store::queue::{Totals, UNLISTED};
use campaign_sync::store::runs::{OpenRun, Opening};

/// A worker whose last heartbeat is older is dead.
pub const LEASE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub accounts: BTreeMap<String, Ledger>,
    /// Heartbeats.
    pub workers: BTreeMap<i64, Instant>,
    next_worker: i64,
    next_run: i64,
}

/// What one account has in the database.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub campaigns: BTreeMap<String, Row>,
    pub tasks: BTreeMap<String, Task>,
    pub dead_letters: BTreeMap<String, Letter>,
    pub runs: Vec<Run>,
    /// By when they are made, how many, and their mark.
    sends: Vec<(Instant, u32, i64)>,
    marks: i64,
    pub limit: Option<RateLimit>,
    gate: Option<Instant>,
    token: Shared,
    /// How often a campaign was stored in a run.
    pub stored: BTreeMap<(String, i64), u32>,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub run_id: i64,
    pub removed: bool,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub run_id: i64,
    pub worker: i64,
    pub attempt: i32,
    pub seq: i64,
    pub payload: String,
}

#[derive(Clone, Debug)]
pub struct Letter {
    pub run_id: i64,
    pub cause: String,
    #[allow(dead_code, reason = "compared where the store is tested")]
    pub attempts: i32,
    pub payload: String,
    pub retryable: bool,
}

#[derive(Clone, Debug)]
pub struct Run {
    pub run_id: i64,
    pub state: &'static str,
    pub lists: bool,
    pub lister: i64,
    pub next_page: i64,
    pub page_size: i32,
    pub listing_done: bool,
    pub totals: Option<Totals>,
    pub listed: i64,
    unnamed: i64,
    pub members: BTreeSet<i64>,
    finished: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Shared {
    generation: u64,
    kept: Option<String>,
    refresher: i64,
    until: Option<Instant>,
}

impl Model {
    /// A new worker, alive.
    pub fn register(&mut self, now: Instant) -> i64 {
        self.next_worker += 1;
        self.workers.insert(self.next_worker, now);
        self.next_worker
    }

    /// Keeps a worker alive, and ends the leases of the dead; false when it was taken for dead itself.
    pub fn beat(&mut self, worker: i64, now: Instant) -> bool {
        let alive = self.workers.get_mut(&worker).is_some_and(|at| {
            *at = now;
            true
        });
        self.workers.retain(|_, at| *at + LEASE >= now);
        for ledger in self.accounts.values_mut() {
            ledger.reap(&self.workers);
        }
        alive
    }

    pub fn ledger(&mut self, account: &str) -> &mut Ledger {
        self.accounts.entry(account.to_owned()).or_default()
    }

    /// Carries a command out.
    pub fn execute(&mut self, part: &Part, command: &Command, retried: bool, now: Instant) -> Reply {
        let workers = self.workers.clone();
        let ledger = self.accounts.entry(part.account.to_string()).or_default();
        // Whoever has left the account has no part in it, though its process is at work on others.
        let alive = workers.contains_key(&part.worker)
            && ledger.runs.iter().any(|run| run.members.contains(&part.worker));
        if matches!(command, Command::Open { .. }) && ledger.open_run().is_none() {
            self.next_run += 1;
        }
        let next_run = self.next_run;
        ledger.reap(&workers);
        match command {
            Command::Open { sharing, .. }
                if let Some(elsewhere) = ledger.elsewhere(part.worker, *sharing) =>
            {
                Reply::Elsewhere(elsewhere)
            }
            Command::Open { opening, retry, .. } => {
                Reply::Opened(Ok(ledger.open(part.worker, next_run, opening, retry.as_ref(), now)))
            }
            Command::TakeListing => Reply::Listing(Ok(if alive { ledger.take_listing(part) } else { None })),
            Command::CommitPages(pages) => {
                let before = ledger.clone();
                let committed = if alive { ledger.commit_pages(part, pages) } else { None };
                let reached = retried
                    && before.run(part.run_id).is_some_and(|run| {
                        run.lister == part.worker
                            && run.next_page == pages.next_page
                            && run.state == "running"
                    });
                Reply::Committed(Ok(committed.or_else(|| {
                    reached.then(|| Committed {
                        new: (pages.tasks.len() + pages.finished.len()) as i64,
                        left_out: Vec::new(),
                        taken: Vec::new(),
                        others: before.others(part),
                        ..Committed::default()
                    })
                })))
            }
            Command::Finish { synced, dead } => {
                let mut stored = 0;
                for (campaign, attempt) in synced {
                    if let Some(held) = ledger.finish(part, &campaign.id, *attempt) {
                        ledger.store(&campaign.id, held.run_id);
                        stored += 1;
                    }
                }
                for task in dead {
                    if let Some(held) = ledger.finish(part, &task.id, task.attempt) {
                        let letter = Letter {
                            run_id: held.run_id,
                            cause: task.cause.into(),
                            attempts: task.tries,
                            payload: held.payload,
                            retryable: true,
                        };
                        ledger.dead_letters.insert(task.id.clone(), letter);
                        stored += 1;
                    }
                }
                Reply::Finished(Ok(Finished { stored, others: ledger.others(part), refused: Vec::new() }))
            }
            Command::Claim(most) => {
                Reply::Claimed(Ok(if alive { ledger.claim(part, *most) } else { Vec::new() }))
            }
            Command::Held => {
                let held = ledger.tasks.iter().filter(|(_, task)| task.worker == part.worker);
                let held = held.map(|(id, task)| (id.clone(), task.attempt)).collect();
                let left = ledger.tasks.values().filter(|task| task.run_id == part.run_id).count();
                Reply::Held(Ok(Holding { held, left }))
            }
            Command::Release(tasks) => {
                let mut freed = 0;
                for (id, attempt) in tasks {
                    if let Some(task) = ledger.tasks.get_mut(id)
                        && (task.worker, task.attempt) == (part.worker, *attempt)
                    {
                        task.worker = 0;
                        freed += 1;
                    }
                }
                Reply::Released(Ok(freed))
            }
            Command::Reserve(ask) => Reply::Reserved(Ok(ledger.reserve(ask, now))),
            Command::Tell(Order::TellSends) => {
                let ages = ledger
                    .sends
                    .iter()
                    .flat_map(|(at, count, _)| vec![now.saturating_duration_since(*at); *count as usize]);
                Reply::Sends(Ok(ages.collect()))
            }
            Command::Tell(order) => {
                ledger.tell(order, now);
                Reply::Told(Ok(()))
            }
            Command::TokenTurn(outdated) => {
                let turn = ledger.token.turn(*outdated, part.worker, now);
                Reply::TokenTurn(Ok((turn, ledger.token.generation)))
            }
            Command::KeepToken(grant) => {
                ledger.token.generation += 1;
                ledger.token.kept = Some(grant.access_token.reveal().to_owned());
                (ledger.token.refresher, ledger.token.until) = (0, None);
                Reply::Kept(Ok(ledger.token.generation))
            }
            Command::Close { max_removed, .. } => Reply::Closed(Ok(ledger.close(part, *max_removed, now))),
            Command::Abandon { .. } => {
                let left = ledger.tasks.values().filter(|task| task.run_id == part.run_id).count();
                if let Some(run) = ledger
                    .run_mut(part.run_id)
                    .filter(|run| left == 0 && matches!(run.state, "running" | "stopped"))
                {
                    (run.state, run.lister) = ("abandoned", 0);
                }
                Reply::Abandoned(Ok(()))
            }
            Command::Leave { reason, .. } => {
                ledger.leave(part, reason.is_some());
                let left = ledger.tasks.values().filter(|task| task.run_id == part.run_id).count();
                Reply::Left(Ok(Left { pending: left as i64, ..Left::default() }))
            }
        }
    }
}

impl Task {
    /// Whether it can be claimed: what `retry` put back waits for the listing.
    fn is_free(&self, run: &Run) -> bool {
        self.worker == 0 && self.run_id == run.run_id && (self.seq < UNLISTED || run.listing_done)
    }
}

impl Ledger {
    pub fn open_run(&self) -> Option<&Run> {
        self.runs.iter().find(|run| matches!(run.state, "running" | "stopped"))
    }

    fn run(&self, run_id: i64) -> Option<&Run> {
        self.runs.iter().find(|run| run.run_id == run_id)
    }

    fn run_mut(&mut self, run_id: i64) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.run_id == run_id)
    }

    fn others(&self, part: &Part) -> bool {
        self.run(part.run_id).is_some_and(|run| run.members.iter().any(|member| *member != part.worker))
    }

    /// Ends the leases of workers that are not alive.
    fn reap(&mut self, alive: &BTreeMap<i64, Instant>) {
        for task in self.tasks.values_mut() {
            if task.worker != 0 && !alive.contains_key(&task.worker) {
                task.worker = 0;
            }
        }
        for run in &mut self.runs {
            run.members.retain(|member| alive.contains_key(member));
            if run.lister != 0 && !alive.contains_key(&run.lister) {
                run.lister = 0;
            }
        }
    }

    /// Why no run is opened or joined, if so.
    fn elsewhere(&self, worker: i64, sharing: Sharing) -> Option<Elsewhere> {
        let open = self.open_run();
        if let Some(run) = open.filter(|_| sharing.yields)
            && !run.members.is_empty()
            && !run.members.contains(&worker)
        {
            return Some(Elsewhere::AtWork);
        }
        let since = sharing.done_since.filter(|_| open.is_none())?;
        let done = self.runs.iter().any(|run| run.lists && run.finished.is_some_and(|at| at > since));
        done.then(|| Elsewhere::Done(Box::default()))
    }

    fn open(
        &mut self,
        worker: i64,
        next_run: i64,
        opening: &Opening,
        retry: Option<&Retry>,
        now: Instant,
    ) -> Opened {
        let new = self.open_run().is_none();
        if new {
            self.runs.push(Run {
                run_id: next_run,
                state: "running",
                lists: opening.lists,
                lister: 0,
                next_page: 1,
                page_size: opening.page_size,
                listing_done: !opening.lists,
                totals: None,
                listed: 0,
                unnamed: 0,
                members: BTreeSet::new(),
                finished: None,
            });
        }
        let place = self.runs.iter().position(|run| matches!(run.state, "running" | "stopped")).unwrap();
        self.runs.iter_mut().for_each(|run| {
            run.members.remove(&worker);
        });
        let run = &mut self.runs[place];
        run.state = "running";
        if opening.lists && !run.lists {
            // It begins anew.
            (run.lists, run.listing_done, run.listed) = (true, false, 0);
            let run_id = run.run_id;
            for task in self.tasks.values_mut().filter(|task| task.run_id == run_id) {
                (task.worker, task.attempt, task.seq) = (0, task.attempt + 1, UNLISTED);
            }
            self.campaigns.values_mut().filter(|row| row.run_id == run_id).for_each(|row| row.run_id = 0);
            let letters = self.dead_letters.values_mut().filter(|letter| letter.run_id == run_id);
            letters.for_each(|letter| letter.run_id = 0);
        }
        let run = &mut self.runs[place];
        run.members.insert(worker);
        if !run.listing_done && run.lister == 0 {
            run.lister = worker;
        }
        let listing = (run.lister == worker && !run.listing_done)
            .then_some(Checkpoint { page: run.next_page, page_size: run.page_size });
        let run = run.clone();
        let mut requeued = 0;
        if retry.is_some() {
            let ids: Vec<String> = self
                .dead_letters
                .iter()
                .filter(|(id, letter)| {
                    letter.retryable
                        && match retry {
                            Some(Retry::Some(ids)) => ids.contains(id),
                            _ => true,
                        }
                })
                .map(|(id, _)| id.clone())
                .collect();
            for id in ids {
                // Of an earlier run's listing: it waits for this one's.
                let letter = self.dead_letters.remove(&id).unwrap();
                let seq = if letter.run_id == run.run_id { 0 } else { UNLISTED };
                if let Entry::Vacant(vacant) = self.tasks.entry(id) {
                    let (run_id, payload) = (run.run_id, letter.payload);
                    vacant.insert(Task { run_id, worker: 0, attempt: 0, seq, payload });
                    self.runs[place].listed += i64::from(run.listing_done && seq > 0);
                }
                requeued += 1;
            }
        }
        Opened {
            listing,
            others: run.members.iter().any(|member| *member != worker),
            free_tasks: self.tasks.values().any(|task| task.is_free(&run)),
            limit: self.limit,
            gate: self.gate.map(|gate| (gate.saturating_duration_since(now), false)),
            requeued,
            abandoned: None,
            run: OpenRun {
                run_id: run.run_id,
                run_key: run.run_id.to_string(),
                page_size: run.page_size,
                listing_done: run.listing_done,
                lists: run.lists,
                new,
            },
        }
    }

    fn take_listing(&mut self, part: &Part) -> Option<Checkpoint> {
        let run = self.run_mut(part.run_id)?;
        if run.state != "running" || run.listing_done || (run.lister != 0 && run.lister != part.worker) {
            return None;
        }
        run.lister = part.worker;
        Some(Checkpoint { page: run.next_page, page_size: run.page_size })
    }

    fn commit_pages(&mut self, part: &Part, pages: &Pages) -> Option<Committed> {
        let run = self.run(part.run_id)?;
        if run.state != "running"
            || run.listing_done
            || run.lister != part.worker
            || run.next_page != pages.from_page
        {
            return None;
        }
        let run_id = part.run_id;
        // All of it is one statement, which sees what was there before it.
        let before = self.clone();
        let synced = |id: &str| before.campaigns.get(id).is_some_and(|row| row.run_id == run_id);
        let dead = |id: &str| before.dead_letters.get(id).is_some_and(|letter| letter.run_id == run_id);
        let mut committed = Committed { others: self.others(part), ..Committed::default() };
        let (mut waiting, mut counted) = (0, 0);
        for task in &pages.tasks {
            let Some(known) = self.tasks.get_mut(&task.id) else {
                if !synced(&task.id) && !dead(&task.id) {
                    let (worker, attempt) = if task.held { (part.worker, 1) } else { (0, 0) };
                    let (seq, payload) = (task.seq, task.payload.to_string());
                    self.tasks.insert(task.id.clone(), Task { run_id, worker, attempt, seq, payload });
                    committed.new += 1;
                } else if task.held {
                    committed.left_out.push(task.id.clone());
                }
                continue;
            };
            let (waited, mut taken) = (known.seq == UNLISTED, false);
            if waited || known.payload != *task.payload {
                taken = waited && task.held;
                known.attempt += i32::from(known.worker != 0 || taken);
                known.worker = if taken { part.worker } else { 0 };
                known.seq = if waited { task.seq } else { known.seq };
                (known.run_id, known.payload) = (run_id, task.payload.to_string());
                committed.new += i64::from(waited);
                waiting += i64::from(waited);
            }
            if taken {
                committed.taken.push((task.id.clone(), known.attempt));
            } else if task.held {
                committed.left_out.push(task.id.clone());
            }
        }
        for campaign in pages.finished.iter().map(|record| &record.campaign) {
            let task = before.tasks.get(&campaign.id);
            let free = task.is_some_and(|task| task.worker == 0);
            if free {
                self.tasks.remove(&campaign.id);
                counted += i64::from(task.is_some_and(|task| task.seq < UNLISTED));
                waiting += i64::from(task.is_some_and(|task| task.seq == UNLISTED));
            }
            if (task.is_none() || free) && !synced(&campaign.id) && !dead(&campaign.id) {
                self.store(&campaign.id, run_id);
                committed.new += 1;
            }
        }
        let mut unnamed = 0;
        for letter in &pages.dead {
            unnamed += i64::from(!letter.named);
            let task = before.tasks.get(&letter.id);
            let overruled = task.is_some_and(|task| task.seq == UNLISTED);
            if overruled {
                self.tasks.remove(&letter.id);
                waiting += 1;
            }
            if (task.is_none() || overruled) && !synced(&letter.id) && !dead(&letter.id) {
                let buried = Letter {
                    run_id,
                    cause: letter.cause.into(),
                    attempts: letter.attempts,
                    payload: letter.payload.to_string(),
                    retryable: letter.retryable,
                };
                self.dead_letters.insert(letter.id.clone(), buried);
                committed.new += 1;
            }
        }
        let unlisted =
            before.tasks.values().filter(|task| task.run_id == run_id && task.seq == UNLISTED).count() as i64;
        let run = self.run_mut(run_id)?;
        if run.next_page != pages.next_page {
            run.page_size = pages.page_size;
        }
        (run.next_page, run.listing_done) = (pages.next_page, pages.last);
        run.totals = match (run.totals, pages.totals) {
            (Some(before), Some(now)) => Some(before.and(now)),
            (before, now) => before.or(now),
        };
        run.unnamed += unnamed;
        // What the whole listing has not shown is worked all the same.
        run.listed += committed.new - counted + if pages.last { unlisted - waiting } else { 0 };
        Some(committed)
    }

    fn store(&mut self, id: &str, run_id: i64) {
        self.campaigns.insert(id.to_owned(), Row { run_id, removed: false });
        self.dead_letters.remove(id);
        *self.stored.entry((id.to_owned(), run_id)).or_default() += 1;
    }

    fn finish(&mut self, part: &Part, id: &str, attempt: i32) -> Option<Task> {
        let task = self.tasks.get(id)?;
        if (task.worker, task.attempt) != (part.worker, attempt) {
            return None;
        }
        self.tasks.remove(id)
    }

    fn claim(&mut self, part: &Part, most: usize) -> Vec<Claimed> {
        let Some(run) = self.run(part.run_id).cloned() else { return Vec::new() };
        let mut free: Vec<(&String, &mut Task)> =
            self.tasks.iter_mut().filter(|(_, task)| task.is_free(&run)).collect();
        free.sort_by_key(|(_, task)| task.seq);
        free.into_iter()
            .take(most)
            .map(|(id, task)| {
                (task.worker, task.attempt) = (part.worker, task.attempt + 1);
                Claimed { id: id.clone(), attempt: task.attempt, payload: task.payload.clone() }
            })
            .collect()
    }

    fn reserve(&mut self, ask: &Ask, now: Instant) -> Grant {
        let limit = if ask.learned { self.limit.or(ask.limit) } else { ask.limit.or(self.limit) };
        let told = limit.filter(|_| limit != ask.limit);
        if let Some(gate) = self.gate.filter(|gate| now < *gate) {
            return Grant { granted: 0, wait: gate - now, mark: None, limit: told, gate: Gate::Closed };
        }
        let Some(limit) = limit else {
            let (granted, wait) = (ask.want, Duration::ZERO);
            return Grant { granted, wait, mark: None, limit: None, gate: Gate::Open };
        };
        let span = limit.window + ask.margin;
        if let Some(Correction { mark, unsent, later }) = ask.correction
            && let Some(batch) = self.sends.iter_mut().find(|(_, _, other)| Mark(*other) == mark)
        {
            // A mark is the moment on record: another one, from now on.
            *batch = (shifted(batch.0, later), batch.1 - unsent, 0);
            self.sends.sort();
        }
        self.sends.retain(|(at, count, _)| *at + span > now && *count > 0);
        let used: u32 = self.sends.iter().map(|(_, count, _)| count).sum();
        let granted = limit.requests.get().saturating_sub(used).min(ask.want);
        let mut wait = Duration::ZERO;
        if granted > 0 {
            self.marks += 1;
            self.sends.push((now + ask.late, granted, self.marks));
            self.sends.sort();
        }
        let mark = (granted > 0).then_some(Mark(self.marks));
        if used + granted >= limit.requests.get() {
            let (mut left, mut next) = (used + granted, None);
            for (at, count, _) in &self.sends {
                left -= count;
                if left < limit.requests.get() {
                    let next = *next.get_or_insert(*at);
                    if *at <= next + (span / 50).min(Duration::from_millis(200)) {
                        wait = *at + span - now;
                    }
                }
            }
        }
        Grant { granted, wait, mark, limit: told, gate: Gate::Open }
    }

    fn tell(&mut self, order: &Order, now: Instant) {
        match order {
            Order::TellSends => {}
            Order::CloseGate(wait) | Order::Doubt(wait, _) => self.gate = self.gate.max(Some(now + *wait)),
            Order::OpenGate => self.gate = None,
            Order::Learn(limit, ages) => {
                // The sends of a process that did not know of a limit are on record only now.
                if self.limit.is_none() {
                    self.sends.extend(ages.iter().filter_map(|age| Some((now.checked_sub(*age)?, 1, 0))));
                    self.sends.sort_by_key(|(at, ..)| *at);
                }
                self.limit = Some(*limit);
            }
        }
    }

    fn close(&mut self, part: &Part, max_removed: u8, now: Instant) -> Closing {
        let Some(run) = self.run(part.run_id).cloned() else { return Closing::Over };
        if !matches!(run.state, "running" | "stopped") {
            return Closing::Over;
        }
        let left = self.tasks.values().filter(|task| task.run_id == run.run_id).count();
        if !run.listing_done || left > 0 {
            return Closing::Open { near: run.listing_done && left <= 16 };
        }
        if run.state == "stopped" {
            return Closing::Open { near: true };
        }
        let partial = self.dead_letters.values().any(|letter| letter.run_id == run.run_id);
        let closed = self.run_mut(run.run_id).unwrap();
        (closed.state, closed.lister) = (if partial { "partial" } else { "complete" }, 0);
        closed.finished = Some(now);
        Closing::Closed(if run.lists { self.remove(&run, max_removed) } else { None })
    }

    /// Marks what the listing no longer shows, unless there is a reason not to.
    fn remove(&mut self, run: &Run, max_removed: u8) -> Option<NotRemoved> {
        let letters = &self.dead_letters;
        let failed = |id: &str| letters.get(id).is_some_and(|letter| letter.run_id == run.run_id);
        let present = self.campaigns.values().filter(|row| !row.removed).count() as i64;
        let unlisted: Vec<&mut Row> = self
            .campaigns
            .iter_mut()
            .filter(|(id, row)| !row.removed && row.run_id != run.run_id && !failed(id))
            .map(|(_, row)| row)
            .collect();
        let count = unlisted.len() as i64;
        let not_whole = run.totals.and_then(|totals| match totals {
            _ if totals.lowest < totals.highest => Some(Reason::TotalChanged),
            _ if run.listed < totals.last => Some(Reason::BelowTotal),
            _ if run.listed > totals.last => Some(Reason::AboveTotal),
            _ => None,
        });
        let reason = match not_whole {
            Some(reason) => reason,
            None if count > 0 && run.unnamed > 0 => Reason::NoId(run.unnamed),
            None if count * 100 > present * i64::from(max_removed) => Reason::MaxRemoved(max_removed),
            None => {
                unlisted.into_iter().for_each(|row| row.removed = true);
                return None;
            }
        };
        let totals = run.totals.map(|totals| (totals.last, totals.lowest, totals.highest));
        let (unlisted, present) = if count > 0 { (count, present) } else { (0, 0) };
        Some(NotRemoved { reason, listed: run.listed, totals, unlisted, present })
    }

    fn leave(&mut self, part: &Part, stops: bool) {
        for task in self.tasks.values_mut().filter(|task| task.worker == part.worker) {
            task.worker = 0;
        }
        if let Some(run) = self.run_mut(part.run_id) {
            run.members.remove(&part.worker);
            if run.lister == part.worker {
                run.lister = 0;
            }
            if run.state == "running" && run.members.is_empty() && stops {
                run.state = "stopped";
            }
        }
        if self.token.refresher == part.worker {
            (self.token.refresher, self.token.until) = (0, None);
        }
    }
}

impl Shared {
    fn turn(&mut self, outdated: u64, worker: i64, now: Instant) -> Turn {
        if self.generation > outdated
            && let Some(text) = &self.kept
        {
            let access_token = campaign_sync::http::secret::Secret::new(text.clone());
            return Turn::Use(Kept { access_token, generation: self.generation, remaining: None });
        }
        if self.refresher == worker || self.until.is_none_or(|until| until < now) {
            (self.refresher, self.until) = (worker, Some(now + Duration::from_secs(30)));
            return Turn::Fetch;
        }
        Turn::Wait(Duration::from_millis(100))
    }
}
