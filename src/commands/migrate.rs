//! `migrate`: bring the schema up to date.

use std::io::Write;
use std::time::Duration;

use super::set_up::{self, Context};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::Environment;
use crate::store::{StoreError, distribution, schema};

/// How long a database that is just starting is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(
    flags: &Flags,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let store = set_up::store(flags, environment, "default", &Context::new(), PATIENCE)?;
    let note = store.run(|client, _| schema::find(client)).map_err(set_up::from_store)?.note;
    if let Some(note) = note {
        log::warn!("{note}");
    }
    if flags.distributed
        && let Some(message) =
            store.run(|client, _| distribution::refusal(client)).map_err(set_up::from_store)?
    {
        return Err(set_up::from_store(StoreError::Refused { message }));
    }
    let applied = set_up::ready(&store, true)?;
    let mut found: String = if applied == 0 {
        "the schema is up to date\n".into()
    } else {
        format!("{applied} migration(s) applied\n")
    };
    if flags.distributed {
        found += &match store.distribute().map_err(set_up::from_store)? {
            0 => "every table is distributed already\n".into(),
            tables => format!("{tables} table(s) distributed by account\n"),
        };
    }
    Ok(written(stdout, &found))
}
