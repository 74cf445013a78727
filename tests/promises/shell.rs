//! The program among others in a shell: exit codes, pipes, terminals, full disks, and settings that make no sense.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mock_api::{EMAIL, PASSWORD, Server, Settings};

use crate::support::{Database, Program, json_schema};

const PROGRAM: &str = env!("CARGO_BIN_EXE_campaign-sync");

/// Settings with which nothing is wrong, and nothing is reached.
fn sound(command: &[&str]) -> Program {
    Program::new(command)
        .api("http://127.0.0.1:1", EMAIL, PASSWORD)
        .database("postgres://someone@127.0.0.1:1/somewhere")
        .timeout(Duration::from_secs(10))
}

/// Exit code 2, nothing on stdout, and one line that has all of `words`.
#[track_caller]
fn assert_usage_error(program: Program, words: &[&str]) {
    let outcome = program.run().expect_code(2);
    assert_eq!(outcome.stdout, "", "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is missing: {outcome}");
    }
}

/// `program` with a mock and a database to work with.
fn with_surroundings(program: &str, server: &Server, database: &Database) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("AD_PLATFORM_API_URL", server.url())
        .env("AD_PLATFORM_EMAIL", EMAIL)
        .env("AD_PLATFORM_PASSWORD", PASSWORD)
        .env("DATABASE_URL", database.url())
        .stdin(Stdio::null());
    command
}

fn command(server: &Server, database: &Database) -> Command {
    with_surroundings(PROGRAM, server, database)
}

