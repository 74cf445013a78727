//! `report`: one run and those before it as a page.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use super::set_up;
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::Environment;
use crate::report::page::{self, Page};
use crate::report::text::visible;
use crate::report::whole_file;
use crate::store::overview::{self, Overview};
use crate::store::samples::{self, Course};
use crate::store::{Store, dead_letters};

/// So many runs are named to who asks for one that is not there.
const NAMED: i64 = 5;

pub(super) fn run(
    flags: &Flags,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let Some(file) = flags.html.as_deref().filter(|file| !file.is_empty()) else {
        return Err(Failure::usage("report: --html FILE is missing: where to write the page, - for stdout"));
    };
    let wanted = flags.run.as_deref().map(number).transpose()?;
    let (store, accounts) = set_up::look(flags, environment)?;
    let page = match (wanted, &accounts[..]) {
        // Whose run would it be?
        (None, [_, _, ..]) => {
            let seen = overviews(&store, &accounts)?;
            if seen.iter().all(|(_, overview)| overview.run.is_none()) {
                return Err(unknown(&store, &accounts, wanted)?);
            }
            page::overview::html(&seen, SystemTime::now())
        }
        _ => {
            let Some((account, run)) = find(&store, &accounts, wanted)? else {
                return Err(unknown(&store, &accounts, wanted)?);
            };
            page::html(&look(&store, account, run)?)
        }
    };
    if file == "-" {
        return Ok(written(stdout, &page));
    }
    match whole_file::replace(Path::new(file), page.as_bytes()) {
        Ok(()) => Ok(0),
        Err(error) => Err(Failure::usage(format!("--html {}: cannot be written: {error}", visible(file)))),
    }
}

fn number(text: &str) -> Result<i64, Failure> {
    text.parse().ok().filter(|run| *run > 0).ok_or_else(|| {
        Failure::usage(format!("report {}: a run is named by its number, as status shows it", visible(text)))
    })
}

fn overviews(store: &Store, accounts: &[String]) -> Result<Vec<(String, Overview)>, Failure> {
    let look = |account: &String| {
        let seen = store.run(|client, _| overview::look(client, account)).map_err(set_up::from_store)?;
        Ok((account.clone(), seen))
    };
    accounts.iter().map(look).collect()
}

/// The run of this number, or the newest, and whose it is.
fn find<'a>(
    store: &Store,
    accounts: &'a [String],
    wanted: Option<i64>,
) -> Result<Option<(&'a str, Course)>, Failure> {
    let mut found: Option<(&str, Course)> = None;
    for account in accounts {
        let newest = || store.run(|client, _| samples::recent(client, account, 1)).map(|mut runs| runs.pop());
        let number = match wanted {
            Some(number) => Some(number),
            None => newest().map_err(set_up::from_store)?.map(|run| run.run_id),
        };
        let Some(number) = number else { continue };
        let run =
            store.run(|client, _| samples::course(client, account, number)).map_err(set_up::from_store)?;
        if let Some(run) = run.filter(|run| found.as_ref().is_none_or(|(_, best)| run.run_id > best.run_id)) {
            found = Some((account, run));
        }
    }
    Ok(found)
}

/// There is no such run: which there are.
fn unknown(store: &Store, accounts: &[String], wanted: Option<i64>) -> Result<Failure, Failure> {
    let mut newest = Vec::new();
    for account in accounts {
        let runs =
            store.run(|client, _| samples::recent(client, account, NAMED)).map_err(set_up::from_store)?;
        newest.extend(runs.iter().map(|run| run.run_id));
    }
    newest.sort_unstable_by_key(|run| std::cmp::Reverse(*run));
    newest.truncate(usize::try_from(NAMED).unwrap_or_default());
    let Some(wanted) = wanted.filter(|_| !newest.is_empty()) else {
        return Ok(Failure::usage("report: there is no run yet; campaign-sync sync makes one"));
    };
    let newest: Vec<String> = newest.iter().map(i64::to_string).collect();
    Ok(Failure::usage(format!("report {wanted}: there is no such run; the newest are {}", newest.join(", "))))
}

fn look(store: &Store, account: &str, run: Course) -> Result<Page, Failure> {
    let (recent, letters) = store
        .run(|client, _| {
            let recent = samples::recent(client, account, page::RUNS)?;
            Ok((recent, dead_letters::of_run(client, account, run.run_id, page::LETTERS)?))
        })
        .map_err(set_up::from_store)?;
    Ok(Page { account: account.to_owned(), run, recent, letters, made_at: SystemTime::now() })
}
