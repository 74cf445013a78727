//! Other users of the same machine, and whoever can change a file of ours: what they may read, and what they cannot have done.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mock_api::{EMAIL, PASSWORD, Server, Settings};

use crate::support::{Database, Folder, Outcome, PATIENCE, Program, eventually};

fn mode_of(path: &str) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn files_have_the_documented_modes_whatever_the_umask() {
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let database = Database::create();
    for umask in ["000", "077"] {
        let folder = Folder::new(&format!("modes-{umask}"));
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let run = |arguments: &[&str]| {
            let program = Program::by(&["sh", "-c", &script], arguments).database(&database.url());
            program.api(&server.url(), EMAIL, PASSWORD).run().expect_code(0)
        };
        let (metrics, traces) = (folder.path("metrics"), folder.path("traces"));
        run(&["sync", "--metrics-file", &metrics, "--trace-file", &traces]);
        run(&["report", "--html", &folder.path("page")]);
        let modes = ["metrics", "page", "traces"].map(|name| mode_of(&folder.path(name)));
        assert_eq!(modes, [0o644, 0o644, 0o600], "umask {umask}: {modes:?}");
    }
}

#[test]
fn a_link_that_somebody_else_has_put_there_is_not_followed() {
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let (database, folder) = (Database::create(), Folder::new("links"));
    let precious = folder.file("precious", "precious\n", 0o600);
    let trap = folder.path("trap");
    symlink(&precious, &trap).unwrap();
    if lchown(&trap, Some(12_345), None).is_err() {
        return eprintln!("skipped: only root can give a link away");
    }
    let sync = |flag: &str| Program::sync(&server, &database).args(&[flag, &trap]).run().expect_code(0);
    for outcome in [sync("--metrics-file"), sync("--trace-file")] {
        assert!(outcome.stderr.contains("a link that belongs to somebody else"), "{outcome}");
    }
    let page = Program::new(&["report", "--html", &trap]).database(&database.url()).run().expect_code(2);
    assert!(page.stderr.contains("a link that belongs to somebody else"), "{page}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious\n");
}

#[test]
fn a_trace_file_that_belongs_to_somebody_else_gets_no_span() {
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let (database, folder) = (Database::create(), Folder::new("foreign-traces"));
    let trap = folder.file("trap", "", 0o666);
    if chown(&trap, Some(12_345), None).is_err() {
        return eprintln!("skipped: only root can give a file away");
    }
    let outcome = Program::sync(&server, &database).args(&["--trace-file", &trap]).run().expect_code(0);
    assert!(outcome.stderr.contains("belongs to somebody else"), "{outcome}");
    assert_eq!(std::fs::read_to_string(&trap).unwrap(), "");
}

#[test]
fn an_accounts_file_that_others_may_change_is_refused() {
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let folder = Folder::new("accounts");
    let table = format!(
        "[[account]]\nname = \"a\"\napi_url = \"{}\"\nemail = \"{EMAIL}\"\npassword_env = \"IT\"\n",
        server.url()
    );
    for (mode, code) in [(0o600, 0), (0o644, 0), (0o664, 2), (0o646, 2)] {
        let file = folder.file("accounts.toml", &table, mode);
        let list = Program::new(&["list", "--accounts", &file]).env("IT", PASSWORD).run().expect_code(code);
        assert!(code == 0 || list.stderr.contains("chmod go-w"), "{mode:o}: {list}");
    }
}

#[test]
fn files_without_an_end_are_refused_not_read() {
    let server = mock_api::start(Settings::fast(1)).unwrap();
    let check = || {
        Program::new(&["check", "--give-up-after", "100ms"])
            .api(&server.url(), EMAIL, PASSWORD)
            .database("host=127.0.0.1")
    };
    for (name, code) in [("SSL_CERT_FILE", 2), ("CAMPAIGN_SYNC_ACCOUNTS", 2), ("PGSERVICEFILE", 2)] {
        let outcome = check().env(name, "/dev/zero").env("PGSERVICE", "x").run().expect_code(code);
        assert!(outcome.stderr.contains("more than the "), "{name}: {outcome}");
    }
    let folder = Folder::new("passwords");
    let large = folder.file("pgpass", &"*:*:*:*:hunter2-hunter2\n".repeat(50_000), 0o600);
    let outcome = check().env("PGPASSFILE", &large).env("DATABASE_URL", "postgres://u@127.0.0.1:1/x").run();
    assert!(outcome.stderr.contains("is ignored: it has more than the "), "{outcome}");
}

