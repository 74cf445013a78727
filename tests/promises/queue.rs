//! The queue itself: fencing, claims that never overlap, and indexes from the first row on.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use campaign_sync::platform::Campaign;
use campaign_sync::store::closing::{self, Closing};
use campaign_sync::store::dead_letters::Retry;
use campaign_sync::store::process::{self, Process};
use campaign_sync::store::queue::{self, Failed, NewTask, Pages};
use campaign_sync::store::runs::{self, Opening};
use campaign_sync::store::{Client, dead_letters, join, leases, schema};
use postgres::types::{ToSql, Type};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::{Cluster, Database, PATIENCE, eventually};

const ACCOUNT: &str = "default";
/// A run whose lister is a registered worker.
fn run_with_lister(client: &mut Client) -> (i64, i64) {
    schema::migrate(client).unwrap().unwrap();
    let opening = Opening {
        page_size: 100,
        max_age: Duration::from_secs(86_400),
        fresh: false,
        lists: true,
        keeps_history: true,
    };
    let (run, _) = join::open(client, ACCOUNT, &opening).unwrap();
    let worker = register(client, run.run_id, 1);
    assert_eq!(leases::take_listing(client, ACCOUNT, run.run_id, worker).unwrap(), Some((1, 100)));
    (run.run_id, worker)
}

fn register(client: &mut Client, run: i64, pid: u32) -> i64 {
    let worker = process::new_worker_id();
    let process = Process { host: "host".into(), pid, ..Process::default() };
    leases::register(client, ACCOUNT, run, worker, &process).unwrap();
    worker
}

fn add(client: &mut Client, run: i64, worker: i64, from: usize, count: usize, held: bool) {
    let ids: Vec<String> = (from..from + count).map(|n| format!("c{n}")).collect();
    let tasks = ids.iter().zip(0..).map(|(id, seq)| NewTask { id, seq, payload: "{}", held }).collect();
    let row = client.query_one("SELECT next_page FROM sync_runs WHERE run_id = $1", &[&run]).unwrap();
    let from_page: i64 = row.get(0);
    let (next_page, page_size) = (from_page + 1, 100);
    let pages = Pages {
        from_page,
        next_page,
        page_size,
        last: false,
        totals: None,
        moved: false,
        tasks,
        invalid: Vec::new(),
        finished: Vec::new(),
    };
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
    let stranger = register(client, run, 2);
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
                let worker = register(client, run, n);
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

/// How Postgres would run a statement of the queue's, with the settings of a claim if it is one.
#[test]
fn a_worker_of_an_abandoned_run_claims_nothing_of_the_next_one() {
    let database = Database::create();
    let client = &mut database.connect();
    let (_, late) = run_with_lister(client);
    let opening = Opening {
        page_size: 100,
        max_age: Duration::from_secs(86_400),
        fresh: true,
        lists: true,
        keeps_history: true,
    };
    let next = join::open(client, ACCOUNT, &opening).unwrap().0.run_id;
    let worker = register(client, next, 2);
    leases::take_listing(client, ACCOUNT, next, worker).unwrap().unwrap();
    add(client, next, worker, 0, 3, false);
    assert_eq!(queue::claim(client, ACCOUNT, late, 10).unwrap().len(), 0);
    assert_eq!(queue::claim(client, ACCOUNT, worker, 10).unwrap().len(), 3);
}

fn plan(client: &mut Client, statement: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> String {
    let mut transaction = client.transaction().unwrap();
    if parameters.len() == 3 {
        transaction.batch_execute(queue::CLAIM_SETTINGS).unwrap();
    }
    let rows = transaction.query_typed(&format!("EXPLAIN {statement}"), parameters).unwrap();
    rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect()
}

#[test]
fn a_claim_reads_an_index_even_before_the_first_analyze() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    for n in 0..10 {
        add(client, run, worker, n * 2_000, 2_000, false);
    }
    let plan = plan(
        client,
        include_str!("../../sql/claim.sql"),
        &[(&ACCOUNT, Type::TEXT), (&worker, Type::INT8), (&100i64, Type::INT8)],
    );
    assert!(plan.contains("Index Scan using sync_tasks_free"), "{plan}");
    assert!(!plan.contains("Seq Scan on sync_tasks") && !plan.contains("Sort"), "{plan}");
}

#[test]
fn finished_tasks_are_found_by_key_even_before_the_first_analyze() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    for n in 0..10 {
        add(client, run, worker, n * 2_000, 2_000, true);
    }
    let ids: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
    let (attempts, counts) = (vec![1i32; 100], vec![1i64; 100]);
    let (texts, numbers) = (vec!["1"; 100], vec![true; 100]);
    let times = vec![SystemTime::UNIX_EPOCH; 100];
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&ACCOUNT, Type::TEXT),
        (&worker, Type::INT8),
        (&ids, Type::TEXT_ARRAY),
        (&attempts, Type::INT4_ARRAY),
        (&texts, Type::TEXT_ARRAY),
        (&texts, Type::TEXT_ARRAY),
    ];
    let mut burial = parameters.clone();
    burial.extend([(&attempts as _, Type::INT4_ARRAY), (&numbers as _, Type::BOOL_ARRAY)]);
    parameters.push((&texts, Type::TEXT_ARRAY));
    parameters.extend([(); 3].map(|()| (&counts as _, Type::INT8_ARRAY)));
    parameters.extend([(&times as _, Type::TIMESTAMPTZ_ARRAY), (&texts as _, Type::TEXT_ARRAY)]);
    let statements =
        [(include_str!("../../sql/complete.sql"), parameters), (include_str!("../../sql/bury.sql"), burial)];
    for (statement, parameters) in statements {
        let plan = plan(client, statement, &parameters);
        assert!(plan.contains("Index Scan on sync_tasks_pkey"), "{plan}");
        assert!(!plan.contains("Seq Scan on sync_tasks"), "{plan}");
    }
}

