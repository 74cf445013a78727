//! A Postgres that is distributed by account: its tables are laid out by `migrate --distributed`, and the whole job runs on it.

use mock_api::{EMAIL, PASSWORD, Server, Settings};
use postgres::{Client, NoTls};

use crate::support::{Database, Outcome, PATIENCE, Program, eventually};

/// What the extension has, as far as it is called: each call is written down in the order of its coming.
const STUB: &str = "
    SET allow_system_table_mods = on;
    INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    VALUES (99999, 'citus', 10, 'pg_catalog'::regnamespace, false, '13.2');
    CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod char);
    CREATE TABLE public.calls (number serial, name text, relation text, by text, beside text);
    CREATE FUNCTION pg_catalog.create_distributed_table(relation regclass, by text, colocate_with text DEFAULT 'default')
    RETURNS void LANGUAGE sql SET search_path = public AS $$
        INSERT INTO pg_catalog.pg_dist_partition VALUES (relation, 'h');
        INSERT INTO calls (name, relation, by, beside) VALUES ('distributed', relation::text, by, colocate_with);
    $$;
    CREATE FUNCTION pg_catalog.create_reference_table(relation regclass) RETURNS void LANGUAGE sql SET search_path = public AS $$
        INSERT INTO pg_catalog.pg_dist_partition VALUES (relation, 'n');
        INSERT INTO calls (name, relation) VALUES ('reference', relation::text);
    $$";

fn migrate(database: &Database, flags: &[&str]) -> Program {
    Program::new(&["migrate"]).args(flags).database(&database.url())
}

/// The calls so far, a line each.
fn calls(database: &Database) -> Vec<String> {
    database.column("SELECT concat_ws(' ', name, relation, by, beside) FROM public.calls ORDER BY number")
}

#[test]
fn without_the_extension_nothing_is_done_and_one_line_says_so() {
    let database = Database::create();
    let outcome = migrate(&database, &["--distributed"]).run().expect_code(2);
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    for word in ["CREATE EXTENSION citus", database.name(), "--distributed"] {
        assert!(outcome.stderr.contains(word), "{word}: {outcome}");
    }
    assert_eq!(database.count("pg_class WHERE relname = 'campaigns'"), 0, "nothing was created");
}

#[test]
fn every_table_is_distributed_by_account_beside_the_others_and_once() {
    for schema in ["campaign_sync", "Ad-spend"] {
        let database = Database::create();
        database.execute(STUB);
        let flags = ["--distributed", "--schema", schema];
        let outcome = migrate(&database, &flags).run().expect_code(0);
        assert!(outcome.stdout.contains("9 table(s) distributed by account"), "{outcome}");
        let quoted = if schema == "Ad-spend" { "\"Ad-spend\"" } else { schema };
        let named = if schema == "Ad-spend" { quoted } else { "campaign_sync" };
        let (first, others) = (&calls(&database)[0], &calls(&database)[1..8]);
        assert_eq!(*first, format!("distributed {quoted}.campaigns account none"));
        for call in others {
            assert!(call.starts_with(&format!("distributed {quoted}.")), "{call}");
            assert!(call.ends_with(&format!(" account {named}.campaigns")), "{call}");
        }
        assert_eq!(calls(&database)[8..], [format!("reference {quoted}.schema_migrations")]);
        let columns = format!(
            "pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relkind = 'r' AND a.attname = 'account'
             AND c.relnamespace = '{quoted}'::regnamespace"
        );
        assert_eq!(database.count(&columns), 8, "no table with accounts was forgotten");
        let again = migrate(&database, &flags).run().expect_code(0);
        assert!(again.stdout.contains("every table is distributed already"), "{again}");
        assert_eq!(calls(&database).len(), 9);
    }
}

