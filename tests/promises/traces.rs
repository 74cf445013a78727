//! `--trace-file` tells of each request once, under the id that the platform was given, in the form that OpenTelemetry's
//! collector reads.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mock_api::{EMAIL, Faults, Kind, Ledger, PASSWORD, Server, Settings};

use crate::support::{Database, Folder, PATIENCE, Program, assert_no_secret, eventually};

/// The JSON form of OTLP's `opentelemetry/proto/trace/v1/trace.proto`, and nothing besides.
#[allow(dead_code, reason = "that the fields can be read is what is tested")]
mod otlp {
    use serde::Deserialize;
    use serde::de::{Deserializer, Error};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Request {
        pub resource_spans: Vec<ResourceSpans>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct ResourceSpans {
        pub resource: Resource,
        pub scope_spans: Vec<ScopeSpans>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Resource {
        pub attributes: Vec<KeyValue>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct ScopeSpans {
        pub scope: Scope,
        pub spans: Vec<Span>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Scope {
        pub name: String,
        pub version: String,
    }

    #[derive(Clone, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Span {
        #[serde(deserialize_with = "hexadecimal::<16, _>")]
        pub trace_id: String,
        #[serde(deserialize_with = "hexadecimal::<8, _>")]
        pub span_id: String,
        #[serde(default, deserialize_with = "optional_id")]
        pub parent_span_id: Option<String>,
        pub name: String,
        pub kind: u8,
        #[serde(deserialize_with = "whole")]
        pub start_time_unix_nano: i64,
        #[serde(deserialize_with = "whole")]
        pub end_time_unix_nano: i64,
        pub attributes: Vec<KeyValue>,
        pub status: Status,
    }

    #[derive(Clone, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Status {
        #[serde(default)]
        pub code: u8,
        #[serde(default)]
        pub message: String,
    }

    #[derive(Clone, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct KeyValue {
        pub key: String,
        pub value: AnyValue,
    }

    #[derive(Clone, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub enum AnyValue {
        StringValue(String),
        #[serde(deserialize_with = "whole")]
        IntValue(i64),
    }

    /// 64-bit numbers are texts.
    fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }

    /// Ids are lower-case hexadecimal and never all zero.
    fn hexadecimal<'de, const BYTES: usize, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 2 * BYTES && digits && text.bytes().any(|byte| byte != b'0') {
            Ok(text)
        } else {
            Err(D::Error::custom(format!("{text:?} is no id of {BYTES} bytes")))
        }
    }

    fn optional_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
        hexadecimal::<8, _>(from).map(Some)
    }
}

use otlp::{AnyValue, Span};

impl Span {
    fn text(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|found| found.key == key).map(|found| match &found.value {
            AnyValue::StringValue(text) => text.as_str(),
            AnyValue::IntValue(_) => panic!("{key} is a number"),
        })
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.attributes.iter().find(|found| found.key == key).map(|found| match &found.value {
            AnyValue::IntValue(number) => *number,
            AnyValue::StringValue(_) => panic!("{key} is a text"),
        })
    }

    /// A request's span: a client's.
    fn is_attempt(&self) -> bool {
        self.kind == 3
    }

    fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.span_id)
    }
}

/// A trace file in a folder of its own.
struct Traces(Folder);

impl Traces {
    fn new(test: &str) -> Self {
        Self(Folder::new(&format!("traces-{test}")))
    }

    fn path(&self) -> String {
        self.0.path("traces.jsonl")
    }

    fn given_to(&self, program: Program) -> Program {
        program.args(&["--trace-file", &self.path()])
    }

    fn content(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    /// All spans of all lines.
    #[track_caller]
    fn spans(&self) -> Vec<Span> {
        let text = self.content();
        assert!(text.ends_with('\n'), "the last line is whole");
        let mut spans = Vec::new();
        for line in text.lines() {
            let request: otlp::Request =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{line}"));
            for resource in request.resource_spans {
                let name = &resource.resource.attributes[0];
                assert!(name.key == "service.name");
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        if let Some(read) = by_its_own_schema(&text) {
            assert_eq!(read, Ok(format!("{}\n", spans.len())));
        }
        spans
    }
}

/// Has the schema that OpenTelemetry publishes read the lines: how many spans it found, or what it says against them. None
/// when it is not to be had.
fn by_its_own_schema(text: &str) -> Option<Result<String, String>> {
    static PYTHON: OnceLock<Option<String>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("otlp");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/otlp.sh");
        let found = Command::new("bash").arg(script).arg(folder).output().expect("bash runs");
        if !found.status.success() {
            let reason = String::from_utf8_lossy(&found.stderr);
            eprintln!(
                "skipped: OTLP's schema is not to be had: {}",
                reason.lines().last().unwrap_or_default()
            );
            return None;
        }
        Some(String::from_utf8_lossy(&found.stdout).trim_end().to_owned())
    });
    let mut command = Command::new(python.as_ref()?);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/otlp.py"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What it does not like it may not read to its end.
    let _said_below = child.stdin.take().unwrap().write_all(text.as_bytes());
    let said = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) })
}

