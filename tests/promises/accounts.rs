//! Several accounts in one process: each has its own token, limit, run and result, and none holds up another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use mock_api::{Hint, Server, Settings};
use serde_json::Value;

use crate::support::{Database, Folder, Outcome, PATIENCE, Program, eventually};

/// An accounts file in a folder of its own.
struct File(Folder);

impl File {
    fn new(text: &str) -> Self {
        let folder = Folder::new("accounts");
        folder.file("accounts.toml", text, 0o600);
        Self(folder)
    }

    fn program(&self, command: &[&str], database: &Database) -> Program {
        Program::new(command)
            .args(&["--accounts", &self.0.path("accounts.toml")])
            .env("GOOD_PASSWORD", mock_api::PASSWORD)
            .env("WRONG_PASSWORD", "not-the-password")
            .database(&database.url())
    }
}

fn table(name: &str, url: &str, rest: &str) -> String {
    let email = mock_api::EMAIL;
    format!(
        "[[account]]\nname = \"{name}\"\napi_url = \"{url}\"\nemail = \"{email}\"\nclient_id = \"{name}\"\n{rest}\n"
    )
}

fn good(name: &str, server: &Server, rest: &str) -> String {
    table(name, &server.url(), &format!("password_env = \"GOOD_PASSWORD\"\n{rest}"))
}

fn by_account(outcome: &Outcome) -> BTreeMap<String, Value> {
    let summaries = outcome.json();
    let count = summaries.len();
    let named: BTreeMap<_, _> = summaries
        .into_iter()
        .map(|summary| (summary["account"].as_str().unwrap().to_owned(), summary))
        .collect();
    assert_eq!(named.len(), count, "an account was reported twice\n{outcome}");
    named
}

#[test]
fn two_hundred_accounts_take_the_slowest_ones_time_and_five_broken_ones_hold_up_none() {
    const PER_ACCOUNT: u32 = 12;
    let limits = [4, 5, 6, 8, 10];
    let servers = limits.map(|limit| {
        let window = Duration::from_secs(5);
        let limited = Settings { rate_limit: Some((limit, window)), ..Settings::fast(PER_ACCOUNT) };
        mock_api::start(Settings { sync_latency: Duration::from_millis(20), ..limited }).unwrap()
    });
    let mut text = String::new();
    for n in 0..195 {
        let (server, limit) = (&servers[n % 5], limits[n % 5]);
        text += &good(&format!("account-{n}"), server, &format!("rate_limit = \"{limit}/5s\"\nworkers = 4"));
    }
    let late = Settings {
        rate_limit: Some((1, Duration::from_secs(7200))),
        hint: Hint::Seconds,
        ..Settings::fast(30)
    };
    let late = mock_api::start(late).unwrap();
    let mut endless = Settings::fast(PER_ACCOUNT);
    endless.faults.endless = true;
    let endless = mock_api::start(endless).unwrap();
    let wrong = table("wrong-password", &servers[4].url(), "password_env = \"WRONG_PASSWORD\"");
    let nobody = table("nobody-there", "http://127.0.0.1:1", "password_env = \"GOOD_PASSWORD\"");
    let unset = table("no-password", &servers[4].url(), "password_env = \"UNSET_PASSWORD\"");
    let _infallible = write!(text, "{wrong}{nobody}{unset}");
    text += &(good("asked-to-wait", &late, "") + &good("endless", &endless, ""));
    let (file, database) = (File::new(&text), Database::create());
    let sync = file.program(&["sync", "--json", "--give-up-after", "10s"], &database);
    let outcome = sync.timeout(4 * crate::support::PATIENCE).run().expect_code(2);

    let summaries = by_account(&outcome);
    assert_eq!(summaries.len(), 200, "{outcome}");
    for (account, expected) in [
        ("wrong-password", "credentials refused"),
        ("nobody-there", "gave up after 10 s"),
        ("no-password", "UNSET_PASSWORD"),
        ("asked-to-wait", "--max-wait"),
        ("endless", "the listing is incomplete"),
    ] {
        let error = summaries[account]["error"].as_str().unwrap_or_default();
        if account == "no-password" {
            assert!(error.contains("password_env: the variable that it names is not set"), "{error}");
        } else {
            assert!(error.contains(expected), "{account}: {error}");
        }
        assert!(outcome.stderr.contains(&format!("campaign-sync: {account}: ")), "{account}\n{outcome}");
    }
    let complete = summaries.values().filter(|summary| summary["state"] == "complete").count();
    assert_eq!(complete, 195, "{outcome}");
    for n in 0..195 {
        let summary = &summaries[&format!("account-{n}")];
        assert_eq!(summary["synced"], PER_ACCOUNT, "{summary}");
    }
    // Each keeps its limit as if it were alone; a thousand threads on a busy machine may be late now and then.
    let refused: i64 = summaries.values().filter_map(|summary| summary["rate_limited"].as_i64()).sum();
    assert!(refused <= 10, "{refused} of {} requests refused\n{outcome}", 195 * 14);
    assert_eq!(database.count("campaigns WHERE account LIKE 'account-%'"), 195 * i64::from(PER_ACCOUNT));
    // What the limits alone would take, one account after the other, is many times that.
    let bounds: f64 = summaries.values().filter_map(|summary| summary["lower_bound_s"].as_f64()).sum();
    assert!(bounds > 1_500.0, "{bounds}");
    let took = outcome.elapsed.as_secs_f64();
    assert!(took < bounds / 20.0, "{took} of {bounds} s");
    let each: Vec<f64> = summaries.values().filter_map(|summary| summary["elapsed_s"].as_f64()).collect();
    let (slowest, sum) = (each.iter().copied().fold(0.0, f64::max), each.iter().sum::<f64>());
    // A fifth for the start and the end on a busy machine, where the parts do not begin at once.
    assert!(
        took < slowest * 1.2 + 5.0 && sum > 20.0 * took,
        "{took} s, the slowest {slowest} s, the sum {sum} s"
    );
}

