//! `sync`: list, sync and store every campaign.

use std::ffi::OsString;
use std::io::Write;
use std::sync::Arc;

use super::set_up::{self, Context};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Config, Output};
use crate::report::progress::Display;
use crate::report::summary;
use crate::store::runs::Opening;
use crate::sync::{self, Crew, Job};

pub(super) fn run(
    flags: &Flags,
    output: Output,
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let config = Config::read(flags, environment).map_err(Failure::usage)?;
    let context = Context::new();
    let store = set_up::store(environment, &config.account.name, &context, config.give_up_after)?;
    let caller = Arc::new(set_up::caller(&config, &context, Some(&store))?);
    set_up::on_signals(&caller)?;
    let deadline = config.deadline.map(|deadline| context.clock.now() + deadline);
    set_up::schema(&store, config.migrate)?;
    let crew = Crew::new(config.workers).map_err(|error| Failure {
        code: 1,
        message: format!("cannot start {} workers: {error}", config.workers),
    })?;
    let job = Job {
        caller,
        store,
        opening: Opening {
            page_size: i32::try_from(config.account.page_size).unwrap_or(10),
            max_age: config.max_run_age,
            fresh: config.fresh,
            lists: true,
        },
        workers: config.workers,
        max_removed: config.max_removed,
        deadline,
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
    let shown = if output.json { summary::json(&outcome) + "\n" } else { summary::text(&outcome) };
    let unwritten = written(stdout, &shown);
    if let Some(ending) = &outcome.ending {
        eprintln!("campaign-sync: {ending}");
    }
    Ok(if outcome.exit_code() == 0 { unwritten } else { outcome.exit_code() })
}
