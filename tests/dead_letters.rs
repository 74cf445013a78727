//! What failed is kept with its reason, shown by `status`, and cured by `retry` or a later run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod support;

use std::time::Duration;

use mock_api::{EMAIL, Kind, PASSWORD, Server, Settings};
use serde_json::Value;
use support::{Database, Outcome, Program};

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
