//! The log: silent while all is well, a line with what to do when a person is needed, and every attempt for who asks.

use std::time::Duration;

use mock_api::{EMAIL, Faults, PASSWORD, Server, Settings};
use serde_json::Value;

use crate::support::{Database, Outcome, Program};

/// Refusals of every kind: by status, by the limiter, of tokens, and connections that break.
fn troubled() -> Server {
    let faults =
        Faults { server_error: 0.05, reset: 0.1, refused_every: 10, revoke_every: 30, ..Faults::default() };
    let settings = Settings {
        list_503_every: 3,
        // Long enough that a busy machine meets it, too.
        rate_limit: Some((40, Duration::from_secs(2))),
        ..Settings::fast(60)
    };
    mock_api::start(Settings { faults, ..settings }).unwrap()
}

/// Every line of the log, each of which has to be an object.
#[track_caller]
fn lines(outcome: &Outcome) -> Vec<Value> {
    let parse =
        |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}\n{outcome}"));
    outcome.stderr.lines().map(parse).collect()
}

fn json_log(program: Program, level: &str) -> Program {
    program.args(&["--log-format", "json"]).env("RUST_LOG", &format!("campaign_sync={level}"))
}

/// Lines about attempts, which say whose they are, for what, the how manieth, what came back, and how long it took.
#[track_caller]
fn attempts(lines: Vec<Value>, run: &Value) -> Vec<Value> {
    let attempts: Vec<Value> = lines.into_iter().filter(|line| line.get("latency_ms").is_some()).collect();
    for line in &attempts {
        assert_eq!((&line["account"], &line["run"]), (&Value::from("default"), run), "{line}");
        assert!(line["attempt"].as_u64() >= Some(1) && line["latency_ms"].as_f64() >= Some(0.0), "{line}");
        let no_answer = ["connect", "interrupted", "timeout"].map(Value::from);
        assert!(line["status"].is_u64() || no_answer.contains(&line["cause"]), "{line}");
        assert!(!(line["campaign"].is_string() && line["page"].is_u64()), "{line}");
    }
    attempts
}

#[test]
fn each_failed_attempt_is_a_debug_line_with_every_field() {
    let (server, database) = (troubled(), Database::create());
    let outcome = json_log(Program::sync(&server, &database), "debug").run().expect_code(3);
    let run = outcome.json()[0]["run_id"].clone();
    let told = attempts(lines(&outcome), &run);
    let failed: Vec<&Value> = told.iter().filter(|line| line.get("cause").is_some()).collect();
    let ledger = server.ledger();
    for status in [401, 404, 410, 429, 500, 502, 503, 504] {
        let seen = ledger.requests.iter().filter(|seen| seen.status == status).count();
        let lines = failed.iter().filter(|line| line["status"] == status).count();
        assert_eq!(lines, seen, "{status}\n{outcome}");
    }
    assert!(failed.iter().any(|line| line["status"] == 503 && line["page"].is_u64()), "{outcome}");
    assert!(
        failed.iter().any(|line| line["status"] == 429) && failed.iter().any(|line| line["status"] == 401)
    );
    assert!(
        // Which request is cut off is drawn by its number: a campaign's, or a page's.
        failed.iter().any(|line| line["cause"] == "interrupted" && !line["status"].is_u64()),
        "{outcome}"
    );
    assert!(
        failed.iter().all(|line| line["level"] == "debug" && line["msg"].as_str().unwrap().contains("; "))
    );
}

#[test]
fn at_trace_each_request_has_its_line_and_text_says_the_same_as_json() {
    let (server, database) = (mock_api::start(Settings::fast(20)).unwrap(), Database::create());
    let outcome = json_log(Program::sync(&server, &database), "trace").run().expect_code(0);
    let run = outcome.json()[0]["run_id"].clone();
    let told = attempts(lines(&outcome), &run);
    assert_eq!(told.len() as u64, server.ledger().total, "{outcome}");
    for n in 1..=20 {
        let id = format!("campaign_{n}");
        assert_eq!(told.iter().filter(|line| line["campaign"] == id.as_str()).count(), 1, "{id}\n{outcome}");
    }
    let text = Program::sync(&server, &database).env("RUST_LOG", "campaign_sync=trace").run().expect_code(0);
    let run = text.json()[0]["run_id"].clone();
    let line =
        text.stderr.lines().find(|line| line.contains(" campaign=campaign_7 ")).expect("it was synced");
    assert!(
        line.contains(&format!(
            "TRACE synced account=default run={run} campaign=campaign_7 attempt=1 status=200 latency_ms="
        )),
        "{line}"
    );
}

