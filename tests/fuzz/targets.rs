//! What is fed, and what must hold of whatever comes out.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use campaign_sync::cli::Flags;
use campaign_sync::config::{Config, ConfigFile, Environment};
use campaign_sync::http::{Secret, hints};
use campaign_sync::platform::{CallError, Listed, MAX_ID_BYTES, answers, read_record};
use campaign_sync::store::Conninfo;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub dictionary: &'static [&'static str],
}

/// A password that stands in the corpora; no error may repeat it.
const SECRET: &str = "hunter2";
const YEAR: Duration = Duration::from_secs(366 * 86_400);

#[rustfmt::skip]
const JSON: &[&str] = &[
    "{", "}", "[", "]", ":", ",", "\"", "\\u0000", "\\ud800", "\\\"", "null", "true", "false", "\"id\"",
    "\"data\"", "\"pagination\"", "\"has_more\"", "\"total\"", "\"budget\"", "\"created_at\"",
    "\"success\"", "\"message\"", "\"access_token\"", "\"expires_in\"", "\"campaign_id\"", "\u{1b}[31m",
    "\u{202e}", "[[[[[[[[", "{\"a\":", "hunter2",
];
#[rustfmt::skip]
const HINTS: &[&str] = &[
    "retry-after: ", "ratelimit: ", "ratelimit-policy: ", "ratelimit-limit: ", "ratelimit-remaining: ",
    "ratelimit-reset: ", "x-ratelimit-limit: ", "x-ratelimit-remaining: ", "x-ratelimit-reset: ",
    "date: ", "body: ", "\n", ";", ",", "=", "\"", "q=", "w=", "r=", "t=", "limit=", "remaining=",
    "reset=", "GMT", "1994", "é",
];
#[rustfmt::skip]
const SETTINGS: &[&str] = &[
    "AD_PLATFORM_API_URL=", "AD_PLATFORM_EMAIL=", "AD_PLATFORM_PASSWORD=", "AD_PLATFORM_CLIENT_ID=",
    "AD_PLATFORM_RATE_LIMIT=", "CAMPAIGN_SYNC_PAGE_SIZE=", "CAMPAIGN_SYNC_WORKERS=", "--timeout=",
    "--max-wait=", "--give-up-after=", "--deadline=", "--max-removed=", "--max-attempts=", "https://",
    "http://", "[::1]", "127.0.0.1", "localhost", "@", ":", "/", "?", "#", "%00", "ms", "s", "m", "h",
    "\n", "é", "\u{0}",
];
#[rustfmt::skip]
const ACCOUNTS: &[&str] = &[
    "[[account]]\n", "name = ", "api_url = ", "email = ", "password = \"hunter2\"\n", "password_env = ",
    "password_file = ", "password_command = ", "client_id = ", "rate_limit = ", "workers = ",
    "page_size = ", "timeout = ", "enabled = ", "true", "\"", "'", "\"\"\"", "\n", "#", "=", "[", "]",
    "{", "}", "\\u0000", "é",
];
#[rustfmt::skip]
const CONNINFO: &[&str] = &[
    "postgres://", "postgresql://", "hunter2", "@", ":", "/", "?", "&", "=", "%", "%00", "%2F", "[::1]",
    ",", "'", "\\", " ", "host", "hostaddr", "port", "user", "password", "dbname", "sslmode",
    "verify-full", "sslrootcert", "system", "connect_timeout", "target_session_attrs", "service",
    "options", "keepalives", "channel_binding", "\n", "é",
];
#[rustfmt::skip]
const CONFIG: &[&str] = &[
    "workers = 3\n", "api_url = ", "password = ", "password_command = ", "database_url = ", "proxy = ", "allow_http = true\n",
    "\"postgres://a:hunter2@b/c\"", "\"hunter2\"", "'", "\"\"\"", "[", "]", "{", "}", "=", "#", "\n", "\r\n", "é", "1e9",
];
#[rustfmt::skip]
const PASSWORD_FILE: &[&str] = &[
    "*", ":", "\\", "\\:", "\n", "\r\n", "localhost", "5432", "app", "hunter2", "#", "é",
];
#[rustfmt::skip]
const SERVICE_FILE: &[&str] = &[
    "[", "]", "[app]\n", "=", "host=", "port=", "user=", "password=hunter2", "sslmode=", "service=",
    "ldap://", "#", "\n", " ", "é",
];

pub const TARGETS: &[Target] = &[
    Target { name: "answers", run: answers, dictionary: JSON },
    Target { name: "records", run: records, dictionary: JSON },
    Target { name: "hints", run: hints, dictionary: HINTS },
    Target { name: "settings", run: settings, dictionary: SETTINGS },
    Target { name: "accounts", run: accounts, dictionary: ACCOUNTS },
    Target { name: "config", run: config_file, dictionary: CONFIG },
    Target { name: "conninfo", run: conninfo, dictionary: CONNINFO },
    Target { name: "pgpass", run: password_file, dictionary: PASSWORD_FILE },
    Target { name: "service", run: service_file, dictionary: SERVICE_FILE },
];

