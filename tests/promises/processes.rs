//! Several processes on one run: they share the work, the limit and the token, and survive each other.

use std::time::Duration;

use campaign_sync::http::token::{Grant, Turn};
use campaign_sync::http::{RateLimit, Secret};
use campaign_sync::rate::ledger::{Gate, Order};
use mock_api::{EMAIL, Hint, PASSWORD, Server, Settings};

use crate::support::{Database, PATIENCE, Part, Program, Running, Signal, eventually};

fn sync(server: &Server, database: &Database, flags: &[&str]) -> Running {
    let program = Program::new(&["sync"]).args(flags);
    program.api(&server.url(), EMAIL, PASSWORD).database(&database.url()).spawn()
}

#[test]
fn three_processes_share_the_work_the_limit_and_the_token() {
    // A debug build on a busy machine may need 40 ms more to the server for one request than for another.
    let limited = Settings { rate_limit: Some((30, Duration::from_millis(960))), ..Settings::faithful(20.0) };
    let server = mock_api::start(limited).unwrap();
    let database = Database::create();
    let three = [(); 3].map(|()| sync(&server, &database, &["--rate-limit", "30/1s"]));
    let mut by_others = 0;
    for running in three {
        let outcome = running.wait().expect_code(0);
        by_others += usize::from(outcome.stderr.contains("resuming the open run"));
    }
    let ledger = server.ledger();
    assert_eq!((ledger.refused, ledger.tokens), (0, 1));
    assert!(ledger.most_in_window <= 30, "{}", ledger.most_in_window);
    assert_eq!(ledger.syncs_asked().len(), 100);
    assert!(ledger.syncs_asked().values().all(|times| *times == 1));
    assert_eq!((by_others, database.count("sync_runs")), (2, 1));
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (100, 0));
}

#[test]
fn one_is_killed_and_one_is_stopped_for_longer_than_its_lease() {
    let limit = Some((30, Duration::from_millis(960)));
    let latency = Duration::from_millis(300);
    let server =
        mock_api::start(Settings { rate_limit: limit, sync_latency: latency, ..Settings::fast(500) })
            .unwrap();
    let database = Database::create();
    let flags = ["--rate-limit", "30/1s", "--workers", "8"];
    let mut three = [(); 3].map(|()| sync(&server, &database, &flags));
    let workers = "SELECT count(*) FROM workers WHERE synced > 0";
    eventually(PATIENCE, "all three have stored something", || {
        database.connect().query_one(workers, &[]).is_ok_and(|row| row.get::<_, i64>(0) == 3)
    });
    let stopped_pid = i32::try_from(three[1].id()).unwrap();
    let stopped: i64 = database.value(&format!("SELECT worker_id FROM workers WHERE pid = {stopped_pid}"));
    three[0].signal(Signal::Kill);
    three[1].signal(Signal::Stop);
    // In this order: what was asked for by now and is not stored may be asked for again.
    let stored: Vec<String> = database.column("SELECT id FROM campaigns");
    let before = server.ledger();
    let before = before.syncs_asked();
    eventually(PATIENCE, "both are taken for dead", || database.count("workers") == 1);
    assert_eq!(database.count(&format!("sync_tasks WHERE worker_id = {stopped}")), 0);
    three[1].signal(Signal::Cont);

    let [killed, stopped, unharmed] = three;
    assert_eq!(killed.wait().signal(), Some(9));
    stopped.wait().expect_code(0);
    let unharmed = unharmed.wait().expect_code(0);
    let run = &database.rows("SELECT state, listed, synced, failed FROM sync_runs", &[])[0];
    let counts: (String, i64, i64, i64) = (run.get(0), run.get(1), run.get(2), run.get(3));
    assert_eq!(counts, ("complete".into(), 500, 500, 0), "each was committed once");
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (500, 0));
    let ledger = server.ledger();
    let repeated: usize = ledger.syncs_asked().values().map(|times| times - 1).sum();
    // Of each of the two at most 8 were under way, and as many had been answered together, just before, and not yet stored.
    assert!(repeated <= 32, "{repeated} repeated");
    // Of others, no more than the stopped one had on their way to be sent.
    let asked = ledger.syncs_asked();
    let open = |id: &str| before.contains_key(id) && !stored.iter().any(|other| other == id);
    let late: Vec<_> = asked.iter().filter(|(id, times)| **times > 1 && !open(id)).collect();
    // On a machine so busy that the third was silent for a whole lease as well, what it had in hand is asked for again.
    let silent_too = unharmed.stderr.contains("silent for too long");
    assert!(late.len() <= 8 || silent_too, "{late:?} repeated late");
    // A worker that is stopped between its turn and its request sends it late.
    assert!(ledger.refused <= 8, "{} refused, with at most 8 stopped on their way", ledger.refused);
    assert_eq!(ledger.tokens, 1);
    assert!(ledger.most_in_window <= 30, "{}", ledger.most_in_window);
}

