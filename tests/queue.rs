//! The queue itself: fencing, claims that never overlap, and indexes from the first row on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod support;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use campaign_sync::platform::Campaign;
use campaign_sync::store::queue::{self, Failed, NewTask, Pages};
use campaign_sync::store::runs::{self, Opening};
use campaign_sync::store::{leases, schema};
use postgres::Client;
use support::Database;

const ACCOUNT: &str = "default";

/// A run whose lister is a registered worker.
fn run_with_lister(client: &mut Client) -> (i64, i64) {
    schema::migrate(client).unwrap().unwrap();
    let opening = Opening { page_size: 100, max_age: Duration::from_secs(86_400), fresh: false, lists: true };
    let run = runs::open(client, ACCOUNT, &opening).unwrap();
    let worker = leases::register(client, ACCOUNT, run.run_id, "host", 1).unwrap();
    assert_eq!(leases::take_listing(client, ACCOUNT, run.run_id, worker).unwrap(), Some((1, 100)));
    (run.run_id, worker)
}

fn add(client: &mut Client, run: i64, worker: i64, from: usize, count: usize, held: bool) {
    let ids: Vec<String> = (from..from + count).map(|n| format!("c{n}")).collect();
    let tasks = ids.iter().zip(0..).map(|(id, seq)| NewTask { id, seq, payload: "{}", held }).collect();
    let row = client.query_one("SELECT next_page FROM sync_runs WHERE run_id = $1", &[&run]).unwrap();
    let from_page: i64 = row.get(0);
    let (next_page, page_size) = (from_page + 1, 100);
    let pages =
        Pages { from_page, next_page, page_size, last: false, total: None, tasks, invalid: Vec::new() };
    let added = queue::add_pages(client, ACCOUNT, run, worker, &pages).unwrap().expect("it lists");
    assert_eq!(added.new, i64::try_from(count).unwrap());
}

fn campaign(id: &str) -> Campaign {
    Campaign {
        id: id.into(),
        name: "n".into(),
        status: "active".into(),
        budget: "1.50".into(),
        impressions: 1,
        clicks: 1,
        conversions: 1,
        created_at: SystemTime::UNIX_EPOCH,
        extra: "{}".into(),
    }
}

fn letter(id: &str, attempt: i32) -> Failed {
    Failed { id: id.into(), attempt, cause: "gone", reason: "r".into(), tries: 1, retryable: true }
}

#[test]
fn only_who_holds_a_task_under_its_attempt_number_can_finish_it() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    add(client, run, worker, 0, 2, true);
    let stranger = leases::register(client, ACCOUNT, run, "host", 2).unwrap();
    let c0 = campaign("c0");

    assert_eq!(queue::complete(client, ACCOUNT, stranger, &[(1, &c0)]).unwrap(), Some(0));
    assert_eq!(queue::complete(client, ACCOUNT, worker, &[(2, &c0)]).unwrap(), Some(0), "another attempt");
    assert_eq!(queue::bury(client, ACCOUNT, stranger, &[letter("c0", 1)]).unwrap(), Some(0));
    assert_eq!(database.count("campaigns") + database.count("dead_letters"), 0);
    assert_eq!(queue::complete(client, ACCOUNT, worker, &[(1, &c0)]).unwrap(), Some(1));
    assert_eq!(queue::complete(client, ACCOUNT, worker, &[(1, &c0)]).unwrap(), Some(0), "once");
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (1, 1));

    database.execute(&format!(
        "UPDATE workers SET heartbeat_at = now() - interval '11 s' WHERE worker_id = {worker}"
    ));
    assert_eq!(leases::reap(client, ACCOUNT, 0).unwrap(), (1, 1));
    let claimed = queue::claim(client, ACCOUNT, stranger, 10).unwrap();
    assert_eq!(claimed.iter().map(|held| (held.id.as_str(), held.attempt)).collect::<Vec<_>>(), [("c1", 2)]);
    let c1 = campaign("c1");
    assert_eq!(queue::complete(client, ACCOUNT, worker, &[(1, &c1)]).unwrap(), None, "its lease has ended");
    assert_eq!(queue::bury(client, ACCOUNT, stranger, &[letter("c1", 2)]).unwrap(), Some(1));
    let synced: i64 = database.value("SELECT synced FROM sync_runs");
    assert_eq!((synced, database.count("dead_letters"), database.count("sync_tasks")), (1, 1, 0));
}

