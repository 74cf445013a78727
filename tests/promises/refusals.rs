//! What the platform refuses, and what it says of waits: one senseless word costs no run, and no wait is made up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mock_api::{EMAIL, PASSWORD, Settings};

use crate::support::impostor::{Impostor, listen, record, token};
use crate::support::{Database, Outcome, Program};

const NO_LIMIT: &str = r#"{"error": "too many"}"#;

fn program(platform: &Impostor, database: &Database, arguments: &[&str]) -> Program {
    Program::new(arguments).api(&platform.url, EMAIL, PASSWORD).database(&database.url())
}

/// A platform of three pages with four campaigns each. `says` may answer in its place, given the first line of the request
/// and how many of its kind there were before: pages by number, syncs together.
fn platform(
    says: impl Fn(&str, usize) -> Option<(u16, &'static str, &'static str)> + Send + Sync + 'static,
) -> Impostor {
    let seen = Mutex::new(std::collections::HashMap::<String, usize>::new());
    Impostor::with_header(move |line| {
        let kind = if line.contains("/sync ") { "sync".into() } else { line.to_owned() };
        let before = {
            let mut seen = seen.lock().unwrap();
            let count = seen.entry(kind).or_default();
            *count += 1;
            *count - 1
        };
        if let Some((status, header, body)) = says(line, before) {
            return (status, header.into(), body.into());
        }
        let (status, body) = match line {
            _ if line.contains("/auth/token") => token(),
            _ if line.contains("/sync ") => (200, r#"{"success": true}"#.into()),
            _ => {
                let page: usize = line.split(['=', '&']).nth(1).unwrap().parse().unwrap();
                let records: Vec<String> =
                    (0..4).map(|n| record(&format!("c{}", page * 4 + n), "n", "")).collect();
                let (records, more) = (records.join(","), page < 3);
                (200, format!(r#"{{"data":[{records}],"pagination":{{"has_more":{more},"limit":4}}}}"#))
            }
        };
        (status, String::new(), body)
    })
}

fn count(platform: &Impostor, of: &str) -> usize {
    platform.heard().iter().filter(|request| request.lines().next().unwrap().contains(of)).count()
}

fn assert_complete(outcome: Outcome, database: &Database) -> Outcome {
    let outcome = outcome.expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("dead_letters")), (12, 0), "{outcome}");
    outcome
}

const SYNC: [&str; 4] = ["sync", "--json", "--page-size", "4"];

#[test]
fn a_403_among_good_answers_is_tried_again_and_one_that_stays_is_final() {
    let blocked = |line: &str, before| {
        let page = line.contains("page=2&");
        (page && before < 2).then_some((403, "content-type: text/html\r\n", "<html>Attention</html>"))
    };
    let (platform_, database) = (platform(blocked), Database::create());
    let outcome = assert_complete(program(&platform_, &database, &SYNC).run(), &database);
    assert_eq!(outcome.json()[0]["retries"], 2, "{outcome}");
    assert_eq!(count(&platform_, "page=2&"), 3);

    let shut = platform(|line, _| line.contains("page=2&").then_some((403, "", "<html>Attention</html>")));
    let database = Database::create();
    let outcome = program(&shut, &database, &SYNC).run().expect_code(4);
    assert!(outcome.stderr.contains("403"), "{outcome}");
    assert_eq!(count(&shut, "page=2&"), 5, "as often as --max-attempts says");

    let never = platform(|line, _| line.contains("page=").then_some((403, "", "{}")));
    let outcome = program(&never, &database, &SYNC).run().expect_code(4);
    assert_eq!(count(&never, "page="), 1, "what was never permitted is asked for once: {outcome}");
}

#[test]
fn a_403_that_speaks_of_a_limit_is_waited_for_and_makes_no_dead_letter() {
    for header in
        ["retry-after: 1\r\n", "x-ratelimit-limit: 9\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1\r\n"]
    {
        for what in ["/sync ", "page=2&", "/auth/token"] {
            let refuses = move |line: &str, before| {
                (line.contains(what) && before == 0).then_some((403, header, r#"{"message": "slow down"}"#))
            };
            let (platform, database) = (platform(refuses), Database::create());
            let outcome = assert_complete(program(&platform, &database, &SYNC).run(), &database);
            assert!(outcome.elapsed >= Duration::from_secs(1), "{header} {what}: {outcome}");
            assert_eq!(outcome.json()[0]["rate_limited"], 1, "{header} {what}: {outcome}");
        }
    }
}

#[test]
fn a_wait_of_our_own_ends_no_run_and_is_not_said_to_be_the_platforms() {
    let down = |line: &str, before| (line.contains("page=1&") && before < 5).then_some((503, "", "{}"));
    let (platform, database) = (platform(down), Database::create());
    let flags = ["--max-wait", "10ms"];
    assert_complete(program(&platform, &database, &SYNC).args(&flags).run(), &database);

    let (server, database) = (mock_api::start(Settings::fast(5)).unwrap(), Database::create());
    let flags = ["--rate-limit", "1/1h", "--max-wait", "1s"];
    let outcome = Program::sync(&server, &database).args(&flags).run().expect_code(5);
    assert!(!outcome.stderr.contains("the platform asks"), "{outcome}");
    for word in ["--rate-limit 1/3600s", "--max-wait allows (1 s)", "run again"] {
        assert!(outcome.stderr.contains(word), "{word}: {outcome}");
    }
}

#[test]
fn a_hint_of_nothing_is_no_leave_to_ask_again_and_again() {
    let window = Duration::from_secs(2);
    for header in
        ["retry-after: 0\r\n", "retry-after: Thu, 01 Jan 2026 00:00:00 GMT\r\n", "retry-after: 0.01\r\n"]
    {
        let (sent, refused) = (Mutex::new(Vec::<Instant>::new()), Arc::new(AtomicUsize::new(0)));
        let counter = refused.clone();
        let limited = move |line: &str, _| {
            let mut sent = sent.lock().unwrap();
            sent.retain(|at| at.elapsed() < window);
            if !line.contains("/sync ") || sent.len() < 7 {
                sent.extend(line.contains("/sync ").then(Instant::now));
                return None;
            }
            counter.fetch_add(1, Ordering::SeqCst);
            Some((429, header, NO_LIMIT))
        };
        let (platform, database) = (platform(limited), Database::create());
        let outcome = assert_complete(program(&platform, &database, &SYNC).run(), &database);
        // One for each request that was under way comes on top.
        let refused = refused.load(Ordering::SeqCst);
        assert!(refused <= 30, "{header}: {refused} refusals\n{outcome}");
    }
}

#[test]
fn one_senseless_word_about_waits_ends_no_run_and_closes_nothing_for_long() {
    const YEAR: &str = "x-ratelimit-limit: 10\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 31000000\r\n";
    let once = |line: &str, before| {
        (line.contains("/sync ") && before == 3).then_some((429, "retry-after: 30000000\r\n", NO_LIMIT))
    };
    let always =
        |line: &str, _: usize| line.contains("/sync ").then_some((200, YEAR, r#"{"success": true}"#));
    for platform in [platform(once), platform(always)] {
        let database = Database::create();
        let outcome = assert_complete(program(&platform, &database, &SYNC).run(), &database);
        assert!(outcome.elapsed < Duration::from_secs(30), "{outcome}");
        assert_eq!(database.count("quotas WHERE gate_until > now()"), 0);
    }
}

#[test]
fn a_wait_that_is_asked_for_again_and_again_ends_the_run_and_the_next_one_finds_out_with_one_request() {
    let meant = Arc::new(AtomicBool::new(true));
    let means = meant.clone();
    let refuses = move |line: &str, _: usize| {
        (line.contains("/sync ") && means.load(Ordering::SeqCst)).then_some((
            429,
            "retry-after: 30000000\r\n",
            NO_LIMIT,
        ))
    };
    let (platform, database) = (platform(refuses), Database::create());
    let patient = ["--give-up-after", "2s", "--max-wait", "60s"];
    let outcome = program(&platform, &database, &SYNC).args(&patient).run().expect_code(5);
    assert!(
        outcome.stderr.contains("asks to wait 30000000 s") && outcome.stderr.contains("--max-wait"),
        "{outcome}"
    );
    let stored: f64 =
        database.value("SELECT extract(epoch FROM gate_until - gate_set_at)::float8 FROM quotas");
    assert!(stored <= 60.0, "{stored} s");
    database.execute("UPDATE quotas SET gate_until = now() + interval '50 s', gate_set_at = now()");
    let status = |flags: &[&str]| program(&platform, &database, &["status"]).args(flags).run().expect_code(0);
    let shown = status(&[]);
    for word in ["no request for another", "the platform asked to wait 8333 h", "sync --fresh"] {
        assert!(shown.stdout.contains(word), "{word}: {shown}");
    }
    let shown = status(&["--json"]);
    assert!(shown.json()[0]["gate_s"].as_f64().is_some_and(|closed| closed <= 50.0), "{shown}");
    assert_eq!(shown.json()[0]["gate_asked_s"], 30_000_000.0, "{shown}");

    // It opens: the request that finds out is refused, and none else is sent.
    database.execute("UPDATE quotas SET gate_until = now()");
    let before = count(&platform, "page=") + count(&platform, "/sync ");
    let hasty = ["--give-up-after", "100ms", "--max-wait", "60s"];
    let outcome = program(&platform, &database, &SYNC).args(&hasty).run().expect_code(5);
    let sent = count(&platform, "page=") + count(&platform, "/sync ") - before;
    // One in five seconds, and what a resumed run begins with.
    let most = 3 + usize::try_from(outcome.elapsed.as_secs() / 5).unwrap();
    assert!(sent <= most, "{sent} requests\n{outcome}");

    meant.store(false, Ordering::SeqCst);
    database.execute("UPDATE quotas SET gate_until = now() + interval '1 hour', gate_set_at = now()");
    let outcome = program(&platform, &database, &SYNC).arg("--fresh").run();
    assert_complete(outcome, &database);
    assert_eq!(database.count("quotas WHERE gate_until IS NOT NULL OR gate_asked_s IS NOT NULL"), 0);
}

#[test]
fn an_api_that_is_down_is_said_at_once_and_that_it_is_back_as_well() {
    let (listener, url) = listen("http");
    drop(listener);
    let database = Database::create();
    for command in [&["list"][..], &["plan"], &["sync"]] {
        let program = Program::new(command).api(&url, EMAIL, PASSWORD).database(&database.url());
        let outcome = program.args(&["--give-up-after", "1s"]).run().expect_code(5);
        let warnings: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains(" WARN ")).collect();
        assert_eq!(warnings.len(), 1, "{command:?}: {outcome}");
        let asked = format!("POST {url}/auth/token: cannot connect: ");
        for word in [&asked[..], "next try in", "1 s have passed without one success (--give-up-after)"] {
            assert!(warnings[0].contains(word), "{word}: {outcome}");
        }
    }
    let failing = |what: &'static str| {
        platform(move |line, before| (line.contains(what) && before < 2).then_some((503, "", "{}")))
    };
    let (platform, database) = (failing("page=2&"), Database::create());
    let outcome = assert_complete(program(&platform, &database, &SYNC).run(), &database);
    assert_eq!(outcome.stderr, "", "two failures among good answers are the daily bread");
    let down = failing("/auth/token");
    let list =
        Program::new(&["list", "--page-size", "4"]).api(&down.url, EMAIL, PASSWORD).run().expect_code(0);
    let said: Vec<&str> = list.stderr.lines().collect();
    assert_eq!(said.len(), 2, "{list}");
    assert!(said[0].contains("WARN") && said[0].contains("the platform answered 503; next try in"), "{list}");
    assert!(said[1].contains("INFO") && said[1].contains("answers again"), "{list}");
}
