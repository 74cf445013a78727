//! What failed is kept with its reason, shown by `status`, and cured by `retry` or a later run.

use std::collections::HashMap;
use std::time::Duration;

use mock_api::{EMAIL, Kind, PASSWORD, Server, Settings};
use serde_json::Value;

use crate::support::{Database, Outcome, PATIENCE, Program, Running, Signal, eventually};

fn failing() -> (Server, Database) {
    let server = mock_api::start(Settings::fast(40)).unwrap();
    server.change(|settings| settings.faults.refused_every = 10);
    (server, Database::create())
}

fn run(server: &Server, database: &Database, command: &[&str]) -> Outcome {
    Program::new(command).api(&server.url(), EMAIL, PASSWORD).database(&database.url()).run()
}

fn status(database: &Database) -> Value {
    Program::new(&["status", "--json"]).database(&database.url()).run().expect_code(0).json().remove(0)
}

#[test]
fn a_dead_letter_is_kept_shown_retried_and_cleared() {
    let (server, database) = failing();
    run(&server, &database, &["sync"]).expect_code(3);
    let letters =
        database.rows("SELECT id, cause, reason, attempts, payload FROM dead_letters ORDER BY id", &[]);
    assert_eq!(letters.len(), 4);
    for letter in &letters {
        let payload: Value = serde_json::from_str(letter.get("payload")).unwrap();
        assert_eq!(payload["id"], letter.get::<_, &str>("id"));
        assert!(letter.get::<_, &str>("reason").contains("the platform"), "{letter:?}");
        assert_eq!(letter.get::<_, i32>("attempts"), 1);
    }
    let shown = status(&database);
    assert_eq!(
        shown["dead_letters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|heap| heap["count"].as_i64().unwrap())
            .sum::<i64>(),
        4
    );
    assert_eq!((shown["pending"].as_i64(), shown["run"]["state"].as_str()), (Some(0), Some("partial")));

    run(&server, &database, &["retry"]).expect_code(3);
    assert_eq!(database.count("dead_letters"), 4, "still refused");

    server.change(|settings| settings.faults.refused_every = 0);
    let lists = server.ledger().of(Kind::List).count();
    run(&server, &database, &["retry", "--id", "campaign_10"]).expect_code(0);
    assert_eq!((database.count("dead_letters"), database.count("campaigns")), (3, 37));
    assert_eq!(server.ledger().of(Kind::List).count(), lists, "a retry lists nothing");
    let outcome = run(&server, &database, &["retry", "--json"]).expect_code(0);
    assert_eq!(outcome.json()[0]["synced"], 3);
    assert_eq!((database.count("dead_letters"), database.count("campaigns")), (0, 40));
    assert_eq!(database.count("campaigns WHERE removed_at IS NOT NULL"), 0, "a retry is no listing");
    let outcome = run(&server, &database, &["retry"]).expect_code(0);
    assert!(outcome.stdout.contains("no dead letters"), "{outcome}");
    let outcome = run(&server, &database, &["retry", "--id", "nobody"]).expect_code(2);
    assert!(outcome.stderr.contains("nobody"), "{outcome}");
}

#[test]
fn a_later_success_clears_a_dead_letter() {
    let (server, database) = failing();
    run(&server, &database, &["sync"]).expect_code(3);
    server.change(|settings| settings.faults.refused_every = 0);
    run(&server, &database, &["sync"]).expect_code(0);
    assert_eq!((database.count("dead_letters"), database.count("campaigns")), (0, 40));
}

#[test]
fn one_campaign_that_always_fails_is_tried_so_often_and_no_more() {
    let server = mock_api::start(Settings::fast(60)).unwrap();
    server.change(|settings| settings.faults.poisoned_every = 50);
    let database = Database::create();
    run(&server, &database, &["sync", "--max-attempts", "3"]).expect_code(3);
    assert_eq!(database.column::<String>("SELECT id FROM dead_letters"), ["campaign_50"]);
    let tried = server.ledger().syncs_asked()["campaign_50"];
    assert!((3..=4).contains(&tried), "{tried}");
}

#[test]
fn a_retry_of_campaigns_that_always_fail_ends_soon_with_dead_letters_again() {
    let server = mock_api::start(Settings::fast(60)).unwrap();
    server.change(|settings| settings.faults.poisoned_every = 10);
    let database = Database::create();
    run(&server, &database, &["sync", "--max-attempts", "2"]).expect_code(3);
    run(&server, &database, &["retry", "--max-attempts", "2", "--id", "campaign_20"]).expect_code(3);
    run(&server, &database, &["retry", "--max-attempts", "2"]).expect_code(3);
    assert_eq!((database.count("dead_letters"), database.count("campaigns")), (6, 54));
    assert_eq!(database.count("sync_runs WHERE state IN ('running', 'stopped')"), 0);
}

#[test]
fn status_of_an_empty_database_says_what_to_do() {
    let database = Database::create();
    let outcome = Program::new(&["status"]).database(&database.url()).run().expect_code(2);
    assert!(outcome.stderr.contains("campaign-sync migrate"), "{outcome}");
}

#[test]
fn records_without_an_id_that_stand_on_two_pages_are_one_dead_letter_each() {
    // Held back until the first pages are worked off, all pages are committed at once.
    let latency = Duration::from_millis(150);
    let settings = Settings { sync_latency: latency, ..Settings::fast(6) };
    let added = (0..12).map(|n| format!("{{\"name\":\"without {n}\"}}")).collect();
    let server = mock_api::start(Settings { added, ..settings }).unwrap();
    server.change(|settings| settings.faults.duplicates = true);
    let database = Database::create();
    run(&server, &database, &["sync", "--page-size", "3"]).expect_code(3);
    assert_eq!((database.count("campaigns"), database.count("dead_letters")), (6, 12));
}

/// Twenty of forty campaigns are dead letters, and could be synced by now, slowly.
fn twenty_letters() -> (Server, Database) {
    let (server, database) = (mock_api::start(Settings::fast(40)).unwrap(), Database::create());
    server.change(|settings| settings.faults.refused_every = 2);
    run(&server, &database, &["sync"]).expect_code(3);
    assert_eq!(database.count("dead_letters"), 20);
    server.change(|settings| {
        settings.faults.refused_every = 0;
        settings.sync_latency = Duration::from_millis(200);
        // The listing has other records by now.
        settings.revision = 7;
    });
    (server, database)
}

fn begin(server: &Server, database: &Database, command: &[&str]) -> Running {
    Program::new(command).api(&server.url(), EMAIL, PASSWORD).database(&database.url()).spawn()
}

/// A `retry` that has stored some of its campaigns.
fn half_a_retry(server: &Server, database: &Database) -> Running {
    let stored = database.count("campaigns");
    let running = begin(server, database, &["retry", "--workers", "2"]);
    eventually(PATIENCE, "some are stored", || database.count("campaigns") > stored + 2);
    running
}

/// The platform's records are those that are stored.
fn assert_as_listed(server: &Server, database: &Database) {
    let listed = Program::new(&["list"]).api(&server.url(), EMAIL, PASSWORD).run().expect_code(0);
    let listed: HashMap<String, i64> = listed
        .json()
        .iter()
        .map(|record| (record["id"].as_str().unwrap().to_owned(), record["impressions"].as_i64().unwrap()))
        .collect();
    let stored = database.rows("SELECT id, impressions FROM campaigns", &[]);
    assert_eq!(stored.iter().map(|row| (row.get(0), row.get(1))).collect::<HashMap<String, i64>>(), listed);
}

/// How often each campaign was asked for since then.
fn asked_since(server: &Server, before: usize) -> HashMap<String, usize> {
    let mut asked = HashMap::new();
    for seen in server.ledger().of(Kind::Sync).skip(before) {
        *asked.entry(seen.subject.clone()).or_default() += 1;
    }
    asked
}

#[test]
fn a_retry_that_is_cut_off_is_resumed_by_the_next_one() {
    for signal in [Some(Signal::Int), Some(Signal::Kill), None] {
        let (server, database) = twenty_letters();
        if let Some(signal) = signal {
            let mut running = half_a_retry(&server, &database);
            running.signal(signal);
            let outcome = running.wait();
            assert_ne!(outcome.code(), Some(0), "{outcome}");
        } else {
            run(&server, &database, &["retry", "--workers", "2", "--deadline", "700ms"]).expect_code(5);
        }
        let left = 40 - database.count("campaigns");
        assert!(left > 0 && database.count("dead_letters") == 0, "{signal:?}: {left} are left");
        let id = database.column::<String>("SELECT id FROM sync_tasks ORDER BY id").remove(0);
        let outcome = run(&server, &database, &["retry", "--id", &id, "--json"]).expect_code(0);
        assert_eq!(outcome.json()[0]["state"], "complete", "{signal:?}: {outcome}");
        assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (40, 0), "{signal:?}");
        assert_eq!(database.count("sync_runs"), 2, "{signal:?}: it is the same run");
    }
}