/// Every answer of the platform, read as every kind of answer.
fn answers(input: &[u8]) {
    let sent = Secret::new(format!("Bearer {SECRET}"));
    let line = |error: &CallError| {
        let text = error.to_string();
        assert!(!text.contains(char::is_control) && text.chars().count() < 400, "{text:?}");
    };
    match answers::grant(input) {
        Ok(grant) => {
            assert!(grant.access_token.reveal().bytes().all(|byte| byte.is_ascii_graphic()));
            assert_eq!(
                format!("{:?}", grant.access_token),
                format!("{sent:?}"),
                "every secret looks the same"
            );
        }
        Err(error) => line(&error),
    }
    match answers::page(input) {
        Ok(page) => {
            assert!(page.limit.is_none_or(|limit| limit >= 1) && page.total.is_none_or(|total| total >= 0));
            for raw in &page.records {
                record(raw.get());
            }
        }
        Err(error) => line(&error),
    }
    if let Err(error) = answers::sync_reply(input, "campaign_1", &[&sent]) {
        line(&error);
        // The id of another campaign is shown as it is: it is no credential.
        let other = error.to_string().contains("about another campaign");
        assert!(other || !error.to_string().contains(SECRET), "{error}");
    }
    let refusal = answers::refusal(400, input, &[&sent]);
    assert!(!refusal.contains(SECRET) && !refusal.contains(char::is_control), "{refusal:?}");
}

fn records(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        record(text);
    }
}

fn record(text: &str) {
    let Ok(raw) = serde_json::value::RawValue::from_string(text.to_owned()) else { return };
    match read_record(&raw) {
        Listed::Valid(campaign) => {
            let value: serde_json::Value = serde_json::from_str(raw.get()).unwrap();
            assert_eq!(value["id"].as_str(), Some(&*campaign.id));
            assert_eq!(value["name"].as_str(), Some(&*campaign.name));
            assert!((1..=MAX_ID_BYTES).contains(&campaign.id.len()));
            let texts = [&campaign.id, &campaign.name, &campaign.status];
            assert!(texts.iter().all(|text| !text.contains('\0')));
            assert!(campaign.impressions >= 0 && campaign.clicks >= 0 && campaign.conversions >= 0);
            assert!(campaign.budget.parse::<f64>().is_ok(), "{}", campaign.budget);
            let extra: serde_json::Value = serde_json::from_str(&campaign.extra).unwrap();
            assert!(extra.as_object().unwrap().keys().all(|key| !campaign_field(key)));
        }
        Listed::Invalid(invalid) => {
            assert!(!invalid.reason.is_empty());
            assert!(invalid.id.is_none_or(|id| (1..=MAX_ID_BYTES).contains(&id.len()) && !id.contains('\0')));
        }
    }
}

fn campaign_field(key: &str) -> bool {
    ["id", "name", "status", "budget", "impressions", "clicks", "conversions", "created_at"].contains(&key)
}

/// Lines of `name: value`, as headers; `body: 12` stands for a body's `retry_after`.
fn hints(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(": ")).collect();
    let find = |name: &str| lines.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let body = find("body").and_then(|value| value.parse().ok());
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_770_000_000);
    let seen = hints::from_response(find, body, wall);
    assert!(seen.retry_after.is_none_or(|wait| wait <= YEAR), "{seen:?}");
    assert!(seen.reset.is_none_or(|wait| wait <= YEAR), "{seen:?}");
    assert!(seen.limit.is_none_or(|limit| !limit.window.is_zero() && limit.window <= YEAR), "{seen:?}");
}

/// Whether the secret stands only where a password does: what is a name or a number by mistake may be shown as one.
fn secret_in_its_place(text: &str, places: &[&str]) -> bool {
    text.matches(SECRET).count() == places.iter().map(|place| text.matches(place).count()).sum::<usize>()
}

type Variables<'a> = Vec<(&'a str, &'a str)>;

fn look_up(variables: &Variables<'_>, name: &str) -> Option<OsString> {
    variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
}

