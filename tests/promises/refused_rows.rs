//! A row that the database refuses, or drops without an error, for reasons of the user's: a trigger, a check, an encoding. The
//! campaign is a dead letter or the run ends with the server's words; all other rows are stored, and the next run works once
//! the reason is gone.

use std::time::Duration;

use mock_api::{Kind, Server, Settings};

use crate::support::{Database, Outcome, Program};

const CAMPAIGNS: u32 = 30;
/// A sync that takes longer than pages are held back for it: its task becomes a row of the queue.
const SLOW: Duration = Duration::from_millis(700);

/// A platform, and a database that has the schema.
fn stage(latency: Duration) -> (Server, Database) {
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(CAMPAIGNS) }).unwrap();
    let database = Database::create();
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    (server, database)
}

/// Has `body` run before these events on rows of a table for which `when` holds.
fn trigger(database: &Database, table: &str, events: &str, when: &str, body: &str) {
    database.execute(&format!(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
         CREATE TRIGGER meddle BEFORE {events} ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION meddle()"
    ));
}

fn untrigger(database: &Database) {
    database.execute("DROP FUNCTION meddle() CASCADE");
}

const RAISE: &str = "RAISE EXCEPTION 'not this one';";
const DROP: &str = "RETURN NULL;";
const CHECK: &str = "RAISE EXCEPTION 'not this one' USING ERRCODE = '23514';";
/// Codes that tell of no fault of the row's.
const OTHER: &str = "RAISE EXCEPTION 'not this one' USING ERRCODE = '45XYZ';";
const BROKEN: &str = "RAISE EXCEPTION 'not this one' USING ERRCODE = 'XX000';";

const THE_FIFTH: &str = "NEW.id = 'campaign_5'";

fn sync(server: &Server, database: &Database) -> Program {
    Program::sync(server, database).args(&["--give-up-after", "2s"])
}

/// The command that makes up for what was refused.
fn again(server: &Server, database: &Database, command: &str) -> Outcome {
    let program = Program::new(&[command, "--json"]).database(&database.url());
    program.api(&server.url(), mock_api::EMAIL, mock_api::PASSWORD).run()
}

fn lists(server: &Server) -> usize {
    server.ledger().of(Kind::List).count()
}

#[track_caller]
fn assert_one_dead_letter(database: &Database, case: &str) {
    let letters = database.rows("SELECT id, cause, reason, payload FROM dead_letters", &[]);
    assert_eq!(letters.len(), 1, "{case}: {letters:?}");
    let (id, cause): (&str, &str) = (letters[0].get("id"), letters[0].get("cause"));
    assert_eq!((id, cause), ("campaign_5", "unstorable"), "{case}");
    let reason: &str = letters[0].get("reason");
    assert!(reason.contains("not this one") || reason.contains("does not keep the row"), "{case}: {reason}");
    assert!(letters[0].get::<_, &str>("payload").contains("\"campaign_5\""), "{case}");
}

/// The run is at its end: all but the fifth are stored, and both are counted.
#[track_caller]
fn assert_partial(outcome: &Outcome, database: &Database, case: &str) {
    let told = &outcome.json()[0];
    assert_eq!((&told["synced"], &told["failed"]), (&29.into(), &1.into()), "{case}: {outcome}");
    assert_eq!(told["state"], "partial", "{case}: {outcome}");
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (29, 0), "{case}: {outcome}");
    assert_one_dead_letter(database, case);
}

/// The run has ended with the server's words: all but the fifth are stored, and its task is left to the next run.
#[track_caller]
fn assert_left(outcome: &Outcome, database: &Database, case: &str) {
    let words = ["not this one", "does not keep the row"];
    assert!(words.iter().any(|words| outcome.stderr.contains(words)), "{case}: {outcome}");
    assert!(!outcome.stderr.contains("internal error"), "{case}: {outcome}");
    assert_eq!(database.count("campaigns"), 29, "{case}: {outcome}");
    assert_eq!(database.count("sync_tasks WHERE worker_id <> 0"), 0, "{case}: {outcome}");
    assert_eq!(database.count("workers"), 0, "{case}: {outcome}");
}