#[test]
fn what_is_no_otlp_is_noticed() {
    for wrong in [r#"{"resourceSpans": [{"scopeSpans": [{"spanz": []}]}]}"#, r#"{"resourceSpans": ["#] {
        if let Some(read) = by_its_own_schema(wrong) {
            assert!(read.unwrap_err().contains("ParseError"), "{wrong}");
        }
    }
}

/// Fails unless each request that the platform saw has one span, under the id it came with, and each span of a request
/// was seen by it.
#[track_caller]
fn assert_one_to_one(spans: &[Span], ledger: &Ledger) {
    let attempts: HashMap<String, &Span> =
        spans.iter().filter(|span| span.is_attempt()).map(|span| (span.traceparent(), span)).collect();
    let seen: HashSet<&str> = ledger.requests.iter().map(|seen| seen.traceparent.as_str()).collect();
    assert_eq!(seen.len(), ledger.requests.len(), "no id is sent twice");
    assert_eq!(attempts.keys().map(String::as_str).collect::<HashSet<_>>(), seen);
    assert_eq!(spans.iter().filter(|span| span.is_attempt()).count(), seen.len(), "no span is told twice");
    for request in &ledger.requests {
        let span = attempts[&request.traceparent];
        let name = match request.kind {
            Kind::Token => "POST /auth/token",
            Kind::List => "GET /api/campaigns",
            Kind::Sync => "POST /api/campaigns/{id}/sync",
            Kind::Other => "GET /health",
        };
        assert_eq!(span.name, name);
        if request.kind == Kind::Sync {
            assert_eq!(span.text("campaign_sync.campaign_id"), Some(request.subject.as_str()));
        }
        if let Some(status) = span.number("http.response.status_code") {
            assert_eq!(status, i64::from(request.status), "{}", request.traceparent);
            assert_eq!(span.status.code == 2, span.text("error.type").is_some());
        } else {
            assert_eq!(span.status.code, 2, "no answer is a failure");
        }
    }
}

