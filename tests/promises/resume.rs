//! A run goes on where it stood: killed, aged, or begun anew on purpose.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mock_api::{EMAIL, Kind, PASSWORD, Server, Settings, settings};

use crate::support::impostor::{Impostor, Said, ten};
use crate::support::{Database, PATIENCE, Program, eventually};

fn sync(server: &Server, database: &Database) -> Program {
    Program::new(&["sync"]).api(&server.url(), EMAIL, PASSWORD).database(&database.url())
}

/// Waits until a query with one number gives at least `least`; the tables may not be there yet.
fn wait_for(database: &Database, query: &str, least: i64) {
    eventually(PATIENCE, query, || {
        let row = database.connect().query_one(query, &[]);
        row.is_ok_and(|row| row.get::<_, i64>(0) >= least)
    });
}

#[test]
fn fifty_kills_lose_nothing_and_repeat_only_what_was_under_way() {
    const KILLS: u64 = 50;
    const SEED: u64 = 20_261_123;
    const LATENCY: Duration = Duration::from_millis(250);
    println!("seed {SEED}");
    let born = Instant::now();
    let server = mock_api::start(Settings { sync_latency: LATENCY, ..Settings::fast(1_000) }).unwrap();
    let database = Database::create();
    let mut kills = Vec::new();
    for n in 0..KILLS {
        let life = Duration::from_millis(150 + settings::mix(SEED, n) % 350);
        let running = sync(&server, &database).spawn();
        std::thread::sleep(life);
        assert_eq!(running.kill().signal(), Some(9), "it was done before its time: kill {n}");
        kills.push(born.elapsed());
    }
    sync(&server, &database).run().expect_code(0);

    assert_eq!(database.count("campaigns"), 1_000);
    assert_eq!(database.count("sync_tasks") + database.count("workers") + database.count("dead_letters"), 0);
    let runs = database.rows("SELECT state, listed, synced, failed FROM sync_runs", &[]);
    assert_eq!(runs.len(), 1, "one run from the first process to the last");
    let counts: (String, i64, i64, i64) = (runs[0].get(0), runs[0].get(1), runs[0].get(2), runs[0].get(3));
    assert_eq!(counts, ("complete".into(), 1_000, 1_000, 0), "each was committed once");

    let ledger = server.ledger();
    let mut asked: HashMap<&str, Vec<_>> = HashMap::new();
    for seen in ledger.of(Kind::Sync) {
        asked.entry(&seen.subject).or_default().push(seen);
    }
    assert_eq!(asked.len(), 1_000);
    // Between the answer and the commit there is the writer's batch.
    let slack = Duration::from_millis(500);
    for (id, times) in &asked {
        assert!(times.iter().all(|seen| seen.key == times[0].key && !seen.key.is_empty()), "keys of {id}");
        for seen in &times[..times.len() - 1] {
            let under_way = |kill: &Duration| *kill + slack >= seen.at && *kill <= seen.at + LATENCY + slack;
            assert!(kills.iter().any(under_way), "{id} was repeated, but not under way at a kill");
        }
    }
    let keys: std::collections::HashSet<&str> = asked.values().map(|times| times[0].key.as_str()).collect();
    assert_eq!(keys.len(), 1_000, "a key of its own for each campaign");
}

#[test]
fn a_listing_that_was_cut_off_goes_on_from_its_checkpoint() {
    let limit = Some((20, Duration::from_millis(500)));
    let server = mock_api::start(Settings { rate_limit: limit, ..Settings::fast(300) }).unwrap();
    let database = Database::create();
    let running = sync(&server, &database).args(&["--rate-limit", "20/500ms"]).spawn();
    wait_for(&database, "SELECT next_page FROM sync_runs", 6);
    running.kill();
    database.await_quiet();
    let next_page: i64 = database.value("SELECT next_page FROM sync_runs");
    let before = server.ledger().of(Kind::List).count();
    sync(&server, &database).args(&["--rate-limit", "20/500ms"]).run().expect_code(0);
    let ledger = server.ledger();
    let pages = ledger.of(Kind::List).skip(before).map(|seen| {
        let page = seen.subject.split('&').find_map(|part| part.strip_prefix("page="));
        page.unwrap().parse::<i64>().unwrap()
    });
    let pages: Vec<i64> = pages.collect();
    assert_eq!(pages, (next_page..=30).collect::<Vec<i64>>());
    assert_eq!(database.count("campaigns"), 300);
}

