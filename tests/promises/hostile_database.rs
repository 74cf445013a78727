//! An attacker who controls the network to Postgres, or the database itself: neither gets the platform's credentials, and
//! what is found in the tables is obeyed by nobody.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use campaign_sync::foreign;
use campaign_sync::store::{Conninfo, Pool};
use mock_api::{EMAIL, PASSWORD, Settings};

use crate::support::{Database, Folder, Outcome, PATIENCE, Program, assert_no_secret};

const DB_PASSWORD: &str = "postgres-hunter2";
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Something that takes Postgres' place: answers a request for TLS by `N`, the start-up message by `reply`, and keeps what it
/// heard.
struct FakePostgres {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl FakePostgres {
    fn new(reply: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let ears = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _gone = Self::lie(stream, reply, &ears);
            }
        });
        Self { port, heard }
    }

    fn lie(mut stream: TcpStream, reply: &[u8], heard: &Mutex<Vec<u8>>) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut message = [0; 4096];
        loop {
            let length = stream.read(&mut message)?;
            if length == 0 {
                return Ok(());
            }
            heard.lock().unwrap().extend_from_slice(&message[..length]);
            stream.write_all(if message[..length] == SSL_REQUEST { b"N" } else { reply })?;
        }
    }

    fn told_to(&self, settings: &str) -> Outcome {
        let url = format!("postgres://someone:{DB_PASSWORD}@127.0.0.1:{}/x?{settings}", self.port);
        let migrate = Program::new(&["check", "--give-up-after", "500ms"]).database(&url);
        let server = mock_api::start(Settings::fast(1)).unwrap();
        let outcome = migrate.api(&server.url(), EMAIL, PASSWORD).run();
        assert_no_secret(&[&outcome.stdout, &outcome.stderr], &[DB_PASSWORD, PASSWORD]);
        outcome
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

/// `AuthenticationCleartextPassword`.
const CLEARTEXT: &[u8] = &[b'R', 0, 0, 0, 8, 0, 0, 0, 3];

#[test]
fn whoever_strips_tls_hears_neither_name_nor_password() {
    let authority = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem();
    let folder = Folder::new("roots");
    let file = folder.file("roots.pem", &authority, 0o644);
    let verified = format!("sslmode=verify-full&sslrootcert={file}");
    for settings in ["sslmode=require", &verified] {
        let fake = FakePostgres::new(CLEARTEXT);
        let outcome = fake.told_to(settings).expect_code(2);
        assert!(outcome.stderr.contains("the server has no TLS"), "{outcome}");
        assert_eq!(fake.heard.lock().unwrap().as_slice(), SSL_REQUEST, "nothing but the request for TLS");
    }
}

#[test]
fn a_server_that_asks_for_the_password_itself_gets_it_only_where_libpq_would_give_it() {
    // As libpq's manual says, `prefer` makes no sense from a security point of view: whoever answers is trusted.
    let fake = FakePostgres::new(CLEARTEXT);
    fake.told_to("sslmode=prefer");
    assert!(fake.heard().contains(DB_PASSWORD));
    let fake = FakePostgres::new(CLEARTEXT);
    let outcome = fake.told_to("sslmode=prefer&channel_binding=require").expect_code(2);
    assert!(outcome.stderr.contains("channel binding"), "{outcome}");
    assert!(!fake.heard().contains(DB_PASSWORD), "{outcome}");
}

#[test]
fn no_server_that_speaks_nonsense_takes_the_program_down() {
    let replies: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[b'R', 0, 0, 0, 8, 0, 0, 0, 99],
        &[b'R', 0xff, 0xff, 0xff, 0xff],
        &[b'R', 0x7f, 0xff, 0xff, 0xff, 0, 0],
        &[b'E', 0, 0, 0, 12, b'M', 0x1b, b'[', b'3', b'1', b'm', 0, 0],
        &[b'R', 0, 0, 0, 8, 0, 0, 0, 0, b'Z', 0, 0, 0, 5, b'I', 0, 0, 0, 0],
    ];
    std::thread::scope(|scope| {
        for reply in replies {
            scope.spawn(move || {
                let outcome = FakePostgres::new(reply).told_to("sslmode=disable&connect_timeout=1");
                assert!([Some(1), Some(2), Some(5)].contains(&outcome.code()), "{reply:?}: {outcome}");
                assert!(
                    !outcome.stderr.contains("panicked") && !outcome.stderr.contains('\u{1b}'),
                    "{outcome}"
                );
                let said = outcome.stderr.lines().filter(|line| line.starts_with("campaign-sync: "));
                assert_eq!(said.count(), 1, "{outcome}");
            });
        }
    });
}

