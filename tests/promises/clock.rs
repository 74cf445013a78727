//! Clocks jump: that of the database's machine and that of the program's own. No limit is broken by it, no lease is held for
//! ever, and nobody waits for a clock to catch up.

use std::time::Duration;

use campaign_sync::http::RateLimit;
use campaign_sync::http::token::Turn;
use campaign_sync::rate::ledger::{Ask, Correction, Order};
use campaign_sync::store::leases;
use campaign_sync::store::process::Process;
use mock_api::{Hint, Settings, most_in_window};

use crate::support::{Database, Folder, MachineClock, PATIENCE, Part, Program, eventually};

const ACCOUNT: &str = "default";
const MARGIN: Duration = Duration::from_millis(25);

/// All that was noted now lies so much later: as if the clock had been turned back by as much.
fn turn_back(database: &Database, by: &str) {
    database.execute(&format!(
        "UPDATE workers SET heartbeat_at = heartbeat_at + interval '{by}';
         UPDATE quotas SET gate_until = gate_until + interval '{by}', gate_set_at = gate_set_at + interval '{by}',
             sent_at = ARRAY (SELECT at + interval '{by}' FROM unnest(sent_at) WITH ORDINALITY u (at, n) ORDER BY n);
         UPDATE access_tokens SET expires_at = expires_at + interval '{by}',
             refresh_until = refresh_until + interval '{by}'"
    ));
}

#[test]
fn a_limit_is_kept_and_frees_itself_in_its_own_time_when_the_databases_clock_is_turned_back() {
    let database = Database::create();
    let part = Part::of(&database);
    let limit = RateLimit::new(3, Duration::from_secs(60));
    assert_eq!(part.reserve(limit, MARGIN, 3).granted, 3);
    turn_back(&database, "3 days");

    let refused = part.reserve(limit, MARGIN, 1);
    assert_eq!(refused.granted, 0, "the limit is exceeded");
    assert!(refused.wait <= Duration::from_secs(61), "{refused:?}");

    turn_back(&database, "-61 seconds");
    assert_eq!(part.reserve(limit, MARGIN, 5).granted, 3);
}

#[test]
fn sends_are_corrected_by_their_own_process_alone_and_once() {
    let database = Database::create();
    let part = Part::of(&database);
    let (limit, late) = (RateLimit::new(1_000, Duration::from_secs(60)), Duration::from_secs(2));
    let ask = |want, late, correction| {
        part.ask(Ask { limit, learned: false, margin: MARGIN, want, late, correction })
    };
    let mark = ask(100, late, None).mark.expect("on record in a batch of its own");
    let on_record =
        || database.column::<i64>("SELECT sum(count) FROM quotas, unnest(sent_count) AS u (count)")[0];
    let correction = Some(Correction { mark, unsent: 40, later: -1_900_000 });
    ask(50, Duration::ZERO, correction);
    ask(50, Duration::ZERO, correction);
    assert_eq!(on_record(), 100 - 40 + 50 + 50);
    let in_advance = || {
        let seconds =
            "SELECT max(extract(epoch FROM at - now()))::float8 FROM quotas, unnest(sent_at) AS u (at)";
        database.column::<f64>(seconds)[0]
    };
    assert!(in_advance() < 0.2, "{}", in_advance());

    // A long record, in which a send of another process is joined to the latest batch: that stays as it is.
    database.execute(
        "UPDATE quotas SET sent_at = ARRAY (SELECT now() - interval '30 s' FROM generate_series(1, 501)),
             sent_count = ARRAY (SELECT 1 FROM generate_series(1, 501))",
    );
    let mark = ask(100, late, None).mark.expect("too late to be joined to what is on record");
    assert_eq!(ask(50, Duration::ZERO, None).mark, None, "it was joined");
    ask(50, Duration::ZERO, Some(Correction { mark, unsent: 0, later: -1_900_000 }));
    assert!(in_advance() > 1.0, "{}", in_advance());

    // Whatever somebody else has written.
    database.execute("UPDATE quotas SET sent_at = '{infinity,-infinity}', sent_count = '{1,-2147483648}'");
    assert_eq!(ask(1, Duration::ZERO, Some(Correction { mark, unsent: 7, later: 3 })).granted, 1);
}

