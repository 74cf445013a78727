//! `status`: what the database knows of each account's runs. Several accounts are shown the worst first.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::set_up::{self, from_store};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Environment, Output};
use crate::report::standing::{self, Standing};
use crate::report::{page, sparkline, status};
use crate::store::overview::{self, Overview};
use crate::store::{Store, samples};
use crate::sync::most_serious;

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears the screen and goes to its upper left corner.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// An account as it was seen.
type Seen = (String, Overview);

pub(super) fn run(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let (store, accounts) = set_up::look(flags, environment)?;
    let accounts = if accounts.is_empty() { vec!["default".to_owned()] } else { accounts };
    let drawn = sparkline::are_shown(environment.variables);
    let clears = flags.watch && !output.json && std::io::stdout().is_terminal();
    loop {
        let seen = look(&store, &accounts)?;
        let mut text = if clears { CLEAR.to_owned() } else { String::new() };
        text += &shown(&seen, flags, output.json, drawn, &store)?;
        let code = written(stdout, &text);
        if code != 0 || !flags.watch {
            let standings = seen.iter().map(|(_, overview)| Standing::of(overview).exit_code());
            return Ok(if code == 0 && flags.exit_code { most_serious(standings) } else { code });
        }
        // Nothing is under way: a signal ends the process as it ends any other.
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn look(store: &Store, accounts: &[String]) -> Result<Vec<Seen>, Failure> {
    let look = |account: &String| {
        let overview = store.run(|client, _| overview::look(client, account)).map_err(from_store)?;
        Ok((account.clone(), overview))
    };
    accounts.iter().map(look).collect()
}

/// All that is shown, in its order.
fn shown(seen: &[Seen], flags: &Flags, json: bool, drawn: bool, store: &Store) -> Result<String, Failure> {
    let mut sorted: Vec<&Seen> = seen.iter().collect();
    let several = seen.len() > 1;
    let mut text = String::new();
    if several && !json {
        // The sort is stable: names stay in their order.
        sorted.sort_by_key(|(_, overview)| Standing::of(overview));
        let standings: Vec<Standing> = seen.iter().map(|(_, overview)| Standing::of(overview)).collect();
        text += &standing::total(&standings);
    }
    for (account, overview) in sorted {
        let needed = Standing::of(overview).needs_a_person();
        if flags.failed && !needed {
            continue;
        }
        text += &match &overview.run {
            _ if json => status::json(account, overview) + "\n",
            _ if several && !needed => standing::line(account, overview),
            Some(run) if drawn => status::text(account, overview) + &pictures(store, account, run.run_id)?,
            _ => status::text(account, overview),
        };
    }
    Ok(text)
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