#[test]
fn a_server_that_floods_the_connection_is_left() {
    const READY: &[u8] = &[b'R', 0, 0, 0, 8, 0, 0, 0, 0, b'Z', 0, 0, 0, 5, b'I'];
    let notification: &[u8] = b"A\x00\x00\x00\x0c\x00\x00\x00\x01a\0b\0";
    let floods = [
        (&b"T\x7f\xff\xff\xff"[..], 1, "a message of 2147483647 bytes"),
        (notification, 100_000, "more than 1 MiB that nobody asked for"),
        (b"S\x00\x00\x00\x08a\0b\0", 100_000, "more than 1 MiB that nobody asked for"),
    ];
    for (message, times, expected) in floods {
        let reply = [READY, &message.repeat(times)].concat();
        let outcome = FakePostgres::new(reply.leak()).told_to("sslmode=disable").expect_code(5);
        assert!(outcome.stderr.contains(expected), "{outcome}");
    }
}

#[test]
fn a_database_that_takes_a_question_and_never_answers_is_noticed() {
    let database = Database::create();
    let conninfo =
        Conninfo::from_environment(&|name| (name == "DATABASE_URL").then(|| database.url().into())).unwrap();
    let pool = Pool::new(&conninfo, 1).unwrap();
    let (sender, told) = mpsc::channel();
    let most = Duration::from_millis(300);
    pool.watch(most, move |line| sender.send((line.to_owned(), Instant::now())).unwrap()).unwrap();
    let (clock, stop) = (campaign_sync::http::SystemClock::new(Default::default()), Default::default());
    let ask = |query: &str| {
        pool.run(&clock, &stop, Duration::ZERO, |client| client.query_one(query, &[]).map(drop)).unwrap();
    };
    ask("SELECT 1");
    let begun = Instant::now();
    ask("SELECT pg_sleep(1)");
    let (line, at) = told.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("no answer for"), "{line}");
    assert!((most..Duration::from_secs(1)).contains(&(at - begun)), "{:?}", at - begun);
}

/// All that is in the tables, as text.
fn dump(database: &Database) -> String {
    let tables =
        database.column::<String>("SELECT tablename::text FROM pg_tables WHERE schemaname = 'campaign_sync'");
    assert!(tables.len() >= 8, "{tables:?}");
    let rows =
        |table: &String| database.column::<String>(&format!("SELECT t::text FROM {table} t")).join("\n");
    tables.iter().map(rows).collect::<Vec<_>>().join("\n")
}

#[test]
fn whoever_reads_the_database_gets_no_credentials() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    Program::sync(&server, &database).run().expect_code(0);
    let token =
        server.ledger().requests.iter().map(|seen| seen.status).filter(|status| *status == 200).count();
    assert!(token > 5, "the token was used");
    let sealed: Vec<u8> = database.value("SELECT sealed FROM access_tokens");
    assert!(sealed.len() > 28, "nonce, token and tag");
    assert_no_secret(&[&dump(&database)], &[PASSWORD, EMAIL]);
    // The next process can use it, one with another password cannot.
    let before = server.ledger().tokens;
    Program::sync(&server, &database).run().expect_code(0);
    assert_eq!(server.ledger().tokens, before);
    let other = Program::sync(&server, &database).env("AD_PLATFORM_PASSWORD", "not-the-password");
    other.run().expect_code(4);
}

