//! Several processes, one store, one platform for each account, on virtual time. A schedule of faults is drawn from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use campaign_sync::engine::account::{Account, Settings as AccountSettings};
use campaign_sync::engine::{Action, Answer, Call, Done, Event, News, Room};
use campaign_sync::http::token::Token;
use campaign_sync::platform::CallError;
use campaign_sync::rate::limiter::Permit;
use campaign_sync::store::command::{Command, Elsewhere, Part, Reply};
use campaign_sync::sync::Ending;

use super::chance::Chance;
use super::model::Model;
use super::platform::{Outcome, Platform};

const HEARTBEAT: Duration = Duration::from_secs(2);

/// What can go wrong between the processes and the store, and with the processes.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The share of commands whose reply is lost: they are carried out again.
    pub lost_replies: f64,
    /// The most that a command takes.
    pub slow_store: Duration,
    /// A process is killed at the n-th event, counted over all of them.
    pub kills: Vec<u64>,
    /// A process is suspended for this long at the n-th event.
    pub suspends: Vec<(u64, Duration)>,
    /// SIGTERM to a process at the n-th event.
    pub signals: Vec<u64>,
}

pub struct World {
    pub now: Instant,
    pub model: Model,
    pub platforms: Vec<Platform>,
    pub chance: Chance,
    faults: Faults,
    pub processes: Vec<Process>,
    queue: BinaryHeap<Reverse<Next>>,
    pending: BTreeMap<u64, What>,
    sequence: u64,
    pub events: u64,
}

pub struct Process {
    pub accounts: Vec<Account>,
    worker: i64,
    free_workers: usize,
    pub alive: bool,
    suspended_until: Option<Instant>,
    runs: Vec<i64>,
    tick: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    at: Instant,
    sequence: u64,
}

enum What {
    Deliver { process: usize, account: usize, event: Event },
    Execute { process: usize, account: usize, part: Part, command: Command, tries: u32 },
    Burst { process: usize, account: usize, burst: Burst },
    Beat { process: usize },
    Tick { process: usize },
    Help { process: usize, account: usize },
}

/// A worker's calls in a row, between two of them.
enum Burst {
    Token,
    Pages {
        token: Arc<Token>,
        page: i64,
        page_size: i32,
        most: usize,
        permit: Option<Permit>,
    },
    Sync {
        token: Arc<Token>,
        permit: Option<Permit>,
        left: Vec<campaign_sync::engine::task::Task>,
        done: Vec<(campaign_sync::engine::task::Task, Answer, Result<(), CallError>)>,
    },
}

impl World {
    pub fn new(seed: u64, platforms: Vec<Platform>, faults: Faults, start: Instant) -> Self {
        Self {
            now: start,
            model: Model::default(),
            platforms,
            chance: Chance::new(seed),
            faults,
            processes: Vec::new(),
            queue: BinaryHeap::new(),
            pending: BTreeMap::new(),
            sequence: 0,
            events: 0,
        }
    }

    /// Starts a process that works on all accounts.
    pub fn start_process(&mut self, workers: usize, settings: &[AccountSettings]) -> usize {
        let process = self.processes.len();
        let worker = self.model.register(self.now);
        self.processes.push(Process {
            accounts: settings
                .iter()
                .map(|settings| {
                    let shares_since = settings.shares_since.map(|_| self.now);
                    Account::new(AccountSettings { shares_since, ..settings.clone() }, self.now)
                })
                .collect(),
            worker,
            free_workers: workers,
            alive: true,
            suspended_until: None,
            runs: vec![0; settings.len()],
            tick: None,
        });
        self.push(Duration::ZERO, What::Tick { process });
        self.push(HEARTBEAT, What::Beat { process });
        process
    }

    fn push(&mut self, after: Duration, what: What) {
        self.sequence += 1;
        self.pending.insert(self.sequence, what);
        self.queue.push(Reverse(Next { at: self.now + after, sequence: self.sequence }));
    }

    pub fn is_over(&self) -> bool {
        self.processes.iter().all(|process| !process.alive || process.accounts.iter().all(Account::is_over))
    }

