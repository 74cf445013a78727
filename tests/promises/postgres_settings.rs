//! Settings that work with psql work here, and what goes wrong is said so that it can be put right.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use campaign_sync::http::{Clock, Stop, SystemClock};
use campaign_sync::store::conninfo::RootCertificates;
use campaign_sync::store::{Conninfo, Pool, StoreError};

use crate::support::postgres_cluster::{Cluster, conninfo, file, fresh_directory, write_private};

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start("host all alice 127.0.0.1/32 scram-sha-256", &[], &[]);
        let mut admin = cluster.pool(&[]).get().unwrap();
        admin.batch_execute("CREATE ROLE alice LOGIN PASSWORD 'hunter2'").unwrap();
        cluster
    })
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A clock that jumps where others would sleep, and notes how often.
struct JumpingClock(Mutex<(Instant, u32)>);

impl JumpingClock {
    fn new() -> Self {
        Self(Mutex::new((Instant::now(), 0)))
    }

    fn sleeps(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Instant {
        self.0.lock().unwrap().0
    }
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
    fn sleep(&self, duration: Duration) {
        let mut state = self.0.lock().unwrap();
        *state = (state.0 + duration, state.1 + 1);
    }
    fn random(&self) -> f64 {
        0.5
    }
}

/// A privileged port on which nobody listens, and that no other test can be given.
const NOBODYS_PORT: &str = "1";

/// A pool whose server does not listen.
fn pool_without_server() -> Pool {
    let settings =
        [("PGHOST", "127.0.0.1"), ("PGPORT", NOBODYS_PORT), ("PGUSER", "u"), ("PGPASSWORD", "hunter2")];
    Pool::new(&conninfo(&settings).unwrap(), 2).unwrap()
}

fn unavailable<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Err(StoreError::Unavailable { message }) => message,
        other => panic!("not unavailable: {other:?}"),
    }
}

#[test]
fn the_password_comes_from_the_password_file_of_the_environment() {
    let passwords =
        file(&format!("other:*:*:*:wrong\n127.0.0.1:{}:postgres:alice:hunter2\n", cluster().port));
    let settings = [("PGUSER", "alice"), ("PGPASSFILE", shown(&passwords))];
    assert_eq!(cluster().encrypted(&settings), Ok(false));
}

#[test]
fn a_password_file_that_others_may_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let passwords = file("*:*:*:*:hunter2\n");
    std::fs::set_permissions(&*passwords, std::fs::Permissions::from_mode(0o640)).unwrap();
    let message = cluster().refusal(&[("PGUSER", "alice"), ("PGPASSFILE", shown(&passwords))]);
    assert!(message.contains("none is set (set PGPASSWORD or PGPASSFILE)"), "{message}");
}

#[test]
fn files_in_the_home_directory_are_found_as_psql_finds_them() {
    let home = fresh_directory("home");
    std::fs::create_dir(home.join(".postgresql")).unwrap();
    for (name, text) in [
        (".pgpass", "db.example:5432:*:alice:hunter2\nlocalhost:*:*:alice:by-socket"),
        (".pg_service.conf", "[sales]\nhost=db.example\n[local]\nhost=/tmp\n"),
        (".postgresql/root.crt", "authorities"),
        (".postgresql/postgresql.crt", "certificate"),
        (".postgresql/postgresql.key", "key"),
    ] {
        write_private(&home.join(name), text);
    }
    let read = |service| {
        conninfo(&[
            ("HOME", shown(&home)),
            ("PGUSER", "alice"),
            ("PGSERVICE", service),
            ("PGSSLMODE", "require"),
        ])
    };
    let (sales, local) = (read("sales").unwrap(), read("local").unwrap());
    let missing = read("nowhere").unwrap_err().to_string();
    std::fs::remove_dir_all(&home).unwrap();

    let password =
        |conninfo: &Conninfo| conninfo.hosts[0].password.as_ref().map(|secret| secret.reveal().to_owned());
    assert_eq!(password(&sales).as_deref(), Some("hunter2"));
    assert_eq!(password(&local).as_deref(), Some("by-socket"));
    let directory = home.join(".postgresql");
    assert_eq!(sales.sslrootcert, Some(RootCertificates::File(directory.join("root.crt"))));
    let pair = (directory.join("postgresql.crt"), directory.join("postgresql.key"));
    assert_eq!(sales.client_certificate, Some(pair));
    assert_eq!(local.sslrootcert, None, "a socket needs no TLS");
    assert!(
        missing.contains("\"nowhere\" is defined nowhere") && missing.contains(".pg_service.conf"),
        "{missing}"
    );
}

