//! Soak: one process that syncs for the whole time, and beside it run after run of another account's database, both under
//! faults. Memory, file descriptors, threads, connections and tables must not grow with time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mock_api::{EMAIL, Faults, PASSWORD, Settings};

use crate::chance::Chance;
use crate::gauges::{Gauges, Growth};
use crate::ground::{Database, Ground, Server};
use crate::network::{Names, Proxy, Rates};
use crate::support::{Outcome, PATIENCE, Program, Running, Signal};
use crate::tally::Tally;

/// Of the run after run; few enough for a run to last some seconds.
const CAMPAIGNS: u32 = 300;
/// The long run is told this limit, in requests a second: what it does depends on the time alone.
const PACE: u32 = 40;
const WORKERS: &str = "8";

/// What is measured is what the program needs, not what the C library keeps for later: once one body without an end was
/// freed, glibc would keep up to 64 MiB of each thread's free memory, and be flat only after that.
const THRIFTY: &str = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";

/// A platform and a database, both behind bad networks.
struct Scene {
    platform: mock_api::Server,
    api: Proxy,
    way_to_database: Proxy,
    database: Arc<Database>,
    tally: Arc<Tally>,
}

impl Scene {
    fn new(server: &Server, settings: Settings, tally: &Arc<Tally>) -> Self {
        let database = Arc::new(server.database());
        // The record of what took effect grows without an end.
        database.execute("DROP FUNCTION torture_effect CASCADE");
        let seed = settings.seed;
        let platform = mock_api::start(settings).unwrap();
        let address = platform.url().trim_start_matches("http://").parse().unwrap();
        let api = Proxy::before(address, seed, Names::API, tally);
        let way_to_database = Proxy::before(database.address(), seed + 1, Names::DATABASE, tally);
        Self { platform, api, way_to_database, database, tally: tally.clone() }
    }

    /// Makes everything bad, and keeps it so: every so manieth request, answer, connection and write fails.
    fn spoil(&self) {
        self.api.set_rates(Rates { reset: 0.01, lost_reply: 0.005, drip: 0.01, delay: 0.02 });
        self.way_to_database.set_rates(Rates { reset: 0.002, lost_reply: 0.001, drip: 0.002, delay: 0.002 });
        self.database.execute("UPDATE torture_faults SET share = 0.01, seed = 7");
    }

    fn heal(&self) {
        self.api.set_rates(Rates::default());
        self.way_to_database.set_rates(Rates::default());
        self.platform.set_faults(Faults::default());
        self.database.execute("UPDATE torture_faults SET share = 0");
    }

    fn writes_refused(&self) -> u64 {
        let hits =
            self.database.rows("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM torture_hits");
        u64::try_from(hits[0].get::<_, i64>(0)).unwrap()
    }

    fn program(&self, more: &[&str]) -> Program {
        Program::new(&["sync", "--json", "--workers", WORKERS, "--timeout", "2s", "--max-attempts", "8"])
            .args(more)
            .env("GLIBC_TUNABLES", THRIFTY)
            .api(&format!("http://{}", self.api.address), EMAIL, PASSWORD)
            .database(&self.database.url_by(self.way_to_database.address))
    }

    /// What comes now and then on top, at once for all who are connected.
    fn strike(&self, chance: &mut Chance) {
        match chance.number(0, 2) {
            0 => {
                self.tally.count("platform: tokens revoked");
                self.platform.revoke_tokens();
            }
            1 => {
                self.tally.count("platform: outage");
                self.platform.outage_for(chance.millis(200, 2_000));
            }
            _ => {
                self.tally.count("database: connections terminated");
                self.database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name <> 'torture'",
                );
            }
        }
    }
}

fn settings(seed: u64, campaigns: u32) -> Settings {
    Settings {
        seed,
        sync_latency: Duration::from_millis(40),
        list_503_every: 5,
        full_ledger: false,
        faults: Faults {
            hang: (0.002, Duration::from_millis(800)),
            reset: 0.01,
            cut_body: 0.01,
            reset_in_body: 0.005,
            html: 0.005,
            other_json: 0.005,
            server_error: 0.02,
            endless_body: 0.005,
            endless_headers: 0.005,
            gzip_bomb: 0.005,
            on_tokens: true,
            refused_every: 97,
            ..Faults::default()
        },
        ..Settings::fast(campaigns)
    }
}

