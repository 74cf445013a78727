//! The tables are in a schema of their own: whatever else is in the database is neither used, nor trusted, nor touched.

use mock_api::{EMAIL, PASSWORD, Server, Settings};

use crate::support::impostor::Impostor;
use crate::support::{Database, Outcome, Program};

fn server() -> Server {
    let mut settings = Settings::fast(20);
    settings.faults.refused_every = 10;
    mock_api::start(settings).unwrap()
}

fn run(server: &Server, url: &str, arguments: &[&str]) -> Outcome {
    Program::new(arguments).api(&server.url(), EMAIL, PASSWORD).database(url).run()
}

/// The URL to be another role, which may log in.
fn as_role(database: &Database, role: &str) -> (String, String) {
    let role = format!("{role}_{}", database.name());
    database.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'its-own'"));
    let host = database.url().rsplit_once('@').unwrap().1.to_owned();
    (format!("postgres://{role}:its-own@{host}"), role)
}

/// How many tables a schema has.
fn tables(database: &Database, schema: &str) -> i64 {
    database.count(&format!("pg_tables WHERE schemaname = '{schema}'"))
}

fn migrate_as_before(database: &Database) {
    Program::new(&["migrate", "--schema", "public"]).database(&database.url()).run().expect_code(0);
}

#[test]
fn a_new_installation_is_in_a_schema_of_its_own_and_no_search_path_leads_elsewhere() {
    let (server, database) = (server(), Database::create());
    // What a search_path would find first, were it asked.
    database.execute(&format!(
        "CREATE SCHEMA decoy;
         CREATE TABLE decoy.sync_runs (nothing int); CREATE TABLE decoy.sync_tasks (nothing int);
         CREATE TABLE decoy.dead_letters (nothing int); CREATE TABLE decoy.workers (nothing int);
         ALTER DATABASE {} SET search_path = decoy, public",
        database.name()
    ));
    run(&server, &database.url(), &["sync"]).expect_code(3);
    run(&server, &database.url(), &["status"]).expect_code(0);
    run(&server, &database.url(), &["check"]).expect_code(0);
    assert_eq!(database.count("campaign_sync.campaigns"), 18);
    assert_eq!((tables(&database, "public"), tables(&database, "decoy")), (0, 4));
}

#[test]
fn every_command_works_in_a_schema_of_any_name() {
    let (server, database) = (server(), Database::create());
    for (name, table) in [("Ads-1", "\"Ads-1\".campaigns"), ("select", "\"select\".campaigns")] {
        let with = |command: &[&str]| {
            let program = Program::new(command).api(&server.url(), EMAIL, PASSWORD);
            program.database(&database.url()).env("CAMPAIGN_SYNC_SCHEMA", name).run()
        };
        with(&["migrate"]).expect_code(0);
        with(&["sync"]).expect_code(3);
        assert!(with(&["status"]).expect_code(0).stdout.contains("18 of 20 synced"), "{name}");
        with(&["retry"]).expect_code(3);
        with(&["check"]).expect_code(0);
        assert!(with(&["report", "--html", "-"]).expect_code(0).stdout.contains("campaign_10"), "{name}");
        assert_eq!(database.count(table), 18);
    }
    assert_eq!((tables(&database, "public"), tables(&database, "campaign_sync")), (0, 0));
}

#[test]
fn an_installation_in_public_is_found_and_kept() {
    let (server, database) = (server(), Database::create());
    migrate_as_before(&database);
    for command in ["migrate", "check", "status"] {
        run(&server, &database.url(), &[command]).expect_code(0);
    }
    run(&server, &database.url(), &["sync"]).expect_code(3);
    assert_eq!(database.count("public.campaigns"), 18);
    assert_eq!(database.count("pg_namespace WHERE nspname = 'campaign_sync'"), 0);
    // The same where a search_path had it made somewhere else.
    let other = Database::create();
    other.execute("CREATE SCHEMA ads");
    let there = other.url() + "?options=-csearch_path%3Dads";
    run(&server, &there, &["sync"]).expect_code(3);
    run(&server, &there, &["sync"]).expect_code(3);
    assert_eq!((other.count("ads.campaigns"), tables(&other, "campaign_sync")), (18, 0));
}