#[test]
fn so_many_accounts_and_no_more_are_worked_on_by_one_process() {
    let folder = Folder::new("many");
    let table = |n: usize| {
        format!(
            "[[account]]\nname = \"a{n}\"\napi_url = \"http://127.0.0.1:1\"\nemail = \"{EMAIL}\"\npassword_env = \"IT\"\n"
        )
    };
    let file = folder.file("accounts.toml", &(0..10_001).map(table).collect::<String>(), 0o600);
    let outcome = Program::new(&["sync", "--accounts", &file]).env("IT", PASSWORD).run().expect_code(2);
    assert!(outcome.stderr.contains("10001 accounts are more than the 10000"), "{outcome}");
}

/// How often each text is in the memory of a process; nothing where that may not be looked at.
fn found_in_memory(pid: u32, texts: &[&str]) -> Option<Vec<usize>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut found = vec![0; texts.len()];
    let mut readable = 0;
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (range, rights) = (words.next()?, words.next()?);
        let (from, to) = range.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        let mut piece = vec![0; usize::try_from(to - from).ok()?];
        if !rights.starts_with("rw")
            || memory.seek(SeekFrom::Start(from)).and_then(|_| memory.read_exact(&mut piece)).is_err()
        {
            continue;
        }
        readable += 1;
        let piece = String::from_utf8_lossy(&piece);
        for (count, text) in found.iter_mut().zip(texts.iter().copied()) {
            *count += piece.matches(text).count();
        }
    }
    (readable > 0).then_some(found)
}

/// A server at which every sync takes so long that there is time to look at who waits for it.
fn slow() -> Server {
    mock_api::start(Settings { sync_latency: Duration::from_secs(20), ..Settings::fast(4) }).unwrap()
}

#[test]
fn the_password_is_in_memory_once_as_it_is_and_once_as_it_is_sent() {
    let (server, database, folder) = (slow(), Database::create(), Folder::new("memory"));
    let file = folder.file("password", &format!("{PASSWORD}\n"), 0o600);
    let program = Program::new(&["sync"]).env("AD_PLATFORM_API_URL", &server.url());
    let program = program.env("AD_PLATFORM_EMAIL", EMAIL).env("AD_PLATFORM_PASSWORD_FILE", &file);
    let running = program.database(&database.url()).spawn();
    eventually(PATIENCE, "a sync is under way", || {
        server.ledger().of(mock_api::Kind::Sync).count() > 0 || { server.ledger().lists > 0 }
    });
    let encoded = STANDARD.encode(format!("{EMAIL}:{PASSWORD}"));
    // Sent, it was in the HTTP client's and TLS' own buffers, which are used again and not wiped.
    let texts = [PASSWORD, encoded.as_str()];
    let Some(found) = found_in_memory(running.id(), &texts) else {
        return eprintln!("skipped: the memory of other processes may not be looked at");
    };
    assert_eq!(found[0], 1, "copies of the password itself");
    assert!((1..=3).contains(&found[1]), "copies of what is sent: {}", found[1]);
}

/// The children of a process, and what their command lines and environments are.
fn children(pid: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(&pid.to_string()) {
            let read = |name| std::fs::read(path.join(name)).unwrap_or_default();
            let text = [read("cmdline"), read("environ")].concat();
            found.push(String::from_utf8_lossy(&text).into_owned());
        }
    }
    found
}

#[test]
fn no_child_is_started_but_the_password_command_and_it_is_not_told_the_password() {
    let (server, database, folder) = (slow(), Database::create(), Folder::new("children"));
    let table = |name: &str, password: &str| {
        format!(
            "[[account]]\nname = \"{name}\"\napi_url = \"{}\"\nemail = \"{EMAIL}\"\nclient_id = \"{name}\"\n{password}\n",
            server.url()
        )
    };
    let (go, file) = (folder.path("go"), folder.file("password", PASSWORD, 0o600));
    let command = format!("password_command = \"while ! [ -e '{go}' ]; do sleep 0.01; done; cat '{file}'\"");
    let accounts = table("a", "password_env = \"AD_PLATFORM_PASSWORD\"") + &table("b", &command);
    let accounts = folder.file("accounts.toml", &accounts, 0o600);
    let program = Program::new(&["sync", "--accounts", &accounts]).env("AD_PLATFORM_PASSWORD", PASSWORD);
    let running = program.database(&database.url()).spawn();
    let pid = running.id();
    eventually(PATIENCE, "the command waits", || !children(pid).is_empty());
    for child in children(pid) {
        assert!(!child.contains(PASSWORD), "{child:?}");
    }
    std::fs::write(&go, "").unwrap();
    eventually(PATIENCE, "both accounts are at work", || server.ledger().lists >= 2);
    assert_eq!(children(pid), [""; 0], "there are no children any more");
    let own = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&own).contains(PASSWORD));
    let environ = std::fs::metadata(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(environ.mode() & 0o077, 0, "others may not read the environment");
}

