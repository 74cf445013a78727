//! The grants that the documentation names are enough, and a missing one is said with its table.

use mock_api::{EMAIL, PASSWORD, Server, Settings};

use crate::support::{Database, Program};

/// A role that may log in and has only the documented grants; the URL to be it.
fn restricted(database: &Database, role: &str) -> String {
    role_of(database, "syncer", role)
}

/// The same for another of the README's roles.
fn role_of(database: &Database, granted: &str, role: &str) -> String {
    let (rest, name) = database.url().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let role = format!("{role}_{name}");
    let grants: Vec<&str> = include_str!("../../src/docs/database.md")
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("GRANT ") && line.ends_with(&format!(" TO {granted};")))
        .collect();
    assert!(grants.len() >= 3, "{grants:?}");
    let grants = grants.join("\n").replace(&format!("TO {granted};"), &format!("TO {role};"));
    database.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'syncers-own'; {grants}"));
    let host = rest.rsplit_once('@').unwrap().1;
    format!("postgres://{role}:syncers-own@{host}/{name}")
}

fn run(server: &Server, url: &str, arguments: &[&str]) -> crate::support::Outcome {
    Program::new(arguments).api(&server.url(), EMAIL, PASSWORD).database(url).run()
}

fn migrated() -> (Server, Database) {
    let mut settings = Settings::faithful(600.0);
    settings.faults.refused_every = 20;
    let (server, database) = (mock_api::start(settings).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    (server, database)
}

#[test]
fn the_documented_grants_are_enough_to_sync_retry_and_look() {
    let (server, database) = migrated();
    let url = restricted(&database, "enough");
    run(&server, &url, &["sync", "--no-migrate"]).expect_code(3);
    // Without anything to migrate, that it may not does no harm.
    run(&server, &url, &["sync"]).expect_code(3);
    run(&server, &url, &["retry"]).expect_code(3);
    let status = run(&server, &url, &["status"]).expect_code(0);
    assert!(status.stdout.contains("0 of 5 synced, 5 failed"), "{status}");
    run(&server, &url, &["check"]).expect_code(0);
}

#[test]
fn a_role_with_one_connection_is_warned_of_at_most_once() {
    let (server, database) = (mock_api::start(Settings::fast(40)).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    let url = restricted(&database, "one");
    let role = url.split("//").nth(1).unwrap().split(':').next().unwrap();
    database.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 1"));
    let outcome = run(&server, &url, &["sync", "--no-migrate", "--workers", "1"]).expect_code(0);
    let warnings: Vec<_> = outcome.stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.len() <= 1, "{outcome}");
    assert!(warnings.iter().all(|line| line.contains("CONNECTION LIMIT")), "{outcome}");
    assert_eq!(database.count("campaigns"), 40);
}

#[test]
fn a_missing_grant_is_a_matter_of_configuration_and_names_the_table() {
    let (server, database) = migrated();
    let url = restricted(&database, "missing");
    let role = url.split("//").nth(1).unwrap().split(':').next().unwrap();
    for table in
        ["campaigns", "sync_runs", "workers", "sync_tasks", "dead_letters", "quotas", "access_tokens"]
    {
        database.execute(&format!("REVOKE INSERT, UPDATE ON {table} FROM {role}"));
        let outcome = run(&server, &url, &["sync", "--no-migrate"]).expect_code(2);
        let said = outcome.stderr.lines().last().unwrap();
        assert!(said.contains(table) && said.contains("permission denied"), "{table}: {outcome}");
        let outcome = run(&server, &url, &["check"]).expect_code(2);
        let cure = format!("GRANT INSERT, UPDATE ON campaign_sync.{table} TO {role}");
        assert!(outcome.stderr.contains(&cure), "{outcome}");
        database.execute(&format!("GRANT INSERT, UPDATE ON {table} TO {role}"));
    }
}

#[test]
fn a_role_that_only_reads_sees_every_table_and_view_but_no_token_and_changes_nothing() {
    let (server, database) = migrated();
    Program::sync(&server, &database).run().expect_code(3);
    let url = role_of(&database, "analyst", "reads");
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    let relations: Vec<String> = database.column(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'campaign_sync' AND c.relkind IN ('r', 'v')",
    );
    assert!(relations.len() >= 13, "{relations:?}");
    for relation in &relations {
        let read = client.query(&format!("SELECT * FROM campaign_sync.{relation}"), &[]);
        let secret = ["access_tokens", "schema_migrations"].contains(&relation.as_str());
        assert_eq!(read.is_err(), secret, "{relation}: {read:?}");
        let delete = client.execute(&format!("DELETE FROM campaign_sync.{relation}"), &[]);
        assert!(delete.is_err(), "{relation}");
    }
}
