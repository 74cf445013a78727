//! Logging: quiet by default, one line a record, text or JSON, and never a secret.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock};

use env_logger::{Builder, Logger, Target};
use jiff::Timestamp;
use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::{Map, Value as Json, json};

use super::text::{say, visible};
use crate::config::LogFormat;
use crate::foreign::{self, one_line};
use crate::sync::Ending;

/// Only what this crate says is ever shown below warnings, whatever `RUST_LOG` asks for: other crates log request heads
/// and statement parameters, and those hold credentials and records.
const OURS: &str = "campaign_sync";

/// Something that keeps a progress bar out of the way while a line is written.
pub type Around = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

static AROUND: OnceLock<Mutex<Option<Around>>> = OnceLock::new();
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// So much of what a panic says is shown.
const PANIC_CHARACTERS: usize = 200;

thread_local! {
    /// This thread is writing apart from the bars.
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Writes every later line, and whatever is written [`apart`], inside `around`.
pub fn through(around: Option<Around>) {
    if let Ok(mut current) = AROUND.get_or_init(Mutex::default).lock() {
        *current = around;
    }
}

/// Writes something while no progress bar is in the way, and nobody else writes. It may log: then it is apart already, and
/// waiting for its own end would be for ever.
pub fn apart(write: &mut dyn FnMut()) {
    if APART.get() {
        return write();
    }
    let around = AROUND.get_or_init(Mutex::default).lock();
    APART.set(true);
    match around.as_ref().ok().and_then(|around| around.as_ref()) {
        Some(around) => around(write),
        None => write(),
    }
    APART.set(false);
}

/// Sets logging up for the whole process; `colours` are used on a terminal only.
///
/// # Errors
/// When `RUST_LOG` cannot be understood.
pub fn set_up(format: LogFormat, colours: bool, rust_log: Option<&str>) -> Result<(), String> {
    let mut builder = Builder::new();
    match rust_log {
        Some(spec) => {
            check(spec)?;
            builder.parse_filters(spec);
        }
        None => {
            builder.filter_level(LevelFilter::Warn).filter_module(OURS, LevelFilter::Info);
        }
    }
    let coloured = colours && io::stderr().is_terminal();
    builder.target(Target::Stderr).format(move |out, record| {
        let line = match format {
            LogFormat::Text => text(record, coloured),
            LogFormat::Json => json(record),
        };
        writeln!(out, "{line}")
    });
    let _only_once = FORMAT.set(format);
    let logger = Guarded(builder.build());
    log::set_max_level(logger.0.filter());
    log::set_boxed_logger(Box::new(logger)).map_err(|error| error.to_string())
}

/// Says why a command, or an account's part in it, has failed, whatever `RUST_LOG` asks for: as a line for people, or as
/// the log's other lines are.
pub fn conclude(account: Option<&str>, run: Option<i64>, message: &str) {
    if FORMAT.get() == Some(&LogFormat::Json) {
        let mut object = head(Level::Error, message);
        object.extend(account.map(|account| ("account".into(), json!(account))));
        object.extend(run.map(|run| ("run".into(), json!(run))));
        return say(&foreign::json(Json::Object(object).to_string()));
    }
    let account = account.map_or_else(String::new, |account| visible(account) + ": ");
    say(&format!("campaign-sync: {account}{}", visible(message)));
}

/// Has the program end with one line and the documented exit code, 1, wherever a fault of ours or of a library panics.
pub fn conclude_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.payload().downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map_or_else(String::new, |location| {
            let file = location.file().rsplit_once("src/").map_or(location.file(), |(_, file)| file);
            format!(" ({file}:{})", location.line())
        });
        let ending =
            Ending::Internal(format!("{}{place}", one_line(said.unwrap_or("unknown"), PANIC_CHARACTERS)));
        // Of all locks, this takes stderr's alone, which a thread may take twice.
        conclude(None, None, &ending.to_string());
        std::process::exit(ending.exit_code());
    }));
}

/// env_logger itself only prints a warning for what it cannot parse.
fn check(spec: &str) -> Result<(), String> {
    let wrong = |cause: &str| Err(format!("RUST_LOG={spec:?}: {cause}; such as info or campaign_sync=debug"));
    let mut halves = spec.split('/');
    let directives = halves.next().unwrap_or_default();
    if halves.nth(1).is_some() {
        return wrong("more than one '/'");
    }
    for directive in directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let mut parts = directive.split('=');
        let (_, level) = (parts.next(), parts.next().map(str::trim));
        if parts.next().is_some() {
            return wrong(&format!("{directive:?} has more than one '='"));
        }
        if level.is_some_and(|level| !level.is_empty() && level.parse::<LevelFilter>().is_err()) {
            return wrong(&format!("{directive:?} has no such level"));
        }
    }
    Ok(())
}

/// Lets nothing of other crates through below a warning, and keeps lines apart from a progress bar.
struct Guarded(Logger);

