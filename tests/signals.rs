//! Stopping in order: by a signal, or when the time is over.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod support;

use std::time::{Duration, Instant};

use mock_api::{EMAIL, PASSWORD, Server, Settings};
use support::{Database, PATIENCE, Program, Signal, eventually};

fn slow(campaigns: u32, latency: Duration) -> Server {
    mock_api::start(Settings { sync_latency: latency, ..Settings::fast(campaigns) }).unwrap()
}

fn sync(server: &Server, database: &Database) -> Program {
    Program::new(&["sync"]).api(&server.url(), EMAIL, PASSWORD).database(&database.url())
}

fn a_signal_ends_it_in_order(signal: Signal, code: i32) {
    let latency = Duration::from_secs(1);
    let (server, database) = (slow(64, latency), Database::create());
    let mut running = sync(&server, &database).spawn();
    eventually(PATIENCE, "sixteen syncs done, others under way", || server.ledger().syncs >= 24);
    let signalled = Instant::now();
    running.signal(signal);
    let outcome = running.wait();
    let took = signalled.elapsed();
    let outcome = outcome.expect_code(code);
    assert!(took < latency + Duration::from_secs(1), "{took:?}\n{outcome}");
    assert!(outcome.stdout.contains("pending"), "{outcome}");
    assert_eq!(database.value::<String>("SELECT state FROM sync_runs"), "stopped");
    assert_eq!(database.count("workers") + database.count("sync_tasks WHERE worker_id <> 0"), 0, "leases");
    assert_eq!(
        database.count("campaigns"),
        i64::try_from(server.ledger().syncs).unwrap(),
        "all was committed"
    );

    sync(&server, &database).run().expect_code(0);
    let ledger = server.ledger();
    assert_eq!(ledger.syncs_asked().len(), 64);
    assert!(ledger.syncs_asked().values().all(|times| *times == 1), "{:?}", ledger.syncs_asked());
    assert_eq!(database.count("campaigns"), 64);
}

#[test]
fn sigint_finishes_what_is_under_way_and_the_next_run_repeats_nothing() {
    a_signal_ends_it_in_order(Signal::Int, 130);
}

#[test]
fn sigterm_does_the_same() {
    a_signal_ends_it_in_order(Signal::Term, 143);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (server, database) = (slow(64, Duration::from_secs(20)), Database::create());
    let mut running = sync(&server, &database).spawn();
    eventually(PATIENCE, "a sync under way", || server.ledger().syncs > 0);
    running.signal(Signal::Int);
    eventually(PATIENCE, "the first signal is noticed", || running.stderr().contains("stopping in order"));
    let signalled = Instant::now();
    running.signal(Signal::Int);
    let outcome = running.wait().expect_code(130);
    assert!(signalled.elapsed() < Duration::from_secs(5), "{outcome}");
}

#[test]
fn a_deadline_ends_the_wait_for_a_database_that_is_away() {
    let nowhere = Program::new(&["sync", "--deadline", "300ms"]).api("http://127.0.0.1:1", EMAIL, PASSWORD);
    let outcome = nowhere.database("postgres://someone@127.0.0.1:1/somewhere").run().expect_code(5);
    assert!(outcome.elapsed < Duration::from_secs(20), "{outcome}");
    assert!(outcome.stderr.contains("connection refused"), "{outcome}");
}

#[test]
fn a_deadline_stops_it_in_order() {
    let (server, database) = (slow(100, Duration::from_millis(500)), Database::create());
    let outcome = sync(&server, &database).args(&["--deadline", "1s", "--json"]).run().expect_code(5);
    assert!(outcome.stderr.contains("--deadline"), "{outcome}");
    assert_eq!(outcome.json()[0]["state"], "stopped");
    assert_eq!(database.count("workers"), 0);
    sync(&server, &database).run().expect_code(0);
    assert!(server.ledger().syncs_asked().values().all(|times| *times == 1));
    assert_eq!(database.count("campaigns"), 100);
}
