//! The database goes away and comes back: the run goes on by itself, or stops and can be resumed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mock_api::{EMAIL, PASSWORD, Server, Settings};

use crate::support::{Cluster, Database, Folder, PATIENCE, Program, Running, Signal, eventually};

fn server() -> Server {
    let latency = Duration::from_millis(100);
    mock_api::start(Settings { sync_latency: latency, ..Settings::fast(400) }).unwrap()
}

fn sync(server: &Server, url: &str, flags: &[&str]) -> Running {
    Program::new(&["sync"]).args(flags).api(&server.url(), EMAIL, PASSWORD).database(url).spawn()
}

fn assert_whole(database: &Database) {
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (400, 0));
    assert_eq!(database.count("dead_letters"), 0);
    let counts = database.rows("SELECT state, listed, synced FROM sync_runs", &[]);
    let counts: Vec<(String, i64, i64)> =
        counts.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(counts, [("complete".to_owned(), 400, 400)]);
}

#[test]
fn a_crash_of_postgres_in_the_middle_is_survived() {
    let mut cluster = Cluster::with_options(&["-c", "fsync=on"]);
    let database = Database::create_in(&cluster);
    let server = server();
    let running = sync(&server, &database.url(), &[]);
    eventually(PATIENCE, "a hundred syncs", || server.ledger().syncs >= 100);
    cluster.restart_immediate();
    running.wait().expect_code(0);
    assert_whole(&database);
}

#[test]
fn a_database_that_forgets_its_newest_commits_is_gone_by() {
    // What is committed is written to disk only by a checkpoint.
    let forgetful =
        ["synchronous_commit=off", "wal_writer_delay=10s", "wal_writer_flush_after=1GB", "autovacuum=off"];
    let options: Vec<&str> = forgetful.iter().flat_map(|setting| ["-c", setting]).collect();
    for listing in [true, false] {
        let mut cluster = Cluster::with_options(&options);
        let database = Database::create_in(&cluster);
        let server = server();
        server.change(|settings| settings.list_latency = Duration::from_millis(30));
        let running = sync(&server, &database.url(), &["--workers", "8"]);
        let (kept, lost) = if listing {
            ("sync_runs WHERE next_page > 5", "sync_runs WHERE listing_done")
        } else {
            ("sync_runs WHERE listing_done", "campaigns c WHERE (SELECT count(*) FROM campaigns) >= 200")
        };
        let there = || {
            database.connect().query_one("SELECT to_regclass('sync_runs') IS NOT NULL", &[]).unwrap().get(0)
        };
        eventually(PATIENCE, "it has begun", there);
        eventually(PATIENCE, kept, || database.count(kept) > 0);
        database.execute("CHECKPOINT");
        eventually(PATIENCE, lost, || database.count(lost) > 0);
        cluster.restart_immediate();
        running.wait().expect_code(0);
        assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (400, 0));
        assert_eq!(database.count("sync_runs WHERE state = 'complete' AND listed = 400"), 1);
    }
}

#[test]
fn a_registration_of_which_nobody_heard_is_one_worker() {
    let (server, database) = (server(), Database::create());
    let cutter = Cutter::before(&database, "OVERRIDING SYSTEM VALUE", Some("COMMIT"), 3);
    let running = sync(&server, &cutter.url, &["--workers", "4"]);
    eventually(PATIENCE, "it works", || server.ledger().syncs >= 20);
    assert_eq!((cutter.cuts.load(Ordering::SeqCst), database.count("workers")), (3, 1));
    running.wait().expect_code(0);
    assert_whole(&database);
}

#[test]
fn cut_connections_are_survived() {
    let database = Database::create();
    let server = server();
    let running = sync(&server, &database.url(), &[]);
    for syncs in [80, 160, 240] {
        eventually(PATIENCE, "some syncs", || server.ledger().syncs >= syncs);
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
    }
    running.wait().expect_code(0);
    assert_whole(&database);
}

#[test]
fn a_database_that_stays_away_stops_the_run_and_the_next_one_completes_it() {
    let mut cluster = Cluster::new();
    let database = Database::create_in(&cluster);
    let server = server();
    let running = sync(&server, &database.url(), &["--give-up-after", "2s"]);
    eventually(PATIENCE, "a hundred syncs", || server.ledger().syncs >= 100);
    cluster.stop();
    let outcome = running.wait().expect_code(5);
    assert!(outcome.stderr.contains("database"), "{outcome}");
    cluster.start();
    sync(&server, &database.url(), &[]).wait().expect_code(0);
    assert_whole(&database);
}

/// A way to the database that cuts the connection when the answer to a message comes, without passing it on: what the
/// message asked for is done, and the program cannot know.
struct Cutter {
    url: String,
    cuts: Arc<AtomicUsize>,
}