#[test]
fn a_campaigns_table_of_another_program_is_named_with_its_owner_and_the_cure_and_left_alone() {
    let (server, database) = (server(), Database::create());
    let (_, owner) = as_role(&database, "marketing");
    database.execute(&format!(
        "CREATE TABLE campaigns (id serial PRIMARY KEY, title text); ALTER TABLE campaigns OWNER TO {owner}"
    ));
    for command in ["check", "migrate", "sync"] {
        let outcome = run(&server, &database.url(), &[command]).expect_code(2);
        for said in ["public.campaigns", &owner, "another program", "--schema campaign_sync"] {
            assert!(outcome.stderr.contains(said), "{command}, {said}: {outcome}");
        }
    }
    assert_eq!(server.ledger().syncs, 0);
    // Said once, it is settled.
    run(&server, &database.url(), &["sync", "--schema", "campaign_sync"]).expect_code(3);
    run(&server, &database.url(), &["status"]).expect_code(0);
    assert_eq!((database.count("campaign_sync.campaigns"), database.count("public.campaigns")), (18, 0));
}

#[test]
fn the_schema_migrations_of_another_program_are_named_and_left_alone() {
    let (server, database) = (server(), Database::create());
    database.execute(
        "CREATE TABLE public.schema_migrations (version varchar PRIMARY KEY);
         INSERT INTO public.schema_migrations VALUES ('20260101000000')",
    );
    for command in ["check", "migrate"] {
        let outcome = run(&server, &database.url(), &[command]).expect_code(0);
        let said = outcome.stdout.clone() + &outcome.stderr;
        assert!(said.contains("table public.schema_migrations (owner postgres) belongs to another program"));
        assert!(said.contains("schema of its own, campaign_sync"), "{outcome}");
    }
    run(&server, &database.url(), &["sync"]).expect_code(3);
    assert_eq!(database.count("public.schema_migrations"), 1);
    // In the very schema that is asked for it is in the way.
    let outcome = run(&server, &database.url(), &["migrate", "--schema", "public"]).expect_code(2);
    assert!(outcome.stderr.contains("--schema campaign_sync"), "{outcome}");
}

#[test]
fn nothing_that_another_role_has_made_runs_as_whoever_migrates() {
    for schema in ["public", "campaign_sync"] {
        let database = Database::create();
        let (theirs, mallory) = as_role(&database, "mallory");
        database.execute(&format!(
            "GRANT CREATE ON SCHEMA public TO {mallory}; GRANT CREATE ON DATABASE {} TO {mallory}",
            database.name()
        ));
        let trap = format!(
            "CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE {schema}.schema_migrations (version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
                                                      applied_at timestamptz NOT NULL DEFAULT now());
             CREATE FUNCTION {schema}.rise() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN EXECUTE 'ALTER ROLE {mallory} SUPERUSER'; RETURN NEW; END $$;
             CREATE TRIGGER rise BEFORE INSERT ON {schema}.schema_migrations FOR EACH ROW EXECUTE FUNCTION {schema}.rise()"
        );
        let trap = if schema == "public" { trap.split_once(';').unwrap().1 } else { &trap };
        postgres::Client::connect(&theirs, postgres::NoTls).unwrap().batch_execute(trap).unwrap();
        for command in ["migrate", "sync"] {
            let outcome = run(&server(), &database.url(), &[command]).expect_code(2);
            assert!(outcome.stderr.contains(&mallory), "{schema}, {command}: {outcome}");
        }
        let risen: bool =
            database.value(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{mallory}'"));
        assert!(!risen, "{schema}");
    }
}

#[test]
fn a_table_that_another_role_puts_in_the_place_of_ours_is_not_trusted() {
    let (server, database) = (server(), Database::create());
    run(&server, &database.url(), &["sync"]).expect_code(3);
    let (_, mallory) = as_role(&database, "mallory");
    database.execute(&format!("ALTER TABLE campaign_sync.dead_letters OWNER TO {mallory}"));
    for command in ["check", "sync", "status"] {
        let outcome = run(&server, &database.url(), &[command]).expect_code(2);
        assert!(outcome.stderr.contains("campaign_sync.dead_letters"), "{command}: {outcome}");
        assert!(outcome.stderr.contains(&mallory), "{command}: {outcome}");
    }
}

#[test]
fn a_role_that_may_not_create_a_schema_is_told_the_statement() {
    let (server, database) = (server(), Database::create());
    let (url, role) = as_role(&database, "plain");
    for command in ["check", "migrate", "sync"] {
        let outcome = run(&server, &url, &[command]).expect_code(2);
        let cure = format!("CREATE SCHEMA campaign_sync AUTHORIZATION {role}");
        assert!(outcome.stderr.contains(&cure), "{command}: {outcome}");
    }
    database.execute(&format!("CREATE SCHEMA campaign_sync AUTHORIZATION {role}"));
    run(&server, &url, &["sync"]).expect_code(3);
    // Whoever the tables were made by, another superuser may look at them.
    run(&server, &database.url(), &["status"]).expect_code(0);
}

