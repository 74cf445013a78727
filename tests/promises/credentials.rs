//! Tokens, passwords, and platforms or databases that are not there.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use mock_api::{EMAIL, ExpiresIn, Faults, Kind, PASSWORD, Settings};

use crate::support::{Database, Folder, Outcome, PATIENCE, Program, assert_no_secret, eventually};

/// An address at which nobody listens: its port was free a moment ago.
fn closed_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// What stands on stderr beside the log: the one line that says why there is no result.
#[track_caller]
fn complaint(outcome: &Outcome) -> &str {
    let said: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("campaign-sync: ")).collect();
    assert_eq!(said.len(), 1, "{outcome}");
    said[0]
}

#[test]
fn a_token_revoked_while_sixteen_workers_are_busy_is_replaced_once() {
    let latency = Duration::from_millis(200);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(120) }).unwrap();
    let database = Database::create();
    let running = Program::sync(&server, &database).spawn();
    eventually(PATIENCE, "all workers are busy", || server.ledger().syncs >= 40);
    server.revoke_tokens();
    let outcome = running.wait().expect_code(0);
    let ledger = server.ledger();
    assert_eq!((ledger.tokens, ledger.of(Kind::Token).count()), (2, 2), "{outcome}");
    assert!(ledger.requests.iter().any(|seen| seen.status == 401), "the revocation was felt");
    assert_eq!((database.count("campaigns"), database.count("dead_letters")), (120, 0));
    assert_eq!(outcome.json()[0]["token_refreshes"], 2);
}

#[test]
fn a_wrong_password_is_tried_once_and_its_variable_is_named() {
    let server = mock_api::start(Settings::fast(10)).unwrap();
    let database = Database::create();
    for command in [&["sync", "--json"][..], &["list"], &["check"]] {
        let before = server.ledger().of(Kind::Token).count();
        let wrong = "swordfish-and-chips";
        let outcome = Program::new(command)
            .api(&server.url(), EMAIL, wrong)
            .database(&database.url())
            .run()
            .expect_code(4);
        assert_eq!(server.ledger().of(Kind::Token).count() - before, 1, "{outcome}");
        assert!(complaint(&outcome).contains("AD_PLATFORM_PASSWORD"), "{outcome}");
        assert!(outcome.stderr.lines().count() == 1 || command[0] == "sync", "{outcome}");
        assert_no_secret(&[&outcome.stdout, &outcome.stderr], &[wrong, PASSWORD]);
    }
    assert_eq!(server.ledger().lists, 0);
    assert_eq!(database.count("campaigns"), 0);
}

#[test]
fn whatever_a_token_says_of_its_end_no_more_are_fetched_than_needed() {
    for expires_in in [
        ExpiresIn::Absent,
        ExpiresIn::Fixed(0.0),
        ExpiresIn::Fixed(0.5),
        ExpiresIn::Fixed(-5.0),
        ExpiresIn::Fixed(1e300),
    ] {
        let server = mock_api::start(Settings { expires_in, ..Settings::fast(40) }).unwrap();
        let database = Database::create();
        let outcome = Program::sync(&server, &database).run().expect_code(0);
        assert_eq!(server.ledger().tokens, 1, "{expires_in:?} {outcome}");
        assert_eq!(database.count("campaigns"), 40, "{expires_in:?}");
    }
}

#[test]
fn tokens_that_live_for_a_moment_are_replaced_as_often_as_they_end() {
    let lifetime = Duration::from_millis(400);
    for expires_in in [ExpiresIn::Honest, ExpiresIn::Absent, ExpiresIn::Fixed(3600.0)] {
        let latency = Duration::from_millis(150);
        let settings =
            Settings { expires_in, token_lifetime: lifetime, sync_latency: latency, ..Settings::fast(160) };
        let server = mock_api::start(settings).unwrap();
        let database = Database::create();
        let outcome = Program::sync(&server, &database).run().expect_code(0);
        assert_eq!((database.count("campaigns"), database.count("dead_letters")), (160, 0), "{expires_in:?}");
        let needed = outcome.elapsed.as_millis().div_ceil(lifetime.as_millis());
        let tokens = u128::from(server.ledger().tokens);
        assert!((2..=needed + 1).contains(&tokens), "{tokens} tokens, {needed} needed, {expires_in:?}");
    }
}

