//! `status`: runs, pending tasks, dead letters, and who works.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use super::set_up::{self, Context};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Config, Output};
use crate::report::status;
use crate::store::overview;

/// Whoever asks for the state wants to know soon that the database does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn run(
    flags: &Flags,
    output: &Output,
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let named = Config::for_database(flags, environment).map_err(Failure::usage)?.account_names;
    let context = Context::new();
    let store = set_up::store(environment, "default", &context, PATIENCE)?;
    set_up::ready(&store, false)?;
    let accounts = store.run(|client, _| overview::accounts(client)).map_err(set_up::from_store)?;
    let accounts = if named.is_empty() { accounts } else { named };
    let accounts = if accounts.is_empty() { vec!["default".to_owned()] } else { accounts };
    for account in accounts {
        let seen = store.run(|client, _| overview::look(client, &account)).map_err(set_up::from_store)?;
        let shown =
            if output.json { status::json(&account, &seen) + "\n" } else { status::text(&account, &seen) };
        match written(stdout, &shown) {
            0 => {}
            code => return Ok(code),
        }
    }
    Ok(0)
}