impl Log for Guarded {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().split("::").next() == Some(OURS);
        (ours || metadata.level() <= Level::Warn) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        apart(&mut || self.0.log(record));
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn text(record: &Record<'_>, coloured: bool) -> String {
    let mut line = format!("{} {:5} {}", now(), record.level(), visible(&record.args().to_string()));
    let mut fields = Fields(Vec::new());
    let _infallible = record.key_values().visit(&mut fields);
    for (key, value) in fields.0 {
        line.push_str(&format!(" {key}={}", bare(&value)));
    }
    if coloured {
        let colour = match record.level() {
            Level::Error => "31",
            Level::Warn => "33",
            Level::Info => return line,
            Level::Debug | Level::Trace => "2",
        };
        return format!("\u{1b}[{colour}m{line}\u{1b}[0m");
    }
    line
}

fn json(record: &Record<'_>) -> String {
    let mut fields = Fields(Vec::new());
    let _infallible = record.key_values().visit(&mut fields);
    let mut object = head(record.level(), &record.args().to_string());
    for (key, value) in fields.0 {
        object.entry(key).or_insert(value);
    }
    foreign::json(Json::Object(object).to_string())
}

fn head(level: Level, message: &str) -> Map<String, Json> {
    let level = level.as_str().to_lowercase();
    [("ts", json!(now())), ("level", json!(level)), ("msg", json!(message))]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

/// A field's value in a text line, in quotes where its end could not be seen.
fn bare(value: &Json) -> String {
    match value {
        Json::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
            format!("\"{}\"", visible(text))
        }
        Json::String(text) => visible(text),
        other => other.to_string(),
    }
}

/// The fields of a line that have a value.
struct Fields(Vec<(String, Json)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let mut typed = Typed(Json::Null);
        value.visit(&mut typed)?;
        if !typed.0.is_null() {
            self.0.push((key.to_string(), typed.0));
        }
        Ok(())
    }
}

/// A value with its type: numbers stay numbers.
struct Typed(Json);

impl<'v> VisitValue<'v> for Typed {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.0 = json!(value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = json!(value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = json!(value);
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        self.0 = json!(value);
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.0 = json!(value);
        Ok(())
    }
}

fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_numbers_and_what_is_not_known_is_left_out() {
        let fields = [
            ("run", Value::from(3)),
            ("status", Value::from_any(&None::<u16>)),
            ("latency_ms", Value::from(12.5)),
            ("campaign", Value::from("a b=\"c\"")),
            ("cause", Value::from("timeout")),
        ];
        let arguments = format_args!("gone");
        let record = Record::builder().level(Level::Debug).args(arguments).key_values(&fields).build();
        let line: Json = serde_json::from_str(&json(&record)).unwrap();
        assert_eq!((&line["run"], &line["latency_ms"], line.get("status")), (&json!(3), &json!(12.5), None));
        let line = text(&record, false);
        assert!(line.ends_with(r#" gone run=3 latency_ms=12.5 campaign="a b="c"" cause=timeout"#), "{line}");
    }

    fn with_record(check: impl Fn(&Record<'_>)) {
        let fields = [("campaign", "a\u{1b}[2J\nb"), ("msg", "not the message")];
        let text = "refused\r\n2026-01-01T00:00:00Z ERROR forged";
        let arguments = format_args!("{text}");
        check(&Record::builder().level(Level::Warn).args(arguments).key_values(&fields).build());
    }

    #[test]
    fn a_text_line_is_one_line_that_commands_no_terminal() {
        with_record(|record| {
            let line = text(record, false);
            assert!(line.contains("Z WARN  refused") && line.contains(" campaign=a"), "{line}");
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(text(record, true).starts_with("\u{1b}[33m"));
        });
    }

    #[test]
    fn a_json_line_is_one_object_whose_message_no_field_replaces() {
        with_record(|record| {
            let line = json(record);
            assert_eq!(line.lines().count(), 1);
            let object: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&object["level"], &object["campaign"]), (&json!("warn"), &json!("a\u{1b}[2J\nb")));
            assert!(object["msg"].as_str().unwrap().starts_with("refused"), "{line}");
        });
    }

    #[test]
    fn other_crates_are_never_heard_below_a_warning() {
        let logger = Guarded(Builder::new().parse_filters("trace,ureq=trace,ureq_proto=trace").build());
        let heard = |target, level| logger.enabled(&Metadata::builder().target(target).level(level).build());
        for target in ["ureq", "ureq_proto::client", "rustls::x", "tokio_postgres", "campaign_sync_x", ""] {
            assert!(heard(target, Level::Warn), "{target}");
            for level in [Level::Info, Level::Debug, Level::Trace] {
                assert!(!heard(target, level), "{target} {level}");
            }
        }
        assert!(heard("campaign_sync::sync", Level::Trace));
    }

    #[test]
    fn nonsense_in_rust_log_is_named_with_an_example() {
        for spec in ["campaign_sync=loud", "a=b=c", "info/a/b", "info,x=5"] {
            let error = check(spec).unwrap_err();
            assert!(error.contains("RUST_LOG") && error.contains("campaign_sync=debug"), "{error}");
        }
        for spec in ["info", "campaign_sync=debug", "warn,campaign_sync=TRACE", "campaign_sync", "debug/429"]
        {
            assert_eq!(check(spec), Ok(()));
        }
    }
}
