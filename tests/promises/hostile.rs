//! Against a platform that does everything wrong, each campaign ends as a row or as a dead letter with its cause.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mock_api::{Fate, Faults, Kind, Server, Settings};
use serde_json::Value;

use crate::support::{Database, Outcome, PATIENCE, Program, eventually};

struct DeadLetter {
    cause: String,
    reason: String,
    payload: String,
}

fn rows(database: &Database) -> BTreeSet<String> {
    database.column("SELECT id FROM campaigns").into_iter().collect()
}

fn dead_letters(database: &Database) -> BTreeMap<String, DeadLetter> {
    let found = database.rows("SELECT id, cause, reason, payload FROM dead_letters", &[]);
    let letter =
        |row: &postgres::Row| DeadLetter { cause: row.get(1), reason: row.get(2), payload: row.get(3) };
    found.iter().map(|row| (row.get(0), letter(row))).collect()
}

/// The raw records that the mock serves beside the ordinary ones, by id.
fn odd_payloads() -> BTreeMap<String, String> {
    mock_api::odd::records()
        .into_iter()
        .filter(|(id, ..)| !id.is_empty())
        .map(|(id, raw, _)| (id, raw))
        .collect()
}

/// Every campaign is what the mock says it must become, and nothing else is there.
fn assert_fates(server: &Server, database: &Database, outcome: &Outcome) {
    let (rows, letters) = (rows(database), dead_letters(database));
    let both: Vec<_> = rows.iter().filter(|id| letters.contains_key(*id)).collect();
    assert!(both.is_empty(), "rows and dead letters at once: {both:?}\n{outcome}");
    let odd = odd_payloads();
    let fates = server.fates();
    for (key, fate) in &fates {
        match fate {
            Fate::Row => assert!(rows.contains(key), "no row for {key:?}\n{outcome}"),
            Fate::DeadLetter => {
                let found =
                    letters.get(key).or_else(|| letters.values().find(|letter| letter.payload == *key));
                let letter = found.unwrap_or_else(|| panic!("no dead letter for {key:?}\n{outcome}"));
                assert!(!letter.cause.is_empty() && !letter.reason.is_empty(), "{key:?} has no cause");
                assert_eq!(letter.reason.lines().count(), 1, "{:?}", letter.reason);
                match odd.get(key) {
                    Some(raw) => assert_eq!(letter.payload, *raw),
                    None if letters.contains_key(key) => {
                        let record: Value = serde_json::from_str(&letter.payload).unwrap();
                        assert_eq!(record["id"], key.as_str());
                    }
                    None => {}
                }
            }
        }
    }
    let expected_rows = fates.iter().filter(|(_, fate)| *fate == Fate::Row).count();
    assert_eq!((rows.len(), letters.len()), (expected_rows, fates.len() - expected_rows), "{outcome}");
    assert_eq!(database.count("sync_tasks"), 0, "{outcome}");
}

fn hostile_run(seed: u64) {
    let mut settings = Settings::hostile(seed, 120);
    // Those that always fail are tried about once a second in the end, when nothing else proves that the API is up.
    settings.faults.poisoned_every = 59;
    settings.faults.hanging_every.0 = 61;
    let server = mock_api::start(settings).unwrap();
    let database = Database::create();
    let outcome = Program::sync(&server, &database)
        .args(&["--timeout", "1s", "--max-attempts", "7"])
        .timeout(Duration::from_secs(150))
        .run()
        .expect_code(3);
    assert_fates(&server, &database, &outcome);
    let summary = &outcome.json()[0];
    assert_eq!(summary["state"], "partial");
    assert_eq!(summary["synced"], database.count("campaigns"));
    assert_eq!(summary["failed"], database.count("dead_letters"));
    assert_eq!(
        summary["listed"].as_i64(),
        Some(database.count("campaigns") + database.count("dead_letters"))
    );
    assert_eq!(summary["pending"], 0);
    let letters = dead_letters(&database);
    for n in (17..=120).step_by(17) {
        let cause = letters[&format!("campaign_{n}")].cause.as_str();
        assert_eq!(cause, ["not_found", "gone", "refused"][n % 3], "campaign_{n}");
    }
    for n in (59..=120).step_by(59) {
        let letter = &letters[&format!("campaign_{n}")];
        assert!(!letter.reason.contains("/srv/app"), "a stack trace is passed on: {}", letter.reason);
    }
}