#[test]
fn a_campaign_that_the_table_refuses_or_drops_is_a_dead_letter_and_all_others_are_stored() {
    for latency in [Duration::ZERO, SLOW] {
        for (body, code) in [(RAISE, 3), (DROP, 3), (CHECK, 3), (OTHER, 2), (BROKEN, 2)] {
            let (server, database) = stage(latency);
            let case = format!("{body} after {latency:?}");
            trigger(&database, "campaigns", "INSERT OR UPDATE", THE_FIFTH, body);
            let outcome = sync(&server, &database).run().expect_code(code);
            match code {
                3 => assert_partial(&outcome, &database, &case),
                _ => assert_left(&outcome, &database, &case),
            }
            let before = server.ledger().syncs;
            untrigger(&database);
            again(&server, &database, if code == 3 { "retry" } else { "sync" }).expect_code(0);
            assert_eq!((database.count("campaigns"), database.count("dead_letters")), (30, 0), "{case}");
            assert_eq!(server.ledger().syncs - before, 1, "{case}: nothing else is sent again");
        }
    }
}

#[test]
fn a_task_that_the_queue_refuses_is_a_dead_letter_and_its_page_is_not_fetched_again() {
    for (body, code) in [(RAISE, 3), (DROP, 3), (CHECK, 3), (OTHER, 2), (BROKEN, 2)] {
        let (server, database) = stage(SLOW);
        trigger(&database, "sync_tasks", "INSERT", THE_FIFTH, body);
        let outcome = sync(&server, &database).run().expect_code(code);
        if code == 3 {
            assert_partial(&outcome, &database, body);
        } else {
            assert!(outcome.stderr.contains("not this one"), "{body}: {outcome}");
        }
        assert!(lists(&server) <= 8, "{body}: {} pages were fetched", lists(&server));
        untrigger(&database);
        again(&server, &database, if code == 3 { "retry" } else { "sync" }).expect_code(0);
        assert_eq!((database.count("campaigns"), database.count("dead_letters")), (30, 0), "{body}");
    }
}

#[test]
fn a_dead_letter_that_cannot_be_written_ends_the_run_with_the_reason_and_leaves_its_task() {
    for body in [RAISE, DROP, CHECK, OTHER, BROKEN] {
        let (server, database) = stage(Duration::ZERO);
        server.change(|settings| settings.faults.refused_every = 25);
        trigger(&database, "dead_letters", "INSERT OR UPDATE", "true", body);
        let outcome = sync(&server, &database).run().expect_code(2);
        assert!(outcome.stderr.contains("campaign_25"), "{body}: {outcome}");
        assert_left(&outcome, &database, body);
        let (asked, before) = (server.ledger().of(Kind::Sync).count(), lists(&server));
        let outcome = sync(&server, &database).run().expect_code(2);
        assert_left(&outcome, &database, body);
        assert_eq!(server.ledger().of(Kind::Sync).count() - asked, 1, "{body}: only the one is asked for");
        assert_eq!(lists(&server), before, "{body}");
        untrigger(&database);
        sync(&server, &database).run().expect_code(3);
        assert_eq!((database.count("campaigns"), database.count("dead_letters")), (29, 1), "{body}");
    }
}

#[test]
fn a_record_that_can_be_written_in_no_form_ends_the_run_at_its_page() {
    for body in [RAISE, DROP, CHECK] {
        let (server, database) = stage(SLOW);
        trigger(&database, "sync_tasks", "INSERT", THE_FIFTH, body);
        database.execute(&format!(
            "CREATE TRIGGER meddle BEFORE INSERT ON dead_letters FOR EACH ROW WHEN ({THE_FIFTH})
                 EXECUTE FUNCTION meddle()"
        ));
        let outcome = sync(&server, &database).run().expect_code(2);
        assert!(outcome.stderr.contains("campaign_5"), "{body}: {outcome}");
        assert!(lists(&server) <= 8, "{body}: {} pages were fetched", lists(&server));
        assert!(database.count("campaigns") >= 9, "{body}: the others of its page are stored");
        untrigger(&database);
        sync(&server, &database).run().expect_code(0);
        assert_eq!((database.count("campaigns"), database.count("dead_letters")), (30, 0), "{body}");
    }
}