/// Fails unless every span has its place: one run a trace, and everything else within what it belongs to.
#[track_caller]
fn assert_in_place(spans: &[Span]) {
    let by_id: HashMap<(&str, &str), &Span> =
        spans.iter().map(|span| ((span.trace_id.as_str(), span.span_id.as_str()), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "ids are unique");
    let traces: HashSet<&str> = spans.iter().map(|span| span.trace_id.as_str()).collect();
    let runs: Vec<&str> =
        spans.iter().filter(|span| span.name == "run").map(|span| span.trace_id.as_str()).collect();
    assert_eq!(runs.iter().copied().collect::<HashSet<_>>(), traces);
    assert_eq!(runs.len(), traces.len());
    for span in spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        let Some(parent) = &span.parent_span_id else {
            assert_eq!(span.name, "run");
            continue;
        };
        let parent = by_id[&(span.trace_id.as_str(), parent.as_str())];
        let belongs_to: &[&str] = match span.name.as_str() {
            "GET /api/campaigns" => &["page", "run"],
            "POST /api/campaigns/{id}/sync" => &["campaign"],
            "POST /auth/token" | "page" | "campaign" | "commit" => &["run"],
            other => panic!("{other} is no name of ours"),
        };
        assert!(belongs_to.contains(&parent.name.as_str()), "{} in {}", span.name, parent.name);
        assert!(parent.start_time_unix_nano <= span.start_time_unix_nano, "{} in {}", span.name, parent.name);
        assert!(span.end_time_unix_nano <= parent.end_time_unix_nano, "{} in {}", span.name, parent.name);
        assert_eq!(span.text("campaign_sync.account"), parent.text("campaign_sync.account"));
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[test]
fn a_complete_run_is_told_from_its_pages_to_its_commits() {
    let mut settings = Settings::fast(30);
    settings.list_503_every = 2;
    let server = mock_api::start(settings).unwrap();
    let (database, traces) = (Database::create(), Traces::new("complete"));
    traces.given_to(Program::sync(&server, &database)).run().expect_code(0);
    let (spans, ledger) = (traces.spans(), server.ledger());
    assert_one_to_one(&spans, &ledger);
    assert_in_place(&spans);
    let run = named(&spans, "run")[0];
    assert_eq!(run.text("campaign_sync.account"), Some("default"));
    assert_eq!(
        (run.number("campaign_sync.synced"), run.number("campaign_sync.exit_code")),
        (Some(30), Some(0))
    );
    assert_eq!(run.status.code, 0);
    let pages: Vec<_> = named(&spans, "page").iter().map(|page| page.number("campaign_sync.page")).collect();
    assert_eq!(pages, [Some(1), Some(2), Some(3)]);
    let campaigns = named(&spans, "campaign");
    let ids: HashSet<_> =
        campaigns.iter().map(|span| span.text("campaign_sync.campaign_id").unwrap()).collect();
    assert_eq!((campaigns.len(), ids.len()), (30, 30));
    let rows = |table| {
        let commits = named(&spans, "commit").into_iter();
        let of = commits.filter(|commit| commit.text("campaign_sync.table") == Some(table));
        of.filter_map(|commit| commit.number("campaign_sync.rows")).sum::<i64>()
    };
    // A page's transaction stores what is finished by then, and makes tasks of the rest.
    assert_eq!((rows("sync_runs"), rows("dead_letters")), (30, 0));
    assert!(rows("campaigns") <= 30);
    let again: Vec<_> =
        spans.iter().filter(|span| span.number("http.request.resend_count") == Some(1)).collect();
    assert_eq!(again.len(), ledger.of(Kind::List).filter(|seen| seen.status == 503).count());
    assert!(!again.is_empty());
    let list = again[0];
    assert_eq!(list.text("http.request.method"), Some("GET"));
    assert_eq!(list.text("url.path"), Some("/api/campaigns"));
    assert_eq!(list.text("server.address"), Some("127.0.0.1"));
    let url = list.text("url.full").unwrap();
    assert!(url.starts_with(&format!("{}/api/campaigns?page=", server.url())), "{url}");
}

#[test]
fn whatever_goes_wrong_each_request_is_told_once_and_no_secret_ever() {
    let server = mock_api::start(Settings::hostile(11, 60)).unwrap();
    let (database, traces) = (Database::create(), Traces::new("hostile"));
    let program = traces.given_to(Program::sync(&server, &database));
    let outcome = program.args(&["--timeout", "1s", "--max-attempts", "4"]).run().expect_code(3);
    let spans = traces.spans();
    assert_one_to_one(&spans, &server.ledger());
    assert_in_place(&spans);
    let dead = outcome.json()[0]["failed"].as_i64().unwrap();
    let told = named(&spans, "campaign").into_iter();
    let told = told.filter(|span| span.text("campaign_sync.outcome") == Some("dead_letter"));
    let told: Vec<&Span> = told.collect();
    assert!(!told.is_empty() && told.len() as i64 <= dead, "{} of {dead}", told.len());
    assert!(told.iter().all(|span| span.status.code == 2 && !span.status.message.is_empty()));
    for cause in ["server_error", "timeout", "unparsable", "unauthorized"] {
        assert!(spans.iter().any(|span| span.text("campaign_sync.cause") == Some(cause)), "{cause}");
    }
    let basic = format!("{EMAIL}:{PASSWORD}");
    assert_no_secret(&[&traces.content()], &[PASSWORD, &basic, "token-0"]);
}

#[test]
fn refused_credentials_are_told_with_the_request_that_was_refused() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let (database, traces) = (Database::create(), Traces::new("refused"));
    let program = Program::new(&["sync"]).api(&server.url(), EMAIL, "wrong-password");
    traces.given_to(program.database(&database.url())).run().expect_code(4);
    let spans = traces.spans();
    assert_one_to_one(&spans, &server.ledger());
    let token = named(&spans, "POST /auth/token")[0];
    assert_eq!(token.number("http.response.status_code"), Some(401));
    assert_eq!(token.text("error.type"), Some("401"));
    let run = named(&spans, "run")[0];
    assert!(run.status.code == 2 && run.status.message.starts_with("credentials refused"));
    assert_no_secret(&[&traces.content()], &["wrong-password"]);
}

/// A server whose syncs take their time.
fn slow_server() -> Server {
    let mut settings = Settings::fast(60);
    settings.sync_latency = Duration::from_secs(1);
    mock_api::start(settings).unwrap()
}

#[test]
fn a_killed_process_leaves_whole_lines_and_the_next_goes_on_behind_them() {
    let server = slow_server();
    let (database, traces) = (Database::create(), Traces::new("killed"));
    let program = || traces.given_to(Program::sync(&server, &database)).args(&["--workers", "2"]);
    let running = program().spawn();
    eventually(PATIENCE, "spans are in the file", || {
        std::fs::metadata(traces.path()).is_ok_and(|file| file.len() > 0)
    });
    running.kill();
    server.change(|settings| settings.sync_latency = Duration::ZERO);
    let killed = traces.spans();
    assert!(!killed.is_empty() && named(&killed, "run").is_empty());
    program().run().expect_code(0);
    let spans = traces.spans();
    assert_eq!(named(&spans, "run").len(), 1);
    assert_eq!(spans.iter().map(|span| &span.trace_id).collect::<HashSet<_>>().len(), 2);
}

#[test]
fn an_interrupted_run_tells_of_all_that_it_had_begun() {
    let server = slow_server();
    server.set_faults(Faults { sync_outage: true, ..Faults::default() });
    let (database, traces) = (Database::create(), Traces::new("interrupted"));
    let mut running = traces.given_to(Program::sync(&server, &database)).spawn();
    eventually(PATIENCE, "syncs have failed", || server.ledger().of(Kind::Sync).count() > 5);
    running.signal(crate::support::Signal::Term);
    running.wait().expect_code(143);
    let spans = traces.spans();
    assert_one_to_one(&spans, &server.ledger());
    assert_in_place(&spans);
    let campaigns = named(&spans, "campaign");
    assert!(!campaigns.is_empty());
    assert!(campaigns.iter().all(|span| span.text("campaign_sync.outcome") == Some("left")));
}

#[test]
fn a_second_signal_leaves_what_was_told_by_then() {
    let mut settings = Settings::fast(60);
    settings.sync_latency = Duration::from_secs(60);
    let server = mock_api::start(settings).unwrap();
    let (database, traces) = (Database::create(), Traces::new("second"));
    let mut running = traces.given_to(Program::sync(&server, &database)).spawn();
    eventually(PATIENCE, "syncs are under way", || server.ledger().of(Kind::Sync).count() > 5);
    running.signal(crate::support::Signal::Term);
    eventually(PATIENCE, "the first is noticed", || {
        running.stderr().contains("stopping: requests in flight")
    });
    let signalled = Instant::now();
    running.signal(crate::support::Signal::Term);
    running.wait().expect_code(143);
    assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
    let spans = traces.spans();
    let listed = server.ledger().of(Kind::List).count();
    assert!(listed > 0 && named(&spans, "GET /api/campaigns").len() >= listed - 1, "{listed} requests");
    assert_eq!(named(&spans, "POST /auth/token").len(), 1);
}

#[test]
fn accounts_share_a_file_and_each_has_a_trace_of_its_own() {
    let servers = [5, 7].map(|campaigns| mock_api::start(Settings::fast(campaigns)).unwrap());
    let (database, traces) = (Database::create(), Traces::new("accounts"));
    let table = |(name, server): (&str, &Server)| {
        let url = server.url();
        format!(
            "[[account]]\nname = \"{name}\"\napi_url = \"{url}\"\nemail = \"{EMAIL}\"\npassword_env = \"PW\"\n"
        )
    };
    let tables: String = ["north", "south"].into_iter().zip(&servers).map(table).collect();
    let accounts = traces.0.file("accounts.toml", &tables, 0o600);
    let program = Program::new(&["sync", "--accounts", &accounts]);
    traces.given_to(program.database(&database.url()).env("PW", PASSWORD)).run().expect_code(0);
    let spans = traces.spans();
    assert_in_place(&spans);
    for (name, server) in ["north", "south"].into_iter().zip(&servers) {
        let own = spans.iter().filter(|span| span.text("campaign_sync.account") == Some(name));
        let own: Vec<Span> = own.cloned().collect();
        assert_one_to_one(&own, &server.ledger());
        assert_eq!(own.iter().map(|span| &span.trace_id).collect::<HashSet<_>>().len(), 1);
    }
}

#[test]
fn without_a_file_requests_carry_an_id_all_the_same() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let database = Database::create();
    Program::sync(&server, &database).run().expect_code(0);
    let check = Program::new(&["check"]).api(&server.url(), EMAIL, PASSWORD).database(&database.url());
    check.run().expect_code(0);
    let ledger = server.ledger();
    assert!(ledger.of(Kind::Other).count() > 0, "check has asked for the API's health");
    let mut traces = HashSet::new();
    let mut ids = HashSet::new();
    for seen in &ledger.requests {
        let parts: Vec<&str> = seen.traceparent.split('-').collect();
        let [version, trace, span, flags] = parts[..] else { panic!("{:?}", seen.traceparent) };
        assert_eq!((version, trace.len(), span.len(), flags), ("00", 32, 16, "00"), "nobody keeps it");
        traces.insert(trace);
        ids.insert(span);
    }
    assert_eq!((traces.len(), ids.len()), (2, ledger.requests.len()));
}

