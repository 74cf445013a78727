//! `check`: a line for each thing that has to work, until the first that does not.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use super::set_up::{self, Context};
use super::{Failure, each_account, written};
use crate::cli::Flags;
use crate::config::{Account, Config};
use crate::report::text::visible;
use crate::store::schema::{self, SchemaState};
use crate::sync::most_serious;

/// How long a database is waited for.
const LONGEST: Duration = Duration::from_secs(10);

pub(super) fn run(
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let config = Config::for_api(flags, environment).map_err(Failure::usage)?;
    let several = config.accounts.len() + config.broken.len() > 1;
    let code = each_account(&config, |account| {
        let prefix = if several { visible(&account.name) + ": " } else { String::new() };
        let mut passed = |what: &str, found: &str| says(stdout, &format!("{prefix}{what}"), found);
        check_account(&config, account, &mut passed)?;
        if several { Ok(0) } else { check_database(flags, environment, &config, &mut passed) }
    })?;
    if !several {
        return Ok(code);
    }
    let mut passed = |what: &str, found: &str| says(stdout, what, found);
    let database = check_database(flags, environment, &config, &mut passed)?;
    Ok(most_serious([code, database]))
}

fn says(stdout: &mut dyn Write, what: &str, found: &str) -> Result<(), Failure> {
    match written(stdout, &format!("ok  {what}: {found}\n")) {
        0 => Ok(()),
        code => Err(Failure { code, message: "the result could not be written".into() }),
    }
}

/// Told of each thing that works.
type Passed<'a> = &'a mut dyn FnMut(&str, &str) -> Result<(), Failure>;

fn check_account(config: &Config, account: &Account, passed: Passed<'_>) -> Result<(), Failure> {
    let impatient = Config { give_up_after: patience(account.timeout, config), ..config.clone() };
    let caller = set_up::caller(&impatient, account, &Context::new(), None)?;
    passed("configuration", &format!("{} as {}", account.api_url, account.email))?;
    caller.check_api().map_err(|message| Failure {
        code: 5,
        message: format!("API: {message}; is {} the platform's address, and is it up?", account.api_url),
    })?;
    passed("API", "it answers")?;
    if caller.check_credentials().is_err() {
        return Err(match caller.ending() {
            Some(ending) => ending.into(),
            None => Failure { code: 5, message: "credentials: no answer".into() },
        });
    }
    passed("credentials", "accepted")
}

/// A check is to answer soon, not to wait for better times.
fn patience(timeout: Duration, config: &Config) -> Duration {
    timeout.min(config.give_up_after)
}

fn check_database(
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<OsString>,
    config: &Config,
    passed: Passed<'_>,
) -> Result<i32, Failure> {
    let patience = patience(LONGEST, config);
    let store = set_up::store(flags, environment, "default", &Context::new(), patience)?;
    let state = store.run(|client, _| schema::state(client)).map_err(set_up::from_store)?;
    match state {
        SchemaState::Current => {
            let missing =
                store.run(|client, _| schema::missing_grants(client)).map_err(set_up::from_store)?;
            if !missing.is_empty() {
                let message =
                    format!("database: the role may not do all that sync does: {}", missing.join("; "));
                return Err(Failure::usage(message));
            }
            passed("database", "reachable, schema up to date")?;
        }
        SchemaState::Behind(missing) => {
            let found = format!(
                "reachable, {missing} migration(s) to apply: campaign-sync migrate, or sync, does it as a role that may create tables"
            );
            passed("database", &found)?;
        }
        SchemaState::Foreign(message) => return Err(Failure::usage(message)),
    }
    Ok(0)
}