#[test]
fn a_token_that_somebody_else_has_put_there_is_not_used() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    Program::sync(&server, &database).run().expect_code(0);
    // One bit changed; the sealed token of another account; nonsense; nothing.
    for forged in [
        "set_bit(sealed, 100, 1 - get_bit(sealed, 100))",
        "sealed || sealed",
        "'\\x00'::bytea",
        "decode(repeat('ab', 1000000), 'hex')",
    ] {
        let before = server.ledger().tokens;
        database.execute(&format!("UPDATE access_tokens SET sealed = {forged}"));
        Program::sync(&server, &database).run().expect_code(0);
        assert_eq!(server.ledger().tokens, before + 1, "{forged}: a token of our own was fetched");
    }
    assert!(server.ledger().requests.iter().all(|seen| seen.status != 401), "what was forged was never sent");
}

/// Text for every column that takes one.
const COMMANDS: &str = "\u{1b}[2J\u{9b}31m\u{202e}<script>alert(1)</script>";

#[test]
fn rows_that_somebody_else_has_written_are_obeyed_by_nobody() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    Program::sync(&server, &database).run().expect_code(0);
    database.execute(&format!(
        "ALTER TABLE sync_runs DROP CONSTRAINT sync_runs_state_check;
         UPDATE sync_runs SET total = 9223372036854775807, listed = -9223372036854775807, failed = 9223372036854775807,
                requests = -1, last_error = '{COMMANDS}', state = '{COMMANDS}', binary_version = '{COMMANDS}',
                samples = '[[1],[\"x\"],[-1,2,3,4,5,6],[9223372036854775807,0,0,0,0,0]]', durations = '{{1,-2}}',
                retried = '{{-9223372036854775808}}', limit_requests = -1, limit_window_ms = 0;
         INSERT INTO sync_runs (account, state, page_size, listing_done, lists, total, binary_version)
         VALUES ('{COMMANDS}', 'running', 0, false, true, 9223372036854775807, '');
         INSERT INTO dead_letters (account, id, run_id, cause, reason, attempts, payload, retryable)
         SELECT account, '{COMMANDS}', run_id, '{COMMANDS}', '{COMMANDS}', -1, '{COMMANDS}', true FROM sync_runs;
         INSERT INTO quotas (account, limit_requests, limit_window_ms) VALUES ('{COMMANDS}', 1, 9223372036854775)
         ON CONFLICT DO NOTHING;
         INSERT INTO workers (account, run_id, host, pid) SELECT account, run_id, '{COMMANDS}', -1 FROM sync_runs"
    ));
    for command in [&["status"][..], &["status", "--json"], &["report", "--html", "-"]] {
        let outcome = Program::new(command).database(&database.url()).run();
        let shown = outcome.stdout.clone() + &outcome.stderr;
        assert_eq!(shown.chars().find(|c| *c != '\n' && foreign::commands(*c)), None, "{shown:?}");
        assert!(!shown.contains("panicked"), "{outcome}");
        assert!(command[0] != "report" || !shown.contains("<script"), "{shown}");
        assert_eq!(outcome.code(), Some(0), "{outcome}");
    }
}

#[test]
fn a_quota_that_permits_nothing_and_tells_no_time_is_not_asked_for_without_a_pause() {
    for row in ["limit_requests = 0, limit_window_ms = 1000", "limit_requests = -5, limit_window_ms = -1000"]
    {
        let server = mock_api::start(Settings::fast(5)).unwrap();
        let database = Database::create();
        Program::sync(&server, &database).run().expect_code(0);
        database.execute(&format!("UPDATE quotas SET {row}, learned_at = now()"));
        let flags = ["--deadline", "500ms", "--max-wait", "100ms"];
        let outcome = Program::sync(&server, &database).args(&flags).run();
        assert!([Some(0), Some(5)].contains(&outcome.code()), "{row}: {outcome}");
        let asked: i64 =
            database.value("SELECT n_tup_upd::bigint FROM pg_stat_user_tables WHERE relname = 'quotas'");
        assert!(asked < 100, "{row}: asked {asked} times");
    }
}

