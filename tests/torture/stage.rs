//! One schedule's cast: the platform, the database, the networks between, and the program's processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use campaign_sync::store::{Client, leases};
use mock_api::{EMAIL, PASSWORD, Server};

use crate::beside::Beside;
use crate::field::Lock;
use crate::ground::{Database, Place};
use crate::network::{Mood, Names, Proxy, Rates};
use crate::plan::{Event, PATIENT, Plan};
use crate::support::{Outcome, Program, Running, Signal};
use crate::tally::Tally;

/// A process must come to its end within this time, whatever has happened.
const PATIENCE: Duration = Duration::from_secs(50);
/// Accounts without faults must come to their end within this time, whatever others do.
const GOOD_ACCOUNTS: Duration = Duration::from_secs(30);

/// Everything that a schedule plays with.
pub struct Stage<'a> {
    pub plan: &'a Plan,
    pub platform: Server,
    pub api: Proxy,
    pub way_to_database: Proxy,
    pub database: Arc<Database>,
    pub place: &'a Place<'a>,
    pub tally: Arc<Tally>,
    pub processes: Vec<Process>,
    pub ends: Vec<End>,
    pub launched: usize,
    pub leases_ended: usize,
    pub clock_jumps: u64,
    /// How often the database may have forgotten its newest commits.
    pub forgotten: usize,
    pub retries: usize,
    locks: Vec<postgres::Client>,
    pub beside: Beside,
    pub violations: Vec<String>,
}

/// A process under way.
pub struct Process {
    pub running: Running,
    command: &'static str,
    killed: bool,
    interrupted: u32,
    faulty: bool,
}

/// A process that has ended.
pub struct End {
    pub outcome: Outcome,
    pub command: &'static str,
    pub killed: bool,
    /// How often; the second time ends it at once.
    pub interrupted: u32,
    /// Whether it ran while there were faults.
    pub faulty: bool,
}

impl End {
    /// Whether it may have left something undone that it had begun.
    pub fn is_bad(&self, plan: &Plan) -> bool {
        let in_order = self.interrupted == 1 && !plan.harms_database();
        // A process that gives the database up may still see others complete the run.
        let impatient = self.faulty && plan.harms_database() && plan.give_up_after < PATIENT;
        let whole =
            matches!(self.outcome.code(), Some(0 | 3)) || (in_order && self.outcome.code() == Some(130));
        impatient || !whole
    }

    /// Whether it says that fewer campaigns were listed than there are.
    pub fn is_short(&self) -> bool {
        self.outcome.stderr.contains("nothing was marked as removed; the next sync lists everything again")
            && self.outcome.stdout.contains("\"below_total\"")
    }
}

impl<'a> Stage<'a> {
    pub fn set(plan: &'a Plan, place: &'a Place<'a>, tally: &Arc<Tally>) -> Self {
        let database = Arc::new(place.server().database());
        if let Some(millis) = plan.field.forgets {
            place.server().write_log_after(millis);
            database.execute(&format!("ALTER DATABASE {} SET synchronous_commit = off", database.name()));
        }
        let platform = mock_api::start(plan.settings.clone()).unwrap();
        let address = platform.url().trim_start_matches("http://").parse().unwrap();
        Self {
            plan,
            api: Proxy::before(address, plan.seed, Names::API, tally),
            way_to_database: Proxy::before(database.address(), plan.seed + 1, Names::DATABASE, tally),
            platform,
            database,
            place,
            tally: tally.clone(),
            processes: Vec::new(),
            ends: Vec::new(),
            launched: 0,
            leases_ended: 0,
            clock_jumps: 0,
            forgotten: 0,
            retries: 0,
            locks: Vec::new(),
            beside: Beside::new(plan),
            violations: Vec::new(),
        }
    }

    /// Starts a process; `faulty` while there are faults.
    pub fn launch(&mut self, command: &'static str, more: &[&str], faulty: bool) {
        let plan = self.plan;
        let millis = |duration: Duration| format!("{}ms", duration.as_millis());
        let patience = if faulty { plan.give_up_after } else { PATIENT };
        let api = format!("http://{}", self.api.address);
        let limits = plan.field.open_files.filter(|_| faulty);
        let script = limits.map(|files| format!("ulimit -n {files}; exec \"$0\" \"$@\""));
        let starter: Vec<&str> = script.iter().flat_map(|script| ["sh", "-c", script]).collect();
        let mut program = Program::by(&starter, &[command, "--json", "--workers", &plan.workers.to_string()])
            .args(&["--page-size", &plan.page_size.to_string(), "--max-attempts", &plan.attempts.to_string()])
            .args(&["--timeout", &millis(plan.timeout), "--give-up-after", &millis(patience)])
            .args(more)
            .env("RUST_LOG", "debug")
            .api(&api, EMAIL, PASSWORD)
            .database(&self.database.url_by(self.way_to_database.address))
            .timeout(PATIENCE * 2);
        if let (true, Some((limit, window))) = (plan.told, plan.settings.rate_limit) {
            program = program.args(&["--rate-limit", &format!("{limit}/{}", millis(window))]);
        }
        self.tally.add("process: few open files", u64::from(limits.is_some()));
        self.launched += 1;
        self.retries += usize::from(command == "retry");
        let running = self.beside.given_to(program, &api).spawn();
        self.processes.push(Process { running, command, killed: false, interrupted: 0, faulty });
    }