/// A script for `bash` in which `campaign-sync` is the program.
fn shell(script: &str, server: &Server, database: &Database) -> Output {
    let function = format!("campaign-sync() {{ '{PROGRAM}' \"$@\"; }}\n");
    let mut bash = with_surroundings("bash", server, database);
    bash.args(["-c", &(function + script)]).output().expect("bash runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn nonsense_in_a_flag_is_one_line_that_names_it_with_an_example() {
    const DURATION: &str = "30s";
    for (flag, nonsense, example) in [
        (
            "--api-url",
            &["nonsense", "ftp://a.example", "https://", "https://a.example/?q=1", "://"][..],
            "https://",
        ),
        ("--client-id", &["", "two words", "zwölf", "a\nb"], "nightly-sync"),
        ("--workers", &["0", "-1", "1025", "many", "1.5", "99999999999999999999"], "such as 16"),
        ("--page-size", &["0", "1001", "x", "-5"], "such as 10"),
        ("--rate-limit", &["10", "10/", "/60s", "0/60s", "10/0s", "ten/60s", "10/60"], "10/60s"),
        ("--timeout", &["0s", "30", "-1s", "soon", "1.5s", "99999999999999999999h"], DURATION),
        ("--max-attempts", &["0", "101", "x"], "such as 5"),
        ("--give-up-after", &["0s", "5", "later"], DURATION),
        ("--max-wait", &["0s", "5", "later"], DURATION),
        ("--deadline", &["0s", "5", "tomorrow"], DURATION),
        ("--max-run-age", &["0s", "5", "old"], DURATION),
        ("--max-removed", &["101", "-1", "20%"], "such as 20"),
        ("--keep-history", &["0s", "400", "never", "-1d"], "400d"),
        ("--progress", &["sometimes", "", "AUTO"], "auto, always or never"),
        ("--log-format", &["xml", "", "JSON"], "text or json"),
    ] {
        for value in nonsense {
            assert_usage_error(sound(&["sync", flag, value]), &[flag, example]);
        }
    }
}

#[test]
fn nonsense_in_a_variable_is_one_line_that_names_it_with_an_example() {
    for (variable, nonsense, example) in [
        ("AD_PLATFORM_API_URL", &["nonsense", "ftp://a.example"][..], "https://"),
        ("AD_PLATFORM_EMAIL", &["a:b", "a\nb"], "ads@example.com"),
        ("AD_PLATFORM_PASSWORD", &["two\nlines"], "more than one line"),
        ("AD_PLATFORM_CLIENT_ID", &["two words"], "nightly-sync"),
        ("AD_PLATFORM_RATE_LIMIT", &["10", "10 per minute"], "10/60s"),
        ("CAMPAIGN_SYNC_WORKERS", &["0", "all"], "such as 16"),
        ("CAMPAIGN_SYNC_PAGE_SIZE", &["0", "1001"], "such as 10"),
        ("CAMPAIGN_SYNC_KEEP_HISTORY", &["0d", "long"], "400d"),
        ("RUST_LOG", &["campaign_sync=loud"], "such as info"),
        ("SSL_CERT_FILE", &["/nonexistent.pem", "/dev/null"], "certificate"),
        ("DATABASE_URL", &["nonsense", "mysql://a/b"], "postgres://"),
        ("DATABASE_URL", &["postgres://a:b@h:99999/d"], "5432"),
    ] {
        for value in nonsense {
            assert_usage_error(sound(&["sync"]).env(variable, value), &[variable, example]);
        }
    }
    for variable in ["AD_PLATFORM_API_URL", "AD_PLATFORM_EMAIL", "AD_PLATFORM_PASSWORD"] {
        assert_usage_error(sound(&["sync"]).env(variable, ""), &[variable]);
    }
    assert_usage_error(
        sound(&["sync"]).env("DATABASE_URL", "").env("PGPORT", "nonsense"),
        &["PGPORT", "5432"],
    );
    assert_usage_error(
        sound(&["sync"]).env("DATABASE_URL", "").env("PGSSLMODE", "maybe"),
        &["PGSSLMODE", "verify-full"],
    );
}

#[test]
fn words_that_are_no_command_or_flag_are_one_line() {
    for words in [&[][..], &["fly"], &["sync", "--nonsense"], &["sync", "--workers"], &["list", "extra"]] {
        assert_usage_error(sound(words), &["--help"]);
    }
}

#[test]
fn plain_http_to_another_machine_needs_to_be_permitted() {
    // Not even looked up: the database is asked first, and is not there.
    for command in ["sync", "list", "check"] {
        let program = sound(&[command, "--api-url", "http://ads.invalid"]);
        assert_usage_error(program, &["--api-url", "http://ads.invalid", "https", "--allow-http"]);
    }
    let program =
        sound(&["sync", "--api-url", "http://ads.invalid", "--allow-http", "--give-up-after", "500ms"]);
    let outcome = program.run().expect_code(5);
    assert!(!outcome.stderr.contains("plain http") && outcome.stderr.contains("database"), "{outcome}");
    for local in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
        let outcome = sound(&["sync", "--api-url", local, "--give-up-after", "500ms"]).run().expect_code(5);
        assert!(!outcome.stderr.contains("plain http"), "{outcome}");
    }
}

#[test]
fn a_reader_that_goes_away_early_is_no_failure() {
    let server = mock_api::start(Settings::fast(5_000)).unwrap();
    let database = Database::create();
    let script = "campaign-sync list --page-size 1000 | head -1; echo \"codes ${PIPESTATUS[*]}\"";
    let outcome = shell(script, &server, &database);
    let lines: Vec<String> = text(&outcome.stdout).lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("{\"id\":\"campaign_1\","), "{lines:?}");
    assert_eq!(lines[1..], ["codes 0 0"]);
    assert_eq!(text(&outcome.stderr), "");
    for words in [&["sync", "--json"][..], &["sync"], &["list"], &["check"], &["migrate"], &["--help"]] {
        let server = mock_api::start(Settings::fast(5)).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let outcome = command(&server, &database).args(words).stdout(writer).output().unwrap();
        assert_eq!(outcome.status.code(), Some(0), "{words:?}: {}", text(&outcome.stderr));
        assert!(!text(&outcome.stderr).contains("pipe"), "{words:?}: {}", text(&outcome.stderr));
    }
}