#[test]
fn a_process_that_waits_for_a_silent_one_says_so() {
    let latency = Duration::from_millis(300);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(100) }).unwrap();
    let database = Database::create();
    let mut silent = sync(&server, &database, &["--workers", "4"]);
    eventually(PATIENCE, "it holds tasks", || {
        server.ledger().syncs >= 8 && database.count("sync_tasks WHERE worker_id <> 0") > 0
    });
    silent.signal(Signal::Stop);
    let waiting = sync(&server, &database, &["--progress", "always"]);
    let outcome = waiting.wait().expect_code(0);
    let told = format!("waiting for process {} on ", silent.id());
    let told = outcome.stderr.lines().find(|line| line.contains("INFO") && line.contains(&told));
    assert!(told.is_some_and(|line| line.contains("and the listing and is silent for")), "{outcome}");
    silent.signal(Signal::Cont);
    silent.wait().expect_code(0);
}

#[test]
fn a_run_that_another_process_stops_goes_on_with_whoever_is_left() {
    let latency = Duration::from_millis(200);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(300) }).unwrap();
    let database = Database::create();
    let running = sync(&server, &database, &["--workers", "8", "--json"]);
    eventually(PATIENCE, "it has begun", || server.ledger().syncs >= 20);
    eventually(PATIENCE, "it has told of them", || database.count("workers WHERE requests > 20") == 1);
    // What a process does that gives up as the last one it knows of: this one was taken for dead before.
    database.execute(
        "BEGIN;
         UPDATE sync_runs SET requests = (SELECT sum(requests) FROM workers);
         DELETE FROM workers;
         UPDATE sync_tasks SET worker_id = 0;
         UPDATE sync_runs SET state = 'stopped', lister = 0;
         COMMIT",
    );
    let outcome = running.wait().expect_code(0);
    assert_eq!(outcome.json()[0]["state"], "complete", "{outcome}");
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (300, 0));
    assert_eq!(outcome.json()[0]["requests"], server.ledger().total, "each is counted once: {outcome}");
}

