//! Campaigns that the platform no longer lists are marked, never deleted, and never because a listing was cut short.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mock_api::{EMAIL, PASSWORD, Server, Settings};

use crate::support::impostor::{Impostor, ten};
use crate::support::{Database, Folder, Outcome, PATIENCE, Program, Signal, eventually};

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

/// What `sync`, `status` and the metrics file say of a second sync of 100 campaigns.
fn told(platform: &Impostor, database: &Database) -> (Outcome, String, serde_json::Value, String) {
    let folder = Folder::new("removed");
    let metrics = folder.path("campaign_sync.prom");
    let program = |command: &[&str]| {
        Program::new(command).api(&platform.url, EMAIL, PASSWORD).database(&database.url())
    };
    program(&["sync"]).run().expect_code(0);
    let synced = program(&["sync", "--json", "--metrics-file", &metrics]).run();
    let status = program(&["status"]).run().expect_code(0).stdout;
    let status_json = program(&["status", "--json"]).run().expect_code(0).json()[0].clone();
    (synced, status, status_json, std::fs::read_to_string(metrics).unwrap())
}

fn warnings(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| line.contains("WARN")).collect()
}

#[test]
fn a_listing_that_ends_below_the_total_marks_nothing_and_says_both_numbers() {
    let asked = AtomicU32::new(0);
    let platform = Impostor::paging(move |page| {
        let first = asked.fetch_add(1, Ordering::SeqCst) < 10;
        ten(page, 100, page < if first { 10 } else { 9 })
    });
    let database = Database::create();
    let (synced, status, status_json, metrics) = told(&platform, &database);
    let line = &synced.expect_code(0).json()[0].clone();
    assert_eq!((line["listed"].as_i64(), line["total"].as_i64()), (Some(90), Some(100)), "{line}");
    assert_eq!((line["not_removed"].as_i64(), line["removed"].as_i64()), (Some(10), Some(0)), "{line}");
    assert_eq!(line["not_removed_reason"], "below_total");
    assert_eq!(removed(&database), 0);
    assert!(status.contains("90 campaigns listed, the platform says 100"), "{status}");
    assert!(status.contains("10 no longer listed but not marked as removed (below_total)"), "{status}");
    let run = &status_json["run"];
    assert_eq!((run["listed"].as_i64(), run["total"].as_i64()), (Some(90), Some(100)), "{run}");
    assert_eq!(run["not_removed_reason"], "below_total");
    for (metric, value) in [("listed", 90), ("platform", 100), ("not_removed", 10)] {
        let line = format!("campaign_sync_{metric}_campaigns{{account=\"default\"}} {value}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[test]
fn a_listing_below_the_total_is_said_in_one_warning_with_both_numbers() {
    let platform = Impostor::paging(|page| ten(page, 100, page < 9));
    let database = Database::create();
    let outcome = Program::new(&["sync"]).api(&platform.url, EMAIL, PASSWORD).database(&database.url()).run();
    let outcome = outcome.expect_code(0);
    let warnings = warnings(&outcome);
    assert!(warnings.len() == 1 && warnings[0].contains("90 campaigns"), "{outcome}");
    assert!(warnings[0].contains("100"), "{outcome}");
}

#[test]
fn a_total_that_changes_while_pages_are_read_marks_nothing() {
    let asked = AtomicU32::new(0);
    // Ten were deleted behind the reader: what follows has moved up, and page 5 shows what page 6 would have shown.
    let platform = Impostor::paging(move |page| match asked.fetch_add(1, Ordering::SeqCst) {
        0..10 => ten(page, 100, page < 10),
        _ if page < 5 => ten(page, 100, true),
        _ => {
            let (status, body) = ten(page + 1, 90, page < 9);
            (status, body.replace(&format!("\"page\": {}", page + 1), &format!("\"page\": {page}")))
        }
    });
    let database = Database::create();
    let (synced, status, ..) = told(&platform, &database);
    let synced = synced.expect_code(0);
    assert_eq!(removed(&database), 0);
    assert_eq!(synced.json()[0]["not_removed_reason"], "total_changed");
    let warnings = warnings(&synced);
    assert!(warnings.len() == 1 && warnings[0].contains("90") && warnings[0].contains("100"), "{synced}");
    assert!(status.contains("total_changed"), "{status}");
}

#[test]
fn a_listing_beyond_the_total_marks_nothing_and_says_both_numbers() {
    let asked = AtomicU32::new(0);
    let platform = Impostor::paging(move |page| match asked.fetch_add(1, Ordering::SeqCst) {
        0..10 => ten(page, 100, page < 10),
        _ => ten(page, 87, page < 9),
    });
    let database = Database::create();
    let (synced, status, ..) = told(&platform, &database);
    let synced = synced.expect_code(0);
    assert_eq!(removed(&database), 0);
    let line = &synced.json()[0];
    assert_eq!((line["listed"].as_i64(), line["total"].as_i64()), (Some(90), Some(87)), "{line}");
    assert_eq!(
        (line["not_removed"].as_i64(), &line["not_removed_reason"]),
        (Some(10), &"above_total".into())
    );
    let warnings = warnings(&synced);
    assert!(warnings.len() == 1 && warnings[0].contains("90") && warnings[0].contains("87"), "{synced}");
    assert!(status.contains("10 no longer listed but not marked as removed (above_total)"), "{status}");
}

#[test]
fn a_removal_that_was_refused_stays_visible() {
    let asked = AtomicU32::new(0);
    let platform = Impostor::paging(move |page| match asked.fetch_add(1, Ordering::SeqCst) {
        0..10 => ten(page, 100, page < 10),
        _ => ten(page, 70, page < 7),
    });
    let database = Database::create();
    let (synced, status, status_json, metrics) = told(&platform, &database);
    let line = &synced.expect_code(0).json()[0].clone();
    assert_eq!((line["removed"].as_i64(), line["not_removed"].as_i64()), (Some(0), Some(30)), "{line}");
    assert_eq!(line["not_removed_reason"], "max_removed");
    assert!(status.contains("30 no longer listed but not marked as removed (max_removed)"), "{status}");
    assert_eq!(status_json["run"]["not_removed"], 30);
    assert!(metrics.contains("campaign_sync_not_removed_campaigns{account=\"default\"} 30\n"), "{metrics}");
}

#[test]
fn repeated_records_and_dead_letters_do_not_make_an_honest_total_a_lie() {
    let (server, database) = (mock_api::start(Settings::fast(100)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    server.change(|settings| {
        settings.campaigns = 90;
        settings.faults.duplicates = true;
        settings.faults.refused_every = 30;
    });
    let outcome = sync(&server, &database, &["--json"]).expect_code(3);
    let line = &outcome.json()[0];
    assert_eq!((line["listed"].as_i64(), line["total"].as_i64()), (Some(90), Some(90)), "{line}");
    assert_eq!((removed(&database), database.count("dead_letters")), (10, 3));
}

#[test]
fn campaigns_that_a_retry_had_put_back_count_as_listed() {
    let (server, database) = (mock_api::start(Settings::fast(100)).unwrap(), Database::create());
    server.change(|settings| settings.faults.refused_every = 10);
    sync(&server, &database, &[]).expect_code(3);
    // A retry that is stopped before its end leaves a run, which the sync joins.
    server.change(|settings| {
        settings.faults.refused_every = 0;
        settings.absent = vec![95];
        settings.rate_limit = Some((2, Duration::from_secs(1)));
    });
    let before = server.ledger().syncs;
    let retry = Program::new(&["retry"]).args(&["--rate-limit", "2/1s"]).api(&server.url(), EMAIL, PASSWORD);
    let mut retry = retry.database(&database.url()).spawn();
    eventually(PATIENCE, "the first one is retried", || server.ledger().syncs > before);
    retry.signal(Signal::Int);
    retry.wait().expect_code(130);
    server.change(|settings| settings.rate_limit = None);
    let outcome = sync(&server, &database, &["--json"]).expect_code(0);
    let line = &outcome.json()[0];
    assert_eq!((line["listed"].as_i64(), line["total"].as_i64()), (Some(99), Some(99)), "{line}");
    assert_eq!(removed(&database), 1);
}