#[test]
fn every_campaign_of_a_hostile_platform_is_a_row_or_a_dead_letter_seed_1() {
    hostile_run(1);
}

#[test]
fn every_campaign_of_a_hostile_platform_is_a_row_or_a_dead_letter_seed_2() {
    hostile_run(2);
}

#[test]
fn every_campaign_of_a_hostile_platform_is_a_row_or_a_dead_letter_seed_3() {
    hostile_run(3);
}

#[test]
fn a_record_that_cannot_be_stored_is_kept_with_the_field_that_is_wrong() {
    let server = mock_api::start(Settings { odd: true, ..Settings::fast(5) }).unwrap();
    let database = Database::create();
    let outcome = Program::sync(&server, &database).run().expect_code(3);
    assert_fates(&server, &database, &outcome);
    let letters = dead_letters(&database);
    for (id, words) in [
        ("v_budget_text", "budget is a text"),
        ("v_beyond_i64", "clicks is 9223372036854775808"),
        ("v_negative_count", "clicks is -1"),
        ("v_fraction", "clicks is 1.5"),
        ("v_nul_name", "name holds the character U+0000"),
        ("v_nul_extra", "field holds the character U+0000"),
        ("v_bad_time", "created_at is \"yesterday\""),
        ("v_null_time", "created_at is null"),
        ("v_huge_budget", "budget is 1e"),
        ("v_no_name", "name is missing"),
        ("lone_name", "name is unreadable JSON: lone"),
        ("too_deep", "\"deep\" is unreadable JSON: recursion limit"),
    ] {
        assert_eq!(letters[id].cause, "invalid", "{id}");
        assert!(letters[id].reason.contains(words), "{id}: {}", letters[id].reason);
    }
    let unnamed: Vec<&DeadLetter> =
        letters.iter().filter(|(id, _)| id.starts_with("sha256:")).map(|(_, letter)| letter).collect();
    let without_id = server.ledger();
    assert_eq!(unnamed.len(), mock_api::odd::records().iter().filter(|(id, ..)| id.is_empty()).count());
    for letter in unnamed {
        let says = ["id ", "JSON", "not an object"].iter().any(|word| letter.reason.contains(word));
        assert!(says, "{}: {}", letter.payload, letter.reason);
    }
    let asked = without_id.syncs_asked();
    assert!(letters.keys().all(|id| !asked.contains_key(id.as_str())), "what is invalid is not asked for");
}

#[test]
fn each_fault_alone_loses_nothing() {
    let none = Faults::default;
    let faults: [(&str, Faults); 9] = [
        ("hang", Faults { hang: (0.1, Duration::from_secs(2)), ..none() }),
        ("reset", Faults { reset: 0.3, ..none() }),
        ("cut body", Faults { cut_body: 0.3, ..none() }),
        ("html", Faults { html: 0.3, ..none() }),
        ("other json", Faults { other_json: 0.3, ..none() }),
        ("server error", Faults { server_error: 0.3, ..none() }),
        // Seldom enough for each token to be accepted before it is revoked, with sixteen requests at once.
        ("revoked tokens", Faults { revoke_every: 23, ..none() }),
        ("duplicates", Faults { duplicates: true, ..none() }),
        ("redirect", Faults { redirect: Some((0.3, "/auth/token".into())), ..none() }),
    ];
    for (name, faults) in faults {
        let server = mock_api::start(Settings { faults, ..Settings::fast(25) }).unwrap();
        let database = Database::create();
        let outcome =
            Program::sync(&server, &database).args(&["--timeout", "300ms", "--max-attempts", "30"]).run();
        assert_eq!(outcome.code(), Some(0), "{name}: {outcome}");
        assert_eq!(
            (database.count("campaigns"), database.count("dead_letters")),
            (25, 0),
            "{name}: {outcome}"
        );
        assert!(outcome.json()[0]["retries"].as_i64() > Some(0) || name == "duplicates", "{name}: {outcome}");
    }
}