#[test]
fn a_listing_that_is_resumed_behind_rows_that_are_there_goes_on_to_its_end() {
    let limit = Some((20, Duration::from_millis(500)));
    let server = mock_api::start(Settings { rate_limit: limit, ..Settings::fast(100) }).unwrap();
    let database = Database::create();
    let running = sync(&server, &database).args(&["--rate-limit", "20/500ms"]).spawn();
    wait_for(&database, "SELECT next_page FROM sync_runs", 6);
    running.kill();
    // As after a crash that takes the newest commits back, where rows were written ahead of their pages.
    database.execute("UPDATE sync_runs SET next_page = 2");
    let outcome = sync(&server, &database).args(&["--rate-limit", "20/500ms"]).run().expect_code(0);
    assert_eq!(database.count("campaigns"), 100, "{outcome}");
    assert_eq!(database.count("sync_tasks") + database.count("dead_letters"), 0);
}

#[test]
fn held_work_of_a_dead_process_is_free_within_15_s_and_other_work_at_once() {
    let server =
        mock_api::start(Settings { sync_latency: Duration::from_secs(2), ..Settings::fast(300) }).unwrap();
    let database = Database::create();
    let first = sync(&server, &database).args(&["--workers", "4"]).spawn();
    wait_for(&database, "SELECT count(*) FROM sync_tasks WHERE worker_id = 0", 50);
    wait_for(&database, "SELECT count(*) FROM sync_tasks WHERE worker_id <> 0", 10);
    let dead: i64 = database.value("SELECT worker_id FROM workers");
    first.kill();
    let killed = Instant::now();
    let _second = sync(&server, &database).args(&["--workers", "4"]).spawn();
    wait_for(&database, &format!("SELECT count(*) FROM sync_tasks WHERE worker_id NOT IN (0, {dead})"), 4);
    let other_work = killed.elapsed();
    assert!(other_work < Duration::from_secs(5), "{other_work:?}");
    wait_for(
        &database,
        &format!("SELECT (count(*) = 0)::int::bigint FROM sync_tasks WHERE worker_id = {dead}"),
        1,
    );
    let held_work = killed.elapsed();
    assert!(held_work < Duration::from_secs(15), "{held_work:?}");
}

#[test]
fn who_takes_over_the_tasks_of_a_dead_process_says_from_whom_and_how_many() {
    let server =
        mock_api::start(Settings { sync_latency: Duration::from_secs(2), ..Settings::fast(300) }).unwrap();
    let database = Database::create();
    let first = sync(&server, &database).args(&["--workers", "4"]).spawn();
    wait_for(&database, "SELECT count(*) FROM sync_tasks WHERE worker_id <> 0", 10);
    let (host, pid): (String, i32) =
        (database.value("SELECT host FROM workers"), database.value("SELECT pid FROM workers"));
    first.kill();
    database.await_quiet();
    let held: i64 = database.value("SELECT count(*) FROM sync_tasks WHERE worker_id <> 0");
    let second = sync(&server, &database).args(&["--workers", "4"]).env("RUST_LOG", "info").spawn();
    let said = format!("took over {held} tasks from host {host} pid {pid} (no heartbeat for ");
    eventually(PATIENCE, "it says so", || second.stderr().contains(&said));
}

#[test]
fn a_run_that_nobody_works_on_is_not_called_running_and_is_resumed() {
    let (server, database) = (mock_api::start(Settings::fast(4)).unwrap(), Database::create());
    sync(&server, &database).run().expect_code(0);
    database.execute(
        "UPDATE sync_runs SET state = 'running', finished_at = NULL;
         INSERT INTO workers (account, run_id, host, pid, heartbeat_at)
         SELECT 'default', run_id, 'gone', 1, now() - interval '1 hour' FROM sync_runs;
         INSERT INTO sync_runs (account, lists, listing_done, page_size, binary_version, state, finished_at)
         VALUES ('north', true, true, 10, '0', 'complete', now())",
    );
    let status = |flags: &[&str]| {
        Program::new(&["status"]).args(flags).database(&database.url()).run().expect_code(0).stdout
    };
    let alone = status(&["--only", "default"]);
    assert!(alone.starts_with("default: run 1 interrupted: 4 of 4 synced, "), "{alone}");
    let line =
        "default: run 1 interrupted: 4 of 4 synced, 0 pending, nobody at work: the next sync resumes it\n";
    assert!(status(&[]).contains(line), "{}", status(&[]));
    let resumed = sync(&server, &database).env("RUST_LOG", "info").run().expect_code(0);
    let said = |words: &str| resumed.stderr.lines().any(|line| line.contains(words));
    assert!(said("host gone pid 1 is dead (no heartbeat for ") && said("it held no tasks"), "{resumed}");
    assert!(said("resuming the open run") && !said("took over"), "{resumed}");
}

