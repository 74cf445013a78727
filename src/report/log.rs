//! Logging: quiet by default, one line a record, text or JSON, and never a secret.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock};

use env_logger::{Builder, Logger, Target};
use jiff::Timestamp;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::{Map, json};

use super::text::visible;
use crate::config::LogFormat;

/// Only what this crate says is ever shown below warnings, whatever `RUST_LOG` asks for: other crates log request heads
/// and statement parameters, and those hold credentials and records.
const OURS: &str = "campaign_sync";

/// Something that keeps a progress bar out of the way while a line is written.
pub type Around = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

static AROUND: OnceLock<Mutex<Option<Around>>> = OnceLock::new();

/// Writes every later line inside `around`.
pub fn write_through(around: Option<Around>) {
    if let Ok(mut current) = AROUND.get_or_init(Mutex::default).lock() {
        *current = around;
    }
}

/// Sets logging up for the whole process.
///
/// # Errors
/// When `RUST_LOG` cannot be understood.
pub fn set_up(format: LogFormat, rust_log: Option<&str>) -> Result<(), String> {
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
    builder.target(Target::Stderr).format(move |out, record| {
        let line = match format {
            LogFormat::Text => text(record),
            LogFormat::Json => json(record),
        };
        writeln!(out, "{line}")
    });
    let logger = Guarded(builder.build());
    log::set_max_level(logger.0.filter());
    log::set_boxed_logger(Box::new(logger)).map_err(|error| error.to_string())
}

/// env_logger itself only prints a warning for what it cannot parse.
fn check(spec: &str) -> Result<(), String> {
    env_logger::Builder::new()
        .try_parse(spec)
        .map_err(|error| format!("RUST_LOG={spec:?}: {error}; such as info or campaign_sync=debug"))
}

trait TryParse {
    fn try_parse(&mut self, spec: &str) -> Result<(), String>;
}

impl TryParse for Builder {
    fn try_parse(&mut self, spec: &str) -> Result<(), String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        for directive in spec.split('/').next().unwrap_or_default().split(',').filter(|part| !part.is_empty())
        {
            let level = directive.split_once('=').map(|(_, level)| level.trim());
            if level
                .is_some_and(|level| !level.is_empty() && !LEVELS.contains(&level.to_lowercase().as_str()))
            {
                return Err(format!("{directive:?} has no such level"));
            }
        }
        Ok(())
    }
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
        let around = AROUND.get_or_init(Mutex::default).lock();
        match around.as_ref().ok().and_then(|around| around.as_ref()) {
            Some(around) => around(&mut || self.0.log(record)),
            None => self.0.log(record),
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn text(record: &Record<'_>) -> String {
    let mut line = format!("{} {:5} {}", now(), record.level(), visible(&record.args().to_string()));
    let mut fields = Fields(Vec::new());
    let _infallible = record.key_values().visit(&mut fields);
    for (key, value) in fields.0 {
        line.push_str(&format!(" {key}={}", visible(&value)));
    }
    if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
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
    let mut object = Map::new();
    object.insert("ts".into(), json!(now()));
    object.insert("level".into(), json!(record.level().as_str().to_lowercase()));
    object.insert("msg".into(), json!(record.args().to_string()));
    for (key, value) in fields.0 {
        object.insert(key, json!(value));
    }
    serde_json::Value::Object(object).to_string()
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

fn now() -> String {
    format!("{:.3}", Timestamp::now())
}