#[test]
fn the_queues_table_stays_small_however_many_runs_use_it() {
    // Pages of an index are used again only when no transaction of the whole server is older: other tests have some.
    let cluster = Cluster::with_options(&["-c", "autovacuum=off"]);
    let database = Database::create_in(&cluster);
    let client = &mut database.connect();
    let mut sizes = Vec::new();
    for _ in 0..12 {
        let (run, worker) = run_with_lister(client);
        add(client, run, worker, 0, 1_000, true);
        let done: Vec<Campaign> = (0..1_000).map(|n| campaign(&format!("c{n}"))).collect();
        let done: Vec<(i32, &Campaign)> = done.iter().map(|one| (1, one)).collect();
        assert_eq!(queue::complete(client, ACCOUNT, worker, &done).unwrap(), Some(1_000));
        database.execute("UPDATE sync_runs SET listing_done = true");
        closing::close(client, ACCOUNT, run, 20).unwrap();
        // What autovacuum does by itself every 5,000 dead rows, without waiting for its minute.
        database.execute("VACUUM sync_tasks");
        sizes.push(database.value::<i64>("SELECT pg_total_relation_size('sync_tasks')"));
    }
    assert!(sizes[11] <= sizes[2] * 3 / 2, "{sizes:?}");
    assert_eq!((database.count("campaigns"), database.count("sync_runs")), (1_000, 12));
}

#[test]
fn a_run_is_closed_once_all_of_it_is_done_and_not_before_whoever_asks() {
    let database = Database::create();
    let client = &mut database.connect();
    for round in 1..=2 {
        let (run, worker) = run_with_lister(client);
        add(client, run, worker, 0, 20, true);
        let close = |client: &mut Client| closing::close(client, ACCOUNT, run, 20).unwrap();
        assert_eq!(close(client), Closing::Open { near: false }, "{round}: the listing is not done");
        database.execute("UPDATE sync_runs SET listing_done = true");
        assert_eq!(close(client), Closing::Open { near: false }, "{round}: 20 tasks are left");
        let done: Vec<Campaign> = (0..20).map(|n| campaign(&format!("c{n}"))).collect();
        let done: Vec<(i32, &Campaign)> = done.iter().map(|one| (1, one)).collect();
        queue::complete(client, ACCOUNT, worker, &done[..19]).unwrap();
        assert_eq!(close(client), Closing::Open { near: true }, "{round}: one task is left");
        // Nor did looking leave a transaction open.
        assert!(client.batch_execute("VACUUM sync_runs").is_ok());
        queue::complete(client, ACCOUNT, worker, &done[19..]).unwrap();
        database.execute(
            "UPDATE sync_runs SET finished_at = now() - interval '91 days' WHERE state = 'complete'",
        );
        assert_eq!(close(client), Closing::Closed(None), "{round}");
        assert_eq!(close(client), Closing::Over, "{round}");
        assert_eq!(database.count("sync_runs"), 1, "the one before is long over");
    }
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

/// Tasks that are held by a worker that is not there: nobody would ever free them.
fn held_by_nobody(database: &Database) -> i64 {
    database.count(
        "sync_tasks t WHERE worker_id <> 0
         AND NOT EXISTS (SELECT FROM workers w WHERE w.worker_id = t.worker_id)",
    )
}

fn grow_silent(database: &Database, worker: i64) {
    database.execute(&format!(
        "UPDATE workers SET heartbeat_at = now() - interval '11 s' WHERE worker_id = {worker}"
    ));
}

/// Commits what `first` has begun once `second`, begun after it, is done or waits for it.
fn overlapped(database: &Database, first: &mut Client, second: impl FnOnce(&mut Client) + Send) {
    std::thread::scope(|scope| {
        let second = scope.spawn(|| second(&mut database.connect()));
        eventually(PATIENCE, "the second is done or waits", || {
            second.is_finished()
                || database
                    .count("pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
                    > 0
        });
        first.batch_execute("COMMIT").unwrap();
        second.join().unwrap();
    });
}

#[test]
fn who_leaves_during_its_own_heartbeat_hands_its_counts_to_the_run() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, lister) = run_with_lister(client);
    database.execute(&format!("UPDATE workers SET synced = 7 WHERE worker_id = {lister}"));
    let beat = "UPDATE workers SET heartbeat_at = now() WHERE worker_id = ";
    client.batch_execute(&format!("BEGIN; {beat}{lister}")).unwrap();
    overlapped(&database, client, |other| {
        leases::reap(other, ACCOUNT, lister).unwrap();
    });
    assert_eq!(database.count("workers"), 0);
    assert_eq!(database.value::<i64>(&format!("SELECT synced FROM sync_runs WHERE run_id = {run}")), 7);
}