#[test]
fn a_run_that_is_abandoned_while_a_process_waits_for_its_end_is_no_success() {
    let slow = Settings { sync_latency: Duration::from_secs(60), ..Settings::fast(10) };
    let (server, database) = (mock_api::start(slow).unwrap(), Database::create());
    let first = sync(&server, &database).spawn();
    eventually(PATIENCE, "all are asked for", || server.ledger().syncs_asked().len() == 10);
    first.kill();
    database.await_quiet();
    // To the second it is alive, on another machine: it is waited for.
    database.execute("UPDATE workers SET machine = NULL, host = 'elsewhere', heartbeat_at = now()");
    let second = sync(&server, &database).arg("--json").spawn();
    eventually(PATIENCE, "the second has joined", || database.count("workers") == 2);
    database.execute("UPDATE sync_runs SET state = 'abandoned', finished_at = now(); DELETE FROM sync_tasks");
    let outcome = second.wait().expect_code(5);
    let error = outcome.json()[0]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("abandoned by another process"), "{outcome}");
}

/// So much time passes in which no process runs.
fn age(database: &Database, time: &str) {
    database.execute(&format!(
        "UPDATE sync_runs SET started_at = started_at - interval '{time}', progress_at = progress_at - interval '{time}'
         WHERE state IN ('running', 'stopped');
         UPDATE workers SET heartbeat_at = heartbeat_at - interval '{time}', machine = NULL"
    ));
}

#[test]
fn a_job_of_many_nights_is_brought_to_its_end_by_short_slices() {
    let slow = Settings { sync_latency: Duration::from_millis(500), ..Settings::fast(60) };
    let server = mock_api::start(slow).unwrap();
    let database = Database::create();
    let slice = ["--workers", "4", "--deadline", "1500ms"];
    let mut nights = 0;
    while sync(&server, &database).args(&slice).run().code() != Some(0) {
        nights += 1;
        assert!(nights < 40, "it does not end");
        if nights > 2 {
            age(&database, "24 hours");
        } else {
            // A machine that is switched off for the week.
            age(&database, "150 hours");
        }
    }
    assert!(nights >= 3, "{nights} nights");
    assert_eq!((database.count("campaigns"), database.count("sync_runs")), (60, 1));
    let repeated: usize = server.ledger().syncs_asked().values().map(|times| times - 1).sum();
    assert_eq!(repeated, 0);
}

#[test]
fn status_tells_of_an_abandoned_run_until_another_one_has_come_to_its_end() {
    let slow = Settings { sync_latency: Duration::from_millis(300), ..Settings::fast(100) };
    let (server, database) = (mock_api::start(slow).unwrap(), Database::create());
    let status = || {
        let program = |arguments: &[&str]| Program::new(arguments).database(&database.url());
        let text = program(&["status"]).run().expect_code(0).stdout;
        (text, program(&["status", "--json"]).run().expect_code(0).json().remove(0))
    };
    sync(&server, &database).args(&["--workers", "4", "--deadline", "2s"]).run().expect_code(5);
    assert!(status().1["abandoned"].is_null());
    age(&database, "8 days");
    sync(&server, &database).args(&["--workers", "4", "--deadline", "1s"]).run().expect_code(5);
    let (text, json) = status();
    assert!(text.contains("run 1 abandoned"), "{text}");
    assert_eq!(json["abandoned"]["run_id"], 1, "{json}");
    assert!(json["abandoned"]["synced"].as_i64().unwrap() > 0, "{json}");
    sync(&server, &database).run().expect_code(0);
    assert!(status().1["abandoned"].is_null());
}