/// Soaks for so many seconds; gives what was wrong.
pub fn soak(seconds: u64) -> Vec<String> {
    let (ground, tally) = (Ground::new(), Arc::new(Tally::default()));
    let place = ground.place(false);
    let time = Duration::from_secs(seconds);
    let (over, runs) = (AtomicBool::new(false), AtomicU64::new(0));
    // More than it can sync in the time.
    let campaigns = u32::try_from(seconds).unwrap() * PACE;
    let long_settings =
        Settings { rate_limit: Some((PACE, Duration::from_secs(1))), ..settings(1, campaigns) };
    let long = Scene::new(place.server(), long_settings, &tally);
    let again = Scene::new(place.server(), settings(2, CAMPAIGNS), &tally);
    let mut faults = std::thread::scope(|scope| {
        let repeated = scope.spawn(|| run_after_run(&again, &over, &runs));
        let faults = one_long_run(&long, &again, time, &runs);
        over.store(true, Ordering::Release);
        let mut all = repeated.join().unwrap_or_else(|_| vec!["run after run: panicked, see above".into()]);
        all.extend(faults);
        all
    });
    faults.extend(completed(&long, campaigns));
    faults.extend(completed(&again, CAMPAIGNS));
    for (scene, name) in
        [(&long, "platform: requests of the long run"), (&again, "platform: requests of run after run")]
    {
        tally.add(name, scene.platform.ledger().total);
        tally.add("database: write refused", scene.writes_refused());
    }
    println!("{} runs after each other; faults:\n{tally}", runs.load(Ordering::Relaxed));
    faults
}

/// One process for the whole time, looked at every few seconds; interrupted at the end.
fn one_long_run(scene: &Scene, again: &Scene, time: Duration, runs: &AtomicU64) -> Vec<String> {
    scene.spoil();
    let limit = format!("{PACE}/1s");
    // Short pages, so that the rarest of faults, on a page, has come before anything is compared.
    let mut process =
        scene.program(&["--rate-limit", &limit, "--page-size", "10"]).timeout(time + 3 * PATIENCE).spawn();
    let mut gauges = Gauges::new(process.id(), &scene.database, &again.database);
    let mut chance = Chance::new(3);
    let (begun, step) = (Instant::now(), (time / 180).max(Duration::from_millis(500)));
    let mut next_strike = Duration::ZERO;
    while begun.elapsed() < time && process.is_running() {
        if begun.elapsed() >= next_strike {
            scene.strike(&mut chance);
            next_strike = begun.elapsed() + chance.millis(10_000, 30_000);
        }
        gauges.look(begun.elapsed(), runs.load(Ordering::Relaxed));
        std::thread::sleep(step);
    }
    let early = !process.is_running();
    process.signal(Signal::Int);
    let outcome = process.wait();
    let mut faults: Vec<String> = gauges.verdict(time).iter().filter_map(Growth::fault).collect();
    if early || outcome.code() != Some(130) {
        faults.push(format!("the long run ended before its time or badly: {}", last_words(&outcome)));
    }
    faults
}

/// Whole runs, one after the other: every eighth is killed in the middle, every eighth interrupted, and the next one
/// goes on from there.
fn run_after_run(scene: &Scene, over: &AtomicBool, runs: &AtomicU64) -> Vec<String> {
    scene.spoil();
    let mut chance = Chance::new(4);
    let mut faults = Vec::new();
    while !over.load(Ordering::Acquire) && faults.len() < 5 {
        let number = runs.fetch_add(1, Ordering::Relaxed) + 1;
        scene.platform.change(|settings| settings.revision = u32::try_from(number).unwrap());
        if number.is_multiple_of(5) {
            scene.strike(&mut chance);
        }
        let mut process = scene.program(&[]).spawn();
        let signal = match chance.number(0, 7) {
            0 => Some(Signal::Kill),
            1 => Some(Signal::Int),
            _ => None,
        };
        if let Some(signal) = signal {
            await_or_end(&mut process, chance.millis(300, 1_500));
            process.signal(signal);
            scene.tally.count(if matches!(signal, Signal::Kill) {
                "process: killed"
            } else {
                "process: interrupted"
            });
        }
        let outcome = process.wait();
        // Interrupted before it has begun to listen for signals, it ends by the signal.
        let as_documented =
            matches!((outcome.code(), signal), (Some(0 | 3), _) | (Some(130) | None, Some(_)));
        if !as_documented {
            faults.push(format!("run {number}: {}", last_words(&outcome)));
        }
    }
    faults
}

fn await_or_end(process: &mut Running, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time && process.is_running() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Without faults, the next run completes everything: each campaign is a row or a dead letter.
fn completed(scene: &Scene, campaigns: u32) -> Option<String> {
    scene.heal();
    scene.platform.change(|settings| {
        (settings.rate_limit, settings.sync_latency) = (None, Duration::ZERO);
        settings.list_503_every = 0;
    });
    let outcome = scene.program(&[]).timeout(10 * PATIENCE).run();
    let counts = scene.database.rows(
        "SELECT (SELECT count(*) FROM campaigns c WHERE NOT EXISTS (SELECT FROM dead_letters d WHERE d.id = c.id)),
                (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM sync_tasks), (SELECT count(*) FROM workers)",
    );
    let [rows, letters, tasks, workers]: [i64; 4] = std::array::from_fn(|place| counts[0].get(place));
    let whole = matches!(outcome.code(), Some(0 | 3))
        && (rows + letters, tasks, workers) == (i64::from(campaigns), 0, 0);
    (!whole).then(|| {
        format!("of {campaigns} campaigns: {rows} rows, {letters} dead letters, {tasks} tasks, {workers} workers: {}", last_words(&outcome))
    })
}

fn last_words(outcome: &Outcome) -> String {
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n  ");
    format!("{} {}\n  {last}", outcome.status, outcome.stdout)
}
