//! `sync` brings every campaign into Postgres, and says truly what it did.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use mock_api::{EMAIL, Kind, Ledger, PASSWORD, Settings, settings};
use serde_json::Value;

use crate::support::{Database, PATIENCE, Program, assert_no_secret, eventually};

const SUMMARY: [&str; 20] = [
    "started_at",
    "finished_at",
    "account",
    "run_id",
    "state",
    "listed",
    "synced",
    "failed",
    "pending",
    "removed",
    "requests",
    "retries",
    "rate_limited",
    "token_refreshes",
    "elapsed_s",
    "lower_bound_s",
    "error",
    "total",
    "not_removed",
    "not_removed_reason",
];

/// The texts of all tokens that the mock has given.
fn tokens(ledger: &Ledger, seed: u64) -> Vec<String> {
    let text = |n| format!("token-{:016x}-{n}", settings::mix(seed, n + 1_000_000));
    (0..ledger.tokens).map(text).collect()
}

/// Every row of every table as text.
fn dump(database: &Database) -> String {
    let tables: Vec<String> = database.column(
        "SELECT quote_ident(table_name) FROM information_schema.tables WHERE table_schema = 'campaign_sync'",
    );
    assert!(tables.len() >= 8, "{tables:?}");
    let rows =
        |table: &String| database.column::<String>(&format!("SELECT t::text FROM {table} t")).join("\n");
    tables.iter().map(rows).collect::<Vec<_>>().join("\n")
}

