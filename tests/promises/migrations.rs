//! The schema: brought up to date by anybody, at any time, and never by a binary that does not know it.

use mock_api::{EMAIL, PASSWORD, Settings};

use crate::support::{Database, Program};

/// The schema of the first release.
const FIRST: &str = include_str!("../../sql/migrations/0001_first.sql");

/// How many there are.
const MIGRATIONS: i32 = 7;

fn migrate(database: &Database) -> Program {
    Program::new(&["migrate"]).database(&database.url())
}

#[test]
fn ten_processes_migrate_at_once_and_one_of_them_does_it() {
    let database = Database::create();
    let ten = [(); 10].map(|()| migrate(&database).spawn());
    let applied = ten.map(|running| running.wait().expect_code(0).stdout.contains("migration(s) applied"));
    assert_eq!(applied.iter().filter(|applied| **applied).count(), 1, "{applied:?}");
    let versions: Vec<i32> = (1..=MIGRATIONS).collect();
    assert_eq!(database.column::<i32>("SELECT version FROM schema_migrations ORDER BY 1"), versions);
}

#[test]
fn a_database_of_the_first_schema_is_brought_up_to_date_with_all_that_is_in_it() {
    let database = Database::create();
    database.execute(FIRST);
    database.execute(
        "CREATE TABLE schema_migrations (version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
                                         applied_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO sync_runs (account, state, lists, listing_done, page_size, listed, synced, started_at, finished_at,
                                binary_version)
         SELECT 'default', 'complete', true, true, 10, 3, 3, now() - interval '2 hours', now() - interval '1 hour', '0.1.0'
         FROM generate_series(1, 3);
         INSERT INTO workers (account, run_id, host, pid) VALUES ('default', 3, 'gone', 1)",
    );
    let first = "INSERT INTO schema_migrations (version, name, checksum) SELECT 1, 'first', encode(sha256($1), 'hex')";
    database.connect().execute(first, &[&FIRST.as_bytes()]).unwrap();
    let outcome = migrate(&database).run().expect_code(0);
    assert!(outcome.stdout.contains(&format!("{} migration", MIGRATIONS - 1)), "{outcome}");
    assert_eq!(
        (database.count("sync_runs WHERE synced = 3 AND samples = '[]'"), database.count("workers")),
        (3, 1)
    );
    let page = Program::new(&["report", "--html", "-"]).database(&database.url()).run().expect_code(0);
    assert!(page.stdout.contains("1 h 0 min"), "{page}");
    let server = mock_api::start(Settings::fast(5)).unwrap();
    Program::sync(&server, &database).run().expect_code(0);
    assert_eq!(database.count("sync_runs WHERE state = 'complete'"), 4);
}

#[test]
fn a_newer_or_a_changed_schema_is_refused() {
    let database = Database::create();
    migrate(&database).run().expect_code(0);
    database.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (999, 'future', 'x')");
    let outcome = migrate(&database).run().expect_code(2);
    assert!(outcome.stderr.contains("999") && outcome.stderr.contains("newer"), "{outcome}");
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let sync = Program::new(&["sync"]).api(&server.url(), EMAIL, PASSWORD).database(&database.url());
    sync.run().expect_code(2);
    assert_eq!(server.ledger().total, 0, "it was refused before anything was asked");
    database.execute(
        "DELETE FROM schema_migrations WHERE version = 999; UPDATE schema_migrations SET checksum = 'x'",
    );
    migrate(&database).run().expect_code(2);
}

#[test]
fn without_a_schema_and_without_leave_to_make_it_the_way_out_is_named() {
    let database = Database::create();
    let program = Program::new(&["sync", "--no-migrate"]).api("http://127.0.0.1:1", EMAIL, PASSWORD);
    let outcome = program.database(&database.url()).run().expect_code(2);
    assert!(outcome.stderr.contains("campaign-sync migrate"), "{outcome}");
}
