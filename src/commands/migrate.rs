//! `migrate`: bring the schema up to date.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use super::set_up::{self, Context};
use super::{Failure, written};

/// How long a database that is just starting is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let store = set_up::store(environment, "default", &Context::new(), PATIENCE)?;
    let applied = set_up::ready(&store, true)?;
    let found = if applied == 0 {
        "the schema is up to date\n".into()
    } else {
        format!("{applied} migration(s) applied\n")
    };
    Ok(written(stdout, &found))
}