    /// Takes note of processes that have ended; gives their codes.
    pub fn collect(&mut self) -> Vec<Option<i32>> {
        let mut codes = Vec::new();
        let mut place = 0;
        while place < self.processes.len() {
            if self.processes[place].running.is_running() {
                place += 1;
            } else {
                codes.push(self.wait(place));
            }
        }
        codes
    }

    /// Waits for one; gives its code.
    pub fn wait(&mut self, place: usize) -> Option<i32> {
        let mut process = self.processes.remove(place);
        let begun = Instant::now();
        while process.running.is_running() {
            assert!(begun.elapsed() < PATIENCE, "{}", self.stuck(process));
            std::thread::sleep(Duration::from_millis(5));
        }
        let outcome = process.running.wait();
        let code = outcome.code();
        self.violations.extend(self.beside.broken_files());
        self.violations.extend(self.beside.broken_logs(&outcome.stderr));
        self.ends.push(End {
            outcome,
            command: process.command,
            killed: process.killed,
            interrupted: process.interrupted,
            faulty: process.faulty,
        });
        code
    }

    /// What is to be known of a process that does not come to its end.
    fn stuck(&self, process: Process) -> String {
        let mut text = String::from("still running:\n");
        for table in ["sync_runs", "workers", "sync_tasks", "access_tokens"] {
            let rows = self
                .database
                .rows(&format!("SELECT (to_jsonb(t) - '{{payload,sealed}}'::text[])::text FROM {table} t"));
            rows.iter().for_each(|row| text += &format!("  {table} {}\n", row.get::<_, String>(0)));
        }
        for row in self.database.rows(
            "SELECT to_jsonb(a)::text FROM (SELECT pid, state, wait_event, state_change, query FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()) a",
        ) {
            text += &format!("  {}\n", row.get::<_, String>(0));
        }
        text + &process.running.kill().to_string()
    }

    /// Waits for all.
    pub fn wait_for_all(&mut self) {
        while !self.processes.is_empty() {
            self.wait(0);
        }
    }

    pub fn signal(&mut self, who: usize, signal: Signal) {
        let Some(process) = self.processes.get_mut(who) else { return };
        process.killed |= matches!(signal, Signal::Kill);
        process.interrupted += u32::from(matches!(signal, Signal::Int));
        process.running.signal(signal);
        self.tally.add(
            match signal {
                Signal::Kill => "process: killed",
                Signal::Int | Signal::Term => "process: interrupted",
                Signal::Stop => "process: stopped",
                Signal::Cont => "process: continued",
            },
            1,
        );
    }

    /// Makes an event happen.
    pub fn act(&mut self, event: Event) {
        match event {
            Event::Api(mood) => self.change_network("api", mood),
            Event::Database(mood) => self.change_network("database", mood),
            Event::ApiOutage(time) => {
                self.tally.count("platform: outage");
                self.platform.outage_for(time);
            }
            Event::RevokeTokens => {
                self.tally.count("platform: tokens revoked");
                self.platform.revoke_tokens();
            }
            Event::CutConnections => self.cut_connections(),
            Event::CrashDatabase => {
                let forgets = self.plan.field.forgets.is_some();
                self.tally.count(if forgets { "database: crash that forgets" } else { "database: crash" });
                self.forgotten += usize::from(forgets);
                self.place.server().crash();
            }
            Event::DatabaseClock(by) => self.move_databases_clock(by),
            Event::OwnClock(offset) => {
                let set = self.beside.set_clock(offset);
                self.tally.count(if set { "own clock: jump" } else { "own clock: no libfaketime here" });
            }
            Event::EndLeases => {
                self.leases_ended += 1;
                self.end_leases(true);
            }
            Event::Stop(who) => self.signal(who, Signal::Stop),
            // Whoever was meant may have moved up.
            Event::Continue(_) => self.continue_all(),
            Event::Kill(who) => self.signal(who, Signal::Kill),
            Event::Interrupt(who) => self.signal(who, Signal::Int),
            Event::Lock(lock) => self.lock(lock),
            Event::Unlock => self.locks.clear(),
            Event::Retry => {
                self.tally.count("process: retry beside others");
                self.launch("retry", &[], true);
            }
            Event::Join { fresh } => {
                self.tally.count(if fresh { "process: joins with --fresh" } else { "process: joins" });
                self.launch("sync", if fresh { &["--fresh"] } else { &[] }, true);
            }
        }
    }