#[test]
fn a_claim_during_the_end_of_its_lease_leaves_no_task_with_nobody() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, lister) = run_with_lister(client);
    add(client, run, lister, 0, 10, false);
    let late = register(client, run, 2);
    grow_silent(&database, late);
    client.batch_execute("BEGIN").unwrap();
    let claim: [(&(dyn ToSql + Sync), Type); 3] =
        [(&ACCOUNT, Type::TEXT), (&late, Type::INT8), (&5i64, Type::INT8)];
    assert_eq!(client.query_typed(include_str!("../../sql/claim.sql"), &claim).unwrap().len(), 5);
    overlapped(&database, client, |other| {
        let _dead_and_freed = leases::reap(other, ACCOUNT, 0).unwrap();
    });
    leases::reap(client, ACCOUNT, 0).unwrap();
    assert_eq!((held_by_nobody(&database), database.count("sync_tasks WHERE worker_id = 0")), (0, 10));

    let late = register(client, run, 3);
    grow_silent(&database, late);
    client.batch_execute("BEGIN").unwrap();
    let (dead, freed) = leases::end(client, ACCOUNT, 0).unwrap();
    assert_eq!((dead.len(), freed), (1, 0));
    overlapped(&database, client, |other| {
        assert!(queue::claim(other, ACCOUNT, late, 5).unwrap().is_empty());
    });
    assert_eq!(held_by_nobody(&database), 0);
}

#[test]
fn what_is_just_being_finished_is_not_new_to_the_next_lister() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, lister) = run_with_lister(client);
    add(client, run, lister, 0, 2, true);
    let (c0, gone) = (campaign("c0"), letter("c1", 1));
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(queue::complete(client, ACCOUNT, lister, &[(1, &c0)]).unwrap(), Some(1));
    assert_eq!(queue::bury(client, ACCOUNT, lister, &[gone]).unwrap(), Some(1));
    let next = register(&mut database.connect(), run, 2);
    database.execute(&format!("UPDATE sync_runs SET lister = {next}"));
    overlapped(&database, client, |other| {
        let again = ["c0", "c1", "c2"].map(|id| NewTask { id, seq: 0, payload: "{}", held: false });
        let (tasks, invalid) = (again.into(), Vec::new());
        let pages = Pages {
            from_page: 2,
            next_page: 3,
            page_size: 100,
            last: false,
            totals: None,
            moved: false,
            tasks,
            invalid,
            finished: vec![],
        };
        let added = queue::add_pages_after_another(other, ACCOUNT, run, next, &pages).unwrap();
        assert_eq!(added.unwrap().new, 1);
    });
    assert_eq!(database.column::<String>("SELECT id FROM sync_tasks"), ["c2"]);
}

#[test]
fn a_claim_committed_just_before_its_lease_ends_leaves_no_task_with_nobody() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, lister) = run_with_lister(client);
    for round in 0..30 {
        let late = register(client, run, 2);
        // Thirty rounds may take longer than a lease.
        leases::heartbeat(client, ACCOUNT, run, lister, leases::Effort::default(), false).unwrap();
        add(client, run, lister, round * 10, 10, false);
        // Ends of many leases at once take a while: the claim comes in the middle of it.
        client.execute("INSERT INTO workers (account, run_id, host, pid) SELECT $1, $2, 'host', n FROM generate_series(1, 2000) n", &[&ACCOUNT, &run]).unwrap();
        client
            .execute(
                "UPDATE workers SET heartbeat_at = now() - interval '11 s' WHERE worker_id <> $1",
                &[&lister],
            )
            .unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let client = &mut database.connect();
                std::thread::sleep(Duration::from_millis(u64::try_from(round).unwrap() % 15));
                queue::claim(client, ACCOUNT, late, 10).unwrap();
            });
            leases::reap(&mut database.connect(), ACCOUNT, 0).unwrap();
        });
        leases::reap(client, ACCOUNT, 0).unwrap();
        assert_eq!(held_by_nobody(&database), 0, "round {round}");
    }
}

#[test]
fn pages_committed_during_the_end_of_their_listers_lease_leave_no_task_with_nobody() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, lister) = run_with_lister(client);
    grow_silent(&database, lister);
    client.batch_execute("BEGIN").unwrap();
    add(client, run, lister, 0, 10, true);
    overlapped(&database, client, |other| {
        let _dead_and_freed = leases::reap(other, ACCOUNT, 0).unwrap();
    });
    leases::reap(client, ACCOUNT, 0).unwrap();
    assert_eq!((held_by_nobody(&database), database.count("sync_tasks WHERE worker_id = 0")), (0, 10));

    let lister = register(client, run, 2);
    assert_eq!(leases::take_listing(client, ACCOUNT, run, lister).unwrap(), Some((2, 100)));
    grow_silent(&database, lister);
    client.batch_execute("BEGIN").unwrap();
    let (dead, freed) = leases::end(client, ACCOUNT, 0).unwrap();
    assert_eq!((dead.len(), freed), (1, 0));
    overlapped(&database, client, |other| {
        let tasks = vec![NewTask { id: "late", seq: 99, payload: "{}", held: true }];
        let pages = Pages {
            from_page: 2,
            next_page: 3,
            page_size: 100,
            last: false,
            totals: None,
            moved: false,
            tasks,
            invalid: vec![],
            finished: vec![],
        };
        assert_eq!(queue::add_pages(other, ACCOUNT, run, lister, &pages).unwrap(), None);
    });
    assert_eq!((held_by_nobody(&database), database.count("sync_tasks")), (0, 10));
}

