//! `--metrics-file` says truly how each account stands, however a run ends, in a form that Prometheus' own tool accepts.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mock_api::{EMAIL, Faults, PASSWORD, Settings};

use crate::support::{Cluster, Database, Folder, PATIENCE, Program, assert_no_secret, eventually};

/// A folder with a metrics file.
struct Metrics(Folder);

impl Metrics {
    fn new(test: &str) -> Self {
        Self(Folder::new(&format!("metrics-{test}")))
    }

    fn path(&self) -> PathBuf {
        self.0.as_path().join("campaign_sync.prom")
    }

    fn flags(&self) -> [String; 2] {
        ["--metrics-file".to_owned(), self.path().to_str().unwrap().to_owned()]
    }

    fn given_to(&self, program: Program) -> Program {
        self.flags().iter().fold(program, |program, flag| program.arg(flag))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    /// The value of one sample.
    #[track_caller]
    fn value(&self, sample: &str) -> f64 {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is missing in\n{text}")).parse().unwrap()
    }

    #[track_caller]
    fn of_default(&self, name: &str) -> f64 {
        self.value(&format!("campaign_sync_{name}{{account=\"default\"}}"))
    }

    #[track_caller]
    fn labelled(&self, name: &str, label: &str) -> f64 {
        self.value(&format!("campaign_sync_{name}{{account=\"default\",{label}}}"))
    }

    /// Fails unless the file is whole, for everybody to read, alone in its folder, and accepted by `promtool`.
    #[track_caller]
    fn assert_sound(&self) {
        let mode = std::fs::metadata(self.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        let names: Vec<_> =
            std::fs::read_dir(self.0.as_path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["campaign_sync.prom"]);
        let text = self.text();
        assert!(text.ends_with('\n'));
        assert_no_secret(&[&text], &[PASSWORD]);
        if let Some(Err(said)) = promtool(&["check", "metrics"], &text) {
            panic!("{said}\n{text}");
        }
    }
}

/// Has `promtool` read `input`: what it says against it, if anything. None when it is not to be had.
fn promtool(arguments: &[&str], input: &str) -> Option<Result<(), String>> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    let path = PATH.get_or_init(|| crate::support::unpacked("promtool", "prometheus").map(|(path, _)| path));
    let mut command = Command::new(path.as_ref()?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    Some(if said.status.success() { Ok(()) } else { Err(text) })
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn a_file_that_is_cut_short_is_noticed() {
    if let Some(verdict) = promtool(&["check", "metrics"], "# TYPE x gauge\nx{account=\"defau") {
        assert!(verdict.unwrap_err().contains("parsing error"));
    }
}

#[test]
fn a_complete_run_tells_all_that_the_platform_saw() {
    let mut settings = Settings::fast(30);
    settings.rate_limit = Some((20, Duration::from_secs(2)));
    settings.list_503_every = 2;
    let server = mock_api::start(settings).unwrap();
    let (database, metrics) = (Database::create(), Metrics::new("complete"));
    let begun = now();
    let outcome = metrics.given_to(Program::sync(&server, &database)).args(&["--rate-limit", "20/3s"]);
    outcome.run().expect_code(0);
    metrics.assert_sound();
    let ledger = server.ledger();
    let statuses =
        |low, high| ledger.requests.iter().filter(|seen| (low..=high).contains(&seen.status)).count() as f64;
    assert_eq!(metrics.labelled("requests_total", "status=\"2xx\""), statuses(200, 299));
    assert_eq!(metrics.labelled("requests_total", "status=\"5xx\""), statuses(500, 599));
    assert!(statuses(500, 599) > 0.0);
    assert_eq!(metrics.labelled("requests_total", "status=\"429\""), 0.0);
    assert_eq!(metrics.labelled("retries_total", "cause=\"server_error\""), statuses(500, 599));
    assert_eq!(metrics.of_default("token_refreshes_total"), 1.0);
    assert_eq!(metrics.of_default("request_duration_seconds_count"), ledger.total as f64);
    assert_eq!(metrics.labelled("request_duration_seconds_bucket", "le=\"+Inf\""), ledger.total as f64);
    assert_eq!(metrics.labelled("campaigns", "state=\"synced\""), 30.0);
    assert_eq!(metrics.labelled("campaigns", "state=\"pending\""), 0.0);
    assert_eq!(metrics.of_default("dead_letters"), 0.0);
    assert_eq!(metrics.of_default("last_exit_code"), 0.0);
    assert_eq!(metrics.of_default("consecutive_listing_failures"), 0.0);
    let success = metrics.of_default("last_success_timestamp_seconds");
    assert!(begun - 1.0 <= success && success <= now() + 1.0, "{begun} {success}");
    let (took, waited) =
        (metrics.of_default("run_duration_seconds"), metrics.of_default("rate_limit_wait_seconds_total"));
    assert!(waited > 0.1 && took > waited, "{took} {waited}");
}

#[test]
fn dead_letters_are_told_until_they_are_synced() {
    let mut settings = Settings::fast(10);
    settings.faults = Faults { refused_every: 5, ..Faults::default() };
    let server = mock_api::start(settings).unwrap();
    let (database, metrics) = (Database::create(), Metrics::new("dead"));
    metrics.given_to(Program::sync(&server, &database)).run().expect_code(3);
    metrics.assert_sound();
    let dead = database.count("dead_letters") as f64;
    assert!(dead > 0.0);
    assert_eq!(metrics.of_default("dead_letters"), dead);
    assert_eq!(metrics.labelled("campaigns", "state=\"failed\""), dead);
    assert_eq!(metrics.of_default("last_exit_code"), 3.0);
    let first_success = metrics.of_default("last_success_timestamp_seconds");
    server.set_faults(Faults::default());
    let retry =
        Program::new(&["retry", "--json"]).api(&server.url(), EMAIL, PASSWORD).database(&database.url());
    metrics.given_to(retry).run().expect_code(0);
    metrics.assert_sound();
    assert_eq!(metrics.of_default("dead_letters"), 0.0);
    assert_eq!(metrics.of_default("last_success_timestamp_seconds"), first_success, "a retry lists nothing");
    let requests = metrics.of_default("request_duration_seconds_count");
    assert_eq!(requests, server.ledger().total as f64, "counters go on from run to run");
}

#[test]
fn refused_credentials_keep_the_last_success_that_the_database_knows() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let (database, metrics) = (Database::create(), Metrics::new("refused"));
    // The file does not know of this success: it is not there yet.
    Program::sync(&server, &database).run().expect_code(0);
    let program = Program::new(&["sync"]).api(&server.url(), EMAIL, "wrong").database(&database.url());
    server.revoke_tokens();
    database.execute("DELETE FROM access_tokens");
    metrics.given_to(program).run().expect_code(4);
    metrics.assert_sound();
    assert_eq!(metrics.of_default("last_exit_code"), 4.0);
    let finished: f64 = database.value("SELECT extract(epoch FROM max(finished_at))::float8 FROM sync_runs");
    assert!((metrics.of_default("last_success_timestamp_seconds") - finished).abs() < 0.002);
    assert_eq!(metrics.of_default("consecutive_listing_failures"), 0.0);
}

#[test]
fn a_lost_database_keeps_the_last_success_that_the_file_knows() {
    let mut cluster = Cluster::new();
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let (database, metrics) = (Database::create_in(&cluster), Metrics::new("lost"));
    metrics.given_to(Program::sync(&server, &database)).run().expect_code(0);
    let before = metrics.of_default("last_success_timestamp_seconds");
    cluster.stop();
    let away = metrics.given_to(Program::sync(&server, &database)).args(&["--give-up-after", "100ms"]);
    away.run().expect_code(5);
    metrics.assert_sound();
    assert_eq!(metrics.of_default("last_exit_code"), 5.0);
    assert_eq!(metrics.of_default("last_success_timestamp_seconds"), before);
    assert_eq!(metrics.labelled("campaigns", "state=\"synced\""), 5.0);
    cluster.start();
}

#[test]
fn listings_that_fail_twice_are_seen() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let (database, metrics) = (Database::create(), Metrics::new("listing"));
    server.outage_for(PATIENCE);
    for failures in [1.0, 2.0] {
        let program = metrics.given_to(Program::sync(&server, &database));
        program.args(&["--give-up-after", "100ms"]).run().expect_code(5);
        metrics.assert_sound();
        assert_eq!(metrics.of_default("consecutive_listing_failures"), failures);
    }
    server.outage_for(Duration::ZERO);
    metrics.given_to(Program::sync(&server, &database)).run().expect_code(0);
    assert_eq!(metrics.of_default("consecutive_listing_failures"), 0.0);
}

#[test]
fn wrong_settings_are_told_too() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let (database, metrics) = (Database::create(), Metrics::new("settings"));
    for (flag, nonsense) in [
        ("--workers", "none"),
        ("--deadline", "soon"),
        ("--progress", "sometimes"),
        ("--log-format", "xml"),
        ("--trace-file", ""),
        ("--accounts", "/nonexistent.toml"),
    ] {
        metrics.given_to(Program::sync(&server, &database)).run().expect_code(0);
        let success = metrics.of_default("last_success_timestamp_seconds");
        assert!(success > 0.0);
        metrics.given_to(Program::sync(&server, &database)).args(&[flag, nonsense]).run().expect_code(2);
        metrics.assert_sound();
        assert_eq!(metrics.of_default("last_exit_code"), 2.0, "{flag}");
        assert_eq!(metrics.of_default("last_success_timestamp_seconds"), success, "{flag}");
    }
    for (variable, nonsense) in
        [("DATABASE_URL", "nonsense"), ("RUST_LOG", "a=b=c"), ("AD_PLATFORM_API_URL", "x")]
    {
        metrics.given_to(Program::sync(&server, &database)).run().expect_code(0);
        metrics.given_to(Program::sync(&server, &database)).env(variable, nonsense).run().expect_code(2);
        metrics.assert_sound();
        assert_eq!(metrics.of_default("last_exit_code"), 2.0, "{variable}");
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_whole_file() {
    let mut settings = Settings::fast(40);
    settings.sync_latency = Duration::from_millis(20);
    let server = mock_api::start(settings).unwrap();
    let (database, metrics) = (Database::create(), Metrics::new("killed"));
    metrics.given_to(Program::sync(&server, &database)).run().expect_code(0);
    let before = metrics.text();
    let syncs = server.ledger().syncs;
    let running = metrics.given_to(Program::sync(&server, &database)).spawn();
    eventually(PATIENCE, "the second run is under way", || server.ledger().syncs > syncs);
    running.kill();
    assert_eq!(metrics.text(), before);
    metrics.assert_sound();
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_loses_no_sync() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    for path in ["/nonexistent/campaign_sync.prom", "/proc/self/status"] {
        let outcome = Program::sync(&server, &database).args(&["--metrics-file", path]).run().expect_code(0);
        assert_eq!(outcome.json()[0]["state"], "complete");
        let said: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains(path)).collect();
        assert_eq!(said.len(), 1, "{outcome}");
        assert!(said[0].contains("--metrics-file") && said[0].contains("not written"), "{outcome}");
    }
}

#[test]
fn accounts_share_one_file_and_each_keeps_its_own_lines() {
    let (north, south) =
        (mock_api::start(Settings::fast(5)).unwrap(), mock_api::start(Settings::fast(7)).unwrap());
    let (database, metrics) = (Database::create(), Metrics::new("accounts"));
    let folder = Folder::new("accounts");
    let table = |name: &str, url: &str, variable: &str| {
        format!(
            "[[account]]\nname = \"{name}\"\napi_url = \"{url}\"\nemail = \"{EMAIL}\"\npassword_env = \"{variable}\"\n"
        )
    };
    let broken = table("broken", &north.url(), "UNSET");
    let tables = table("north", &north.url(), "PW") + &table("so\\\"uth", &south.url(), "PW") + &broken;
    let file = folder.file("accounts.toml", &tables, 0o600);
    let program = |only: &[&str]| {
        let program = Program::new(&["sync", "--json", "--accounts", &file]).args(only);
        metrics.given_to(program.database(&database.url()).env("PW", PASSWORD)).run()
    };
    program(&[]).expect_code(2);
    metrics.assert_sound();
    let synced = |account: &str| {
        metrics.value(&format!("campaign_sync_campaigns{{account=\"{account}\",state=\"synced\"}}"))
    };
    let code =
        |account: &str| metrics.value(&format!("campaign_sync_last_exit_code{{account=\"{account}\"}}"));
    assert_eq!((synced("north"), synced("so\\\"uth"), code("broken")), (5.0, 7.0, 2.0));
    south.outage_for(PATIENCE);
    let before = metrics.text();
    program(&["--only", "north"]).expect_code(0);
    metrics.assert_sound();
    let of_others = |text: &str| {
        text.lines().filter(|line| !line.contains("\"north\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_others(&metrics.text()), of_others(&before));
}

#[test]
fn the_documented_alerts_fire_when_they_should() {
    let readme = include_str!("../../src/docs/monitoring.md");
    let rules =
        readme.split("```yaml\n").find(|block| block.starts_with("groups:")).expect("it has alert rules");
    let folder = Folder::new("alerts");
    folder.file("rules.yml", rules.split("```").next().unwrap(), 0o644);
    let tests = folder.path("alerts.yml");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/alerts.yml"), &tests).unwrap();
    if let Some(Err(said)) = promtool(&["test", "rules", &tests], "") {
        panic!("{said}");
    }
}

#[test]
fn processes_that_share_a_file_lose_nothing_of_each_other() {
    const ROUNDS: u32 = 4;
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let (database, metrics) = (Database::create(), Metrics::new("shared"));
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    let accounts = Folder::new("metrics-accounts");
    let names = ["n1", "n2", "n3", "n4", "n5", "n6"];
    let sync = |name: &&str| {
        let table = format!(
            "[[account]]\nname = \"{name}\"\napi_url = \"{}\"\nemail = \"{EMAIL}\"\npassword_env = \"PW\"\n",
            server.url()
        );
        let file = accounts.file(&format!("{name}.toml"), &table, 0o600);
        let program = Program::new(&["sync", "--accounts", &file]).database(&database.url());
        metrics.given_to(program.env("PW", PASSWORD)).spawn()
    };
    for _ in 0..ROUNDS {
        let running: Vec<_> = names.iter().map(sync).collect();
        running.into_iter().for_each(|process| drop(process.wait().expect_code(0)));
    }
    for name in names {
        let sample = format!("campaign_sync_requests_total{{account=\"{name}\",status=\"2xx\"}}");
        // A token that serves all rounds; in each a page, and three syncs.
        assert_eq!(metrics.value(&sample), f64::from(1 + ROUNDS * 4), "{name}");
    }
    metrics.assert_sound();
}

#[test]
fn a_folder_that_somebody_keeps_locked_is_waited_for_but_not_for_ever() {
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let (database, metrics) = (Database::create(), Metrics::new("locked"));
    let folder = std::fs::File::open(metrics.0.as_path()).unwrap();
    folder.lock().unwrap();
    let outcome = metrics.given_to(Program::sync(&server, &database)).run().expect_code(0);
    let said = outcome.stderr.lines().filter(|line| line.contains("WARN") && line.contains("--metrics-file"));
    assert_eq!(said.count(), 1, "{outcome}");
    assert_eq!(metrics.of_default("last_exit_code"), 0.0);
}