#[test]
fn a_slow_account_that_has_all_the_threads_it_wants_leaves_a_fair_share_to_the_others() {
    // There are 256 threads at most, unless one account asks for more.
    let slow = Settings { sync_latency: Duration::from_secs(2), ..Settings::fast(5_000) };
    let slow = mock_api::start(slow).unwrap();
    let quick = mock_api::start(Settings::fast(600)).unwrap();
    let text =
        good("slow", &slow, "workers = 256\npage_size = 1000") + &good("quick", &quick, "workers = 256");
    let (file, database) = (File::new(&text), Database::create());
    let outcome = file.program(&["sync", "--json", "--deadline", "12s"], &database).run().expect_code(5);
    let summaries = by_account(&outcome);
    assert_eq!(summaries["quick"]["state"], "complete", "{outcome}");
    assert_eq!(summaries["slow"]["state"], "stopped", "{outcome}");
    assert!(summaries["slow"]["synced"].as_i64().unwrap() > 256, "{outcome}");
}

/// How long it takes until so many accounts are complete, whatever the others do.
fn until_complete(file: &File, accounts: usize) -> Duration {
    let (database, begun) = (Database::create(), Instant::now());
    let running = file.program(&["sync", "--json", "--timeout", "50s"], &database).spawn();
    let complete = |stdout: &str| stdout.matches(r#""state":"complete""#).count();
    eventually(PATIENCE, "the good accounts are complete", || complete(&running.stdout()) == accounts);
    let took = begun.elapsed();
    running.kill();
    took
}

#[test]
fn accounts_that_do_not_answer_hold_up_none_that_do() {
    let settings = Settings { sync_latency: Duration::from_millis(20), ..Settings::fast(100) };
    let answering = mock_api::start(settings.clone()).unwrap();
    let text: String = (0..20).map(|n| good(&format!("good-{n}"), &answering, "page_size = 100")).collect();
    let alone = until_complete(&File::new(&text), 20);
    // Of their syncs all hang, or every second one: until its places are taken up, such an account answers well.
    for every in [1, 2] {
        let mut settings = Settings { full_ledger: false, ..settings.clone() };
        settings.faults.hanging_every = (every, Duration::from_secs(600));
        let silent = mock_api::start(settings).unwrap();
        let hanging = (0..40).map(|n| good(&format!("silent-{n}"), &silent, "page_size = 100"));
        let beside = until_complete(&File::new(&(hanging.collect::<String>() + &text)), 20);
        let most = 2 * alone + Duration::from_secs(10);
        assert!(beside < most, "{alone:?} alone, {beside:?} beside 40 of which every {every}th sync hangs");
    }
}

#[test]
fn processes_with_the_same_file_share_its_accounts_out_and_do_none_twice() {
    // What was done before a process began, it does anew: nothing is, until all three have.
    let settings = Settings { sync_latency: Duration::from_secs(5), ..Settings::fast(20) };
    let server = mock_api::start(settings).unwrap();
    let text: String = (0..40).map(|n| good(&format!("account-{n}"), &server, "workers = 2")).collect();
    let (file, database) = (File::new(&text), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    let three = [(); 3].map(|()| file.program(&["sync", "--json"], &database).spawn());
    let at_work = || database.count("(SELECT DISTINCT pid FROM workers) at_work") == 3;
    eventually(PATIENCE, "all three are at work", at_work);
    server.change(|settings| settings.sync_latency = Duration::from_millis(20));
    for running in three {
        let outcome = running.wait().expect_code(0);
        let summaries = by_account(&outcome);
        assert!(summaries.values().all(|summary| summary["state"] == "complete"), "{outcome}");
        assert_eq!(summaries.len(), 40, "whoever did it, each process tells of all");
    }
    assert_eq!((database.count("sync_runs"), database.count("campaigns")), (40, 800));
    let ledger = server.ledger();
    let asked = ledger.syncs_asked();
    assert!(asked.values().all(|times| *times == 40), "once for each account: {asked:?}");
    // Another one that begins now does all of it anew.
    file.program(&["sync"], &database).run().expect_code(0);
    assert_eq!(database.count("sync_runs"), 80);
}

#[test]
fn one_signal_ends_all_accounts_in_order_and_the_next_run_goes_on() {
    let slow = Settings { sync_latency: Duration::from_millis(50), ..Settings::fast(200) };
    let servers = [mock_api::start(slow.clone()).unwrap(), mock_api::start(slow).unwrap()];
    let text = good("north", &servers[0], "workers = 2") + &good("south", &servers[1], "workers = 2");
    let (file, database) = (File::new(&text), Database::create());
    let mut running = file.program(&["sync", "--json"], &database).spawn();
    crate::support::eventually(crate::support::PATIENCE, "both accounts are under way", || {
        servers.iter().all(|server| server.ledger().syncs_done().len() > 10)
    });
    running.signal(crate::support::Signal::Int);
    let outcome = running.wait().expect_code(130);
    let summaries = by_account(&outcome);
    assert!(summaries.values().all(|summary| summary["state"] == "stopped"), "{outcome}");
    let outcome = file.program(&["sync", "--json"], &database).run().expect_code(0);
    assert!(by_account(&outcome).values().all(|summary| summary["synced"] == 200), "{outcome}");
    assert_eq!(database.count("campaigns"), 400);
    for server in &servers {
        assert!(server.ledger().syncs_done().values().all(|times| *times == 1), "nothing is repeated");
    }
}

#[test]
fn results_for_people_name_each_account_and_end_with_a_total() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let text =
        good("north", &server, "") + &good("south", &server, "workers = 0") + &good("west", &server, "");
    let (file, database) = (File::new(&text), Database::create());
    let outcome = file.program(&["sync"], &database).run().expect_code(2);
    assert!(outcome.stdout.contains("north: run ") && outcome.stdout.contains("west: run "), "{outcome}");
    assert!(
        outcome.stdout.ends_with("3 accounts: 2 complete, 1 stopped before the end: south (exit code 2)\n"),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("south: ") && outcome.stderr.contains("workers"), "{outcome}");
    let outcome = file.program(&["sync", "--only", "west"], &database).run().expect_code(0);
    assert!(!outcome.stdout.contains("north") && !outcome.stdout.contains("accounts"), "{outcome}");
}

#[test]
fn status_shows_what_needs_a_person_first_and_the_rest_in_a_line_each() {
    let mut refusing = Settings::fast(20);
    refusing.faults.refused_every = 10;
    let servers = [mock_api::start(Settings::fast(20)).unwrap(), mock_api::start(refusing).unwrap()];
    let [good_one, failing] = &servers;
    let names = ["a", "b", "c", "d"];
    let text: String =
        names.iter().map(|name| good(name, if *name == "c" { failing } else { good_one }, "")).collect();
    let (file, database) = (File::new(&text), Database::create());
    let only = |name: &str| ["--only".to_owned(), name.to_owned()];
    let sync: Vec<String> = ["a", "b", "c"].into_iter().flat_map(only).collect();
    let sync: Vec<&str> = ["sync"].into_iter().chain(sync.iter().map(String::as_str)).collect();
    let synced = file.program(&sync, &database).run().expect_code(3);
    assert!(
        synced.stdout.ends_with("3 accounts: 2 complete, 1 with dead letters: c (exit code 3)\n"),
        "{synced}"
    );

    let status = |flags: &[&str]| {
        let words: Vec<&str> = ["status"].iter().chain(flags).copied().collect();
        file.program(&words, &database).run()
    };
    let all = status(&[]).expect_code(0);
    let lines: Vec<&str> = all.stdout.lines().collect();
    assert_eq!(lines[0], "4 accounts: 1 stopped, 1 with failed campaigns, 2 complete", "{all}");
    let first = |start: &str| lines.iter().position(|line| line.starts_with(start)).expect(start);
    assert!(
        first("d: ") < first("c: ") && first("c: ") < first("a: ") && first("a: ") < first("b: "),
        "{all}"
    );
    assert_eq!(first("b: "), lines.len() - 1, "a line each: {all}");
    assert!(lines[first("a: ")].contains("20 of 20 synced"), "{all}");

    let failed = status(&["--failed", "--exit-code"]).expect_code(5);
    assert!(failed.stdout.contains("c: run") && !failed.stdout.contains("\na: "), "{failed}");
    status(&["--only", "c", "--exit-code"]).expect_code(3);
    status(&["--only", "a", "--exit-code"]).expect_code(0);
    let json = by_account(&status(&["--json"]).expect_code(0));
    let standing = names.map(|name| json[name]["standing"].as_str().unwrap().to_owned());
    assert_eq!(standing, ["complete", "complete", "failed", "stopped"]);

    let mut watching = file.program(&["status", "--watch", "--only", "a"], &database).spawn();
    let twice = || watching.stdout().matches("a: run").count() >= 2;
    crate::support::eventually(crate::support::PATIENCE, "it is shown again", twice);
    assert!(watching.is_running());
}

#[test]
fn a_wrong_password_is_told_with_the_accounts_file_its_line_and_the_account() {
    let servers = [(); 2].map(|()| mock_api::start(Settings::fast(10)).unwrap());
    let text = good("north", &servers[0], "")
        + &table("south", &servers[1].url(), "password_env = \"WRONG_PASSWORD\"");
    let (file, database) = (File::new(&text), Database::create());
    let line = 1 + text.lines().position(|line| line.contains("WRONG_PASSWORD")).unwrap();
    for command in ["sync", "check"] {
        let outcome = file.program(&[command], &database).run().expect_code(4);
        let told =
            outcome.stderr.lines().find(|line| line.contains("campaign-sync: south: credentials refused"));
        let told = told.unwrap_or_else(|| panic!("{command}: {outcome}"));
        for said in [&format!("line {line}"), "accounts.toml", "password_env", "\"south\""] {
            assert!(told.contains(said), "{command}: {said}: {told}");
        }
        assert!(!told.contains("AD_PLATFORM"), "{command}: {told}");
    }
    assert_eq!(database.count("campaigns WHERE account = 'north'"), 10);
}

#[test]
fn plan_check_status_and_retry_know_several_accounts() {
    let mut refusing = Settings::fast(20);
    refusing.faults.refused_every = 10;
    let servers = [mock_api::start(refusing).unwrap(), mock_api::start(Settings::fast(20)).unwrap()];
    let text = good("north", &servers[0], "rate_limit = \"100/1s\"") + &good("south", &servers[1], "");
    let (file, database) = (File::new(&text), Database::create());
    let planned = file.program(&["plan", "--json"], &database).run().expect_code(0);
    assert!(by_account(&planned).values().all(|plan| plan["requests"] == 22), "{planned}");
    let checked = file.program(&["check"], &database).run().expect_code(0);
    for line in ["ok  north: API", "ok  south: credentials: accepted", "ok  database: reachable"] {
        assert!(checked.stdout.contains(line), "{checked}");
    }
    let refused = file.program(&["check"], &database).env("GOOD_PASSWORD", "other").run().expect_code(4);
    assert!(refused.stderr.contains("campaign-sync: south: credentials refused"), "{refused}");
    assert!(refused.stdout.contains("ok  database"), "the rest is checked all the same\n{refused}");
    file.program(&["sync"], &database).run().expect_code(3);
    let status = file.program(&["status", "--json"], &database).run().expect_code(0);
    let letters = &by_account(&status)["north"]["dead_letters"];
    assert_eq!(letters.as_array().map(Vec::len), Some(2), "two causes\n{status}");
    let retried = file.program(&["retry", "--json", "--id", "campaign_10"], &database).run().expect_code(3);
    assert_eq!(by_account(&retried).keys().collect::<Vec<_>>(), ["north"], "{retried}");
    let unknown = file.program(&["retry", "--id", "campaign_1"], &database).run().expect_code(2);
    assert!(unknown.stderr.contains("campaign_1"), "{unknown}");
    let listed = file.program(&["list"], &database).run().expect_code(2);
    assert!(listed.stderr.contains("--only"), "{listed}");
}
