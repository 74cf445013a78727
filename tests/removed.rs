//! Campaigns that the platform no longer lists are marked, never deleted, and never because a listing was cut short.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod support;

use std::time::Duration;

use mock_api::{EMAIL, PASSWORD, Server, Settings};
use support::{Database, Outcome, PATIENCE, Program, Signal, eventually};

fn program(server: &Server, database: &Database, flags: &[&str]) -> Program {
    Program::new(&["sync"]).args(flags).api(&server.url(), EMAIL, PASSWORD).database(&database.url())
}

fn sync(server: &Server, database: &Database, flags: &[&str]) -> Outcome {
    program(server, database, flags).run()
}

fn removed(database: &Database) -> i64 {
    database.count("campaigns WHERE removed_at IS NOT NULL")
}

#[test]
fn what_is_no_longer_listed_is_marked_and_unmarked_when_it_comes_back() {
    let (server, database) = (mock_api::start(Settings::fast(100)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    server.change(|settings| settings.campaigns = 90);
    let outcome = sync(&server, &database, &["--json"]).expect_code(0);
    assert_eq!(outcome.json()[0]["removed"], 10);
    assert_eq!((database.count("campaigns"), removed(&database)), (100, 10));
    let first: i64 = database.value("SELECT count(DISTINCT removed_at) FROM campaigns");
    let outcome = sync(&server, &database, &["--json"]).expect_code(0);
    assert_eq!((outcome.json()[0]["removed"].as_i64(), first), (Some(0), 1), "marked once, not again");
    server.change(|settings| settings.campaigns = 95);
    sync(&server, &database, &[]).expect_code(0);
    assert_eq!(removed(&database), 5);
}

#[test]
fn too_many_at_once_are_refused_with_a_warning_unless_allowed() {
    let (server, database) = (mock_api::start(Settings::fast(100)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    server.change(|settings| settings.campaigns = 70);
    let outcome = sync(&server, &database, &[]).expect_code(0);
    assert!(outcome.stderr.contains("30 of 100") && outcome.stderr.contains("--max-removed"), "{outcome}");
    assert_eq!(removed(&database), 0);
    sync(&server, &database, &["--max-removed", "30"]).expect_code(0);
    assert_eq!(removed(&database), 30);
}

#[test]
fn an_empty_listing_marks_nothing_unless_all_may_go() {
    let (server, database) = (mock_api::start(Settings::fast(30)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    server.change(|settings| settings.campaigns = 0);
    let outcome = sync(&server, &database, &["--max-removed", "99"]).expect_code(0);
    assert!(outcome.stderr.contains("30 of 30"), "{outcome}");
    assert_eq!(removed(&database), 0);
    sync(&server, &database, &["--max-removed", "100"]).expect_code(0);
    assert_eq!((database.count("campaigns"), removed(&database)), (30, 30));
}

#[test]
fn an_interrupted_listing_marks_nothing_until_it_has_been_completed() {
    let (server, database) = (mock_api::start(Settings::fast(100)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    let before = server.ledger().lists;
    server.change(|settings| {
        settings.campaigns = 90;
        settings.rate_limit = Some((4, Duration::from_secs(1)));
    });
    let mut running = program(&server, &database, &["--rate-limit", "4/1s"]).spawn();
    eventually(PATIENCE, "the second page is asked for", || server.ledger().lists >= before + 2);
    running.signal(Signal::Int);
    running.wait().expect_code(130);
    let open: Vec<bool> = database.column("SELECT NOT listing_done FROM sync_runs WHERE state = 'stopped'");
    assert_eq!((open, removed(&database)), (vec![true], 0));

    server.change(|settings| settings.rate_limit = None);
    sync(&server, &database, &[]).expect_code(0);
    assert_eq!((database.count("sync_runs"), removed(&database)), (2, 10));
}

#[test]
fn a_listing_that_does_not_end_marks_nothing() {
    let (server, database) = (mock_api::start(Settings::fast(100)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    server.change(|settings| {
        settings.campaigns = 90;
        settings.faults.endless = true;
    });
    sync(&server, &database, &[]).expect_code(5);
    assert_eq!(removed(&database), 0);
}

#[test]
fn a_failing_campaign_is_still_a_listed_one() {
    let (server, database) = (mock_api::start(Settings::fast(50)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    server.change(|settings| settings.faults.refused_every = 10);
    sync(&server, &database, &[]).expect_code(3);
    assert_eq!((database.count("dead_letters"), removed(&database)), (5, 0));
}