#[test]
fn a_letter_of_a_listed_record_that_cannot_be_written_ends_the_run() {
    for body in [RAISE, DROP, OTHER] {
        let (server, database) = stage(Duration::ZERO);
        server.change(|settings| settings.added = vec![r#"{"id":"odd","name":7}"#.into()]);
        trigger(&database, "dead_letters", "INSERT", "true", body);
        let outcome = sync(&server, &database).run().expect_code(2);
        assert!(outcome.stderr.contains("\"odd\""), "{body}: {outcome}");
        assert_eq!(database.count("campaigns"), 30, "{body}: {outcome}");
        untrigger(&database);
        sync(&server, &database).run().expect_code(3);
        assert_eq!((database.count("campaigns"), database.count("dead_letters")), (30, 1), "{body}");
    }
}

#[test]
fn what_no_form_but_ascii_can_hold_is_kept_in_ascii() {
    let records = [
        crate::support::impostor::record("plain", "plain", ""),
        crate::support::impostor::record("named", "caf\u{e9} \u{1f600}", ""),
        crate::support::impostor::record("\u{65e5}\u{672c}", "x", ""),
    ];
    let platform = crate::support::impostor::Impostor::listing(&records);
    let (_, database) = stage(Duration::ZERO);
    for (table, column) in [("campaigns", "id || name"), ("sync_tasks", "id || payload")] {
        database.execute(&format!("ALTER TABLE {table} ADD CHECK ({column} !~ '[^ -~]')"));
    }
    database.execute("ALTER TABLE dead_letters ADD CHECK (id || payload || reason !~ '[^ -~]')");
    let program = Program::new(&["sync", "--json"]).database(&database.url());
    program.api(&platform.url, mock_api::EMAIL, mock_api::PASSWORD).run().expect_code(3);
    assert_eq!(database.column::<String>("SELECT id FROM campaigns"), ["plain"]);
    let letters = database.rows("SELECT id, payload, retryable FROM dead_letters ORDER BY id", &[]);
    let kept: Vec<(String, serde_json::Value, bool)> = letters
        .iter()
        .map(|row| (row.get(0), serde_json::from_str(row.get(1)).unwrap(), row.get(2)))
        .collect();
    assert_eq!(
        (kept[0].0.as_str(), &kept[0].1["name"], kept[0].2),
        ("named", &"caf\u{e9} \u{1f600}".into(), true)
    );
    assert_eq!((&kept[1].1["id"], kept[1].2), (&"\u{65e5}\u{672c}".into(), false));
    assert!(kept[1].0.starts_with("sha256:") && kept.len() == 2, "{kept:?}");
}

/// What is wrong in a trigger of the user's, and the server's word for it.
const MISTAKES: [(&str, &str); 4] = [
    ("INSERT INTO nowhere VALUES (1); RETURN NEW;", "\"nowhere\" does not exist"),
    ("NEW.nothing := 1; RETURN NEW;", "no field \"nothing\""),
    ("PERFORM no_such_function(); RETURN NEW;", "no_such_function() does not exist"),
    ("EXECUTE 'SELEC'; RETURN NEW;", "syntax error"),
];

#[test]
fn a_mistake_in_a_users_trigger_is_named_with_its_function_and_loses_nothing() {
    for (table, events) in
        [("campaigns", "INSERT OR UPDATE"), ("sync_tasks", "INSERT"), ("sync_runs", "UPDATE")]
    {
        for (body, words) in MISTAKES {
            let case = format!("{table}: {body}");
            let (server, database) = stage(if table == "campaigns" { Duration::ZERO } else { SLOW });
            let when = if table == "sync_runs" { "true" } else { THE_FIFTH };
            trigger(&database, table, events, when, body);
            let outcome = sync(&server, &database).run().expect_code(2);
            for said in [words, "function", "meddle", "run again to resume"] {
                assert!(outcome.stderr.contains(said), "{case}: {said}\n{outcome}");
            }
            for unsaid in ["internal error", "report it", "campaign-sync migrate"] {
                assert!(!outcome.stderr.contains(unsaid), "{case}: {unsaid}\n{outcome}");
            }
            if table == "campaigns" {
                assert_eq!(database.count("campaigns"), 29, "{case}: {outcome}");
            }
            assert_eq!(database.count("sync_tasks WHERE worker_id <> 0"), 0, "{case}: {outcome}");
            untrigger(&database);
            database.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'");
            sync(&server, &database).run().expect_code(0);
            assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (30, 0), "{case}");
            let twice = server.ledger().syncs_done().values().filter(|times| **times > 1).count();
            assert!(table != "campaigns" || twice <= 1, "{case}: {twice} are sent again");
        }
    }
}

/// Has triggers of each kind meddle with all rows of a table: the run ends soon, with the reason if it is not whole, and the
/// next one works. Not every run writes to every table, and not every row of it is needed.
fn every_refusal_ends_the_run(table: &str, events: [&str; 2], expected: [&[i32]; 2]) {
    let (server, database) = stage(Duration::from_millis(300));
    for (events, expected) in events.into_iter().zip(expected) {
        for body in [RAISE, DROP, OTHER] {
            let case = format!("{table} {events}: {body}");
            let before = lists(&server);
            trigger(&database, table, events, "true", body);
            let outcome = sync(&server, &database).args(&["--rate-limit", "1000/1s"]).run();
            let code = outcome.code().unwrap();
            assert!(expected.contains(&code), "{case}: {outcome}");
            let words = ["not this one", "does not keep the row", "is not there", "stood still"];
            let said = words.iter().any(|words| outcome.stderr.contains(words));
            assert!(said == (code == 2) && !outcome.stderr.contains("internal error"), "{case}: {outcome}");
            let kept = database.count("campaigns") + database.count("dead_letters");
            assert!(code == 2 || kept == 30, "{case}: {kept} are kept\n{outcome}");
            assert!(lists(&server) - before <= 12, "{case}: {} pages were fetched", lists(&server) - before);
            untrigger(&database);
            // A lease or a turn that could not be given back ends by itself.
            database.execute(
                "UPDATE workers SET heartbeat_at = now() - interval '1 hour';
                 UPDATE access_tokens SET refresh_until = '-infinity'",
            );
            again(&server, &database, if code == 3 { "retry" } else { "sync" }).expect_code(0);
            assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (30, 0), "{case}");
            assert_eq!(database.count("dead_letters"), 0, "{case}");
            database.execute("TRUNCATE campaigns, sync_runs, workers, quotas, access_tokens");
        }
    }
}