    /// Plays until all processes are over, or this much virtual time has passed.
    ///
    /// # Errors
    /// When it has.
    pub fn play(&mut self, longest: Duration) -> Result<(), String> {
        let ends = self.now + longest;
        let first = self.events;
        while !self.is_over() {
            let Some(Reverse(next)) = self.queue.pop() else {
                return Err("nothing will ever happen again".into());
            };
            let Some(what) = self.pending.remove(&next.sequence) else { continue };
            self.now = self.now.max(next.at);
            if self.now > ends {
                return Err(format!("not over after {longest:?} of virtual time: {}", self.describe()));
            }
            self.happen(what);
            if self.events > first + 300_000 {
                return Err(format!("goes round in circles: {}", self.describe()));
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (n, process) in self.processes.iter().enumerate().filter(|(_, process)| process.alive) {
            for account in process.accounts.iter().filter(|account| !account.is_over()) {
                text += &format!("process {n}, {} of its workers free: {account:?}; ", process.free_workers);
            }
        }
        for (name, ledger) in &self.model.accounts {
            if let Some(run) = ledger.open_run() {
                text += &format!(
                    "{name}: {run:?}, tasks {:?}; workers {:?}",
                    ledger.tasks,
                    self.model.workers.keys()
                );
            }
        }
        text
    }

    fn happen(&mut self, what: What) {
        let process = match &what {
            What::Deliver { process, .. }
            | What::Execute { process, .. }
            | What::Burst { process, .. }
            | What::Beat { process }
            | What::Help { process, .. }
            | What::Tick { process } => *process,
        };
        // A command that has reached the database is carried out, whatever becomes of its process.
        if !self.processes[process].alive && !matches!(what, What::Execute { .. }) {
            return;
        }
        if let Some(until) = self.processes[process].suspended_until
            && !matches!(what, What::Execute { .. })
        {
            if self.now < until {
                let after = until - self.now;
                self.push(after, what);
                return;
            }
            self.processes[process].suspended_until = None;
        }
        self.events += 1;
        self.strike(process);
        if !self.processes[process].alive && !matches!(what, What::Execute { .. }) {
            return;
        }
        match what {
            What::Deliver { account, event, .. } => {
                match &event {
                    Event::Stored(Reply::Opened(Ok(opened))) => {
                        self.processes[process].runs[account] = opened.run.run_id;
                    }
                    Event::Stored(Reply::Elsewhere(Elsewhere::AtWork)) => {
                        // By then it has nothing else to begin with.
                        let after = Duration::from_millis(self.chance.below(20_000));
                        self.push(after, What::Help { process, account });
                    }
                    _ => {}
                }
                self.give(process, account, event);
            }
            What::Execute { account, part, command, tries, .. } => {
                self.execute(process, account, part, command, tries);
            }
            What::Burst { account, burst, .. } => self.step(process, account, burst),
            What::Beat { .. } => self.beat(process),
            What::Help { account, .. } => {
                if self.processes[process].accounts[account].is_left_to_others() {
                    self.processes[process].accounts[account].help();
                    self.advance(process);
                }
            }
            What::Tick { .. } => {
                self.processes[process].tick = None;
                self.advance(process);
            }
        }
    }

    /// Kills, suspends or signals the process at hand, when this event is the one.
    fn strike(&mut self, process: usize) {
        let event = self.events;
        if self.faults.kills.contains(&event) {
            self.processes[process].alive = false;
        }
        if let Some((_, time)) = self.faults.suspends.iter().find(|(at, _)| *at == event) {
            self.processes[process].suspended_until = Some(self.now + *time);
        }
        if self.faults.signals.contains(&event) {
            for account in 0..self.processes[process].accounts.len() {
                self.push(
                    Duration::ZERO,
                    What::Deliver { process, account, event: Event::Stop(Ending::Interrupted(15)) },
                );
            }
        }
    }

    fn give(&mut self, process: usize, account: usize, event: Event) {
        if matches!(event, Event::Called(Done::Token(..) | Done::PagesOver { .. } | Done::Sync { .. })) {
            self.processes[process].free_workers += 1;
        }
        let mut actions = Vec::new();
        let now = self.now;
        self.processes[process].accounts[account].on(event, now, &mut actions);
        self.carry_out(process, account, actions);
        self.advance(process);
    }

    /// Lets all accounts do what they can, in turn, and sees to the next tick.
    fn advance(&mut self, process: usize) {
        let now = self.now;
        let mut due: Option<Instant> = None;
        for account in 0..self.processes[process].accounts.len() {
            let mut room = Room { workers: self.processes[process].free_workers, records: 100_000 };
            let mut actions = Vec::new();
            let machine = &mut self.processes[process].accounts[account];
            // Until it has nothing more to do at this moment.
            machine.advance(now, &mut room, &mut actions);
            due = [due, machine.due()].into_iter().flatten().min();
            self.processes[process].free_workers = room.workers;
            self.carry_out(process, account, actions);
        }
        let tick = self.processes[process].tick;
        if let Some(due) = due.map(|due| due.max(now + Duration::from_micros(10)))
            && tick.is_none_or(|tick| due < tick)
        {
            self.processes[process].tick = Some(due);
            self.push(due - now, What::Tick { process });
        }
    }

    fn carry_out(&mut self, process: usize, account: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Tell(_) => {}
                Action::Store(command) => {
                    let after = self.delay();
                    let part = Part {
                        account: format!("a{account}").into(),
                        run_id: self.processes[process].runs[account],
                        worker: self.processes[process].worker,
                    };
                    self.push(after, What::Execute { process, account, part, command, tries: 0 });
                }
                Action::Call(call) => {
                    let burst = match call {
                        Call::Token(_) => Burst::Token,
                        Call::Pages { token, page, page_size, most, permit, .. } => {
                            Burst::Pages { token, page, page_size, most, permit }
                        }
                        Call::Sync { token, mut tasks, permit } => {
                            tasks.reverse();
                            Burst::Sync { token, left: tasks, done: Vec::new(), permit }
                        }
                    };
                    let after = Duration::from_micros(50 + self.chance.below(200));
                    self.push(after, What::Burst { process, account, burst });
                }
            }
        }
    }