#[test]
fn a_password_command_is_told_no_other_secret() {
    let server = mock_api::start(Settings::fast(1)).unwrap();
    let folder = Folder::new("command-environment");
    let (file, told) = (folder.file("password", PASSWORD, 0o600), folder.path("environment"));
    let table = |name: &str, rest: &str| {
        format!(
            "[[account]]\nname = \"{name}\"\napi_url = \"{}\"\nemail = \"{EMAIL}\"\n{rest}\n",
            server.url()
        )
    };
    let command = table("a", &format!("password_command = \"env > '{told}'; cat '{file}'\""));
    let off = table("off", "password_env = \"OFF_SECRET\"\nenabled = false");
    let accounts = command + &table("b", "password_env = \"B_SECRET\"") + &off;
    let accounts = folder.file("accounts.toml", &accounts, 0o600);
    let names = [
        "DATABASE_URL",
        "PGPASSWORD",
        "AD_PLATFORM_PASSWORD",
        "AD_PLATFORM_PASSWORD_FILE",
        "AD_PLATFORM_PASSWORD_COMMAND",
        "B_SECRET",
        "OFF_SECRET",
    ];
    let list = Program::new(&["list", "--accounts", &accounts, "--only", "a"]).env("VAULT_TOKEN", "its-own");
    let list = names.iter().fold(list, |list, name| list.env(name, &format!("secret-of-{name}")));
    list.run().expect_code(0);
    let told = std::fs::read_to_string(&told).unwrap();
    assert!(!told.contains("secret-of-"), "{told}");
    assert!(told.contains("PATH=") && told.contains("VAULT_TOKEN=its-own"), "{told}");
}

#[test]
fn threads_that_the_system_refuses_end_the_run_in_order() {
    if std::env::var_os("CAMPAIGN_SYNC_TEST_PROGRAM").is_some() || cfg!(target_feature = "crt-static") {
        return eprintln!("skipped: nothing can be preloaded to a static program");
    }
    let folder = Folder::new("few-threads");
    let library = folder.path("few_threads.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/few_threads.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o", &library, source, "-ldl"]).status();
    assert!(compiled.unwrap().success(), "a C compiler is needed");
    let server = mock_api::start(Settings::fast(30)).unwrap();
    let database = Database::create();
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    let refused = AtomicU32::new(0);
    let sync = |allowed: u32, refusals: &str| {
        let program = Program::sync(&server, &database)
            .args(&["--workers", "3", "--give-up-after", "1s"])
            .env("LD_PRELOAD", &library)
            .env("THREADS_ALLOWED", &allowed.to_string())
            .env("THREADS_REFUSED", refusals);
        let outcome = program.run();
        let told = format!("{refusals} refused after {allowed}: {outcome}");
        assert!(!outcome.stderr.contains("panicked"), "{told}");
        match outcome.code() {
            Some(0) => {}
            Some(5) => {
                assert!(outcome.stderr.contains("thread"), "{told}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
            // A library's own pool of threads: what it panics at is said in one line, too.
            Some(1) if outcome.stderr.contains("internal error: ") => {
                assert_eq!(outcome.stderr.lines().count(), 1, "{told}");
            }
            _ => panic!("{told}"),
        }
    };
    // Every thread that a run starts is refused once; what it does without all those after it is tried for some.
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        allowed @ 0..24 => sync(allowed, "1"),
                        more @ 24..30 => sync((more - 24) * 4 + 1, "1000"),
                        _ => return,
                    }
                }
            });
        }
    });
    assert!(refused.load(Ordering::Relaxed) >= 10, "{refused:?} runs ended for want of threads");
    Program::sync(&server, &database).run().expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (30, 0));
}