#[test]
fn a_listing_is_never_taken_by_a_worker_whose_lease_ends_at_that_moment() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, lister) = run_with_lister(client);
    grow_silent(&database, lister);
    client.batch_execute("BEGIN").unwrap();
    let (dead, freed) = leases::end(client, ACCOUNT, 0).unwrap();
    assert_eq!((dead.len(), freed), (1, 0));
    overlapped(&database, client, |other| {
        assert_eq!(leases::take_listing(other, ACCOUNT, run, lister).unwrap(), None);
    });
    assert_eq!(database.value::<i64>("SELECT lister FROM sync_runs"), 0);
}

#[derive(Clone, Debug)]
enum Step {
    /// Somebody lists so many campaigns, some of them held at once (bits), the last of the page before once more.
    List(usize, usize, u16),
    Claim(usize, i64),
    /// Somebody finishes so many of the tasks that it was ever given, the newest first, under attempt numbers that are
    /// off by so many; well or badly.
    Finish(usize, usize, i32, bool),
    /// Somebody's lease ends, because it is silent or because it leaves.
    End(usize, bool),
    /// Somebody registers again: until then it goes on under its old number.
    Register(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..3usize;
    prop_oneof![
        3 => (who.clone(), 1..9usize, any::<u16>()).prop_map(|(who, count, held)| Step::List(who, count, held)),
        3 => (who.clone(), 0..6i64).prop_map(|(who, most)| Step::Claim(who, most)),
        6 => (who.clone(), 1..6usize, prop_oneof![4 => Just(0), 1 => -1..2i32], any::<bool>())
            .prop_map(|(who, count, off, well)| Step::Finish(who, count, off, well)),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, silent)| Step::End(who, silent)),
        2 => who.prop_map(Step::Register),
    ]
}

/// What the queue should be: a few maps, and no concurrency.
#[derive(Default)]
struct Model {
    /// By place in the listing: who holds it, under which attempt number.
    tasks: BTreeMap<i64, (i64, i32)>,
    alive: BTreeSet<i64>,
    lister: i64,
    pages: i64,
    listed: i64,
    stored: BTreeSet<i64>,
    buried: BTreeSet<i64>,
    /// The number that each of three processes goes by, and all that it was ever given.
    processes: Vec<(i64, Vec<(i64, i32)>)>,
}

impl Model {
    fn list(&mut self, client: &mut Client, run: i64, who: usize, count: usize, held: u16) {
        let worker = self.processes[who].0;
        let may = self.alive.contains(&worker) && [0, worker].contains(&self.lister);
        let taken = leases::take_listing(client, ACCOUNT, run, worker).unwrap();
        assert_eq!(taken, may.then_some((self.pages + 1, 100)));
        let first = self.listed;
        let places: Vec<i64> = ((first - 1).max(0)..first + i64::try_from(count).unwrap()).collect();
        let ids: Vec<String> = places.iter().map(|place| format!("c{place}")).collect();
        let is_held = |n: usize| held >> n & 1 == 1;
        let task = |n: usize| NewTask { id: &ids[n], seq: places[n], payload: "{}", held: is_held(n) };
        let (from_page, next_page) = (self.pages + 1, self.pages + 2);
        let tasks = (0..ids.len()).map(task).collect();
        let pages = Pages {
            from_page,
            next_page,
            page_size: 100,
            last: false,
            totals: None,
            moved: false,
            tasks,
            invalid: vec![],
            finished: vec![],
        };
        let added = queue::add_pages(client, ACCOUNT, run, worker, &pages).unwrap();
        if !may {
            return assert_eq!(added, None);
        }
        (self.lister, self.pages) = (worker, self.pages + 1);
        let again = usize::from(first > 0);
        let added = added.expect("it lists");
        assert_eq!(added.new, i64::try_from(count).unwrap());
        assert_eq!(added.left_out, ids[..again].iter().filter(|_| is_held(0)).cloned().collect::<Vec<_>>());
        for (n, place) in places.into_iter().enumerate().skip(again) {
            self.tasks.insert(place, if is_held(n) { (worker, 1) } else { (0, 0) });
            if is_held(n) {
                self.processes[who].1.push((place, 1));
            }
        }
        self.listed += i64::try_from(count).unwrap();
    }

    fn claim(&mut self, client: &mut Client, who: usize, most: i64) {
        let worker = self.processes[who].0;
        let most_now = if self.alive.contains(&worker) { usize::try_from(most).unwrap() } else { 0 };
        let free = self.tasks.iter_mut().filter(|(_, (holder, _))| *holder == 0).take(most_now);
        let mut expected = BTreeSet::new();
        for (place, task) in free {
            *task = (worker, task.1 + 1);
            expected.insert((*place, task.1));
        }
        let claimed = queue::claim(client, ACCOUNT, worker, most).unwrap();
        let claimed = claimed.iter().map(|held| (held.id[1..].parse().unwrap(), held.attempt));
        assert_eq!(claimed.collect::<BTreeSet<(i64, i32)>>(), expected);
        self.processes[who].1.extend(expected);
    }