#[test]
fn what_a_process_of_this_machine_held_is_free_as_soon_as_it_is_seen_to_be_dead() {
    let latency = Duration::from_secs(2);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(30) }).unwrap();
    let database = Database::create();
    let held = |dead: i64| format!("SELECT count(*) FROM sync_tasks WHERE worker_id NOT IN (0, {dead})");
    let first = sync(&server, &database).args(&["--workers", "16"]).spawn();
    wait_for(&database, "SELECT count(*) FROM sync_tasks WHERE worker_id <> 0", 10);
    let dead: i64 = database.value("SELECT worker_id FROM workers");
    first.kill();
    let killed = Instant::now();
    // One that is there already, and one that comes: of each it is seen.
    let second = sync(&server, &database).args(&["--workers", "1"]).spawn();
    wait_for(&database, &held(dead), 1);
    assert!(killed.elapsed() < Duration::from_secs(8), "{:?}", killed.elapsed());
    let dead: i64 = database.value(&format!("SELECT worker_id FROM workers WHERE worker_id <> {dead}"));
    let _third = sync(&server, &database).args(&["--workers", "1"]).spawn();
    eventually(PATIENCE, "both are there", || database.count("workers") == 2);
    second.kill();
    let killed = Instant::now();
    let left = format!("SELECT (count(*) = 0)::int::bigint FROM workers WHERE worker_id = {dead}");
    wait_for(&database, &left, 1);
    assert!(killed.elapsed() < Duration::from_secs(8), "{:?}", killed.elapsed());
}

#[test]
fn what_a_process_held_that_cannot_be_seen_from_here_stays_its_own() {
    let server = mock_api::start(Settings::fast(10)).unwrap();
    let database = Database::create();
    sync(&server, &database).run().expect_code(0);
    // Like a process of ours, but in another container of this machine, or on another one of this name.
    for machine in ["NULL", "machine || '+'"] {
        database.execute("TRUNCATE workers");
        let running = sync(&server, &database).env("AD_PLATFORM_API_URL", "http://127.0.0.1:9").spawn();
        wait_for(&database, "SELECT count(*) FROM workers", 1);
        running.kill();
        database.await_quiet();
        database.execute(&format!("UPDATE workers SET machine = {machine}, heartbeat_at = now()"));
        let elsewhere: i64 = database.value("SELECT worker_id FROM workers");
        let _running = sync(&server, &database).env("AD_PLATFORM_API_URL", "http://127.0.0.1:9").spawn();
        wait_for(&database, "SELECT count(*) FROM workers", 2);
        assert_eq!(database.count(&format!("workers WHERE worker_id = {elsewhere}")), 1, "{machine}");
    }
}

#[test]
fn an_old_run_is_abandoned_and_any_run_on_demand() {
    let slow = Settings { sync_latency: Duration::from_millis(300), ..Settings::fast(100) };
    let server = mock_api::start(slow).unwrap();
    let database = Database::create();
    let leave_a_run = || {
        let running = sync(&server, &database).spawn();
        wait_for(&database, "SELECT count(*) FROM sync_tasks", 10);
        running.kill();
    };
    leave_a_run();
    sync(&server, &database).args(&["--fresh"]).run().expect_code(0);
    let states: Vec<String> = database.column("SELECT state FROM sync_runs ORDER BY run_id");
    assert_eq!(states, ["abandoned", "complete"]);

    leave_a_run();
    age(&database, "6 days");
    let running = sync(&server, &database).spawn();
    eventually(PATIENCE, "it resumes", || running.stderr().contains("resuming the open run"));
    running.kill();
    database.await_quiet();
    age(&database, "8 days");
    let outcome = sync(&server, &database).run().expect_code(0);
    let warned = |part| outcome.stderr.lines().any(|line| line.contains(" WARN ") && line.contains(part));
    assert!(
        warned("run 3 abandoned: nothing has happened in it for 6912") && warned("that were pending"),
        "{outcome}"
    );
    let states: Vec<String> = database.column("SELECT state FROM sync_runs ORDER BY run_id");
    assert_eq!(states, ["abandoned", "complete", "abandoned", "complete"]);
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (100, 0));
}