fn campaigns(database: &Database) -> Vec<(String, SystemTime, SystemTime)> {
    let rows = database.rows("SELECT id, first_synced_at, synced_at FROM campaigns ORDER BY id", &[]);
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[test]
fn a_faithful_platform_is_copied_whole_each_time_and_the_summary_is_true() {
    let server = mock_api::start(Settings::faithful(200.0)).unwrap();
    let database = Database::create();
    let expected: BTreeSet<String> = server.fates().into_iter().map(|(id, _)| id).collect();
    assert_eq!(expected.len(), 100);
    let mut outputs = Vec::new();
    let mut earlier: Vec<(String, SystemTime, SystemTime)> = Vec::new();
    let mut seen_before = server.ledger();
    for run in 1..=2 {
        let outcome = Program::sync(&server, &database)
            .args(&["--rate-limit", "10/300ms"])
            .env("RUST_LOG", "trace")
            .run()
            .expect_code(0);
        let ledger = server.ledger();
        let lines = outcome.json();
        assert_eq!(lines.len(), 1, "{outcome}");
        let fields: BTreeSet<&str> = lines[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(SUMMARY));
        let number = |field: &str| lines[0][field].as_u64().unwrap_or_else(|| panic!("{field}\n{outcome}"));
        assert_eq!(lines[0]["account"], "default");
        assert_eq!(lines[0]["state"], "complete");
        assert_eq!(lines[0]["error"], Value::Null);
        assert_eq!(number("run_id"), run, "the first run and the second");
        let counts = ["listed", "synced", "failed", "pending", "removed"].map(number);
        assert_eq!(counts, [100, 100, 0, 0, 0]);
        assert_eq!(number("requests"), ledger.total - seen_before.total);
        assert_eq!(number("token_refreshes"), ledger.tokens - seen_before.tokens);
        assert_eq!(number("rate_limited"), ledger.refused - seen_before.refused);
        assert_eq!(number("retries"), 2, "two of the lists were answered by 503");
        let limited = number("requests") - number("token_refreshes");
        let (bound, elapsed) =
            (lines[0]["lower_bound_s"].as_f64().unwrap(), lines[0]["elapsed_s"].as_f64().unwrap());
        #[allow(clippy::cast_precision_loss)]
        let least = ((limited - 1) / 10) as f64 * 0.3;
        assert!((bound - least).abs() < 0.001, "{bound} of {least}");
        assert!(bound <= elapsed && elapsed <= outcome.elapsed.as_secs_f64(), "{outcome}");

        let rows = campaigns(&database);
        assert_eq!(rows.iter().map(|(id, ..)| id.clone()).collect::<BTreeSet<_>>(), expected);
        assert_eq!(rows.len(), 100);
        for (before, after) in earlier.iter().zip(&rows) {
            assert_eq!(before.1, after.1, "first_synced_at stays");
            assert!(before.2 < after.2, "synced_at moves: {before:?} {after:?}");
        }
        assert_eq!(database.count("sync_tasks") + database.count("dead_letters"), 0);
        earlier = rows;
        seen_before = ledger;
        outputs.extend([outcome.stdout, outcome.stderr]);
    }
    outputs.push(dump(&database));
    let texts: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let basic = format!("{EMAIL}:{PASSWORD}");
    let tokens = tokens(&server.ledger(), 1);
    assert!(!tokens.is_empty());
    let secrets: Vec<&str> =
        [PASSWORD, &basic].into_iter().chain(tokens.iter().map(String::as_str)).collect();
    assert_no_secret(&texts, &secrets);
    assert!(outputs[1].contains(" DEBUG "), "trace was really on:\n{}", outputs[1]);
}

/// The server's window is a tenth shorter than what is asked for: a machine that is busy with other tests may hold a
/// request back for longer than the margin that real networks need.
#[test]
fn a_known_rate_limit_is_kept_without_one_429() {
    let mut settings = Settings::fast(40);
    settings.rate_limit = Some((10, Duration::from_millis(900)));
    let server = mock_api::start(settings).unwrap();
    let database = Database::create();
    let outcome = Program::sync(&server, &database).args(&["--rate-limit", "10/1s"]).run().expect_code(0);
    let ledger = server.ledger();
    assert_eq!(
        ledger.of(Kind::List).chain(ledger.of(Kind::Sync)).filter(|seen| seen.status == 429).count(),
        0
    );
    assert_eq!(ledger.refused, 0);
    assert_eq!(outcome.json()[0]["rate_limited"], 0);
    assert_eq!(ledger.most_in_window, 10, "all that is permitted is used");
    assert_eq!(database.count("campaigns"), 40);
}

#[test]
fn budgets_unknown_fields_times_and_ids_are_stored_exactly() {
    let mut settings = Settings::fast(3);
    settings.odd = true;
    let server = mock_api::start(settings).unwrap();
    let database = Database::create();
    Program::sync(&server, &database).run().expect_code(3);
    let of = |column: &str, id: &str| -> String {
        database.value(&format!("SELECT ({column})::text FROM campaigns WHERE id = '{id}'"))
    };
    assert_eq!(of("budget", "v_digits"), "1234567890123456789012345678901234567890.12345678901234567890");
    assert_eq!(of("budget", "v_exponent"), "1500");
    assert_eq!(of("budget", "v_negative_budget"), "-0.01");
    assert_eq!(of("budget", "campaign_2").split('.').next(), Some("200"));
    assert_eq!(of("clicks", "v_max_count"), "9223372036854775807");
    assert_eq!(of("name", "v_empty_name"), "");
    assert_eq!(of("extra", "v_digits"), "{}");
    assert_eq!(of("extra->'new'", "v_extra"), "true");
    assert_eq!(of("extra->'labels'", "v_extra"), r#"{"deep": [1, 2.50, {"x": null}]}"#);
    assert_eq!(of("created_at AT TIME ZONE 'UTC'", "v_offset"), "2026-01-04 01:09:09.123456");
    let ids: BTreeSet<String> = database.column("SELECT id FROM campaigns").into_iter().collect();
    let rows = server.fates().into_iter().filter(|(_, fate)| *fate == mock_api::Fate::Row);
    assert_eq!(ids, rows.map(|(id, _)| id).collect());
    for id in ["a/b", "..", "über/日本", "new\nline", "'; drop table campaigns; --", "%2F"] {
        assert!(ids.contains(id), "{id:?}");
        assert_eq!(server.ledger().syncs_done().get(id), Some(&1), "{id:?} is asked for by its own name");
    }
}

/// Runs a sync and gives its peak memory in kB, as the kernel counts it.
fn peak_memory(campaigns: u32, database: &Database) -> u64 {
    let mut settings = Settings::fast(campaigns);
    settings.full_ledger = false;
    let server = mock_api::start(settings).unwrap();
    let mut running = Program::sync(&server, database).spawn();
    let status = format!("/proc/{}/status", running.id());
    let mut peak = 0;
    eventually(PATIENCE, "the run ends", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = found.map_or(peak, |kb| kb.trim().parse().unwrap());
        !running.is_running()
    });
    let outcome = running.wait().expect_code(0);
    assert_eq!(outcome.json()[0]["synced"], campaigns);
    assert_eq!(database.count("campaigns"), i64::from(campaigns));
    peak
}

#[test]
fn ten_thousand_campaigns_need_no_more_memory_than_five_hundred_and_few_commits() {
    let (few, many) = (Database::create(), Database::create());
    let peak_of_few = peak_memory(500, &few);
    let peak_of_many = peak_memory(10_000, &many);
    assert!(peak_of_few > 1_000, "{peak_of_few} kB is no process");
    assert!(peak_of_many * 2 < peak_of_few * 3, "{peak_of_few} kB for 500, {peak_of_many} kB for 10,000");
    eventually(PATIENCE, "its connections are gone, and have told what they did", || {
        many.count("pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()") == 0
    });
    let commits: i64 =
        many.value("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()");
    assert!((10..2_000).contains(&commits), "{commits} commits for 10,000 campaigns");
}

#[test]
fn campaigns_that_come_while_an_empty_account_is_filled_are_replaced() {
    let (server, database) = (mock_api::start(Settings::fast(30)).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    database.execute(
        "CREATE FUNCTION come() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO campaign_sync.campaigns (account, id, name, status, budget, impressions, clicks, conversions, created_at,
                                    first_synced_at, synced_at, run_id)
             VALUES ('default', 'campaign_7', 'old', 'old', 0, 0, 0, 0, now(), now(), now(), 0);
             RETURN NULL;
         END $$;
         CREATE TRIGGER come AFTER INSERT ON workers FOR EACH ROW EXECUTE FUNCTION come()",
    );
    Program::sync(&server, &database).run().expect_code(0);
    assert_eq!(database.count("campaigns WHERE run_id = 1 AND name LIKE 'Campaign %'"), 30);
    assert_eq!((database.count("campaigns"), database.count("dead_letters")), (30, 0));
}