    fn finish(&mut self, client: &mut Client, who: usize, count: usize, off: i32, well: bool) {
        let (worker, given) = &self.processes[who];
        let newest: BTreeMap<i64, i32> =
            given.iter().rev().take(count).map(|(place, attempt)| (*place, attempt + off)).collect();
        let done: Vec<i64> = newest
            .iter()
            .filter(|(place, attempt)| self.tasks.get(place) == Some(&(*worker, **attempt)))
            .map(|(place, _)| *place)
            .collect();
        let outcome = if well {
            let campaigns: Vec<(i32, Campaign)> =
                newest.iter().map(|(place, attempt)| (*attempt, campaign(&format!("c{place}")))).collect();
            let finished: Vec<(i32, &Campaign)> =
                campaigns.iter().map(|(attempt, campaign)| (*attempt, campaign)).collect();
            queue::complete(client, ACCOUNT, *worker, &finished).unwrap()
        } else {
            let failed: Vec<Failed> =
                newest.iter().map(|(place, attempt)| letter(&format!("c{place}"), *attempt)).collect();
            queue::bury(client, ACCOUNT, *worker, &failed).unwrap()
        };
        let alive = self.alive.contains(worker);
        assert!(alive || done.is_empty(), "the model frees what the dead hold");
        assert_eq!(outcome, alive.then(|| i64::try_from(done.len()).unwrap()));
        self.tasks.retain(|place, _| !done.contains(place));
        if well { &mut self.stored } else { &mut self.buried }.extend(done);
    }

    fn end(&mut self, database: &Database, client: &mut Client, who: usize, silent: bool) {
        let worker = self.processes[who].0;
        let was_alive = self.alive.remove(&worker);
        let mut freed = 0;
        for task in self.tasks.values_mut().filter(|task| task.0 == worker) {
            task.0 = 0;
            freed += 1;
        }
        if self.lister == worker {
            self.lister = 0;
        }
        let leaving = if silent { 0 } else { worker };
        if silent {
            grow_silent(database, worker);
        }
        let dead = i64::from(silent && was_alive);
        assert_eq!(leases::reap(client, ACCOUNT, leaving).unwrap(), (dead, freed));
    }

    fn register(&mut self, client: &mut Client, run: i64, who: usize) {
        if !self.alive.contains(&self.processes[who].0) {
            let worker = register(client, run, 1);
            self.alive.insert(worker);
            self.processes[who].0 = worker;
        }
    }

    fn assert_same(&self, client: &mut Client, run: i64) {
        let rows = client.query("SELECT seq, worker_id, attempt FROM sync_tasks ORDER BY seq", &[]).unwrap();
        let tasks = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2))));
        assert_eq!(tasks.collect::<BTreeMap<i64, (i64, i32)>>(), self.tasks);
        for (table, places) in [("campaigns", &self.stored), ("dead_letters", &self.buried)] {
            let rows = client.query(&format!("SELECT substr(id, 2)::bigint FROM {table}"), &[]).unwrap();
            assert_eq!(&rows.iter().map(|row| row.get(0)).collect::<BTreeSet<i64>>(), places, "{table}");
        }
        let counts = runs::progress(client, ACCOUNT, run).unwrap().unwrap();
        let sizes = [self.stored.len(), self.buried.len()].map(|size| i64::try_from(size).unwrap());
        assert_eq!(([counts.synced, counts.failed], counts.listed), (sizes, self.listed));
    }
}