#[test]
fn a_summary_is_about_its_own_run_alone() {
    let (server, database) = (mock_api::start(Settings::fast(5)).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    // As soon as the run is closed, another process opens the next.
    database.execute(
        "CREATE FUNCTION go_on() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO campaign_sync.sync_tasks (account, id, run_id, seq, payload)
             VALUES (NEW.account, 'campaign_1', NEW.run_id + 1, 0, '{}');
             RETURN NULL;
         END $$;
         CREATE TRIGGER go_on AFTER UPDATE ON sync_runs FOR EACH ROW WHEN (NEW.state = 'complete')
             EXECUTE FUNCTION go_on()",
    );
    let outcome = sync(&server, &database, &["--json"]).wait().expect_code(0);
    assert_eq!((&outcome.json()[0]["state"], &outcome.json()[0]["pending"]), (&"complete".into(), &0.into()));
}

#[test]
fn processes_that_believe_in_too_high_a_limit_find_the_right_one_without_a_hint() {
    let (limit, window) = (12, Duration::from_secs(1));
    let settings = Settings { rate_limit: Some((limit, window)), hint: Hint::None, ..Settings::fast(40) };
    let (server, database) = (mock_api::start(settings).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    database.execute(
        "INSERT INTO quotas (account, limit_requests, limit_window_ms, learned_at) VALUES ('default', 38, 1000, now())",
    );
    let two = [(); 2].map(|()| Program::sync(&server, &database).args(&["--workers", "24"]).spawn());
    for running in two {
        running.wait().expect_code(0);
    }
    let learned = database.rows("SELECT limit_requests, limit_window_ms FROM quotas", &[]);
    let learned: (i32, i64) = (learned[0].get(0), learned[0].get(1));
    assert!(learned.0 <= 12, "{learned:?}");
    assert!(server.ledger().refused <= 60, "{} refusals", server.ledger().refused);
}

#[test]
fn a_gate_that_is_doubted_lets_one_request_of_all_processes_through_until_it_was_accepted() {
    let database = Database::create();
    let (one, other) = (Part::of(&database), Part::of(&database));
    for limit in [None, RateLimit::new(1_000_000, PATIENCE)] {
        let ask = |part: &Part| part.reserve(limit, Duration::ZERO, 9);
        one.tell(Order::Doubt(Duration::from_millis(1), 1_000 * PATIENCE));
        let mut probe = ask(&one);
        while probe.gate == Gate::Doubted {
            probe = ask(&one);
        }
        assert_eq!((probe.granted, probe.gate), (1, Gate::Probe), "{limit:?}");
        for part in [&one, &other] {
            let next = ask(part);
            assert_eq!((next.granted, next.gate), (0, Gate::Doubted), "{limit:?}");
            assert!(next.wait < PATIENCE, "{next:?}");
        }
        one.tell(Order::OpenGate);
        assert_eq!((ask(&other).granted, ask(&one).granted), (9, 9), "{limit:?}");
    }
}

#[test]
fn sends_that_fit_in_any_case_are_recorded_the_short_way_and_others_counted_exactly() {
    let database = Database::create();
    let (one, other) = (Part::of(&database), Part::of(&database));
    let ask = |part: &Part, want, most| {
        part.reserve(RateLimit::new(most, Duration::from_secs(60)), Duration::ZERO, want)
    };
    assert_eq!([ask(&one, 30, 100), ask(&other, 30, 100), ask(&one, 30, 100)].map(|it| it.granted), [30; 3]);
    assert_eq!(ask(&other, 30, 100).granted, 10);
    let none = ask(&one, 1, 100);
    assert!(none.granted == 0 && none.wait > Duration::from_secs(50), "{none:?}");
    // Time passes for the first 60: they are on record still, and count no more.
    database.execute(
        "UPDATE quotas SET sent_at = ARRAY (SELECT at - CASE WHEN place < 3 THEN interval '61 s' ELSE interval '0' END
                                            FROM unnest(sent_at) WITH ORDINALITY AS u (at, place))",
    );
    assert_eq!([ask(&one, 50, 100), ask(&one, 50, 100)].map(|it| it.granted), [50, 10]);
    assert_eq!(ask(&one, 1, 100).granted, 0);
    // However many batches there are, the row stays short.
    (0..600).for_each(|_| assert_eq!(ask(&one, 1, 1_000_000).granted, 1));
    let batches = database.value::<i32>("SELECT cardinality(sent_at) FROM quotas");
    assert!(batches <= 512, "{batches} batches");
    one.tell(Order::CloseGate(PATIENCE));
    assert_eq!(ask(&other, 1, 1_000_000).granted, 0, "the gate is closed");
}

#[test]
fn a_token_that_is_shared_is_used_by_others_and_replaced_by_one_of_them() {
    let database = Database::create();
    let (one, other) = (Part::of(&database), Part::of(&database));
    assert!(matches!(one.token_turn(0), Turn::Fetch));
    assert!(matches!(other.token_turn(0), Turn::Wait(_)), "two fetch");
    let grant = Grant { access_token: Secret::new("hunter2".into()), lifetime: Some(PATIENCE) };
    assert_eq!(one.keep_token(grant), 1);
    let Turn::Use(kept) = other.token_turn(0) else { panic!("not shared") };
    assert_eq!((kept.access_token.reveal(), kept.generation), ("hunter2", 1));
    assert!(kept.remaining.is_some_and(|remaining| remaining <= PATIENCE));
    assert!(matches!(other.token_turn(1), Turn::Fetch), "the turn was kept");
    assert!(matches!(one.token_turn(1), Turn::Wait(_)), "two fetch");
}