#[test]
fn a_schema_that_can_be_none_is_refused_before_anything_is_done() {
    let (server, database) = (server(), Database::create());
    for name in ["a.b", "pg_temp", "\"", "a'b", &"x".repeat(64)] {
        let outcome = run(&server, &database.url(), &["sync", "--schema", name]).expect_code(2);
        assert!(outcome.stderr.contains("--schema"), "{outcome}");
    }
    let outcome =
        Program::new(&["migrate"]).database(&database.url()).env("CAMPAIGN_SYNC_SCHEMA", "a b").run();
    assert!(outcome.expect_code(2).stderr.contains("CAMPAIGN_SYNC_SCHEMA"));
    let missing = database.url() + "?options=-csearch_path%3Dads";
    let outcome = run(&server, &missing, &["sync"]).expect_code(2);
    assert!(outcome.stderr.contains("CREATE SCHEMA ads"), "{outcome}");
    assert_eq!(server.ledger().total, 0);
}

#[test]
fn check_tells_all_that_is_wrong_at_once() {
    let (server, database) = (server(), Database::create());
    run(&server, &database.url(), &["migrate"]).expect_code(0);
    let (url, role) = as_role(&database, "checked");
    database.execute(&format!(
        "GRANT USAGE ON SCHEMA campaign_sync TO {role}; GRANT SELECT ON campaign_sync.schema_migrations TO {role};
         ALTER TABLE campaign_sync.campaigns ENABLE ROW LEVEL SECURITY;
         ALTER ROLE {role} SET default_transaction_read_only = on"
    ));
    let redirecting = Impostor::paging(|_| (302, String::new()));
    let check = Program::new(&["check", "--give-up-after", "2s"]).api(&redirecting.url, EMAIL, PASSWORD);
    let outcome = check.database(&url).run().expect_code(2);
    for said in ["ok  API", "ok  credentials"] {
        assert!(outcome.stdout.contains(said), "{said}: {outcome}");
    }
    let all =
        ["listing: ", "read-only", "row-level security hides rows of table campaign_sync.campaigns", "GRANT"];
    for said in all {
        assert_eq!(outcome.stderr.lines().filter(|line| line.contains(said)).count(), 1, "{said}: {outcome}");
    }
}

#[test]
fn check_sees_a_listing_that_sync_could_not_read() {
    let database = Database::create();
    for (status, body) in
        [(302, ""), (200, "<html>"), (200, r#"{"data": [{"name": 1}], "pagination": {"has_more": false}}"#)]
    {
        let platform = Impostor::paging(move |_| (status, body.to_owned()));
        let check = Program::new(&["check", "--give-up-after", "1s"]).api(&platform.url, EMAIL, PASSWORD);
        let outcome = check.database(&database.url()).run();
        assert!([Some(2), Some(5)].contains(&outcome.code()), "{body}: {outcome}");
        assert!(outcome.stderr.contains("listing: "), "{body}: {outcome}");
        assert!(outcome.stdout.contains("ok  database"), "the rest is checked all the same\n{outcome}");
    }
}

#[test]
fn a_database_that_cannot_hold_every_campaign_is_refused() {
    let (server, database) = (server(), Database::create());
    let name = format!("{}_latin1", database.name());
    database.execute(&format!(
        "CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    ));
    let url = database.url().replace(database.name(), &name);
    for command in ["check", "migrate", "sync"] {
        let outcome = run(&server, &url, &[command]).expect_code(2);
        assert!(outcome.stderr.contains("LATIN1") && outcome.stderr.contains("UTF8"), "{command}: {outcome}");
    }
    database.execute(&format!("DROP DATABASE {name} WITH (FORCE)"));
}

#[test]
fn a_table_that_somebody_has_changed_is_no_internal_error() {
    for change in [
        "ALTER TABLE campaign_sync.sync_tasks ALTER attempt DROP DEFAULT, ALTER attempt TYPE boolean USING false",
        "ALTER TABLE campaign_sync.campaigns DROP CONSTRAINT campaigns_pkey CASCADE",
    ] {
        let (server, database) = (server(), Database::create());
        run(&server, &database.url(), &["migrate"]).expect_code(0);
        database.execute(change);
        let outcome = run(&server, &database.url(), &["sync"]).expect_code(2);
        assert!(outcome.stderr.contains("campaign-sync migrate"), "{change}: {outcome}");
    }
}