impl Cutter {
    /// Cuts `most` times: at the first message with `sign`, or, if there is one, with `end` after it.
    fn before(database: &Database, sign: &'static str, end: Option<&'static str>, most: usize) -> Self {
        let url = database.url();
        let (front, address) = url.split_once('@').unwrap();
        let (address, name) = address.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{front}@{}/{name}?sslmode=disable", listener.local_addr().unwrap());
        let (address, cuts) = (address.to_owned(), Arc::new(AtomicUsize::new(0)));
        let cutter = Self { url, cuts: cuts.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, cuts) = (client.unwrap(), cuts.clone());
                let server = TcpStream::connect(&address).unwrap();
                std::thread::spawn(move || {
                    let armed = Arc::new(AtomicUsize::new(0));
                    let answers = (server.try_clone().unwrap(), client.try_clone().unwrap(), armed.clone());
                    std::thread::spawn(move || pass_answers(answers.0, answers.1, &answers.2, &cuts, most));
                    pass_messages(client, server, &armed, sign, end);
                });
            }
        });
        cutter
    }
}

/// Arms the cut (2) when the message that it is meant for has come.
fn pass_messages(
    mut client: TcpStream,
    mut server: TcpStream,
    armed: &AtomicUsize,
    sign: &str,
    end: Option<&str>,
) {
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let mut bytes = vec![0; 1 << 20];
    while let Ok(length @ 1..) = client.read(&mut bytes) {
        let message = &bytes[..length];
        if has(message, sign) {
            armed.store(if end.is_none() { 2 } else { 1 }, Ordering::SeqCst);
        } else if armed.load(Ordering::SeqCst) == 1 && end.is_some_and(|end| has(message, end)) {
            armed.store(2, Ordering::SeqCst);
        }
        if server.write_all(message).is_err() {
            break;
        }
    }
    let _closed_already = server.shutdown(Shutdown::Both);
}

fn pass_answers(
    mut server: TcpStream,
    mut client: TcpStream,
    armed: &AtomicUsize,
    cuts: &AtomicUsize,
    most: usize,
) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = server.read(&mut bytes) {
        let meant = armed.compare_exchange(2, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if meant
            && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < most).then_some(n + 1)).is_ok()
        {
            break;
        }
        if client.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _closed_already = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}

fn a_lost_answer_loses_no_work(sign: &'static str, end: Option<&'static str>) {
    let database = Database::create();
    let server = server();
    if end.is_some() {
        // Listed and left: everything is to be claimed.
        let mut running = sync(&server, &database.url(), &[]);
        let listed = || {
            database.count("pg_tables WHERE tablename = 'sync_runs'") > 0
                && database.count("sync_runs WHERE listing_done") > 0
        };
        eventually(PATIENCE, "the listing is done", listed);
        running.signal(Signal::Int);
        running.wait().expect_code(130);
    }
    let cutter = Cutter::before(&database, sign, end, 3);
    sync(&server, &cutter.url, &[]).wait().expect_code(0);
    assert_eq!(cutter.cuts.load(Ordering::SeqCst), 3, "the answers were lost");
    assert_whole(&database);
}

#[test]
fn a_page_whose_commit_nobody_heard_of_is_worked() {
    a_lost_answer_loses_no_work("INSERT INTO campaign_sync.sync_tasks", None);
}

#[test]
fn a_claim_whose_commit_nobody_heard_of_is_worked() {
    a_lost_answer_loses_no_work("FOR UPDATE SKIP LOCKED\n)\nUPDATE campaign_sync.sync_tasks", Some("COMMIT"));
}

#[test]
fn a_result_whose_commit_nobody_heard_of_is_counted_once() {
    a_lost_answer_loses_no_work("INSERT INTO campaign_sync.campaigns", None);
}

#[test]
fn a_run_whose_end_cannot_be_looked_up_is_no_success() {
    let (server, database) = (mock_api::start(Settings::fast(5)).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    // As soon as the run is closed, what its summary is made of is gone.
    database.execute(
        "CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN ALTER TABLE campaign_sync.workers RENAME TO hidden; RETURN NULL; END $$;
         CREATE TRIGGER hide AFTER UPDATE ON sync_runs FOR EACH ROW WHEN (NEW.state = 'complete')
             EXECUTE FUNCTION hide()",
    );
    let outcome = sync(&server, &database.url(), &["--json"]).wait().expect_code(2);
    assert!(outcome.json()[0]["error"].is_string(), "{outcome}");
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (5, 0));
}

#[test]
fn a_process_that_is_suspended_in_a_transaction_does_not_hold_up_the_others() {
    let (server, database) = (mock_api::start(Settings::fast(20)).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    database.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
         CREATE TRIGGER wait AFTER INSERT ON sync_runs EXECUTE FUNCTION wait()",
    );
    let mut holder = database.connect();
    holder.batch_execute("SELECT pg_advisory_lock(1)").unwrap();
    let mut suspended = sync(&server, &database.url(), &[]);
    let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
    eventually(PATIENCE, "it is opening its run", || database.count(waiting) == 1);
    suspended.signal(Signal::Stop);
    drop(holder);
    sync(&server, &database.url(), &[]).wait().expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (20, 0));
    suspended.signal(Signal::Cont);
    suspended.wait().expect_code(0);
}

