//! What changed in a campaign is kept: when, in which run, from what to what; and nothing where nothing changed.

use std::time::{Duration, SystemTime};

use campaign_sync::platform::Campaign;
use campaign_sync::store::closing::{self, Closing};
use campaign_sync::store::process::{self, Process};
use campaign_sync::store::queue::{self, NewTask, Pages};
use campaign_sync::store::runs::Opening;
use campaign_sync::store::{Client, join, leases};
use mock_api::Settings;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Database, Program};

const ACCOUNT: &str = "default";

/// How many changes of each kind a run has written down.
fn changes(database: &Database, run: i64) -> Vec<String> {
    database.column(&format!(
        "SELECT what || ' ' || count(*) FROM campaign_changes WHERE run_id = {run} GROUP BY what ORDER BY what"
    ))
}

/// Campaigns that differ from what their changes make of them, replayed from the start; and the other way round.
const UNLIKE_THEIR_HISTORY: &str = "
    WITH RECURSIVE steps AS (
        SELECT c.*, row_number() OVER (PARTITION BY account, id ORDER BY change_id) AS step FROM campaign_changes c
    ), replayed AS (
        SELECT account, id, step, new AS state, NULL::timestamptz AS removed_at, changed_at FROM steps
        WHERE step = 1 AND what = 'added' AND old IS NULL
        UNION ALL
        SELECT s.account, s.id, s.step, r.state || coalesce(s.new, '{}'),
               CASE WHEN s.what = 'removed' THEN s.changed_at END, s.changed_at
        FROM replayed r JOIN steps s ON s.account = r.account AND s.id = r.id AND s.step = r.step + 1
        -- What was there before is what the change says.
        WHERE r.state @> coalesce(s.old, '{}') AND s.what <> 'added' AND (s.what = 'returned') = (r.removed_at IS NOT NULL)
    ), last AS (
        SELECT DISTINCT ON (account, id) * FROM replayed ORDER BY account, id, step DESC
    )
    SELECT count(*)
    FROM campaigns c FULL JOIN last l ON l.account = c.account AND l.id = c.id
    WHERE (c.id, c.name, c.status, c.budget, c.impressions, c.clicks, c.conversions, c.created_at, c.extra, c.removed_at,
           c.changed_at)
          IS DISTINCT FROM
          (l.id, l.state ->> 'name', l.state ->> 'status', (l.state ->> 'budget')::numeric, (l.state ->> 'impressions')::bigint,
           (l.state ->> 'clicks')::bigint, (l.state ->> 'conversions')::bigint, (l.state ->> 'created_at')::timestamptz,
           l.state -> 'extra', l.removed_at, l.changed_at)
       OR l.step <> (SELECT count(*) FROM campaign_changes k WHERE k.account = l.account AND k.id = l.id)";

#[test]
fn each_change_is_written_down_with_its_run_and_nothing_where_nothing_changed() {
    let (server, database) = (mock_api::start(Settings::fast(30)).unwrap(), Database::create());
    let sync = || Program::sync(&server, &database).arg("--max-removed").arg("100").run().expect_code(0);
    sync();
    assert_eq!(changes(&database, 1), ["added 30"]);
    let before: Vec<SystemTime> = database.column("SELECT changed_at FROM campaigns ORDER BY id");
    sync();
    assert_eq!((changes(&database, 2), database.count("campaigns WHERE run_id = 2")), (vec![], 30));
    let after: Vec<SystemTime> = database.column("SELECT changed_at FROM campaigns ORDER BY id");
    assert_eq!(before, after, "only synced_at is newer");
    server.change(|settings| settings.revision = 1);
    sync();
    assert_eq!(changes(&database, 3), ["changed 30"]);
    let told = "campaign_changes h JOIN campaigns c USING (account, id)
        WHERE h.run_id = 3 AND h.changed_at = c.changed_at AND h.new ->> 'name' = c.name AND h.old ->> 'name' || ', revision 1' = c.name
          AND (h.new -> 'budget' IS NULL OR h.new ->> 'budget' = c.budget::text AND h.old ->> 'budget' <> c.budget::text)";
    assert_eq!((database.count(told), database.count("campaign_changes WHERE new = old")), (30, 0));
    server.change(|settings| settings.campaigns = 28);
    sync();
    assert_eq!(changes(&database, 4), ["removed 2"]);
    assert_eq!(database.count("campaigns WHERE removed_at = changed_at"), 2);
    server.change(|settings| settings.campaigns = 30);
    sync();
    assert_eq!(changes(&database, 5), ["returned 2"]);
    assert_eq!(database.value::<i64>(UNLIKE_THEIR_HISTORY), 0);
}