#[test]
fn messages_that_nobody_can_read_change_no_exit_code() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    for (words, password, code) in [
        (&["sync", "--progress", "always"][..], PASSWORD, 0),
        (&["sync", "--log-format", "json"], PASSWORD, 0),
        (&["sync", "--nonsense"], PASSWORD, 2),
        (&["sync", "--workers", "0"], PASSWORD, 2),
        (&["sync"], "wrong-password", 4),
        (&["list"], "wrong-password", 4),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        for stderr in [Stdio::from(writer), Stdio::from(full)] {
            let mut command = command(&server, &database);
            let outcome = command.env("AD_PLATFORM_PASSWORD", password).args(words).stderr(stderr).output();
            assert_eq!(outcome.unwrap().status.code(), Some(code), "{words:?}");
        }
    }
}

#[test]
fn stdout_has_the_result_and_nothing_else() {
    let server = mock_api::start(Settings::fast(30)).unwrap();
    let database = Database::create();
    for rust_log in ["trace", "off"] {
        let outcome = Program::sync(&server, &database).env("RUST_LOG", rust_log).run().expect_code(0);
        let lines = outcome.json();
        assert_eq!((lines.len(), &lines[0]["synced"]), (1, &serde_json::json!(30)));
        assert_eq!(outcome.stderr.is_empty(), rust_log == "off", "{outcome}");
    }
    let quiet = shell("campaign-sync sync 2>/dev/null", &server, &database);
    assert!(quiet.status.success());
    assert!(text(&quiet.stdout).contains("30 of 30 campaigns synced"), "{}", text(&quiet.stdout));
    let list = Program::new(&["list"]).api(&server.url(), EMAIL, PASSWORD).run().expect_code(0);
    assert_eq!(list.json().len(), 30);
    let json_log = Program::sync(&server, &database).args(&["--log-format", "json"]).env("RUST_LOG", "debug");
    let outcome = json_log.run().expect_code(0);
    assert!(!outcome.stderr.is_empty(), "{outcome}");
    for line in outcome.stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(line["msg"].is_string() && line["level"].is_string() && line["ts"].is_string());
    }
}

#[test]
fn progress_is_a_bar_on_a_terminal_and_nothing_or_plain_lines_elsewhere() {
    let latency = Duration::from_millis(200);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(100) }).unwrap();
    let database = Database::create();
    let plain = Program::sync(&server, &database).run().expect_code(0);
    assert!(!plain.stderr.contains(['\u{1b}', '\r']) && !plain.stderr.contains("synced,"), "{plain}");
    let lines = Program::sync(&server, &database).args(&["--progress", "always"]).run().expect_code(0);
    assert!(!lines.stderr.contains(['\u{1b}', '\r']), "{lines}");
    assert!(lines.stderr.lines().any(|line| line.starts_with("default: ")), "{lines}");
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("no util-linux here: the bar itself is not looked at");
        return;
    }
    for (arguments, barred) in [("", true), ("--progress never", false)] {
        let script = format!("TERM=xterm script -qec \"'{PROGRAM}' sync {arguments}\" /dev/null");
        let outcome = shell(&script, &server, &database);
        let shown = text(&outcome.stdout);
        assert!(outcome.status.success(), "{shown}");
        let bar = shown.contains("\u{1b}[") && shown.contains("/100 synced");
        assert_eq!(bar, barred, "{arguments}: {shown:?}");
        assert!(shown.contains("100 of 100 campaigns synced"), "{shown:?}");
    }
}

#[test]
fn names_from_outside_do_not_command_a_terminal() {
    let server = mock_api::start(Settings { odd: true, ..Settings::fast(1) }).unwrap();
    let database = Database::create();
    for rust_log in ["trace", "info"] {
        let outcome = Program::sync(&server, &database).env("RUST_LOG", rust_log).run().expect_code(3);
        assert!(!outcome.stdout.contains('\u{1b}') && !outcome.stderr.contains('\u{1b}'), "{outcome}");
    }
}

