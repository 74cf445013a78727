//! `migrate`: bring the schema up to date.

use std::io::Write;
use std::time::Duration;

use super::set_up::{self, Context};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::Environment;
use crate::store::schema;

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
    let applied = set_up::ready(&store, true)?;
    let found = if applied == 0 {
        "the schema is up to date\n".into()
    } else {
        format!("{applied} migration(s) applied\n")
    };
    Ok(written(stdout, &found))
}