#[test]
fn what_was_cut_short_or_came_with_a_migration_is_distributed_too() {
    let database = Database::create();
    database.execute(STUB);
    migrate(&database, &["--distributed"]).run().expect_code(0);
    // As if the last migration, with the table that it brought, came only now.
    database.execute(
        "DELETE FROM pg_dist_partition WHERE logicalrelid = 'campaign_changes'::regclass;
         DROP TABLE campaign_changes CASCADE;
         DROP VIEW campaigns_current, account_freshness, run_history, dead_letters_by_cause;
         ALTER TABLE campaigns DROP COLUMN changed_at; ALTER TABLE sync_runs DROP COLUMN keeps_history;
         DELETE FROM schema_migrations WHERE version >= 7; DELETE FROM public.calls",
    );
    let outcome = migrate(&database, &[]).run().expect_code(0);
    assert!(outcome.stdout.contains("migration(s) applied"), "{outcome}");
    assert_eq!(
        calls(&database),
        ["distributed campaign_sync.campaign_changes account campaign_sync.campaigns"]
    );
}

#[test]
fn an_installation_that_is_not_distributed_stays_so() {
    let database = Database::create();
    database.execute(STUB);
    migrate(&database, &[]).run().expect_code(0);
    assert_eq!(calls(&database), [""; 0]);
}

#[test]
fn a_table_that_is_distributed_otherwise_is_named() {
    let database = Database::create();
    database.execute(STUB);
    migrate(&database, &[]).run().expect_code(0);
    database.execute("INSERT INTO pg_dist_partition VALUES ('campaign_sync.workers'::regclass, 'n')");
    let outcome = migrate(&database, &["--distributed"]).run().expect_code(2);
    assert!(outcome.stderr.contains("table workers") && outcome.stderr.contains("by account"), "{outcome}");
}

/// A schema of its own in a cluster's database.
struct Installation {
    url: String,
    schema: String,
}

impl Installation {
    fn run(&self, server: &Server, command: &[&str]) -> Program {
        let program = Program::new(command).args(&["--schema", &self.schema]).database(&self.url);
        if command[0] == "sync" || command[0] == "retry" {
            return program.api(&server.url(), EMAIL, PASSWORD);
        }
        program
    }

    fn done(&self, server: &Server, command: &[&str], code: i32) -> Outcome {
        self.run(server, command).timeout(2 * PATIENCE).run().expect_code(code)
    }

    fn count(&self, table: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {}.{table}", self.schema);
        Client::connect(&self.url, NoTls).unwrap().query_one(&count, &[]).unwrap().get(0)
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.url, NoTls) {
            let _ = client.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema));
        }
    }
}

/// `CAMPAIGN_SYNC_TEST_CITUS` is the address of a database that has the extension, on the coordinator.
#[test]
fn the_whole_job_runs_on_a_cluster() {
    let Ok(url) = std::env::var("CAMPAIGN_SYNC_TEST_CITUS") else {
        eprintln!("skipped: CAMPAIGN_SYNC_TEST_CITUS names no cluster");
        return;
    };
    let cluster = Installation { url, schema: format!("campaign_sync_test_{}", std::process::id()) };
    let server = mock_api::start(Settings::fast(200)).unwrap();
    cluster.done(&server, &["migrate", "--distributed"], 0);
    cluster.done(&server, &["migrate", "--distributed"], 0);
    // Killed, and resumed.
    server.change(|settings| settings.sync_latency = std::time::Duration::from_millis(50));
    let running = cluster.run(&server, &["sync", "--workers", "4"]).spawn();
    eventually(PATIENCE, "some syncs", || server.ledger().syncs >= 40);
    running.kill();
    server.change(|settings| settings.faults.refused_every = 10);
    cluster.done(&server, &["sync"], 3);
    let failed = cluster.count("dead_letters");
    assert!(failed > 0 && cluster.count("campaigns") + failed == 200, "{failed} failed");
    // Failed campaigns, and their retry.
    server.change(|settings| settings.faults.refused_every = 0);
    cluster.done(&server, &["retry"], 0);
    assert_eq!(
        (cluster.count("campaigns"), cluster.count("dead_letters"), cluster.count("sync_tasks")),
        (200, 0, 0)
    );
    // Campaigns that are gone.
    server.change(|settings| settings.campaigns = 190);
    cluster.done(&server, &["sync"], 0);
    assert_eq!(cluster.count("campaigns WHERE removed_at IS NOT NULL"), 10);
    assert_eq!(cluster.count("workers"), 0);
    let status = cluster.done(&server, &["status", "--json"], 0);
    assert_eq!(status.json()[0]["pending"], 0, "{status}");
    let report = cluster.done(&server, &["report", "--html", "-"], 0);
    assert!(report.stdout.contains("<html"), "{report}");
}