/// Lines of `NAME=value` as the environment, and of `--flag=value`.
fn settings(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut variables: Variables<'_> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let flag = |name: &str| look_up(&variables, name).map(|value| value.to_string_lossy().into_owned());
    let flags = Flags {
        timeout: flag("--timeout"),
        max_wait: flag("--max-wait"),
        give_up_after: flag("--give-up-after"),
        deadline: flag("--deadline"),
        max_removed: flag("--max-removed"),
        max_attempts: flag("--max-attempts"),
        ..Flags::default()
    };
    // What would be run, and files that are no business of a fuzzer.
    variables.retain(|(name, _)| {
        !name.ends_with("_COMMAND") && !name.ends_with("_FILE") && !name.contains("ACCOUNTS")
    });
    let found = |name: &str| look_up(&variables, name);
    match Config::for_api(&flags, Environment { variables: &found, file: None }) {
        Ok(config) => {
            let account = config.one_account().unwrap();
            assert!((1..=1024).contains(&account.workers) && (1..=1000).contains(&account.page_size));
            let scheme = account.api_url.split("://").next().unwrap_or_default();
            assert!(["http", "https"].contains(&scheme) && !account.api_url.contains(['@', '?', '#']));
            assert!(config.max_removed <= 100 && (1..=100).contains(&account.max_attempts));
            assert!(!account.timeout.is_zero());
        }
        Err(error) => {
            let lines = format!("\n{text}\n");
            let hidden = !secret_in_its_place(&lines, &["\nAD_PLATFORM_PASSWORD=hunter2\n"])
                || !error.0.contains(SECRET);
            assert!(hidden && !error.0.contains('\n'), "{}", error.0);
        }
    }
}

/// A file of the fuzzer's own, as private as a password's must be.
fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}-{name}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
    file.write_all(content).unwrap();
    path
}

fn accounts(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let path = file("accounts", input);
    let path = path.to_str().unwrap();
    let flags = Flags { accounts: Some(path.to_owned()), ..Flags::default() };
    let variables: Variables<'_> = vec![("NORTH_PASSWORD", SECRET), ("AD_PLATFORM_EMAIL", "ads@example.com")];
    let found = |name: &str| look_up(&variables, name);
    match Config::for_api(&flags, Environment { variables: &found, file: None }) {
        Ok(config) => {
            for account in &config.accounts {
                assert!((1..=200).contains(&account.name.len()) && !account.name.contains(char::is_control));
                assert!((1..=1024).contains(&account.workers) && (1..=1000).contains(&account.page_size));
            }
        }
        Err(error) => {
            let hidden =
                !secret_in_its_place(&text, &["\npassword = \"hunter2\"\n"]) || !error.0.contains(SECRET);
            assert!(hidden && !error.0.contains('\n'), "{}", error.0);
        }
    }
    let _names = Config::account_names(&flags, Environment { variables: &found, file: None });
}

fn config_file(input: &[u8]) {
    let path = file("config", input);
    if let Err(error) = ConfigFile::read(path.to_str(), &|_| None) {
        // An unknown key is shown: that is a name, whatever it is.
        let hidden = error.0.contains("there is no key") || !error.0.contains(SECRET);
        assert!(hidden && !error.0.contains('\n'), "{}", error.0);
    }
}

fn check_conninfo(variables: &Variables<'_>, text: &str) {
    match Conninfo::from_environment(&|name| look_up(variables, name)) {
        Ok(conninfo) => {
            assert!(!conninfo.hosts.is_empty() && !conninfo.user.is_empty() && !conninfo.dbname.is_empty());
            assert!(!conninfo.connect_timeout.is_zero());
            let holds = |text: &str| text.contains(SECRET);
            // Where the text is a name as well, it is shown as a name.
            let named = holds(&conninfo.user) || holds(&conninfo.dbname) || holds(&conninfo.application_name);
            let hosts = conninfo.hosts.iter().any(|host| holds(&format!("{:?}", host.address)));
            assert!(named || hosts || !holds(&conninfo.to_string()), "{conninfo}");
        }
        Err(error) => {
            let places = ["app:hunter2@", "password=hunter2\n", "password='hun\\'ter2 hunter2'"];
            let hidden = !secret_in_its_place(text, &places) || !error.to_string().contains(SECRET);
            assert!(hidden && !error.to_string().contains('\n'), "{error}");
        }
    }
}

fn conninfo(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    check_conninfo(&vec![("DATABASE_URL", &text), ("PGUSER", "app"), ("HOME", "/nowhere")], &text);
}

fn password_file(input: &[u8]) {
    let path = file("pgpass", input);
    let path = path.to_str().unwrap();
    for host in ["localhost", "db.example.com", "[::1]"] {
        let variables = vec![("PGPASSFILE", path), ("PGHOST", host), ("PGUSER", "app"), ("HOME", "/nowhere")];
        check_conninfo(&variables, "");
    }
}

fn service_file(input: &[u8]) {
    let path = file("service", input);
    let path = path.to_str().unwrap();
    let variables =
        vec![("PGSERVICEFILE", path), ("PGSERVICE", "app"), ("PGUSER", "app"), ("HOME", "/nowhere")];
    check_conninfo(&variables, &String::from_utf8_lossy(input));
}