#[test]
fn a_file_that_cannot_be_written_is_named_once_and_loses_no_sync() {
    let server = mock_api::start(Settings::fast(20)).unwrap();
    let database = Database::create();
    for path in ["/nonexistent/traces.jsonl", "/dev/full"] {
        let outcome = Program::sync(&server, &database).args(&["--trace-file", path]).run().expect_code(0);
        assert_eq!(outcome.json()[0]["synced"], 20);
        let said: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains(path)).collect();
        assert_eq!(said.len(), 1, "{outcome}");
        assert!(said[0].contains("WARN") && said[0].contains("--trace-file"), "{outcome}");
    }
}

/// A pipe's path in a folder of its own.
fn pipe(folder: &Folder) -> String {
    let path = folder.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn a_pipe_that_nobody_reads_keeps_no_process_alive_and_is_named_once() {
    let server = mock_api::start(Settings::fast(200)).unwrap();
    let (database, folder) = (Database::create(), Folder::new("traces-pipe"));
    let path = pipe(&folder);
    let outcome = Program::sync(&server, &database).args(&["--trace-file", &path]).run().expect_code(0);
    assert_eq!(outcome.json()[0]["synced"], 200);
    let said: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains(&path)).collect();
    assert_eq!(said.len(), 1, "{outcome}");
    assert!(said[0].contains("WARN") && said[0].contains("missing"), "{outcome}");
}