#[test]
fn a_platform_that_is_not_there_ends_the_run_when_patience_ends() {
    let down = mock_api::start(Settings {
        faults: Faults { outage: true, ..Faults::default() },
        ..Settings::fast(10)
    })
    .unwrap();
    for url in [format!("http://{}", closed_port()), down.url()] {
        let database = Database::create();
        let outcome = Program::new(&["sync", "--json", "--give-up-after", "2s"])
            .api(&url, EMAIL, PASSWORD)
            .database(&database.url())
            .run()
            .expect_code(5);
        let patience = Duration::from_secs(2)..Duration::from_secs(5);
        assert!(patience.contains(&outcome.elapsed), "{outcome}");
        assert!(complaint(&outcome).contains("gave up"), "{outcome}");
        assert!(complaint(&outcome).contains("--give-up-after"), "{outcome}");
        let summary = &outcome.json()[0];
        assert_eq!((summary["state"].as_str(), summary["failed"].as_i64()), (Some("stopped"), Some(0)));
        assert_eq!(database.count("dead_letters"), 0);
    }
    let asked = down.ledger().total;
    assert!((2..60).contains(&asked), "a platform that is down is asked {asked} times in 2 s");
}

#[test]
fn an_outage_in_the_middle_ends_the_run_and_the_next_one_goes_on() {
    let settings = Settings { sync_latency: Duration::from_millis(20), ..Settings::fast(400) };
    let server = mock_api::start(settings).unwrap();
    let database = Database::create();
    let running = Program::sync(&server, &database).args(&["--give-up-after", "1s"]).spawn();
    eventually(PATIENCE, "some are synced", || server.ledger().syncs >= 50);
    server.change(|settings| settings.faults.outage = true);
    let outcome = running.wait().expect_code(5);
    let kept = database.count("campaigns");
    assert!((50..400).contains(&kept), "{kept} {outcome}");
    assert_eq!(database.count("dead_letters"), 0, "an outage is no campaign's fault");
    server.change(|settings| settings.faults.outage = false);
    let resumed = Program::sync(&server, &database).run().expect_code(0);
    assert_eq!(resumed.json()[0]["run_id"], outcome.json()[0]["run_id"]);
    assert_eq!(database.count("campaigns"), 400);
}

#[test]
fn a_database_that_is_not_there_is_said_in_one_line_when_patience_ends() {
    let server = mock_api::start(Settings::fast(10)).unwrap();
    let url = format!("postgres://someone:pass-of-someone@{}/somewhere", closed_port());
    let outcome = Program::new(&["sync", "--json", "--give-up-after", "2s"])
        .api(&server.url(), EMAIL, PASSWORD)
        .database(&url)
        .run()
        .expect_code(5);
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&outcome.elapsed), "{outcome}");
    let log = outcome.stderr.lines().filter(|line| line.contains("trying again")).count();
    assert_eq!(outcome.stderr.lines().count() - log, 1, "{outcome}");
    assert!(log <= 1, "why it waits is said once: {outcome}");
    assert!(complaint(&outcome).contains("127.0.0.1"), "{outcome}");
    assert_no_secret(&[&outcome.stdout, &outcome.stderr], &["pass-of-someone", PASSWORD]);
    let lines = outcome.json();
    assert_eq!(lines.len(), 1, "--json prints one object, also on failure: {outcome}");
    assert!(lines[0]["error"].is_string());
    assert_eq!(server.ledger().total, 0, "nothing is asked of the platform that could not be kept");
}

#[test]
fn the_password_comes_from_a_file_a_command_or_systemd_as_well() {
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let folder = Folder::new("password-sources");
    let file = folder.file("ad_platform_password", &format!("{PASSWORD}\n"), 0o600);
    let command = format!("cat '{file}'");
    let directory = folder.as_path().to_str().unwrap();
    let list =
        || Program::new(&["list"]).env("AD_PLATFORM_API_URL", &server.url()).env("AD_PLATFORM_EMAIL", EMAIL);
    let sources = BTreeMap::from([
        ("AD_PLATFORM_PASSWORD", PASSWORD),
        ("AD_PLATFORM_PASSWORD_FILE", &file),
        ("AD_PLATFORM_PASSWORD_COMMAND", &command),
        ("CREDENTIALS_DIRECTORY", directory),
    ]);
    for (name, value) in &sources {
        let outcome = list().env(name, value).run().expect_code(0);
        assert_eq!(outcome.stdout.lines().count(), 3, "{name}");
    }
    let two = list()
        .env("AD_PLATFORM_PASSWORD", PASSWORD)
        .env("AD_PLATFORM_PASSWORD_FILE", &file)
        .run()
        .expect_code(2);
    assert!(two.stderr.contains("AD_PLATFORM_PASSWORD and AD_PLATFORM_PASSWORD_FILE"), "{two}");
    for (name, value, words) in [
        ("AD_PLATFORM_PASSWORD_FILE", "/nonexistent/password", "cannot read the password"),
        ("AD_PLATFORM_PASSWORD_FILE", "/dev/null", "the password is empty"),
        ("AD_PLATFORM_PASSWORD_FILE", "/dev/zero", "no password"),
        ("AD_PLATFORM_PASSWORD_COMMAND", "exit 7", "exit 0"),
        ("AD_PLATFORM_PASSWORD_COMMAND", "echo one; echo two", "more than one line"),
        ("CREDENTIALS_DIRECTORY", "/nonexistent", "cannot read the password"),
    ] {
        let outcome = list().env(name, value).run().expect_code(2);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        assert!(complaint(&outcome).contains(name) && complaint(&outcome).contains(words), "{outcome}");
    }
}