    fn delay(&mut self) -> Duration {
        let most = self.faults.slow_store.as_micros().max(500) as u64;
        Duration::from_micros(100 + self.chance.below(most))
    }

    fn execute(&mut self, process: usize, account: usize, part: Part, command: Command, tries: u32) {
        let reply = self.model.execute(&part, &command, tries > 0, self.now);
        let after = self.delay();
        if tries < 3 && self.chance.hits(self.faults.lost_replies) {
            self.push(after, What::Execute { process, account, part, command, tries: tries + 1 });
        } else {
            self.push(after, What::Deliver { process, account, event: Event::Stored(reply) });
        }
    }

    fn step(&mut self, process: usize, account: usize, burst: Burst) {
        let now = self.now;
        let (platform, chance) = (&mut self.platforms[account], &mut self.chance);
        match burst {
            Burst::Token => {
                let outcome = platform.token(now, chance);
                let (answer, after) = answered(&outcome, now);
                self.push(
                    after,
                    What::Deliver {
                        process,
                        account,
                        event: Event::Called(Done::Token(answer, outcome.result)),
                    },
                );
            }
            Burst::Pages { permit: permit @ Some(Permit { until, .. }), most, .. } if now > until => {
                let event = Event::Called(Done::PagesOver { permit, unsent: most as u32 });
                self.push(Duration::ZERO, What::Deliver { process, account, event });
            }
            Burst::Sync { token, mut left, done, permit: permit @ Some(Permit { until, .. }) }
                if now > until =>
            {
                left.reverse();
                let generation = token.generation;
                let event = Event::Called(Done::Sync { generation, permit, done, unsent: left });
                self.push(Duration::ZERO, What::Deliver { process, account, event });
            }
            Burst::Pages { token, page, page_size, most, permit } => {
                let outcome = platform.page(&token, page, page_size, now, chance);
                let (answer, after) = answered(&outcome, now);
                let goes_on = most > 1 && outcome.result.as_ref().is_ok_and(|page| page.has_more);
                self.push(
                    after,
                    What::Deliver {
                        process,
                        account,
                        event: Event::Called(Done::Page {
                            generation: token.generation,
                            page,
                            permit,
                            answer,
                            result: outcome.result,
                        }),
                    },
                );
                if goes_on {
                    let burst = Burst::Pages { token, page: page + 1, page_size, most: most - 1, permit };
                    self.push(after + Duration::from_micros(10), What::Burst { process, account, burst });
                } else {
                    let event = Event::Called(Done::PagesOver { permit, unsent: most as u32 - 1 });
                    self.push(after + Duration::from_micros(1), What::Deliver { process, account, event });
                }
            }
            Burst::Sync { token, mut left, mut done, permit } => {
                let Some(task) = left.pop() else { return };
                let outcome = platform.sync(&token, &task.campaign.id, now, chance);
                let (answer, after) = answered(&outcome, now);
                let goes_on = outcome.result.is_ok() && !left.is_empty();
                done.push((task, answer, outcome.result));
                if goes_on {
                    self.push(
                        after,
                        What::Burst { process, account, burst: Burst::Sync { token, left, done, permit } },
                    );
                } else {
                    left.reverse();
                    let generation = token.generation;
                    let event = Event::Called(Done::Sync { generation, permit, done, unsent: left });
                    self.push(after, What::Deliver { process, account, event });
                }
            }
        }
    }

    fn beat(&mut self, process: usize) {
        let worker = self.processes[process].worker;
        let alive = self.model.beat(worker, self.now);
        if !alive {
            self.processes[process].worker = self.model.register(self.now);
        }
        for account in 0..self.processes[process].accounts.len() {
            if self.processes[process].accounts[account].is_over() {
                continue;
            }
            let run_id = self.processes[process].runs[account];
            let ledger = self.model.ledger(&format!("a{account}"));
            let event = match ledger.runs.iter().find(|run| run.run_id == run_id) {
                _ if !alive => Event::Reborn,
                Some(run) => Event::News(News {
                    asked_at: self.now,
                    lists: run.lists,
                    freed: true,
                    others: run.members.iter().any(|member| *member != worker),
                    listing_done: run.listing_done,
                    over: match run.state {
                        "running" | "stopped" => None,
                        "abandoned" => Some(true),
                        _ => Some(false),
                    },
                }),
                None => continue,
            };
            self.push(Duration::from_micros(200), What::Deliver { process, account, event });
        }
        self.push(HEARTBEAT, What::Beat { process });
    }
}

fn answered<T>(outcome: &Outcome<T>, now: Instant) -> (Answer, Duration) {
    let answer = Answer::new(now, now + outcome.latency, outcome.status, outcome.hints.clone());
    (answer, outcome.latency)
}