#[test]
fn whatever_workers_do_in_whatever_order_the_queue_is_that_of_a_simple_model() {
    let database = Database::create();
    schema::migrate(&mut database.connect()).unwrap().unwrap();
    let settings = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let steps = proptest::collection::vec(step(), 1..60);
    let outcome = TestRunner::new(settings).run(&steps, |steps| {
        let client = &mut database.connect();
        client.batch_execute("TRUNCATE campaigns, dead_letters, sync_tasks, workers, sync_runs").unwrap();
        let (run, worker) = run_with_lister(client);
        let mut model = Model {
            alive: BTreeSet::from([worker]),
            lister: worker,
            processes: vec![(worker, vec![]), (-1, vec![]), (-2, vec![])],
            ..Model::default()
        };
        for step in steps {
            match step {
                Step::List(who, count, held) => model.list(client, run, who, count, held),
                Step::Claim(who, most) => model.claim(client, who, most),
                Step::Finish(who, count, off, well) => model.finish(client, who, count, off, well),
                Step::End(who, silent) => model.end(&database, client, who, silent),
                Step::Register(who) => model.register(client, run, who),
            }
            model.assert_same(client, run);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Pages with campaigns that are finished, and tasks that are not.
fn pages<'a>(from_page: i64, tasks: &[&'a str], finished: &'a [Campaign]) -> Pages<'a> {
    let tasks = tasks.iter().map(|id| NewTask { id, seq: 0, payload: "{}", held: true });
    Pages {
        from_page,
        next_page: from_page + 1,
        page_size: 100,
        tasks: tasks.collect(),
        finished: finished.iter().collect(),
        ..Pages::default()
    }
}

fn campaigns(ids: &[&str]) -> Vec<Campaign> {
    ids.iter().map(|id| campaign(id)).collect()
}

#[test]
fn what_is_finished_before_its_page_is_committed_is_stored_with_it_and_never_a_task() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    let finished = campaigns(&["a", "b"]);
    let first = pages(1, &["c"], &finished);
    let stranger = register(client, run, 2);
    assert_eq!(queue::add_pages(client, ACCOUNT, run, stranger, &first).unwrap(), None, "it does not list");
    assert_eq!(database.count("campaigns") + database.count("sync_tasks"), 0);

    assert_eq!(queue::add_pages(client, ACCOUNT, run, worker, &first).unwrap().unwrap().new, 3);
    assert_eq!(queue::add_pages(client, ACCOUNT, run, worker, &first).unwrap(), None, "the run has gone on");
    assert_eq!(database.column::<String>("SELECT id FROM sync_tasks"), ["c"]);
    assert_eq!(database.column::<String>("SELECT id FROM campaigns ORDER BY id"), ["a", "b"]);
    assert_eq!(database.value::<i64>(&format!("SELECT synced FROM workers WHERE worker_id = {worker}")), 2);
    let (listed, next_page) =
        (database.value("SELECT listed FROM sync_runs"), database.value("SELECT next_page FROM sync_runs"));
    assert_eq!((listed, next_page), (3_i64, 2_i64));

    grow_silent(&database, worker);
    assert_eq!(leases::reap(client, ACCOUNT, 0).unwrap(), (1, 1));
    let late = campaigns(&["d"]);
    assert_eq!(queue::add_pages(client, ACCOUNT, run, worker, &pages(2, &[], &late)).unwrap(), None);
    assert_eq!(database.count("campaigns"), 2, "a worker whose lease has ended stores nothing");
    assert_eq!(database.value::<i64>("SELECT synced FROM sync_runs"), 2);
}

#[test]
fn what_a_run_has_dealt_with_or_is_about_to_is_not_finished_a_second_time() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    let before = campaigns(&["synced", "old letter"]);
    queue::add_pages(client, ACCOUNT, run, worker, &pages(1, &["task", "dead"], &before[..1])).unwrap();
    queue::bury(client, ACCOUNT, worker, &[letter("dead", 1)]).unwrap();
    database.execute(&format!(
        "INSERT INTO dead_letters (account, id, run_id, cause, reason, attempts, payload, retryable)
         VALUES ('{ACCOUNT}', 'old letter', {run} - 1, 'gone', 'r', 1, '{{}}', true)"
    ));

    let mut again = campaigns(&["synced", "task", "dead", "old letter"]);
    again.iter_mut().for_each(|campaign| campaign.name = "again".into());
    let added = queue::add_pages(client, ACCOUNT, run, worker, &pages(2, &[], &again)).unwrap().unwrap();
    assert_eq!(added.new, 1, "only the letter of an earlier run is news");
    let stored = "SELECT id || ' ' || name FROM campaigns ORDER BY id";
    assert_eq!(database.column::<String>(stored), ["old letter again", "synced n"]);
    assert_eq!(database.column::<String>("SELECT id FROM sync_tasks"), ["task"]);
    assert_eq!(database.column::<String>("SELECT id FROM dead_letters"), ["dead"]);
    assert_eq!(database.value::<i64>("SELECT listed FROM sync_runs"), 4);
    assert_eq!(database.value::<i64>("SELECT synced FROM workers"), 2);
}

#[test]
fn a_finished_campaign_that_cannot_be_stored_leaves_its_page_uncommitted() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    let mut finished = campaigns(&["a", "b"]);
    finished[1].budget = "no number".into();
    assert!(queue::add_pages(client, ACCOUNT, run, worker, &pages(1, &["c"], &finished)).is_err());
    assert_eq!(database.count("campaigns") + database.count("sync_tasks"), 0);
    assert_eq!(database.value::<i64>("SELECT next_page FROM sync_runs"), 1);
    let added = queue::add_pages(client, ACCOUNT, run, worker, &pages(1, &["a", "b", "c"], &[])).unwrap();
    assert_eq!(added.unwrap().new, 3);
}

#[test]
fn a_heartbeat_and_a_page_at_the_same_moment_wait_for_each_other_in_turn() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, worker) = run_with_lister(client);
    std::thread::scope(|scope| {
        let beats = scope.spawn(|| {
            let client = &mut database.connect();
            for _ in 0..300 {
                leases::heartbeat(client, ACCOUNT, run, worker, leases::Effort::default(), true).unwrap();
            }
        });
        for page in 1..=300 {
            let finished = campaigns(&[&format!("c{page}")]);
            let added = queue::add_pages(client, ACCOUNT, run, worker, &pages(page, &[], &finished));
            assert_eq!(added.unwrap().unwrap().new, 1, "no deadlock");
        }
        beats.join().unwrap();
    });
    assert_eq!(database.value::<i64>("SELECT synced FROM workers"), 300);
}

fn opening(lists: bool) -> Opening {
    Opening { page_size: 100, max_age: Duration::from_secs(86_400), fresh: false, lists, keeps_history: true }
}

fn put_letter(database: &Database, id: &str, run: i64) {
    database.execute(&format!(
        "INSERT INTO dead_letters (account, id, run_id, cause, reason, attempts, payload, retryable)
         VALUES ('{ACCOUNT}', '{id}', {run}, 'gone', 'r', 1, '{{}}', true)"
    ));
}

#[test]
fn a_registration_of_which_nobody_heard_leaves_no_phantom_worker() {
    let database = Database::create();
    let client = &mut database.connect();
    let (before, _) = run_with_lister(client);
    put_letter(&database, "c0", before);
    let worker = process::new_worker_id();
    let opening = Opening { fresh: true, ..opening(true) };
    let joined = [(); 2].map(|()| join::join(client, ACCOUNT, &opening, Some(&Retry::All), worker).unwrap());
    assert_eq!(joined[0].run.run_id, joined[1].run.run_id, "nor is the first one abandoned");
    assert_eq!((joined[0].requeued, joined[1].requeued), (1, 0));
    let workers: Vec<i64> = database.column("SELECT worker_id FROM workers WHERE run_id > 1");
    assert_eq!((workers, database.count("sync_runs")), (vec![worker], 2));
}

