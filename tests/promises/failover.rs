//! The database moves to another server in the middle of a run: the run goes on there within seconds.

use std::time::{Duration, Instant};

use mock_api::{EMAIL, PASSWORD, Server, Settings};
use postgres::{Client, NoTls};

use crate::pooler::Bouncer;
use crate::support::{Cluster, Database, PATIENCE, Program, Running, eventually};

const CAMPAIGNS: u32 = 200;

/// A primary with its streaming standby, and a database that both have.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    database: Database,
}

impl Pair {
    fn new() -> Self {
        let primary = Cluster::new();
        let database = Database::create_in(&primary);
        let standby = Cluster::with_options(&["--standby-of", primary.url()]);
        let pair = Self { primary, standby, database };
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        eventually(PATIENCE, "the standby follows", || {
            pair.on_primary().query_one(streaming, &[]).unwrap().get::<_, i64>(0) == 1
        });
        pair
    }

    fn on_primary(&self) -> Client {
        Client::connect(self.primary.url(), NoTls).unwrap()
    }

    fn on_standby(&self) -> Client {
        Client::connect(self.standby.url(), NoTls).unwrap()
    }

    /// The address of both, for whoever wants the one that takes writes.
    fn url(&self) -> String {
        let url = self.database.url();
        let (front, name) = url.rsplit_once('/').unwrap();
        let (_, second) = self.standby.url().split_once('@').unwrap();
        let (second, _) = second.split_once('/').unwrap();
        format!("{front},{second}/{name}?target_session_attrs=read-write")
    }

    fn promote(&self) {
        let promoted = self.on_standby().query_one("SELECT pg_promote()", &[]).unwrap();
        assert!(promoted.get::<_, bool>(0), "promoted");
    }

    /// The database's address on the standby.
    fn standby_url(&self) -> String {
        let (server, _) = self.standby.url().rsplit_once('/').unwrap();
        format!("{server}/{}", self.database.name())
    }

    /// What the promoted server has.
    fn promoted(&self) -> Client {
        Client::connect(&self.standby_url(), NoTls).unwrap()
    }

    /// The primary is gone, and the standby takes its place.
    fn fail_over(&mut self) -> Instant {
        let crashed = Instant::now();
        self.primary.crash();
        self.promote();
        crashed
    }

    /// Rows are stored again.
    fn assert_goes_on(&self, crashed: Instant) {
        let mut client = self.promoted();
        let mut rows = || {
            client.query_one("SELECT count(*) FROM campaign_sync.campaigns", &[]).unwrap().get::<_, i64>(0)
        };
        let before = rows();
        eventually(PATIENCE, "rows are stored", || rows() > before);
        println!("the next row {:.1} s after the crash", crashed.elapsed().as_secs_f64());
    }

    fn assert_whole(&self) {
        let mut client = self.promoted();
        let mut count = |table: &str| {
            client.query_one(&format!("SELECT count(*) FROM campaign_sync.{table}"), &[]).unwrap().get(0)
        };
        let counts: [i64; 3] = ["campaigns", "sync_tasks", "dead_letters"].map(&mut count);
        assert_eq!(counts, [i64::from(CAMPAIGNS), 0, 0]);
    }
}

fn platform() -> Server {
    let latency = Duration::from_millis(200);
    mock_api::start(Settings { sync_latency: latency, ..Settings::fast(CAMPAIGNS) }).unwrap()
}

fn sync(server: &Server, database: &str) -> Running {
    let program = Program::new(&["sync", "--workers", "4", "--give-up-after", "60s"]);
    program.api(&server.url(), EMAIL, PASSWORD).database(database).timeout(2 * PATIENCE).spawn()
}

#[test]
fn a_server_that_is_demoted_in_place_is_left_for_the_one_that_takes_writes() {
    let (server, pair) = (platform(), Pair::new());
    let running = sync(&server, &pair.url());
    eventually(PATIENCE, "some syncs", || server.ledger().syncs >= 40);
    // Its connections stay, and answer.
    let mut primary = pair.on_primary();
    primary.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").unwrap();
    primary.batch_execute("SELECT pg_reload_conf()").unwrap();
    pair.promote();
    running.wait().expect_code(0);
    pair.assert_whole();
}

fn a_crash_is_survived(synchronous: bool) {
    let (server, mut pair) = (platform(), Pair::new());
    if synchronous {
        let mut primary = pair.on_primary();
        primary.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
        primary.batch_execute("SELECT pg_reload_conf()").unwrap();
        let synced = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        eventually(PATIENCE, "the standby is synchronous", || {
            primary.query_one(synced, &[]).unwrap().get::<_, i64>(0) == 1
        });
    }
    let running = sync(&server, &pair.url());
    eventually(PATIENCE, "some syncs", || server.ledger().syncs >= 40);
    let crashed = pair.fail_over();
    pair.assert_goes_on(crashed);
    running.wait().expect_code(0);
    pair.assert_whole();
    let ledger = server.ledger();
    let syncs = ledger.syncs_done();
    assert!(!synchronous || syncs.values().all(|times| *times <= 2), "{syncs:?}");
}

#[test]
fn a_primary_that_crashes_is_replaced_by_its_synchronous_standby_and_nothing_is_lost() {
    a_crash_is_survived(true);
}

#[test]
fn a_primary_that_crashes_is_replaced_by_its_asynchronous_standby() {
    a_crash_is_survived(false);
}

#[test]
fn a_run_goes_on_behind_a_pooler_that_is_led_to_the_promoted_standby() {
    let (server, mut pair) = (platform(), Pair::new());
    let Some(bouncer) = Bouncer::before(&pair.database.url()) else { return };
    let running = sync(&server, &bouncer.url());
    eventually(PATIENCE, "some syncs", || server.ledger().syncs >= 40);
    let crashed = pair.fail_over();
    bouncer.lead_to(&pair.standby_url());
    pair.assert_goes_on(crashed);
    running.wait().expect_code(0);
    pair.assert_whole();
}