#[test]
fn what_changed_is_kept_as_long_as_wanted_and_not_at_all_if_not() {
    let (server, database) = (mock_api::start(Settings::fast(10)).unwrap(), Database::create());
    let sync =
        |kept: &str| Program::sync(&server, &database).arg("--keep-history").arg(kept).run().expect_code(0);
    sync("0");
    assert_eq!((database.count("campaigns"), database.count("campaign_changes")), (10, 0));
    database.execute(
        "INSERT INTO campaign_changes (account, id, changed_at, run_id, what)
         SELECT account, 'gone', now() - age, 1, 'removed'
         FROM unnest(ARRAY['default', 'other']) AS a (account),
              unnest(ARRAY[interval '401 days', interval '399 days', interval '2 days']) AS b (age), generate_series(1, 10500)
         ORDER BY age DESC",
    );
    server.change(|settings| settings.revision = 1);
    sync("0");
    assert_eq!(database.count("campaign_changes"), 63_000, "off: nothing is written, nothing deleted");
    sync("400d");
    let left = |account: &str, age: &str| {
        database.count(&format!(
            "campaign_changes WHERE account = '{account}' AND run_id = 1 AND changed_at < now() - interval '{age}'"
        ))
    };
    assert_eq!(
        (left("default", "400 days"), left("default", "1 day"), left("other", "400 days")),
        (0, 21_000, 10_500)
    );
    sync("48h");
    assert_eq!((left("default", "1 day"), left("other", "1 day")), (0, 31_500));
    server.change(|settings| settings.revision = 2);
    sync("400d");
    assert_eq!(database.count("campaign_changes WHERE account = 'default' AND what = 'changed'"), 10);
}

/// One listing: the campaigns that it shows, with their values, and whether each is finished when its page is committed.
type Listing = Vec<(u8, Campaign, bool)>;

fn campaign() -> impl Strategy<Value = Campaign> {
    let count = || prop_oneof![Just(0), Just(i64::MAX), 0..3i64];
    let budget = prop_oneof![Just("0"), Just("1.50"), Just("1.5"), Just("99999999999999999999.000000001")];
    let extra = prop_oneof![
        Just("{}"),
        Just(r#"{"a":null}"#),
        Just(r#"{"a":null,"b":[{"c":null}]}"#),
        Just(r#"{"a":1}"#)
    ];
    let text = prop_oneof![Just("a"), Just("b'\"\\ü\n"), Just("")];
    (text.clone(), text, budget, [count(), count(), count()], 0..2u64, extra).prop_map(
        |(name, status, budget, [impressions, clicks, conversions], created, extra)| Campaign {
            id: String::new(),
            name: name.into(),
            status: status.into(),
            budget: budget.into(),
            impressions,
            clicks,
            conversions,
            created_at: SystemTime::UNIX_EPOCH + Duration::from_micros(created),
            extra: extra.into(),
        },
    )
}

fn listing() -> impl Strategy<Value = Listing> {
    prop::collection::btree_map(0..4u8, (campaign(), any::<bool>()), 0..4).prop_map(|campaigns| {
        let named = |(n, (campaign, early)): (u8, (Campaign, bool))| {
            (n, Campaign { id: format!("c{n}"), ..campaign }, early)
        };
        campaigns.into_iter().map(named).collect()
    })
}

fn run(client: &mut Client, listing: &Listing) {
    let opening = Opening {
        page_size: 100,
        max_age: Duration::from_secs(86_400),
        fresh: false,
        lists: true,
        keeps_history: true,
    };
    let (run, _) = join::open(client, ACCOUNT, &opening).unwrap();
    let (worker, run_id) = (process::new_worker_id(), run.run_id);
    let process = Process { host: "host".into(), pid: 1, ..Process::default() };
    leases::register(client, ACCOUNT, run_id, worker, &process).unwrap();
    leases::take_listing(client, ACCOUNT, run_id, worker).unwrap();
    let (early, late): (Vec<_>, Vec<_>) = listing.iter().partition(|(_, _, early)| *early);
    let task = |(n, campaign, _): &&(u8, Campaign, bool)| (i64::from(*n), campaign.id.clone());
    let ids: Vec<(i64, String)> = late.iter().map(task).collect();
    let pages = Pages {
        from_page: 1,
        next_page: 2,
        page_size: 100,
        last: true,
        tasks: ids.iter().map(|(seq, id)| NewTask { id, seq: *seq, payload: "{}", held: true }).collect(),
        finished: early.iter().map(|(_, campaign, _)| campaign).collect(),
        ..Pages::default()
    };
    queue::add_pages(client, ACCOUNT, run_id, worker, &pages).unwrap().expect("it lists");
    let finished: Vec<(i32, &Campaign)> = late.iter().map(|(_, campaign, _)| (1, campaign)).collect();
    assert_eq!(
        queue::complete(client, ACCOUNT, worker, &finished).unwrap(),
        i64::try_from(finished.len()).ok()
    );
    let closing = closing::close(client, ACCOUNT, run_id, 100).unwrap();
    assert!(matches!(closing, Closing::Closed(None)), "{closing:?}");
}

#[test]
fn replaying_what_changed_from_the_start_gives_the_campaigns_exactly() {
    let database = Database::create();
    drop(database.store());
    let client = std::cell::RefCell::new(database.connect());
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&prop::collection::vec(listing(), 1..6), |listings| {
        let client = &mut *client.borrow_mut();
        client.batch_execute("TRUNCATE campaigns, campaign_changes, sync_runs, workers, sync_tasks").unwrap();
        for listing in &listings {
            run(client, listing);
            let unlike: i64 = client.query_typed_one(UNLIKE_THEIR_HISTORY, &[]).unwrap().get(0);
            prop_assert_eq!(unlike, 0);
            let empty =
                "SELECT count(*) FROM campaign_changes WHERE what = 'changed' AND (old = '{}' OR new = '{}')";
            prop_assert_eq!(client.query_typed_one(empty, &[]).unwrap().get::<_, i64>(0), 0);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