#[test]
fn a_service_says_all_and_beats_the_variables() {
    let port = cluster().port;
    let text =
        format!("[sales]\nhost=127.0.0.1\nport={port}\nuser=alice\npassword=hunter2\ndbname=postgres\n");
    let services = file(&text);
    let settings = [
        ("PGSERVICE", "sales"),
        ("PGSERVICEFILE", shown(&services)),
        ("PGHOST", "wrong.example"),
        ("PGUSER", "bob"),
    ];
    let mut connection = Pool::new(&conninfo(&settings).unwrap(), 1).unwrap().get().unwrap();
    let user: String = connection.query_one("SELECT current_user::text", &[]).unwrap().get(0);
    assert_eq!(user, "alice");
}

#[test]
fn a_url_connects_and_shows_its_application_name() {
    let url =
        format!("postgres://alice:hunter2@127.0.0.1:{}/postgres?application_name=nightly", cluster().port);
    let mut connection = Pool::new(&conninfo(&[("DATABASE_URL", &url)]).unwrap(), 1).unwrap().get().unwrap();
    let name: String = connection.query_one("SHOW application_name", &[]).unwrap().get(0);
    assert_eq!(name, "nightly");
}

#[test]
fn a_dead_host_is_passed_over() {
    let ports = format!("{NOBODYS_PORT},{}", cluster().port);
    assert_eq!(cluster().encrypted(&[("PGHOST", "127.0.0.1,127.0.0.1"), ("PGPORT", &ports)]), Ok(false));
}

#[test]
fn a_session_that_takes_no_writes_is_passed_over_when_writes_are_asked_for() {
    let read_only =
        [("PGOPTIONS", "-c default_transaction_read_only=on"), ("PGTARGETSESSIONATTRS", "read-write")];
    let message = unavailable(cluster().encrypted(&read_only));
    assert!(message.contains("does not allow writes (is this a standby?"), "{message}");
    assert_eq!(cluster().encrypted(&read_only[..1]), Ok(false));
    assert_eq!(cluster().encrypted(&read_only[1..]), Ok(false));
}

