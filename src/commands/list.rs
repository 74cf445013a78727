//! `list`: print campaigns as JSON lines; needs no database.

use std::io::{BufWriter, ErrorKind, Write};
use std::sync::Arc;

use serde_json::Value;

use super::Failure;
use super::set_up::{self, Context, Signalled};
use crate::calling::{Caller, Listing};
use crate::cli::Flags;
use crate::config::{Config, Environment};
use crate::foreign;
use crate::platform::Listed;
use crate::sync::Ending;

pub(super) fn run(
    flags: &Flags,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let config = Config::for_api(flags, environment).map_err(Failure::usage)?;
    let account = config.one_account().map_err(Failure::usage)?;
    let caller = Arc::new(set_up::caller(&config, account, &Context::new())?);
    Signalled::listen()?.ends(&caller);
    let page_size = i32::try_from(account.page_size).unwrap_or(10);
    let mut out = BufWriter::new(stdout);
    match print(&caller, page_size, &mut out).and_then(|()| out.flush()) {
        // A reader that went away early has got what it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(0),
        Err(error) => return Err(Failure { code: 1, message: format!("cannot write to stdout: {error}") }),
        Ok(()) => {}
    }
    match caller.ending() {
        Some(ending) => Err(Failure { code: ending.exit_code(), message: ending.to_string() }),
        None => Ok(0),
    }
}

fn print(caller: &Caller, page_size: i32, out: &mut dyn Write) -> std::io::Result<()> {
    for page in Listing::new(caller, page_size) {
        for entry in page {
            if let Listed::Invalid(invalid) = &entry.listed {
                let scope = caller.scope();
                log::warn!(account = scope.account(), campaign = invalid.id.as_deref().unwrap_or("(no id)"); "sync would make it a dead letter: {invalid}");
            }
            // What is no JSON would be no line of JSON.
            if entry.is_json {
                writeln!(out, "{}", foreign::json(one_line(&entry.raw)))?;
            }
        }
        out.flush()?;
    }
    if let Some(ending @ Ending::Listing(_)) = caller.ending() {
        log::debug!("{ending}");
    }
    Ok(())
}

/// The record without line breaks between its fields.
fn one_line(raw: &str) -> String {
    match raw.contains(['\n', '\r']) {
        false => raw.to_owned(),
        // JSON strings hold no raw line breaks: those that are there stand between tokens.
        true => serde_json::from_str::<Value>(raw)
            .map_or_else(|_| raw.replace(['\n', '\r'], " "), |value| value.to_string()),
    }
}
