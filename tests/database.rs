//! The database goes away and comes back: the run goes on by itself, or stops and can be resumed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod support;

use std::time::Duration;

use mock_api::{EMAIL, PASSWORD, Server, Settings};
use support::{Cluster, Database, PATIENCE, Program, Running, eventually};

fn server() -> Server {
    let latency = Duration::from_millis(100);
    mock_api::start(Settings { sync_latency: latency, ..Settings::fast(400) }).unwrap()
}

fn sync(server: &Server, url: &str, flags: &[&str]) -> Running {
    Program::new(&["sync"]).args(flags).api(&server.url(), EMAIL, PASSWORD).database(url).spawn()
}

fn assert_whole(database: &Database) {
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (400, 0));
    assert_eq!(database.count("dead_letters"), 0);
    let counts = database.rows("SELECT state, listed, synced FROM sync_runs", &[]);
    let counts: Vec<(String, i64, i64)> =
        counts.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(counts, [("complete".to_owned(), 400, 400)]);
}

#[test]
fn a_crash_of_postgres_in_the_middle_is_survived() {
    let mut cluster = Cluster::with_options(&["-c", "fsync=on"]);
    let database = Database::create_in(&cluster);
    let server = server();
    let running = sync(&server, &database.url(), &[]);
    eventually(PATIENCE, "a hundred syncs", || server.ledger().syncs >= 100);
    cluster.restart_immediate();
    running.wait().expect_code(0);
    assert_whole(&database);
}

#[test]
fn cut_connections_are_survived() {
    let database = Database::create();
    let server = server();
    let running = sync(&server, &database.url(), &[]);
    for syncs in [80, 160, 240] {
        eventually(PATIENCE, "some syncs", || server.ledger().syncs >= syncs);
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
    }
    running.wait().expect_code(0);
    assert_whole(&database);
}

#[test]
fn a_database_that_stays_away_stops_the_run_and_the_next_one_completes_it() {
    let mut cluster = Cluster::new();
    let database = Database::create_in(&cluster);
    let server = server();
    let running = sync(&server, &database.url(), &["--give-up-after", "2s"]);
    eventually(PATIENCE, "a hundred syncs", || server.ledger().syncs >= 100);
    cluster.stop();
    let outcome = running.wait().expect_code(5);
    assert!(outcome.stderr.contains("database"), "{outcome}");
    cluster.start();
    sync(&server, &database.url(), &[]).wait().expect_code(0);
    assert_whole(&database);
}
