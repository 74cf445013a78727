//! `sync`: list, sync and store every campaign; and `retry`: the same for dead letters, without a listing.

use std::ffi::OsString;
use std::io::Write;
use std::sync::Arc;

use super::set_up::{self, Context};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Config, Output};
use crate::report::progress::Display;
use crate::report::summary;
use crate::report::text::say;
use crate::store::runs::Opening;
use crate::store::{Store, dead_letters};
use crate::sync::{self, Crew, Job, Outcome, Retry};

pub(super) fn run(
    flags: &Flags,
    output: Output,
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    work(flags, output, environment, stdout, None)
}

pub(super) fn retry(
    flags: &Flags,
    output: Output,
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let retry = if flags.id.is_empty() { Retry::All } else { Retry::Some(flags.id.clone()) };
    work(flags, output, environment, stdout, Some(retry))
}

/// Nothing when there is nothing to retry.
fn retryable(store: &Store, retry: &Retry) -> Result<Option<()>, Failure> {
    let found = store
        .run(|client, account| dead_letters::retryable(client, account, retry.ids()))
        .map_err(set_up::from_store)?;
    if let Some(missing) = retry.ids().unwrap_or_default().iter().find(|id| !found.contains(id)) {
        return Err(Failure::usage(format!(
            "--id {missing:?}: there is no such dead letter that could be retried; see campaign-sync status"
        )));
    }
    Ok((!found.is_empty()).then_some(()))
}

fn work(
    flags: &Flags,
    output: Output,
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
    retry: Option<Retry>,
) -> Result<i32, Failure> {
    let config = Config::for_api(flags, environment).map_err(Failure::usage)?;
    let account = config.one_account().map_err(Failure::usage)?;
    let context = Context::new();
    let store = set_up::store(environment, &account.name, &context, config.give_up_after)?;
    let caller = Arc::new(set_up::caller(&config, &context, Some(&store))?);
    set_up::on_signals(&caller)?;
    let deadline = config.deadline.map(|deadline| context.clock.now() + deadline);
    let begun = context.clock.now();
    if let Err(ending) = set_up::schema(&store, config.migrate) {
        let elapsed = context.clock.now().saturating_duration_since(begun);
        return Ok(finish(&Outcome::without_run(store.account(), ending, elapsed), output, stdout));
    }
    if let Some(retry) = &retry
        && retryable(&store, retry)?.is_none()
    {
        return Ok(written(stdout, if output.json { "" } else { "no dead letters to retry\n" }));
    }
    let crew = Crew::new(account.workers).map_err(|error| Failure {
        code: 1,
        message: format!("cannot start {} workers: {error}", account.workers),
    })?;
    let job = Job {
        caller,
        store,
        opening: Opening {
            page_size: i32::try_from(account.page_size).unwrap_or(10),
            max_age: config.max_run_age,
            fresh: config.fresh,
            lists: retry.is_none(),
        },
        workers: account.workers,
        max_removed: config.max_removed,
        deadline,
        retry,
    };
    let display = Display::new(output.progress);
    let outcome = sync::run(&job, &Arc::new(crew), &display);
    display.finish();
    if let Some((unlisted, present)) = outcome.removal_refused {
        log::warn!(
            "{unlisted} of {present} campaigns are no longer listed, more than --max-removed {}%: none was marked as removed; if that is right, run again with --max-removed 100",
            config.max_removed
        );
    }
    Ok(finish(&outcome, output, stdout))
}

/// Says how it ended, and gives the exit code.
fn finish(outcome: &Outcome, output: Output, stdout: &mut dyn Write) -> i32 {
    let shown = if output.json { summary::json(outcome) + "\n" } else { summary::text(outcome) };
    let unwritten = written(stdout, &shown);
    if let Some(ending) = &outcome.ending {
        say(&format!("campaign-sync: {ending}"));
    }
    if outcome.exit_code() == 0 { unwritten } else { outcome.exit_code() }
}