#[test]
fn a_sync_that_goes_on_with_a_retry_sends_each_campaign_once_and_stores_what_it_lists() {
    let (server, database) = twenty_letters();
    half_a_retry(&server, &database).kill();
    let before = server.ledger().of(Kind::Sync).count();
    let outcome = run(&server, &database, &["sync", "--json"]).expect_code(0);
    let asked = asked_since(&server, before);
    assert_eq!((asked.len(), asked.values().max()), (40, Some(&1)), "{asked:?}");
    let counts = |name: &str| outcome.json()[0][name].as_i64();
    assert_eq!([counts("listed"), counts("synced"), counts("failed")], [Some(40), Some(40), Some(0)]);
    assert_eq!((database.count("sync_runs"), database.count("sync_tasks")), (2, 0));
    assert_as_listed(&server, &database);
}

#[test]
fn a_retry_and_a_sync_at_once_store_what_is_listed() {
    for retry_first in [true, false] {
        let (server, database) = twenty_letters();
        let mut commands = [&["retry", "--workers", "2"], &["sync", "--workers", "2"]];
        if !retry_first {
            commands.reverse();
        }
        let runs = database.count("sync_runs");
        let first = begin(&server, &database, commands[0]);
        eventually(PATIENCE, "the first has begun", || database.count("sync_runs") > runs);
        let second = begin(&server, &database, commands[1]);
        let outcomes = [first.wait().expect_code(0), second.wait().expect_code(0)];
        assert_eq!((database.count("dead_letters"), database.count("sync_tasks")), (0, 0));
        assert_eq!(
            database.count("sync_runs WHERE state <> 'complete'"),
            1,
            "{}\n{}",
            outcomes[0],
            outcomes[1]
        );
        assert_as_listed(&server, &database);
    }
}