/// A process that works on these accounts.
fn sync_all(server: &Server, names: &[String], url: &str, flags: &[&str]) -> (Program, Folder) {
    let account = |name: &String| {
        format!(
            "[[account]]\nname = \"{name}\"\napi_url = \"{}\"\nemail = \"{EMAIL}\"\nclient_id = \"{name}\"\npassword_env = \"PASSWORD\"\n",
            server.url()
        )
    };
    let folder = Folder::new("database");
    folder.file("accounts.toml", &names.iter().map(account).collect::<String>(), 0o600);
    let program = Program::new(&["sync", "--json", "--accounts", &folder.path("accounts.toml")]).args(flags);
    (program.env("PASSWORD", PASSWORD).database(url).timeout(6 * PATIENCE), folder)
}

/// The database crashes under a process that works on 120 accounts, under a limit that keeps them open.
fn a_crash_under_many(server: &Server, patience: &str) -> (Cluster, Database, Running, Folder) {
    let mut cluster = Cluster::new();
    let database = Database::create_in(&cluster);
    let names: Vec<String> = (0..120).map(|n| format!("account-{n}")).collect();
    let flags = ["--rate-limit", "1/3s", "--give-up-after", patience];
    let (program, folder) = sync_all(server, &names, &database.url(), &flags);
    let running = program.spawn();
    let has_tables = || database.count("pg_tables WHERE tablename = 'workers'") == 1;
    eventually(2 * PATIENCE, "the accounts are open", || has_tables() && database.count("workers") == 120);
    cluster.crash();
    (cluster, database, running, folder)
}

/// How often the log says that the database is away, and that it is there again.
fn said(log: &str) -> (usize, usize) {
    let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    (count("trying again"), count("is available again"))
}

#[test]
fn a_database_that_stays_away_ends_many_accounts_when_patience_ends() {
    let server = server();
    let (_cluster, _database, running, _folder) = a_crash_under_many(&server, "10s");
    let away = Instant::now();
    let outcome = running.wait().expect_code(5);
    // One after the other, four at a time, they take five minutes.
    assert!(away.elapsed() < Duration::from_secs(150), "{:?}", away.elapsed());
    assert_eq!(outcome.json().len(), 120);
    for summary in outcome.json() {
        let error = summary["error"].as_str().unwrap_or_default();
        assert!(error.contains("run again to resume"), "{summary}");
    }
    assert_eq!(said(&outcome.stderr), (1, 0), "{outcome}");
}

#[test]
fn a_database_that_comes_back_to_many_accounts_is_named_once_and_so_is_its_return() {
    let server = server();
    let (mut cluster, database, mut running, _folder) = a_crash_under_many(&server, "5m");
    eventually(PATIENCE, "the log names it", || said(&running.stderr()).0 > 0);
    cluster.start();
    eventually(PATIENCE, "the log names its return", || said(&running.stderr()).1 > 0);
    running.signal(Signal::Int);
    let outcome = running.wait().expect_code(130);
    assert_eq!(said(&outcome.stderr), (1, 1), "{outcome}");
    assert_eq!(database.count("workers"), 0, "{outcome}");
}

/// What a distributed database says of the accounts on a node that is down, for as long as there is a row in `node_down`.
const DEAD_NODE: &str = "
    CREATE TABLE public.node_down (); CREATE SEQUENCE public.refusals;
    CREATE FUNCTION public.ask_node() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.account LIKE 'dead-%' AND EXISTS (SELECT FROM public.node_down) THEN
            PERFORM nextval('public.refusals');
            RAISE EXCEPTION 'failure on connection marked as essential' USING ERRCODE = 'XX000';
        END IF;
        RETURN NEW;
    END $$;
    DO $$ DECLARE name text; BEGIN
        FOREACH name IN ARRAY ARRAY['campaigns', 'sync_runs', 'sync_tasks', 'workers', 'quotas'] LOOP
            EXECUTE format('CREATE TRIGGER ask_node BEFORE INSERT OR UPDATE ON campaign_sync.%I
                FOR EACH ROW EXECUTE FUNCTION public.ask_node()', name);
        END LOOP;
    END $$;
    INSERT INTO public.node_down DEFAULT VALUES;";

#[test]
fn a_dead_node_of_several_holds_up_only_its_own_accounts_and_is_named_once() {
    let (server, database) = (mock_api::start(Settings::fast(8)).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    database.execute(DEAD_NODE);
    let names: Vec<String> =
        (0..40).map(|n| format!("{}-{n}", if n < 30 { "dead" } else { "good" })).collect();
    let (program, _folder) = sync_all(&server, &names, &database.url(), &[]);
    let running = program.spawn();
    eventually(2 * PATIENCE, "the other accounts are complete", || {
        database.count("sync_runs WHERE state = 'complete'") == 10
    });
    let refused = "SELECT last_value FROM public.refusals";
    let before: i64 = database.value(refused);
    eventually(PATIENCE, "the node is asked again and again", || {
        database.value::<i64>(refused) > before + 100
    });
    database.execute("DELETE FROM public.node_down");
    let outcome = running.wait().expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (320, 0));
    assert!(matches!(said(&outcome.stderr), (1, 0 | 1)), "{outcome}");
}