#[test]
fn a_dead_proxy_is_named_and_a_proxy_that_cannot_be_one_is_refused() {
    let list = |proxy: &str| {
        Program::new(&["list", "--give-up-after", "500ms"])
            .api("https://ads.example.invalid", EMAIL, PASSWORD)
            .env("HTTPS_PROXY", proxy)
            .run()
    };
    let address = closed_port();
    let outcome = list(&format!("http://somebody:pass-of-somebody@{address}")).expect_code(5);
    assert!(complaint(&outcome).contains(&format!("the proxy http://{address} (HTTPS_PROXY)")), "{outcome}");
    assert_no_secret(&[&outcome.stdout, &outcome.stderr], &["pass-of-somebody", PASSWORD]);
    for proxy in [
        "http://somebody:pass-of-somebody@127.0.0.1:99999",
        "socks5://127.0.0.1:1080",
        "pass-of-somebody://x",
    ] {
        let outcome = list(proxy).expect_code(2);
        assert!(complaint(&outcome).contains("HTTPS_PROXY"), "{outcome}");
        assert_no_secret(&[&outcome.stderr], &["pass-of-somebody"]);
    }
}

#[test]
fn blanks_in_no_proxy_hide_no_host() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let outcome = Program::new(&["list", "--give-up-after", "500ms"])
        .api(&format!("https://{}", closed_port()), EMAIL, PASSWORD)
        .env("HTTPS_PROXY", &format!("http://{}", proxy.local_addr().unwrap()))
        .env("NO_PROXY", "ads.example.com, 127.0.0.1 ,localhost")
        .run()
        .expect_code(5);
    assert!(!outcome.stderr.contains("proxy"), "{outcome}");
    assert!(proxy.accept().is_err(), "nobody came to the proxy");
}

#[test]
fn a_password_from_windows_is_read_and_blanks_around_one_are_told_without_it() {
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let folder = Folder::new("password-marks");
    let list = |content: &str| {
        let file = folder.file("password", content, 0o600);
        Program::new(&["list"])
            .env("AD_PLATFORM_API_URL", &server.url())
            .env("AD_PLATFORM_EMAIL", EMAIL)
            .env("AD_PLATFORM_PASSWORD_FILE", &file)
            .run()
    };
    let outcome = list(&format!("\u{feff}{PASSWORD}\r\n")).expect_code(0);
    assert_eq!(outcome.stderr, "");
    for content in [format!("{PASSWORD} \n"), format!("\t{PASSWORD}")] {
        let outcome = list(&content).expect_code(4);
        let told = outcome.stderr.lines().filter(|line| line.contains("WARN") && line.contains("blank"));
        assert_eq!(told.count(), 1, "{outcome}");
        assert!(outcome.stderr.contains("AD_PLATFORM_PASSWORD_FILE"), "{outcome}");
        assert_no_secret(&[&outcome.stderr], &[PASSWORD]);
    }
}

#[test]
fn a_password_in_the_place_of_its_files_name_is_not_shown() {
    let folder = Folder::new("password-names");
    let (secret, email) = ("swordfish-and-chips", EMAIL);
    let sync = |arguments: &[&str], name: &str, value: &str| {
        Program::new(arguments)
            .env("AD_PLATFORM_API_URL", "http://127.0.0.1:1")
            .env("AD_PLATFORM_EMAIL", email)
            .env(name, value)
            .run()
            .expect_code(2)
    };
    for value in ["swordfish-and-chips", "x/swordfish-and-chips", "\u{1b}swordfish-and-chips"] {
        let outcome = sync(&["list"], "AD_PLATFORM_PASSWORD_FILE", value);
        assert!(complaint(&outcome).contains("AD_PLATFORM_PASSWORD_FILE"), "{outcome}");
        assert_no_secret(&[&outcome.stderr], &[secret]);
    }
    let table = format!("[[account]]\nname = \"a\"\nemail = \"{EMAIL}\"\npassword_file = \"{secret}\"\n");
    let file = folder.file("accounts.toml", &table, 0o600);
    let outcome = sync(&["list", "--accounts", &file], "UNUSED", "");
    assert!(complaint(&outcome).contains("accounts.toml line 4: password_file"), "{outcome}");
    assert_no_secret(&[&outcome.stderr], &[secret]);
    // What cannot be a password is told, for whoever has mistyped it.
    let outcome = sync(&["list"], "AD_PLATFORM_PASSWORD_FILE", &folder.path("mistyped"));
    assert!(complaint(&outcome).contains("mistyped"), "{outcome}");
}