    /// A stranger takes something for itself.
    fn lock(&mut self, lock: Lock) {
        let Ok(mut client) = self.database.connect() else { return };
        let statements = format!("BEGIN; {}", lock.taken_by());
        let locked = (0..10)
            .any(|_| client.batch_execute(&statements).is_ok() || client.batch_execute("ROLLBACK").is_err());
        if locked {
            self.tally.count(match lock {
                Lock::Table(_) => "database: table locked",
                Lock::Rows(_) => "database: rows locked",
                Lock::Migration => "database: migration locked",
            });
            self.locks.push(client);
        }
    }

    /// Accounts that hang do not hold up the others: those come to their end, if there is a process to work on them.
    pub fn wait_for_good_accounts(&mut self) {
        let begun = Instant::now();
        // Those that a process still works on: it may have given one up.
        let open =
            "SELECT FROM sync_runs s WHERE state = 'running' AND account NOT LIKE 'hanging%' AND EXISTS (
                        SELECT FROM workers w WHERE w.account = s.account AND w.run_id = s.run_id
                          AND w.heartbeat_at > now() - interval '10 s')";
        while self.processes.iter_mut().any(|process| process.running.is_running()) {
            let left = self.database.rows(open);
            if left.is_empty() {
                break;
            }
            if begun.elapsed() > GOOD_ACCOUNTS {
                self.violations.push(format!("{} account(s) wait for those that hang", left.len()));
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn continue_all(&mut self) {
        for process in &mut self.processes {
            process.running.signal(Signal::Cont);
        }
    }

    fn change_network(&self, which: &str, mood: Mood) {
        let api = which == "api";
        match mood {
            Mood::Calm => {}
            Mood::Refusing if api => self.tally.count("api network: refused for a while"),
            Mood::Refusing => self.tally.count("database network: refused for a while"),
            Mood::BlackHole if api => self.tally.count("api network: black hole"),
            Mood::BlackHole => self.tally.count("database network: black hole"),
        }
        if api { self.api.set_mood(mood) } else { self.way_to_database.set_mood(mood) }
    }

    fn cut_connections(&self) {
        self.tally.count("database: connections terminated");
        let Ok(mut client) = self.database.connect() else { return };
        let _ = client.batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name <> 'torture'",
        );
    }

    /// All that was noted is so much longer ago: as when the clock jumps forward by so many seconds, or back.
    fn move_databases_clock(&mut self, by: i64) {
        let Ok(mut client) = self.database.connect() else { return };
        let moved = (0..10).any(|_| {
            let statements = include_str!("clock.sql").replace("$by", &format!("interval '{by} s'"));
            client.batch_execute(&statements).is_ok()
        });
        if moved {
            self.tally.count(if by > 0 { "database clock: forward" } else { "database clock: back" });
            self.clock_jumps += 1;
            // Whoever was heard of a moment ago has been silent for long now.
            self.leases_ended += usize::from(by > 0);
        }
    }

    /// Lets the database believe that all processes were silent for longer than a lease; and, if so wanted, find out at
    /// once, by the statement with which processes find it out.
    pub fn end_leases(&mut self, at_once: bool) {
        self.tally.count("leases: ended");
        let Ok(mut client) = self.database.connect().map(Client::from) else { return };
        let aged = client.batch_execute(
            "UPDATE workers SET heartbeat_at = heartbeat_at - interval '11 s';
             UPDATE access_tokens SET refresh_until = '-infinity'",
        );
        if aged.is_ok() && at_once {
            for account in self.beside.accounts() {
                let _ = leases::reap(&mut client, account, 0);
            }
        }
    }

    /// Turns the faults on.
    pub fn spoil(&self) {
        let plan = self.plan;
        self.platform.change(|settings| {
            settings.revision = 1;
            settings.faults = plan.settings.faults.clone();
            settings.list_503_every = plan.settings.list_503_every;
        });
        self.api.set_rates(plan.api);
        self.way_to_database.set_rates(plan.database);
        let seed = i64::try_from(plan.seed & 0xffff_ffff).unwrap();
        self.database
            .execute(&format!("UPDATE torture_faults SET share = {}, seed = {seed}", plan.refused_writes));
        if let Some(refused) = plan.field.refused {
            self.tally.count("database: refuses rows");
            self.database.execute(&format!(
                "INSERT INTO torture_refusals VALUES ('{}', {}, '{}')",
                refused.table, refused.every, refused.how
            ));
        }
    }

    /// Ends all faults but those that last, and those of other accounts.
    pub fn heal(&mut self) {
        self.locks.clear();
        for proxy in [&self.api, &self.way_to_database] {
            proxy.set_rates(Rates::default());
            proxy.set_mood(Mood::Calm);
        }
        self.platform.outage_for(Duration::ZERO);
        self.platform.change(|settings| {
            settings.faults = self.plan.lasting_faults();
            settings.list_503_every = 0;
            settings.token_lifetime = Duration::from_secs(3600);
        });
        self.database.execute("UPDATE torture_faults SET share = 0; DELETE FROM torture_refusals");
    }
}
