//! What the database does not answer is broken off when patience ends, the deadline is over or a signal comes; and the log
//! says who blocks it.

use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use campaign_sync::store::Client;
use mock_api::{EMAIL, PASSWORD, Server, Settings};

use crate::support::{Cluster, Database, Outcome, PATIENCE, Program, Running, Signal, eventually};

/// Long enough for a busy machine, and no comparison with the half hour that it was once.
const SOON: Duration = Duration::from_secs(20);

fn platform() -> Server {
    let latency = Duration::from_millis(20);
    mock_api::start(Settings { sync_latency: latency, ..Settings::fast(500) }).unwrap()
}

fn sync(server: &Server, database: &Database, flags: &[&str]) -> Running {
    Program::new(&["sync", "--json"])
        .args(flags)
        .api(&server.url(), EMAIL, PASSWORD)
        .database(&database.url())
        .spawn()
}

/// A stranger who holds a lock on the campaigns, by the name of `nosy`.
fn stranger(database: &Database, statement: &str) -> Client {
    let mut stranger = database.connect();
    stranger.batch_execute(&format!("SET application_name = 'nosy'; {statement}")).unwrap();
    stranger
}

const LOCK: &str = "BEGIN; LOCK TABLE campaigns IN ACCESS EXCLUSIVE MODE";

fn waits(database: &Database, event: &str) -> bool {
    let waiting = format!("pg_stat_activity WHERE datname = current_database() AND {event}");
    database.count(&waiting) > 0
}

fn migrated() -> Database {
    let database = Database::create();
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    database
}

/// The run is whole afterwards.
fn assert_resumes(server: &Server, database: &Database) {
    sync(server, database, &[]).wait().expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (500, 0));
}

fn assert_soon(since: Instant, outcome: Outcome, code: i32) -> Outcome {
    let took = since.elapsed();
    assert!(took < SOON, "{took:?}: {outcome}");
    outcome.expect_code(code)
}

#[test]
fn the_first_signal_is_heeded_while_a_table_is_locked() {
    let (server, database) = (platform(), migrated());
    let lock = stranger(&database, LOCK);
    let mut running = sync(&server, &database, &[]);
    eventually(PATIENCE, "it waits for the lock", || waits(&database, "wait_event_type = 'Lock'"));
    let signalled = Instant::now();
    running.signal(Signal::Term);
    assert_soon(signalled, running.wait(), 143);
    eventually(PATIENCE, "its statements are cancelled", || !waits(&database, "wait_event_type = 'Lock'"));
    drop(lock);
    assert_resumes(&server, &database);
}

#[test]
fn the_deadline_is_heeded_while_a_table_is_locked() {
    let (server, database) = (platform(), migrated());
    let lock = stranger(&database, LOCK);
    let begun = Instant::now();
    assert_soon(begun, sync(&server, &database, &["--deadline", "2s"]).wait(), 5);
    drop(lock);
    assert_resumes(&server, &database);
}

#[test]
fn patience_ends_while_a_table_is_locked_and_one_warning_says_who_holds_it() {
    let (server, database) = (platform(), migrated());
    let mut lock = stranger(&database, LOCK);
    let pid: i32 = lock.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let begun = Instant::now();
    let outcome = assert_soon(begun, sync(&server, &database, &["--give-up-after", "8s"]).wait(), 5);
    let blocker = format!("process {pid} (application_name \"nosy\", idle in transaction");
    let warnings: Vec<_> = outcome.stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert!(matches!(warnings[..], [one] if one.contains(&blocker)), "{outcome}");
    let error = outcome.json()[0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("no answer for") && error.contains("run again to resume"), "{outcome}");
    drop(lock);
    assert_resumes(&server, &database);
}

#[test]
fn migrate_gives_up_on_a_lock_that_somebody_else_holds() {
    let database = Database::create();
    let lock = stranger(&database, "SELECT pg_advisory_lock(7161677084962221667)");
    let begun = Instant::now();
    let outcome = Program::new(&["migrate"]).database(&database.url()).run().expect_code(5);
    assert!(begun.elapsed() < Duration::from_secs(50), "{outcome}");
    assert!(outcome.stderr.contains("application_name \"nosy\""), "{outcome}");
    drop(lock);
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
}

#[test]
fn a_commit_that_waits_for_a_dead_standby_is_broken_off() {
    let (server, cluster) = (platform(), Cluster::new());
    // It goes with its server.
    let database = ManuallyDrop::new(Database::create_in(&cluster));
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    let standby = |names: &str| {
        let mut client = database.connect();
        client.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    };
    standby("nobody");
    let shown = || database.value::<String>("SELECT current_setting('synchronous_standby_names')");
    eventually(PATIENCE, "the setting is read", || shown() == "nobody");
    let begun = Instant::now();
    let outcome = assert_soon(begun, sync(&server, &database, &["--give-up-after", "7s"]).wait(), 5);
    assert!(outcome.stderr.contains("synchronous_standby_names"), "{outcome}");
    let mut running = sync(&server, &database, &[]);
    eventually(PATIENCE, "a commit waits", || waits(&database, "wait_event = 'SyncRep'"));
    let signalled = Instant::now();
    running.signal(Signal::Int);
    assert_soon(signalled, running.wait(), 130);
    standby("");
    eventually(PATIENCE, "the setting is read", || shown().is_empty());
    assert_resumes(&server, &database);
}

#[test]
fn a_server_that_is_suspended_is_left() {
    let (server, cluster) = (platform(), Cluster::new());
    // It goes with its server.
    let database = ManuallyDrop::new(Database::create_in(&cluster));
    let mut running = sync(&server, &database, &[]);
    eventually(PATIENCE, "some syncs", || server.ledger().syncs > 50);
    cluster.suspend();
    let signalled = Instant::now();
    running.signal(Signal::Term);
    let outcome = running.wait();
    let took = signalled.elapsed();
    cluster.resume();
    assert!(took < SOON, "{took:?}: {outcome}");
    outcome.expect_code(143);
    assert_resumes(&server, &database);
}