/// A sync with many requests at once, each of which is its campaign's only attempt, under limits that `ulimit` sets.
fn sync_within(limits: &str, server: &Server, database: &Database) -> Outcome {
    let script = format!("{limits}; exec \"$0\" \"$@\"");
    let arguments = ["sync", "--workers", "64", "--max-attempts", "1", "--give-up-after", "2s"];
    Program::by(&["sh", "-c", &script], &arguments)
        .api(&server.url(), EMAIL, PASSWORD)
        .database(&database.url())
        .run()
}

#[test]
fn too_few_open_files_make_no_dead_letter_and_the_cure_is_named() {
    let latency = Duration::from_millis(300);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(100) }).unwrap();
    let database = Database::create();
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    for open_files in [16, 20, 24, 32, 48] {
        let outcome = sync_within(&format!("ulimit -n {open_files}"), &server, &database);
        assert!(matches!(outcome.code(), Some(0 | 5)), "{open_files}: {outcome}");
        assert!(!outcome.stderr.contains("panicked"), "{open_files}: {outcome}");
        assert!(outcome.stderr.contains("ulimit -n"), "{open_files}: {outcome}");
        let warned =
            outcome.stderr.lines().filter(|line| line.contains("WARN") && line.contains("ulimit -n"));
        let of_the_platform = warned.filter(|line| !line.contains("database ")).count();
        assert!(of_the_platform <= 1, "it is said once: {open_files}: {outcome}");
        assert_eq!(database.count("dead_letters"), 0, "{open_files}: {outcome}");
    }
    Program::sync(&server, &database).run().expect_code(0);
    assert_eq!((database.count("campaigns"), database.count("dead_letters")), (100, 0));
}

#[test]
fn hundreds_of_accounts_need_no_more_than_the_usual_1024_open_files() {
    let (server, database) = (mock_api::start(Settings::fast(5)).unwrap(), Database::create());
    let table = |n: usize| {
        format!(
            "[[account]]\nname = 'account-{n}'\napi_url = '{}'\nemail = '{EMAIL}'\npassword_env = 'ONE'\nworkers = 5\n",
            server.url()
        )
    };
    let folder = Folder::new("hundreds");
    let file = folder.file("accounts.toml", &(0..250).map(table).collect::<String>(), 0o600);
    let script = "ulimit -n 1024; exec \"$0\" \"$@\"";
    let outcome = Program::by(&["sh", "-c", script], &["sync", "--accounts", &file])
        .env("ONE", PASSWORD)
        .database(&database.url())
        .timeout(4 * PATIENCE)
        .run()
        .expect_code(0);
    assert!(!outcome.stderr.contains("ulimit"), "{outcome}");
    assert_eq!((database.count("campaigns"), database.count("dead_letters")), (1250, 0), "{outcome}");
}

#[test]
fn as_many_files_are_opened_as_the_hard_limit_permits() {
    let latency = Duration::from_millis(300);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(100) }).unwrap();
    let database = Database::create();
    let outcome = sync_within("ulimit -Sn 24", &server, &database).expect_code(0);
    assert!(!outcome.stderr.contains("WARN"), "{outcome}");
    assert_eq!((database.count("campaigns"), database.count("dead_letters")), (100, 0));
}

#[test]
fn the_service_leaves_no_core_dump_and_has_no_more_rights_than_it_needs() {
    let unit = include_str!("../../src/units/campaign-sync.service");
    for setting in [
        "LimitCORE=0",
        "UMask=0077",
        "User=campaign-sync",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "LoadCredential=ad_platform_password:/etc/campaign-sync/password",
    ] {
        assert!(unit.lines().any(|line| line == setting), "{setting}");
    }
}

#[test]
fn everything_that_is_built_in_comes_from_the_registry_and_nothing_is_that_was_ruled_out() {
    let (lock, rules) = (include_str!("../../Cargo.lock"), include_str!("../../.deny.toml"));
    let denied: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("{ crate = \"")?.split('"').next())
        .collect();
    assert!(denied.len() >= 6, "{denied:?}");
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let prefix = format!("{name} = \"");
            package.lines().find_map(|line| line.strip_prefix(&prefix)?.strip_suffix('"'))
        };
        let name = field("name").unwrap();
        assert!(!denied.contains(&name), "{name} is ruled out");
        if !["campaign-sync", "mock-api"].contains(&name) {
            assert_eq!(
                field("source"),
                Some("registry+https://github.com/rust-lang/crates.io-index"),
                "{name}"
            );
            assert_eq!(field("checksum").map(str::len), Some(64), "{name}");
        }
    }
}