#[test]
fn a_run_that_comes_through_says_nothing_however_often_it_had_to_try_again() {
    let faults = Faults { server_error: 0.1, reset: 0.05, revoke_every: 20, ..Faults::default() };
    let settings = Settings { faults, list_503_every: 2, ..Settings::fast(40) };
    let (server, database) = (mock_api::start(settings).unwrap(), Database::create());
    let outcome = Program::sync(&server, &database).args(&["--max-attempts", "9"]).run().expect_code(0);
    assert!(outcome.json()[0]["retries"].as_i64() > Some(3), "{outcome}");
    assert_eq!(outcome.stderr, "");
}

#[test]
fn dead_letters_are_one_warning_that_says_what_to_do() {
    let faults = Faults { refused_every: 10, ..Faults::default() };
    let server = mock_api::start(Settings { faults, ..Settings::fast(40) }).unwrap();
    let database = Database::create();
    let outcome = Program::sync(&server, &database).run().expect_code(3);
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    for word in
        ["WARN", "4 campaign(s)", "campaign-sync status", "campaign-sync retry", "account=default run="]
    {
        assert!(outcome.stderr.contains(word), "{word}: {outcome}");
    }
}

#[test]
fn why_it_ended_is_an_object_too_where_the_log_is_made_of_objects() {
    let (server, database) = (mock_api::start(Settings::fast(5)).unwrap(), Database::create());
    for (command, password, code, word) in [
        ("sync", "wrong-password", 4, "AD_PLATFORM_PASSWORD"),
        ("check", "wrong-password", 4, "AD_PLATFORM_PASSWORD"),
        ("list", "wrong-password", 4, "AD_PLATFORM_PASSWORD"),
        ("plan", "", 2, "AD_PLATFORM_PASSWORD"),
        ("status", PASSWORD, 2, "migrate"),
    ] {
        // The others look before there is a schema.
        let database = if command == "status" { &Database::create() } else { &database };
        let program = Program::new(&[command]).api(&server.url(), EMAIL, password).database(&database.url());
        let outcome = program.args(&["--log-format", "json"]).env("RUST_LOG", "off").run().expect_code(code);
        let said = lines(&outcome);
        assert_eq!((said.len(), &said[0]["level"]), (1, &Value::from("error")), "{command}: {outcome}");
        assert!(said[0]["msg"].as_str().unwrap().contains(word), "{command}: {outcome}");
    }
}

/// On a terminal, with bars, what is logged while a result is shown once waited for itself.
#[test]
fn on_a_terminal_every_end_is_an_end() {
    let terminal = ["sh", "-c", "exec script -qec \"$0 $*\" /dev/null"];
    if std::process::Command::new("script").arg("--version").output().is_err() {
        println!("script is not installed: no terminal was tried");
        return;
    }
    for (faults, code) in [
        (Faults { refused_every: 10, ..Faults::default() }, 3),
        (Faults { revoke_every: 1, ..Faults::default() }, 4),
        (Faults::default(), 0),
    ] {
        let server = mock_api::start(Settings { faults, ..Settings::fast(30) }).unwrap();
        let database = Database::create();
        let program = Program::by(&terminal, &["sync"]).api(&server.url(), EMAIL, PASSWORD);
        let outcome = program.database(&database.url()).env("TERM", "xterm").run().expect_code(code);
        let warned = outcome.stdout.contains("failed permanently: campaign-sync status shows why");
        assert_eq!(warned, code == 3, "{outcome}");
        assert!(outcome.stdout.contains("default: run 1 "), "{outcome}");
    }
}