#[test]
fn eight_that_claim_at_once_never_get_the_same_task() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    add(client, run, worker, 0, 2_000, false);
    let ids = std::thread::scope(|scope| {
        let claimers = (0..8).map(|n| {
            let database = &database;
            scope.spawn(move || {
                let client = &mut database.connect();
                let worker = leases::register(client, ACCOUNT, run, "host", n).unwrap();
                let mut ids = Vec::new();
                loop {
                    let claimed = queue::claim(client, ACCOUNT, worker, 7).unwrap();
                    if claimed.is_empty() {
                        return ids;
                    }
                    ids.extend(claimed.into_iter().map(|held| held.id));
                }
            })
        });
        let claimers: Vec<_> = claimers.collect();
        claimers.into_iter().flat_map(|claimer| claimer.join().unwrap()).collect::<Vec<String>>()
    });
    assert_eq!((ids.len(), ids.iter().collect::<HashSet<_>>().len()), (2_000, 2_000));
}

#[test]
fn a_claim_reads_an_index_even_before_the_first_analyze() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    for n in 0..10 {
        add(client, run, worker, n * 2_000, 2_000, false);
    }
    let explain = format!("EXPLAIN {}", include_str!("../sql/claim.sql"));
    let account: &(dyn postgres::types::ToSql + Sync) = &ACCOUNT;
    use postgres::types::Type;
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(queue::CLAIM_SETTINGS).unwrap();
    let rows = transaction
        .query_typed(&explain, &[(account, Type::TEXT), (&worker, Type::INT8), (&100i64, Type::INT8)]);
    let plan: Vec<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Scan using sync_tasks_free"), "{plan}");
    assert!(!plan.contains("Seq Scan on sync_tasks") && !plan.contains("Sort"), "{plan}");
}

#[test]
fn the_queues_table_stays_small_however_many_runs_use_it() {
    let database = Database::create();
    let client = &mut database.connect();
    let mut sizes = Vec::new();
    for _ in 0..12 {
        let (run, worker) = run_with_lister(client);
        add(client, run, worker, 0, 1_000, true);
        let done: Vec<Campaign> = (0..1_000).map(|n| campaign(&format!("c{n}"))).collect();
        let done: Vec<(i32, &Campaign)> = done.iter().map(|one| (1, one)).collect();
        assert_eq!(queue::complete(client, ACCOUNT, worker, &done).unwrap(), Some(1_000));
        database.execute("UPDATE sync_runs SET listing_done = true");
        runs::close(client, ACCOUNT, run, 20).unwrap();
        // What autovacuum does by itself every 5,000 dead rows, without waiting for its minute.
        database.execute("VACUUM sync_tasks");
        sizes.push(database.value::<i64>("SELECT pg_total_relation_size('sync_tasks')"));
    }
    assert!(sizes[11] <= sizes[2] * 3 / 2, "{sizes:?}");
    assert_eq!((database.count("campaigns"), database.count("sync_runs")), (1_000, 12));
}

#[test]
fn one_row_that_cannot_be_stored_fails_its_statement_and_nothing_else_is_lost() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    add(client, run, worker, 0, 2, true);
    let (good, mut bad) = (campaign("c0"), campaign("c1"));
    bad.extra = "{\"a\":\"\\u0000\"}".into();
    assert!(queue::complete(client, ACCOUNT, worker, &[(1, &good), (1, &bad)]).is_err());
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (0, 2));
    assert_eq!(queue::complete(client, ACCOUNT, worker, &[(1, &good)]).unwrap(), Some(1));
}