#[test]
fn what_is_left_of_a_closed_run_blocks_no_later_one() {
    let (server, database) = twenty_letters();
    database.execute(
        "INSERT INTO sync_tasks (account, id, run_id, seq, payload)
         SELECT account, id, run_id, 0, payload FROM dead_letters LIMIT 3",
    );
    run(&server, &database, &["sync"]).expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (40, 0));
    assert_as_listed(&server, &database);
}

#[test]
fn a_retry_is_never_a_complete_run_of_the_account() {
    let (server, database) = failing();
    run(&server, &database, &["sync"]).expect_code(3);
    server.change(|settings| settings.faults.refused_every = 0);
    run(&server, &database, &["retry", "--id", "campaign_10"]).expect_code(0);
    let shown = status(&database);
    assert!(shown["last_success_age_s"].is_null(), "{shown}");
    let text = Program::new(&["status"]).database(&database.url()).run().expect_code(0);
    assert!(text.stdout.contains("never fully successful"), "{text}");
    database.execute("UPDATE sync_runs SET finished_at = finished_at - interval '1 hour' WHERE lists");
    assert!(status(&database)["last_finished_age_s"].as_f64().unwrap() > 3_000.0, "nor did it finish one");
    run(&server, &database, &["sync"]).expect_code(0);
    assert!(status(&database)["last_success_age_s"].as_f64().unwrap() < 3_000.0);
}
