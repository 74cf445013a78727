//! Stopping in order: by a signal, or when the time is over.

use std::time::{Duration, Instant};

use mock_api::{EMAIL, PASSWORD, Server, Settings};

use crate::support::{Database, PATIENCE, Program, Signal, eventually};

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
    eventually(PATIENCE, "the first signal is noticed", || {
        running.stderr().contains("stopping: requests in flight")
    });
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
    let status =
        Program::new(&["status", "--json", "--exit-code"]).database(&database.url()).run().expect_code(5);
    assert_eq!(status.json()[0]["standing"], "waiting", "no person is needed: {status}");
    sync(&server, &database).run().expect_code(0);
    assert!(server.ledger().syncs_asked().values().all(|times| *times == 1));
    assert_eq!(database.count("campaigns"), 100);
}

/// A platform that answers nothing of one kind: its syncs, its pages or its tokens.
fn silent(kind: &str) -> Server {
    let never = Duration::from_secs(600);
    let mut settings = Settings { full_ledger: false, ..Settings::fast(64) };
    match kind {
        "syncs" => settings.faults.hanging_every = (1, never),
        "pages" => settings.faults.hang = (1.0, never),
        _ => (settings.faults.hang, settings.faults.on_tokens) = ((1.0, never), true),
    }
    mock_api::start(settings).unwrap()
}

#[test]
fn neither_a_signal_nor_a_deadline_waits_for_what_is_not_answered() {
    for kind in ["syncs", "pages", "tokens"] {
        let (server, database) = (silent(kind), Database::create());
        let patient = || sync(&server, &database).args(&["--timeout", "50s", "--json"]);
        let mut running = patient().spawn();
        let before = match kind {
            "syncs" => 2,
            "pages" => 1,
            _ => 0,
        };
        eventually(PATIENCE, "a request that hangs", || server.ledger().total > before);
        let signalled = Instant::now();
        running.signal(Signal::Term);
        let outcome = running.wait().expect_code(143);
        // It says 2.5 s; a busy machine may be late.
        assert!(signalled.elapsed() < Duration::from_secs(20), "{kind}: {outcome}");
        assert_eq!(outcome.json()[0]["state"], "stopped", "{kind}: {outcome}");
        let outcome = patient().args(&["--deadline", "1s"]).run().expect_code(5);
        assert!(outcome.elapsed < Duration::from_secs(21), "{kind}: {outcome}");
        assert!(outcome.stderr.contains("--deadline"), "{kind}: {outcome}");
        let held = database.count("workers") + database.count("sync_tasks WHERE worker_id <> 0");
        assert_eq!(held + database.count("dead_letters"), 0, "what is abandoned is free for the next run");
        server.set_faults(mock_api::Faults::default());
        sync(&server, &database).run().expect_code(0);
        assert_eq!(database.count("campaigns"), 64);
    }
}

#[test]
fn a_signal_ends_a_list_that_waits_for_an_answer() {
    let server = silent("pages");
    let list = Program::new(&["list", "--timeout", "50s"]).api(&server.url(), EMAIL, PASSWORD);
    let mut running = list.spawn();
    eventually(PATIENCE, "a request that hangs", || server.ledger().total > 1);
    let signalled = Instant::now();
    running.signal(Signal::Int);
    let outcome = running.wait().expect_code(130);
    assert!(signalled.elapsed() < Duration::from_secs(20), "{outcome}");
}
