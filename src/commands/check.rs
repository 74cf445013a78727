//! `check`: a line for each thing that has to work, until the first that does not.

use std::ffi::OsString;
use std::io::Write;

use super::set_up::{self, Context};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::Config;
use crate::store::schema::{self, SchemaState};

pub(super) fn run(
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let mut passed = |what: &str, found: &str| match written(stdout, &format!("ok  {what}: {found}\n")) {
        0 => Ok(()),
        code => Err(Failure { code, message: "the result could not be written".into() }),
    };
    let config = Config::for_api(flags, environment).map_err(Failure::usage)?;
    let account = config.one_account().map_err(Failure::usage)?;
    let context = Context::new();
    // A check is to answer soon, not to wait for better times.
    let patience = account.timeout.min(config.give_up_after);
    let store = set_up::store(environment, &account.name, &context, patience)?;
    let impatient = Config { give_up_after: patience, ..config.clone() };
    let caller = set_up::caller(&impatient, &context, None)?;
    passed("configuration", &format!("{} as {}", account.api_url, account.email))?;
    caller.check_api().map_err(|message| Failure { code: 5, message: format!("API: {message}") })?;
    passed("API", "it answers")?;
    if caller.check_credentials().is_err() {
        return match caller.ending() {
            Some(ending) => Err(Failure { code: ending.exit_code(), message: ending.to_string() }),
            None => Err(Failure { code: 5, message: "credentials: no answer".into() }),
        };
    }
    passed("credentials", "accepted")?;
    let state = store.run(|client, _| schema::state(client)).map_err(set_up::from_store)?;
    match state {
        SchemaState::Current => passed("database", "reachable, schema up to date")?,
        SchemaState::Behind(missing) => {
            passed(
                "database",
                &format!(
                    "reachable, {missing} migration(s) to apply (sync does it, or campaign-sync migrate)"
                ),
            )?;
        }
        SchemaState::Foreign(message) => return Err(Failure::usage(message)),
    }
    Ok(0)
}