#[test]
fn a_pipe_with_a_reader_gets_every_span() {
    let server = mock_api::start(Settings::fast(200)).unwrap();
    let (database, folder) = (Database::create(), Folder::new("traces-read"));
    let (path, copy) = (pipe(&folder), std::fs::File::create(folder.path("copy")).unwrap());
    let mut reader = Command::new("cat").arg(&path).stdout(copy).spawn().unwrap();
    let outcome = Program::sync(&server, &database).args(&["--trace-file", &path]).run().expect_code(0);
    assert!(!outcome.stderr.contains("WARN"), "{outcome}");
    assert!(reader.wait().unwrap().success());
    let text = std::fs::read_to_string(folder.path("copy")).unwrap();
    let told = text.matches("\"name\":\"POST /api/campaigns/{id}/sync\"").count();
    assert_eq!(told, server.ledger().of(Kind::Sync).count());
}

#[test]
fn files_that_may_not_grow_cost_no_sync() {
    let server = mock_api::start(Settings::fast(200)).unwrap();
    let (database, folder) = (Database::create(), Folder::new("traces-limit"));
    let (traces, metrics) = (folder.path("traces.jsonl"), folder.path("metrics.prom"));
    let arguments = ["sync", "--json", "--trace-file", &traces, "--metrics-file", &metrics];
    let outcome = Program::by(&["sh", "-c", "ulimit -f 1; exec \"$0\" \"$@\""], &arguments)
        .api(&server.url(), EMAIL, PASSWORD)
        .database(&database.url())
        .run()
        .expect_code(0);
    assert_eq!(outcome.json()[0]["synced"], 200);
    for flag in ["--trace-file", "--metrics-file"] {
        assert_eq!(outcome.stderr.matches(flag).count(), 1, "{outcome}");
    }
}