#[test]
fn a_task_that_somebody_else_has_written_is_asked_for_by_its_own_id_or_not_at_all() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    Program::sync(&server, &database).run().expect_code(0);
    database.execute("UPDATE sync_runs SET state = 'stopped', finished_at = NULL");
    let payload = crate::support::impostor::record("campaign_1", "n", "");
    database.execute(&format!(
        "INSERT INTO sync_tasks (account, id, run_id, seq, payload)
         SELECT 'default', id, run_id, 1, payload FROM sync_runs,
                (VALUES ('campaign_2', '{payload}'), ('campaign_3', 'no JSON'), ('campaign_4', '[]'),
                        ('../x', '{{}}')) AS t (id, payload)"
    ));
    let before = server.ledger().syncs;
    Program::sync(&server, &database).run().expect_code(3);
    assert_eq!(server.ledger().syncs, before, "none of them was asked for");
    assert_eq!(database.count("dead_letters WHERE cause = 'invalid'"), 4);
}

#[test]
fn names_are_data_wherever_they_go() {
    let evil = "x'; DROP TABLE campaigns; --\\\"$1";
    let server = mock_api::start(Settings { odd: true, ..Settings::fast(3) }).unwrap();
    let database = Database::create();
    let table = format!(
        "[[account]]\nname = '''{evil}'''\napi_url = \"{}\"\nemail = \"{EMAIL}\"\npassword_env = \"IT\"\n",
        server.url()
    );
    let folder = Folder::new("evil");
    let file = folder.file("evil.toml", &table, 0o600);
    let of = |command: &[&str]| {
        let program = Program::new(command).args(&["--accounts", &file]);
        program.env("IT", PASSWORD).database(&database.url()).run()
    };
    of(&["sync", "--json"]).expect_code(3);
    of(&["retry", "--id", "'; DROP TABLE dead_letters; --"]).expect_code(2);
    of(&["status"]).expect_code(0);
    let stored = database.rows("SELECT id FROM campaigns WHERE account = $1", &[&evil]);
    assert!(stored.iter().any(|row| row.get::<_, String>(0).contains("drop table")), "{}", stored.len());
    assert!(database.count("dead_letters") > 5);
}

#[test]
fn no_statement_is_put_together_from_texts() {
    let mut statements = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store")).unwrap() {
        let Ok(text) = std::fs::read_to_string(entry.unwrap().path()) else { continue };
        let code = text.split("#[cfg(test)]").next().unwrap();
        for call in ["query_typed", "query_typed_opt", "query_typed_one", "execute_typed", "batch_execute"] {
            for rest in code.split(&format!(".{call}(")).skip(1) {
                statements += 1;
                let first =
                    rest.trim_start().lines().find(|line| !line.trim_start().starts_with("//")).unwrap();
                let first = first.trim_start();
                // What the function gives is `'static`. The name of a schema can hold no quotes
                // (src/store/schema_name.rs); of tables and columns, see src/store/accounts.rs.
                let constant = [
                    "\"",
                    "include_str!(",
                    "sql)",
                    "CLAIM_SETTINGS",
                    "LOCK",
                    "CREATE_HISTORY",
                    "PINNED",
                    "TURN,",
                    "LONG_WAY,",
                ]
                .iter()
                .chain(&[
                    "counting()",
                    "deleting(table)",
                    "listing_columns(table)",
                    "copying(table, &columns)",
                    // Of src/store/distribution.rs; and a `&'static str`.
                    "distributing(table)",
                    "fixed, parameters",
                ])
                .chain(&["FIRST_CHECKSUM", "&found.schema.creation()"])
                .chain(&["&self.place.schema().statement(", "&name.statement(FIRST_CHECKSUM)"])
                .any(|it| first.starts_with(it));
                assert!(constant, "{call}({first}");
            }
        }
        // What src/store/prepared.rs has prepared: the type says that its text is `'static`.
        let code =
            code.replace("driver.query(found, values)", "").replace("driver.execute(found, values)", "");
        assert!(!code.contains(".query(") && !code.contains(".execute(") && !code.contains("simple_query"));
    }
    assert!(statements > 30, "{statements} statements were found");
}