#[test]
fn a_full_disk_is_said() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    for command in ["sync --json", "sync", "list", "check", "migrate", "--help", "--version"] {
        let outcome = shell(&format!("campaign-sync {command} >/dev/full"), &server, &database);
        let said = text(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("cannot write to stdout"), "{command}: {said}");
    }
    assert_eq!(database.count("campaigns"), 5, "the work itself is done and kept");
}

#[test]
fn help_is_a_result() {
    let top = Program::new(&["--help"]).run().expect_code(0);
    assert!(top.stdout.contains("Usage: campaign-sync") && top.stderr.is_empty(), "{top}");
    let (credentials, database) = ("AD_PLATFORM_PASSWORD", "DATABASE_URL");
    for (command, variables) in [
        ("sync", &[credentials, database, "CAMPAIGN_SYNC_WORKERS", "AD_PLATFORM_RATE_LIMIT"][..]),
        ("list", &[credentials, "AD_PLATFORM_API_URL"]),
        ("plan", &[credentials, "AD_PLATFORM_RATE_LIMIT"]),
        ("status", &[database, "CAMPAIGN_SYNC_ACCOUNTS"]),
        ("retry", &[credentials, database]),
        ("check", &[credentials, database, "SSL_CERT_FILE"]),
        ("migrate", &[database]),
        ("report", &[database]),
        ("completions", &[]),
    ] {
        let outcome = Program::new(&[command, "--help"]).run().expect_code(0);
        assert!(top.stdout.contains(&format!("  {command} ")) && outcome.stderr.is_empty(), "{outcome}");
        assert!(outcome.stdout.contains(&format!("Examples:\n  campaign-sync {command}")), "{outcome}");
        for variable in variables {
            assert!(outcome.stdout.contains(variable), "{variable}: {outcome}");
        }
    }
    let version = Program::new(&["--version"]).run().expect_code(0);
    assert_eq!(version.stdout, format!("campaign-sync {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn check_tells_what_works_and_what_does_not() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    let check = || Program::new(&["check"]).api(&server.url(), EMAIL, PASSWORD).database(&database.url());
    let outcome = check().run().expect_code(0);
    assert_eq!(outcome.stdout.lines().filter(|line| line.starts_with("ok  ")).count(), 5, "{outcome}");
    assert_eq!(database.count("pg_namespace WHERE nspname = 'campaign_sync'"), 0, "it changes nothing");
    let outcome = check().env("AD_PLATFORM_PASSWORD", "wrong-password").run().expect_code(4);
    assert_eq!(outcome.stdout.lines().count(), 3, "configuration, API, database: {outcome}");
    server.change(|settings| settings.faults.outage = true);
    let outcome = check().run().expect_code(5);
    assert_eq!(outcome.stdout.lines().count(), 2, "configuration, database: {outcome}");
    assert!(outcome.stderr.contains("API"), "{outcome}");
}

#[test]
fn the_config_file_gives_what_flags_and_environment_do_not() {
    let server = mock_api::start(Settings::fast(30)).unwrap();
    let database = Database::create();
    let folder = crate::support::Folder::new("config");
    folder.file("password", PASSWORD, 0o600);
    let text = format!(
        "api_url = \"{}\"\nemail = \"{EMAIL}\"\npassword_file = \"password\"\nworkers = 3\nmax_removed = 150\n",
        server.url()
    );
    let path = folder.file("config.toml", &text, 0o644);
    let sync = |arguments: &[&str]| {
        Program::new(&["sync"]).arg(&format!("--config={path}")).args(arguments).database(&database.url())
    };
    let wrong = sync(&[]).run().expect_code(2);
    assert!(wrong.stderr.contains("config.toml line 5: max_removed = \"150\": must be"), "{wrong}");
    assert_eq!(server.ledger().total, 0);
    // A flag beats the file; everything else is the file's.
    sync(&["--max-removed=15"]).run().expect_code(0);
    assert_eq!(database.count("campaigns"), 30);
    // The environment beats it.
    let refused = sync(&["--max-removed", "15"]).env("AD_PLATFORM_PASSWORD", "wrong").run().expect_code(4);
    assert!(!refused.stderr.contains(PASSWORD), "{refused}");
    let large = folder.file("large.toml", &"#".repeat(65 << 10), 0o644);
    assert_usage_error(sound(&["status", "--config", &large]), &["--config", "65536 bytes"]);
    assert_usage_error(
        sound(&["status"]).env("CAMPAIGN_SYNC_CONFIG", "/nonexistent"),
        &["CAMPAIGN_SYNC_CONFIG"],
    );
}

#[test]
fn a_flags_help_is_where_it_is_said_to_be() {
    assert_usage_error(
        sound(&["sync", "--worker=4"]),
        &["did you mean --workers?", "see campaign-sync sync --help"],
    );
    assert_usage_error(sound(&["snyc"]), &["did you mean sync?", "see campaign-sync --help"]);
    let one = Program::new(&["help", "sync"]).run().expect_code(0);
    assert_eq!(one.stdout, Program::new(&["sync", "-h"]).run().expect_code(0).stdout);
    assert!(one.stdout.contains("--rate-limit"), "{one}");
}

#[test]
fn the_program_says_which_it_is() {
    let short = Program::new(&["--version"]).run().expect_code(0).stdout;
    let version = format!("campaign-sync {}", env!("CARGO_PKG_VERSION"));
    assert!(short.starts_with(&version) && short.lines().count() == 1, "{short}");
    let long = Program::new(&["version"]).run().expect_code(0).stdout;
    assert!(
        long.starts_with(&version) && long.contains("commit: ") && long.contains("compiler: rustc"),
        "{long}"
    );
}

#[test]
fn one_letter_makes_it_quiet_or_tells_more() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let (database, url) = (Database::create(), server.url());
    let sync = |flags: &[&str], rust_log: &str| {
        let program = Program::new(&["sync", "--progress", "never"]).args(flags);
        let program = program.api(&url, EMAIL, PASSWORD).database(&database.url()).env("RUST_LOG", rust_log);
        program.run().expect_code(0).stderr
    };
    assert_eq!(sync(&["-q"], "debug"), "");
    assert!(sync(&["-v"], "error").contains(" DEBUG "));
    assert!(!sync(&[], "error").contains(" DEBUG "));
    assert_usage_error(sound(&["sync", "-q", "-v"]), &["-q and -v"]);
}

#[test]
fn every_json_object_is_as_its_schema_says() {
    let mut settings = Settings::fast(30);
    settings.faults.refused_every = 10;
    let server = mock_api::start(settings).unwrap();
    let database = Database::create();
    let run = |words: &[&str], code: i32| {
        let program = Program::new(words).arg("--json").api(&server.url(), EMAIL, PASSWORD);
        program.database(&database.url()).run().expect_code(code)
    };
    let as_said = |name: &str, outcome: &crate::support::Outcome| {
        for object in outcome.json() {
            let violation = json_schema::violation(name, &object);
            assert_eq!(violation, None, "{outcome}");
        }
        assert!(!outcome.json().is_empty(), "{outcome}");
    };
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    as_said("status", &run(&["status"], 0));
    as_said("plan", &run(&["plan"], 0));
    as_said("plan", &run(&["plan", "--rate-limit", "10/1s"], 0));
    as_said("sync", &run(&["sync", "--rate-limit", "500/1s"], 3));
    as_said("status", &run(&["status"], 0));
    as_said("sync", &run(&["retry"], 3));
    as_said("status", &run(&["status"], 0));
    let refused =
        Program::new(&["sync", "--json"]).api(&server.url(), EMAIL, "wrong").database(&database.url());
    as_said("sync", &refused.run().expect_code(4));
}