#[test]
fn letters_are_put_into_a_run_that_stays_open_whoever_closes_it_at_that_moment() {
    let database = Database::create();
    let client = &mut database.connect();
    schema::migrate(client).unwrap().unwrap();
    let close = |client: &mut Client, run| closing::close(client, ACCOUNT, run, 20).unwrap();
    // Closed before it is joined, and joined before it is closed.
    for joined_first in [false, true] {
        let (run, _) = join::open(client, ACCOUNT, &opening(true)).unwrap();
        let run = run.run_id;
        database.execute("UPDATE sync_runs SET listing_done = true");
        put_letter(&database, "c0", run - 1);
        client.batch_execute("BEGIN").unwrap();
        let retry = |client: &mut Client| {
            let worker = process::new_worker_id();
            join::join(client, ACCOUNT, &opening(false), Some(&Retry::All), worker).unwrap().run.run_id
        };
        if joined_first {
            join::open(client, ACCOUNT, &opening(false)).unwrap();
            assert_eq!(dead_letters::requeue(client, ACCOUNT, run, None).unwrap(), 1);
            overlapped(&database, client, |other| {
                assert_eq!(close(other, run), Closing::Open { near: true });
            });
        } else {
            assert_eq!(close(client, run), Closing::Closed(None));
            overlapped(&database, client, |other| assert_ne!(retry(other), run));
        }
        let open =
            "SELECT count(*) FROM sync_tasks t JOIN sync_runs r USING (run_id) WHERE r.state = 'running'";
        assert_eq!((database.value::<i64>(open), database.count("sync_tasks")), (1, 1), "{joined_first}");
        database.execute("TRUNCATE sync_tasks; UPDATE sync_runs SET state = 'complete'");
    }
}

#[test]
fn a_page_committed_while_letters_are_put_back_leaves_no_campaign_both_row_and_task() {
    let database = Database::create();
    let client = &mut database.connect();
    let (run, lister) = run_with_lister(client);
    put_letter(&database, "c0", run - 1);
    client.batch_execute("BEGIN").unwrap();
    join::open(client, ACCOUNT, &opening(false)).unwrap();
    assert_eq!(dead_letters::requeue(client, ACCOUNT, run, None).unwrap(), 1);
    // The page's statement began before the letter was a task, and waits for the run's row.
    overlapped(&database, client, |other| {
        let campaign = campaign("c0");
        let pages = Pages {
            from_page: 1,
            next_page: 2,
            page_size: 100,
            finished: vec![&campaign],
            ..Pages::default()
        };
        let added = queue::add_pages(other, ACCOUNT, run, lister, &pages).unwrap();
        assert_eq!(added.expect("it lists all the time").new, 1);
    });
    let counts = ["campaigns", "sync_tasks", "dead_letters"].map(|table| database.count(table));
    assert_eq!(counts, [1, 0, 0]);
    assert_eq!(database.value::<i64>("SELECT listed FROM sync_runs ORDER BY run_id DESC LIMIT 1"), 1);
}

#[derive(Clone, Debug)]
enum Act {
    /// Somebody runs `sync`, or `retry`.
    Join(usize, bool),
    /// The platform changes a record.
    Change(usize),
    /// Somebody lists the next two campaigns: each is left free, held, or finished by then.
    List(usize, [u8; 2]),
    Claim(usize, i64),
    /// Somebody finishes the oldest task it was given, well or badly.
    Finish(usize, bool),
    Leave(usize),
    Close,
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..3usize;
    prop_oneof![
        3 => (who.clone(), any::<bool>()).prop_map(|(who, lists)| Act::Join(who, lists)),
        1 => (0..6usize).prop_map(Act::Change),
        4 => (who.clone(), [0..3u8, 0..3u8]).prop_map(|(who, how)| Act::List(who, how)),
        3 => (who.clone(), 1..4i64).prop_map(|(who, most)| Act::Claim(who, most)),
        8 => (who.clone(), prop::bool::weighted(0.7)).prop_map(|(who, well)| Act::Finish(who, well)),
        1 => who.prop_map(Act::Leave),
        3 => Just(Act::Close),
    ]
}

/// Six campaigns, of which the platform has versions, and three processes that come and go.
#[derive(Default)]
struct Play {
    run: i64,
    versions: [u32; 6],
    /// Which version the open run's listing has shown last.
    shown: BTreeMap<usize, u32>,
    processes: [Option<i64>; 3],
    in_hand: [Vec<queue::Held>; 3],
    /// Campaigns that were ever listed.
    known: BTreeSet<usize>,
}

