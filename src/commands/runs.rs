//! `runs`: past runs, newest first.

use std::io::Write;

use super::set_up::{self, from_store};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Config, Environment, Output};
use crate::report::looking_back;
use crate::store::samples::{self, Course};

pub(super) fn run(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let limit = Config::runs_shown(flags, environment).map_err(Failure::usage)?;
    let (store, accounts) = set_up::look(flags, environment)?;
    let mut runs: Vec<(&str, Course)> = Vec::new();
    for account in &accounts {
        let recent = store.run(|client, _| samples::recent(client, account, limit)).map_err(from_store)?;
        runs.extend(recent.into_iter().map(|run| (account.as_str(), run)));
        // No more than the newest of all so far are held.
        runs.sort_by_key(|(_, run)| std::cmp::Reverse((run.started_at, run.run_id)));
        runs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let text = match output.json {
        true => runs.iter().map(|(account, run)| looking_back::run_json(account, run) + "\n").collect(),
        false => looking_back::runs_text(&runs),
    };
    Ok(written(stdout, &text))
}