#[test]
fn a_wrong_password_is_refused_at_once_and_not_repeated() {
    let began = Instant::now();
    let message = cluster().refusal(&[("PGUSER", "alice"), ("PGPASSWORD", "wrong-hunter3")]);
    assert!(
        message.contains("password authentication failed for user \"alice\" (set PGPASSWORD"),
        "{message}"
    );
    assert!(!message.contains("hunter3"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn a_wrong_database_password_is_told_with_its_place() {
    let url = format!("postgres://alice:hunter3@127.0.0.1:{}/postgres", cluster().port);
    let message = cluster().refusal(&[("DATABASE_URL", &url)]);
    assert!(message.ends_with("(correct the password in DATABASE_URL)"), "{message}");
    let passwords = file("*:*:*:*:hunter3\n");
    let message = cluster().refusal(&[("PGUSER", "alice"), ("PGPASSFILE", shown(&passwords))]);
    let place = format!("(correct the password in {})", shown(&passwords));
    assert!(message.ends_with(&place), "{message}");
    assert!(!message.contains("hunter3"), "{message}");
}

#[test]
fn a_missing_database_is_refused_with_the_command_that_makes_it() {
    let message = cluster().refusal(&[("PGDATABASE", "sales")]);
    assert!(message.contains("database \"sales\" does not exist (createdb sales)"), "{message}");
}

#[test]
fn a_server_that_is_not_there_is_unavailable_at_once() {
    let began = Instant::now();
    let message = unavailable(pool_without_server().get().map(drop));
    assert!(message.starts_with("database postgres://u@127.0.0.1:"), "{message}");
    assert!(message.contains("connection refused (is Postgres up? check DATABASE_URL"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_accepts_and_never_answers_is_unavailable_in_bounded_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let settings = [("PGHOST", "127.0.0.1"), ("PGPORT", &*port), ("PGUSER", "u"), ("PGCONNECT_TIMEOUT", "1")];
    let pool = Pool::new(&conninfo(&settings).unwrap(), 2).unwrap();
    let began = Instant::now();
    let message = unavailable(pool.get().map(drop));
    assert!(message.contains("does not answer"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn connections_that_died_while_idle_are_replaced_without_a_wait() {
    let pool = cluster().pool(&[("PGAPPNAME", "to be killed")]);
    let (clock, stop) = (JumpingClock::new(), Stop::new());
    let one = |client: &mut campaign_sync::store::Client| {
        client.query_one("SELECT 1", &[]).map(|row| row.get::<_, i32>(0))
    };
    // Two idle connections that have served.
    let outer = pool.run(&clock, &stop, Duration::ZERO, |client| {
        assert_eq!(pool.run(&clock, &stop, Duration::ZERO, one), Ok(1));
        one(client)
    });
    assert_eq!(outer, Ok(1));
    let kill = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE application_name = 'to be killed'";
    let killed: i64 = cluster().pool(&[]).get().unwrap().query_one(kill, &[]).unwrap().get(0);
    assert_eq!(killed, 2);
    assert_eq!(pool.run(&clock, &stop, Duration::ZERO, one), Ok(1));
    assert_eq!(clock.sleeps(), 0);
}

#[test]
fn a_transaction_is_retried_while_the_database_is_away_and_given_up_in_time() {
    let (pool, clock) = (pool_without_server(), JumpingClock::new());
    let began = clock.now();
    let outcome = pool.run(&clock, &Stop::new(), Duration::from_secs(10), |client| client.batch_execute(""));
    unavailable(outcome);
    assert_eq!(clock.now() - began, Duration::from_secs(10));
    assert!((7..=20).contains(&clock.sleeps()), "{} attempts", clock.sleeps());
}

#[test]
fn a_requested_stop_ends_the_retrying() {
    let (pool, stop) = (pool_without_server(), Stop::new());
    let clock = SystemClock::new(stop.clone());
    let began = Instant::now();
    std::thread::scope(|scope| {
        let runner =
            scope.spawn(|| pool.run(&clock, &stop, Duration::from_secs(600), |c| c.batch_execute("")));
        stop.request();
        unavailable(runner.join().unwrap());
    });
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_serialization_failure_is_retried_on_the_same_connection() {
    let (pool, clock) = (cluster().pool(&[]), JumpingClock::new());
    let mut pids = Vec::new();
    let outcome = pool.run(&clock, &Stop::new(), Duration::from_secs(10), |client| {
        pids.push(client.query_one("SELECT pg_backend_pid()", &[])?.get::<_, i32>(0));
        if pids.len() < 3 { client.batch_execute(&raising("40001")) } else { Ok(()) }
    });
    assert_eq!(outcome, Ok(()));
    assert!(pids.len() == 3 && pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

/// A statement that fails with this code, and with a value in the detail.
fn raising(sqlstate: &str) -> String {
    format!("DO $$ BEGIN RAISE EXCEPTION 'no luck' USING ERRCODE = '{sqlstate}', DETAIL = 'hunter2'; END $$")
}

fn failure_of(statement: &str) -> StoreError {
    let mut connection = cluster().pool(&[]).get().unwrap();
    connection.batch_execute(statement).unwrap_err().into()
}

#[test]
fn every_error_is_told_by_what_can_be_done_about_it() {
    let (unavailable, refused, row, internal) = ("unavailable", "refused", "row", "internal");
    for (codes, expected) in [
        ("08006 40001 40P01 53100 53200 53300 55P03 57014 57P01 57P03 58030 25006 25P03", unavailable),
        ("28000 28P01 3D000 42501", refused),
        // Raised by a function of the user's, a code of which nothing is known is a row's too: which one, is to be found.
        (
            "22003 22P02 22P05 23502 23505 23514 54000 54001 P0001 P0004 44000 45XYZ XX000 42601 42P01 42703 25P02",
            row,
        ),
    ] {
        for code in codes.split(' ') {
            let error = failure_of(&raising(code));
            let kind = match &error {
                StoreError::Unavailable { .. } => unavailable,
                StoreError::Refused { .. } => refused,
                StoreError::Row { sqlstate, .. } if sqlstate == code => row,
                StoreError::Row { .. } => "row with another code",
                StoreError::Internal { .. } => internal,
            };
            assert_eq!(kind, expected, "{code}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{code}: {error}");
        }
    }
    // In a statement of ours they tell of the schema.
    for statement in ["SELECT FROM nowhere", "SELECT oid, nothing FROM pg_class", "SELECT no_such_function()"]
    {
        let error = failure_of(statement);
        assert!(matches!(error, StoreError::Refused { .. }), "{statement}: {error}");
        assert!(error.to_string().contains("campaign-sync migrate"), "{statement}: {error}");
    }
    for (statement, code) in [("SELEC 1", "42601"), ("SAVEPOINT a", "25P01")] {
        let error = failure_of(statement);
        assert!(matches!(&error, StoreError::Internal { message } if message.contains(code)), "{error:?}");
    }
}

#[test]
fn a_users_function_is_named_and_only_faults_of_the_data_are_the_rows() {
    let error = failure_of(&raising("P0001"));
    assert!(error.to_string().contains("no luck (in PL/pgSQL function "), "{error}");
    for (code, expected) in
        [("P0001", true), ("23514", true), ("45XYZ", false), ("XX000", false), ("42601", false)]
    {
        assert_eq!(failure_of(&raising(code)).is_rows_fault(), expected, "{code}");
    }
}

#[test]
fn a_distributed_databases_dead_node_is_unavailable() {
    let lost = raising("XX000").replace("no luck", "Connection to the remote node was lost");
    assert!(matches!(failure_of(&lost), StoreError::Unavailable { .. }));
}

#[test]
fn a_row_that_a_policy_refuses_is_the_rows_fault_and_a_missing_privilege_is_not() {
    let mut connection = cluster().pool(&[]).get().unwrap();
    connection
        .batch_execute(
            "CREATE TEMP TABLE guarded (a integer); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
             CREATE POLICY small ON guarded WITH CHECK (a < 10);
             CREATE ROLE policed; GRANT INSERT ON guarded TO policed; SET ROLE policed",
        )
        .unwrap();
    let error: StoreError = connection.batch_execute("INSERT INTO guarded VALUES (11)").unwrap_err().into();
    assert!(error.is_rows_fault(), "{error:?}");
    let error: StoreError = connection.batch_execute("DELETE FROM guarded").unwrap_err().into();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

#[test]
fn the_data_of_a_row_is_not_repeated() {
    let error = failure_of("SELECT 'hunter2'::int").to_string();
    assert_eq!(error, "invalid input syntax for type integer: \"…\" (SQLSTATE 22P02)");
    let error =
        failure_of("CREATE TEMP TABLE t (a text UNIQUE); INSERT INTO t VALUES ('hunter2'), ('hunter2')");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn a_zero_byte_in_a_text_is_the_rows_fault() {
    let mut connection = cluster().pool(&[]).get().unwrap();
    let error: StoreError = connection.query_one("SELECT $1::text", &[&"a\0b"]).unwrap_err().into();
    assert!(matches!(&error, StoreError::Row { sqlstate, .. } if sqlstate == "22021"), "{error:?}");
}

#[test]
fn a_full_pool_says_so() {
    let pool = Pool::new(&cluster().conninfo(&[]).unwrap(), 1).unwrap();
    let _held = pool.get().unwrap();
    let message = unavailable(pool.get().map(drop));
    assert!(message.contains("all 1 connections are in use"), "{message}");
}