fn no_such_page() -> Said {
    (404, r#"{"error": "Not found", "message": "page out of range"}"#.into())
}

fn sync_from(platform: &Impostor, database: &Database) -> Program {
    let sync = Program::new(&["sync", "--json"]).api(&platform.url, EMAIL, PASSWORD);
    sync.database(&database.url())
}

#[test]
fn a_promised_page_that_is_refused_stops_the_run_when_what_was_listed_is_done() {
    let missing = Arc::new(AtomicBool::new(true));
    let gone = missing.clone();
    let platform = Impostor::paging(move |page| match page {
        10 if gone.load(Ordering::SeqCst) => no_such_page(),
        _ => ten(page, 100, page < 10),
    });
    let database = Database::create();
    let first = sync_from(&platform, &database).run().expect_code(5);
    assert_eq!(database.count("campaigns"), 90, "what was listed is synced");
    assert!(first.stderr.contains("page 10") && first.stderr.contains("--fresh"), "{first}");
    assert!(!first.stderr.contains("--api-url"), "{first}");

    // Once the page is there, the same run goes on.
    missing.store(false, Ordering::SeqCst);
    sync_from(&platform, &database).run().expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("sync_runs")), (100, 1));
}

#[test]
fn a_run_that_stands_at_a_page_which_stays_refused_makes_room_for_a_new_one() {
    let platform = Impostor::paging(|page| match page {
        10.. => no_such_page(),
        _ => ten(page, 100, true),
    });
    let database = Database::create();
    for _ in 0..3 {
        let outcome = sync_from(&platform, &database).run().expect_code(5);
        assert!(outcome.stderr.contains("--fresh"), "{outcome}");
    }
    let states: Vec<String> = database.column("SELECT state FROM sync_runs ORDER BY run_id");
    assert_eq!(states, ["abandoned", "stopped"]);
    let newest = "campaigns WHERE run_id = (SELECT max(run_id) FROM sync_runs)";
    assert_eq!(database.count(newest), 90, "the third one has listed and synced all of them anew");
}

#[test]
fn a_listing_that_became_shorter_while_it_was_read_ends_and_removes_nothing() {
    for (status, pages) in [(404, 9), (400, 9), (410, 4), (416, 1), (422, 8)] {
        // The second listing loses all pages behind `pages` once page 9 was served.
        let (asked, shrunk) = (AtomicU32::new(0), AtomicBool::new(false));
        let platform = Impostor::paging(move |page| {
            if asked.fetch_add(1, Ordering::SeqCst) < 10 {
                return ten(page, 100, page < 10);
            }
            let last = if shrunk.load(Ordering::SeqCst) { pages } else { 10 };
            if page > last {
                return (status, r#"{"message": "page out of range"}"#.into());
            }
            shrunk.fetch_or(page == 9, Ordering::SeqCst);
            ten(page, last * 10, page < last)
        });
        let database = Database::create();
        sync_from(&platform, &database).run().expect_code(0);
        let outcome = sync_from(&platform, &database).run().expect_code(0);
        assert_eq!(outcome.json()[0]["not_removed_reason"], "moved", "{status} {pages}: {outcome}");
        assert!(outcome.stderr.contains("nothing was marked as removed"), "{outcome}");
        assert_eq!(database.count("campaigns WHERE removed_at IS NULL"), 100, "{status} {pages}");
    }
}

#[test]
fn a_page_that_is_promised_behind_the_total_is_the_end() {
    let asked = AtomicU32::new(0);
    let platform = Impostor::paging(move |page| {
        let pages = if asked.fetch_add(1, Ordering::SeqCst) <= 10 { 10 } else { 9 };
        if page > pages { no_such_page() } else { ten(page, pages * 10, true) }
    });
    let database = Database::create();
    sync_from(&platform, &database).run().expect_code(0);
    let outcome = sync_from(&platform, &database).run().expect_code(0);
    assert_eq!(outcome.json()[0]["removed"], 10, "{outcome}");
}

#[test]
fn a_first_page_that_is_refused_is_blamed_on_the_settings() {
    let (platform, database) = (Impostor::paging(|_| no_such_page()), Database::create());
    let outcome = sync_from(&platform, &database).run().expect_code(2);
    assert!(outcome.stderr.contains("--api-url"), "{outcome}");
}