impl Play {
    fn act(&mut self, client: &mut Client, act: Act) {
        match act {
            Act::Join(who, lists) if self.processes[who].is_none() => {
                let worker = process::new_worker_id();
                let retry = (!lists).then_some(&Retry::All);
                let joined = join::join(client, ACCOUNT, &opening(lists), retry, worker).unwrap();
                if joined.run.run_id != self.run {
                    self.shown.clear();
                    // The others were on the one before.
                    self.processes = [None; 3];
                }
                self.run = joined.run.run_id;
                (self.processes[who], self.in_hand[who]) = (Some(worker), Vec::new());
            }
            Act::Change(campaign) => self.versions[campaign] += 1,
            Act::List(who, how) => self.list(client, who, how),
            Act::Claim(who, most) => {
                let Some(worker) = self.processes[who] else { return };
                self.in_hand[who].extend(queue::claim(client, ACCOUNT, worker, most).unwrap());
            }
            Act::Finish(who, well) => {
                let Some(worker) = self.processes[who].filter(|_| !self.in_hand[who].is_empty()) else {
                    return;
                };
                let held = self.in_hand[who].remove(0);
                if well {
                    let campaign = Campaign { name: held.payload, ..campaign(&held.id) };
                    queue::complete(client, ACCOUNT, worker, &[(held.attempt, &campaign)]).unwrap();
                } else {
                    queue::bury(client, ACCOUNT, worker, &[letter(&held.id, held.attempt)]).unwrap();
                }
            }
            Act::Leave(who) => {
                let Some(worker) = self.processes[who].take() else { return };
                leases::reap(client, ACCOUNT, worker).unwrap();
            }
            Act::Close => {
                let closing = closing::close(client, ACCOUNT, self.run, 100).unwrap();
                if matches!(closing, Closing::Closed(_)) {
                    self.assert_as_listed(client);
                }
            }
            Act::Join(..) => {}
        }
    }

    fn list(&mut self, client: &mut Client, who: usize, how: [u8; 2]) {
        let Some(worker) = self.processes[who] else { return };
        let Some((page, _)) = leases::take_listing(client, ACCOUNT, self.run, worker).unwrap() else {
            return;
        };
        let first = usize::try_from(page - 1).unwrap() * 2;
        let records: Vec<(String, String)> =
            (first..first + 2).map(|n| (format!("c{n}"), self.versions[n].to_string())).collect();
        let finished: Vec<Campaign> = (records.iter().zip(how).filter(|(_, how)| *how == 2))
            .map(|((id, version), _)| Campaign { name: version.clone(), ..campaign(id) })
            .collect();
        let tasks =
            records.iter().zip(how).zip(i64::try_from(first).unwrap()..).filter(|((_, how), _)| *how < 2);
        let tasks = tasks.map(|(((id, payload), how), seq)| NewTask { id, seq, payload, held: how == 1 });
        let pages = Pages {
            from_page: page,
            next_page: page + 1,
            page_size: 100,
            last: first == 4,
            tasks: tasks.collect(),
            finished: finished.iter().collect(),
            ..Pages::default()
        };
        let added = queue::add_pages(client, ACCOUNT, self.run, worker, &pages).unwrap().expect("it lists");
        for (id, payload) in (records.iter().zip(how)).filter(|(_, how)| *how == 1).map(|(record, _)| record)
        {
            if !added.left_out.contains(id) {
                let attempt =
                    added.taken.iter().find(|(taken, _)| taken == id).map_or(1, |(_, attempt)| *attempt);
                self.in_hand[who].push(queue::Held { id: id.clone(), attempt, payload: payload.clone() });
            }
        }
        self.known.extend([first, first + 1]);
        self.shown.extend([first, first + 1].map(|n| (n, self.versions[n])));
    }

    /// What a closed run has shown is stored as it was shown last, or is a dead letter of this run.
    fn assert_as_listed(&self, client: &mut Client) {
        for (campaign, version) in &self.shown {
            let stored = client.query(
                "SELECT name FROM campaigns WHERE id = $1 AND run_id = $2 UNION ALL
                 SELECT payload FROM dead_letters WHERE id = $1 AND run_id = $2",
                &[&format!("c{campaign}"), &self.run],
            );
            let stored: Vec<String> = stored.unwrap().iter().map(|row| row.get(0)).collect();
            assert!(stored.contains(&version.to_string()), "c{campaign} {version}: {stored:?}");
        }
    }

    fn assert_sound(&self, client: &mut Client) {
        let row = client.query_one(
            "SELECT (SELECT count(DISTINCT id) FROM (SELECT id FROM campaigns UNION SELECT id FROM dead_letters UNION
                                                     SELECT id FROM sync_tasks) a),
                    (SELECT count(*) FROM sync_tasks t JOIN sync_runs r USING (account, run_id)
                     WHERE r.state NOT IN ('running', 'stopped')),
                    (SELECT count(*) FROM sync_tasks t WHERE worker_id <> 0
                     AND NOT EXISTS (SELECT FROM workers w WHERE w.worker_id = t.worker_id)),
                    (SELECT count(*) FROM sync_tasks JOIN campaigns USING (id, run_id))",
            &[],
        );
        let row = row.unwrap();
        let [known, stray, orphaned, doubled] = [0, 1, 2, 3].map(|n| row.get::<_, i64>(n));
        assert_eq!(known, i64::try_from(self.known.len()).unwrap(), "a campaign is lost");
        assert_eq!((stray, orphaned, doubled), (0, 0, 0), "stray, orphaned, doubled");
    }
}

#[test]
fn whatever_syncs_and_retries_do_at_once_no_campaign_is_lost_and_the_listings_record_is_stored() {
    let database = Database::create();
    schema::migrate(&mut database.connect()).unwrap().unwrap();
    let settings = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(settings).run(&proptest::collection::vec(act(), 1..80), |acts| {
        let client = &mut database.connect();
        client.batch_execute("TRUNCATE campaigns, dead_letters, sync_tasks, workers, sync_runs").unwrap();
        let mut play = Play::default();
        for act in acts {
            play.act(client, act);
            play.assert_sound(client);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
