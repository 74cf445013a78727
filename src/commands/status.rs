//! `status`: runs, pending tasks, dead letters, and who works.

use std::io::Write;

use super::set_up;
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Environment, Output};
use crate::report::{page, sparkline, status};
use crate::store::{Store, overview, samples};

pub(super) fn run(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let (store, accounts) = set_up::look(flags, environment)?;
    let accounts = if accounts.is_empty() { vec!["default".to_owned()] } else { accounts };
    let drawn = sparkline::are_shown(environment.variables);
    for account in accounts {
        let seen = store.run(|client, _| overview::look(client, &account)).map_err(set_up::from_store)?;
        let shown = match (output.json, &seen.run) {
            (true, _) => status::json(&account, &seen) + "\n",
            (false, Some(run)) if drawn => {
                status::text(&account, &seen) + &pictures(&store, &account, run.run_id)?
            }
            (false, _) => status::text(&account, &seen),
        };
        match written(stdout, &shown) {
            0 => {}
            code => return Ok(code),
        }
    }
    Ok(0)
}

/// The run in small.
fn pictures(store: &Store, account: &str, run_id: i64) -> Result<String, Failure> {
    let (course, recent) = store
        .run(|client, _| {
            Ok((samples::course(client, account, run_id)?, samples::recent(client, account, page::RUNS)?))
        })
        .map_err(set_up::from_store)?;
    let lines = course.map(|course| sparkline::lines(&course, &recent)).unwrap_or_default();
    Ok(lines.iter().map(|line| line.clone() + "\n").collect())
}