/// Or for as much of them as a busy machine leaves.
#[track_caller]
fn assert_closed_for_twenty_seconds(part: &Part, limit: Option<RateLimit>) {
    let refused = part.reserve(limit, MARGIN, 1);
    let seconds = refused.wait.as_secs_f64();
    assert!(refused.granted == 0 && (15.0..=21.0).contains(&seconds), "{refused:?}");
}

#[test]
fn a_gate_opens_in_its_own_time_when_the_databases_clock_is_turned_back() {
    let database = Database::create();
    let part = Part::of(&database);
    let limit = RateLimit::new(30, Duration::from_secs(60));
    assert_eq!(part.reserve(limit, MARGIN, 2).granted, 2);
    part.tell(Order::CloseGate(Duration::from_secs(20)));
    turn_back(&database, "3 days");

    for _ in 0..2 {
        assert_closed_for_twenty_seconds(&part, limit);
    }
    turn_back(&database, "-21 seconds");
    assert_eq!(part.reserve(limit, MARGIN, 1).granted, 1);
}

#[test]
fn a_gate_that_was_closed_while_the_clock_was_ahead_opens_in_its_own_time() {
    let database = Database::create();
    let part = Part::of(&database);
    let limit = RateLimit::new(30, Duration::from_secs(60));
    assert_eq!(part.reserve(limit, MARGIN, 2).granted, 2);
    turn_back(&database, "-1 hour");
    part.tell(Order::CloseGate(Duration::from_secs(20)));
    turn_back(&database, "1 hour");
    part.tell(Order::CloseGate(Duration::from_secs(5)));

    assert_closed_for_twenty_seconds(&part, limit);
}

#[test]
fn a_dead_workers_lease_ends_in_its_own_time_when_the_databases_clock_is_turned_back() {
    let database = Database::create();
    let mut client = database.connect();
    let _schema = database.store();
    leases::register(&mut client, ACCOUNT, 1, 1, &Process::default()).unwrap();
    turn_back(&database, "3 days");

    assert_eq!(leases::reap(&mut client, ACCOUNT, 0).unwrap(), (0, 0), "it may be alive");
    turn_back(&database, "-11 seconds");
    assert_eq!(leases::reap(&mut client, ACCOUNT, 0).unwrap(), (1, 0));
}

#[test]
fn a_turn_to_fetch_a_token_ends_when_the_databases_clock_is_turned_back() {
    let database = Database::create();
    let [first, second, third] = [(); 3].map(|()| Part::of(&database));
    assert!(matches!(first.token_turn(0), Turn::Fetch));
    assert!(matches!(second.token_turn(0), Turn::Wait(_)));
    turn_back(&database, "3 days");

    assert!(matches!(second.token_turn(0), Turn::Fetch));
    assert!(matches!(third.token_turn(0), Turn::Wait(_)), "two have the turn");
}

#[test]
fn a_run_is_whole_and_within_its_limit_whatever_the_machines_own_clock_does() {
    let folder = Folder::new("clock");
    let clock = MachineClock::new(folder.as_path());
    if let Some(clock) = &clock {
        jump_about(clock);
    }
}

fn jump_about(clock: &MachineClock) {
    const DAY: i64 = 86_400;
    let window = Duration::from_millis(700);
    for hint in [Hint::Date, Hint::XEpoch] {
        let database = Database::create();
        let limited = Settings { rate_limit: Some((12, window)), hint, ..Settings::fast(26) };
        let server = mock_api::start(limited).unwrap();
        let mut running = clock.given_to(Program::sync(&server, &database)).timeout(PATIENCE).spawn();
        let mut jumps = [90 * DAY, -90 * DAY, 600, -3_700, -2 * DAY, 0].into_iter().cycle();
        eventually(PATIENCE, "the run ends", || {
            clock.set(jumps.next().unwrap());
            !running.is_running()
        });
        let outcome = running.wait().expect_code(0);
        assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (26, 0), "{outcome}");
        let ledger = server.ledger();
        assert!(ledger.syncs_done().values().all(|times| *times == 1));
        let sent: Vec<Duration> =
            ledger.requests.iter().filter(|seen| seen.counted).map(|seen| seen.at).collect();
        assert!(most_in_window(&sent, window) <= 12);
        // One burst meets the limit that nobody told, and finds it.
        assert!(ledger.refused <= 16, "{} refusals\n{outcome}", ledger.refused);
    }
}