#[test]
fn a_listing_without_an_end_stops_with_a_message_and_keeps_what_it_has() {
    let faults = Faults { endless: true, ..Faults::default() };
    let server = mock_api::start(Settings { faults, ..Settings::fast(25) }).unwrap();
    let database = Database::create();
    let outcome = Program::sync(&server, &database).run().expect_code(5);
    assert_eq!(database.count("campaigns"), 25);
    let summary = &outcome.json()[0];
    assert_eq!(summary["state"], "stopped");
    assert!(summary["error"].as_str().unwrap().contains("has_more"), "{outcome}");
    assert!(outcome.stderr.contains("the listing is incomplete"), "{outcome}");
    assert!(server.ledger().lists < 40, "{} pages were asked for", server.ledger().lists);
    let list = Program::new(&["list"]).api(&server.url(), mock_api::EMAIL, mock_api::PASSWORD).run();
    assert_eq!(list.expect_code(5).stdout.lines().count(), 25);
}

#[test]
fn a_listing_without_an_end_is_not_followed_ahead_of_a_slow_database() {
    let faults = Faults { endless: true, ..Faults::default() };
    let server = mock_api::start(Settings { faults, ..Settings::fast(25) }).unwrap();
    let database = Database::create();
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    database.execute(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.5); RETURN new; END $$;
         CREATE TRIGGER slowly BEFORE UPDATE ON sync_runs FOR EACH ROW
             WHEN (old.next_page < new.next_page) EXECUTE FUNCTION slowly()",
    );
    Program::sync(&server, &database).run().expect_code(5);
    assert_eq!(database.count("campaigns"), 25);
    assert!(server.ledger().lists < 40, "{} pages were asked for", server.ledger().lists);
}

#[test]
fn a_page_that_the_platform_makes_smaller_loses_nothing() {
    for campaigns in [1, 4, 23, 100] {
        let faults = Faults { most_per_page: 4, ..Faults::default() };
        let server = mock_api::start(Settings { faults, ..Settings::fast(campaigns) }).unwrap();
        let database = Database::create();
        let outcome = Program::sync(&server, &database).run().expect_code(0);
        assert_eq!(database.count("campaigns"), i64::from(campaigns), "{outcome}");
    }
}

#[test]
fn a_redirect_to_another_host_is_never_followed() {
    let elsewhere = mock_api::start(Settings::fast(25)).unwrap();
    for target in ["/api/campaigns?page=1&limit=10", "/auth/token"] {
        let redirect = Some((0.5, format!("{}{target}", elsewhere.url())));
        let faults = Faults { redirect, ..Faults::default() };
        let server = mock_api::start(Settings { faults, ..Settings::fast(25) }).unwrap();
        let database = Database::create();
        Program::sync(&server, &database).args(&["--max-attempts", "30"]).run().expect_code(0);
        assert_eq!(database.count("campaigns"), 25);
        assert!(server.ledger().requests.iter().any(|seen| seen.status == 302));
    }
    assert_eq!(elsewhere.ledger().total, 0);
}

#[test]
fn a_body_of_gigabytes_takes_neither_memory_nor_the_run() {
    let faults = Faults { endless_body: 0.2, ..Faults::default() };
    let server = mock_api::start(Settings { faults, ..Settings::fast(60) }).unwrap();
    let database = Database::create();
    let mut running =
        Program::sync(&server, &database).args(&["--timeout", "5s", "--max-attempts", "30"]).spawn();
    let status = format!("/proc/{}/status", running.id());
    let mut peak_kb: u64 = 0;
    eventually(PATIENCE, "the run ends", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak_kb = found.map_or(peak_kb, |kb| kb.trim().parse().unwrap());
        !running.is_running()
    });
    let outcome = running.wait().expect_code(0);
    assert_eq!(database.count("campaigns"), 60, "{outcome}");
    let cut_off = server.ledger().requests.iter().filter(|seen| seen.status == 0).count();
    assert!(cut_off >= 5 && server.ledger().of(Kind::Sync).any(|seen| seen.status == 0), "{cut_off}");
    assert!(peak_kb < 128 << 10, "{peak_kb} kB at {cut_off} endless bodies");
}