#[test]
fn a_registration_or_heartbeat_that_is_refused_ends_the_run() {
    every_refusal_ends_the_run("workers", ["INSERT", "UPDATE"], [&[2], &[2]]);
}

#[test]
fn a_run_that_cannot_be_written_ends() {
    every_refusal_ends_the_run("sync_runs", ["INSERT", "UPDATE"], [&[2], &[2]]);
}

#[test]
fn a_quota_that_cannot_be_written_ends_the_run_and_nothing_is_sent_that_is_not_on_record() {
    every_refusal_ends_the_run("quotas", ["INSERT", "UPDATE"], [&[2], &[2]]);
}

#[test]
fn a_token_that_cannot_be_shared_ends_the_run() {
    every_refusal_ends_the_run("access_tokens", ["INSERT", "UPDATE"], [&[2], &[2]]);
}

#[test]
fn a_queue_that_takes_no_task_at_all_makes_dead_letters_or_ends_the_run() {
    every_refusal_ends_the_run("sync_tasks", ["INSERT", "UPDATE"], [&[2, 3], &[0, 2]]);
}

#[test]
fn rows_that_nobody_can_take_out_of_the_queue_end_the_run_as_well() {
    let (server, database) = stage(SLOW);
    trigger(&database, "sync_tasks", "DELETE", "true", DROP);
    let outcome = sync(&server, &database).run().expect_code(2);
    assert!(outcome.stderr.contains("stood still"), "{outcome}");
    untrigger(&database);
    sync(&server, &database).run().expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (30, 0));
}

#[test]
fn pages_that_cannot_be_committed_are_fetched_a_few_times_and_given_up() {
    let (server, database) = stage(Duration::ZERO);
    // Whoever takes the listing has lost it at once.
    trigger(&database, "sync_runs", "UPDATE", "true", "NEW.lister := 0; RETURN NEW;");
    let outcome = sync(&server, &database).run().expect_code(5);
    assert!(outcome.stderr.contains("could not be committed"), "{outcome}");
    assert!(lists(&server) <= 40, "{} pages were fetched in {:?}", lists(&server), outcome.elapsed);
    untrigger(&database);
    sync(&server, &database).run().expect_code(0);
    assert_eq!(database.count("campaigns"), 30);
}

#[test]
fn a_retry_whose_tasks_are_dropped_keeps_its_dead_letters() {
    for body in [RAISE, DROP] {
        let (server, database) = stage(Duration::ZERO);
        server.change(|settings| settings.faults.refused_every = 10);
        sync(&server, &database).run().expect_code(3);
        trigger(&database, "sync_tasks", "INSERT", "true", body);
        again(&server, &database, "retry").expect_code(2);
        assert_eq!(database.count("dead_letters"), 3, "{body}");
        untrigger(&database);
        server.change(|settings| settings.faults.refused_every = 0);
        again(&server, &database, "retry").expect_code(0);
        assert_eq!((database.count("dead_letters"), database.count("campaigns")), (0, 30), "{body}");
    }
}
