//! `forget` and `rename`: accounts that go, or get another name.

use std::io::Write;
use std::time::Duration;

use super::confirm::confirm;
use super::set_up::{self, Context};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Config, Environment, Output, is_account_name};
use crate::report::metrics::MetricsFile;
use crate::report::text::{duration, visible};
use crate::store::accounts::{self, Refusal, Rows};
use crate::store::{Store, overview};

/// How long the database may be away; a long deletion takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What people call a row of each table.
const ROWS: [(&str, &str); 8] = [
    ("campaigns", "campaign"),
    ("campaign_changes", "change"),
    ("dead_letters", "failed campaign"),
    ("sync_runs", "run"),
    ("sync_tasks", "pending task"),
    ("workers", "dead process"),
    ("quotas", "rate limit"),
    ("access_tokens", "token"),
];

pub(super) fn run(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let Some(account) = flags.name.as_deref() else {
        return Err(Failure::usage("forget: the account is missing, such as campaign-sync forget north"));
    };
    let store = store(flags, environment)?;
    let there = store.run(|client, _| accounts::rows(client, account)).map_err(set_up::from_store)?;
    if there.iter().all(|(_, rows)| *rows == 0) {
        return Err(refused("forget", account, None, &Refusal::Unknown, &store));
    }
    let shown = visible(account);
    confirm(flags, &format!("forget {shown}: permanently removes {}", told(&there)))?;
    let mut tries = 0;
    let removed = store
        .run(|client, _| {
            tries += 1;
            accounts::forget(client, account)
        })
        .map_err(set_up::from_store)?;
    let removed = match removed {
        Ok(removed) => removed,
        // The first try's reply was lost.
        Err(Refusal::Unknown) if tries > 1 => there,
        Err(refusal) => return Err(refused("forget", account, None, &refusal, &store)),
    };
    if let Some(path) = &output.metrics_file {
        MetricsFile::new(path).rename(account, None);
    }
    let mut said = format!("{shown}: removed {}\n", told(&removed));
    if is_configured(account, flags, environment) {
        said += &format!("take {shown} out of the accounts file as well, or the next sync starts it anew\n");
    }
    Ok(written(stdout, &said))
}

/// `rename`.
pub(super) fn rename(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let [old, new] = &flags.names[..] else {
        return Err(Failure::usage(
            "rename: two names are needed, such as campaign-sync rename default north",
        ));
    };
    if !is_account_name(new) {
        return Err(Failure::usage(format!(
            "rename: the new name {new:?} must be 1 to 200 bytes without control characters, such as north"
        )));
    }
    if old == new {
        return Err(Failure::usage(format!("rename: both names are {new:?}")));
    }
    let store = store(flags, environment)?;
    let mut tries = 0;
    let renamed = store
        .run(|client, _| {
            tries += 1;
            accounts::rename(client, old, new)
        })
        .map_err(set_up::from_store)?;
    let renamed = match renamed {
        Ok(renamed) => renamed,
        // The first try's reply was lost.
        Err(Refusal::Unknown) if tries > 1 => {
            store.run(|client, _| accounts::rows(client, new)).map_err(set_up::from_store)?
        }
        Err(refusal) => return Err(refused("rename", old, Some(new), &refusal, &store)),
    };
    if let Some(path) = &output.metrics_file {
        MetricsFile::new(path).rename(old, Some(new));
    }
    let kept: Rows = renamed.into_iter().filter(|(table, _)| *table != "access_tokens").collect();
    let (shown, new) = (visible(old), visible(new));
    let mut said = format!("{shown} is {new} now: {}\n", told(&kept));
    if is_configured(old, flags, environment) {
        said += &format!("rename it in the accounts file as well, or the next sync starts {shown} anew\n");
    }
    Ok(written(stdout, &said))
}

/// Whether the accounts file still has the account. A file that cannot be read is no matter of these commands.
fn is_configured(account: &str, flags: &Flags, environment: Environment<'_>) -> bool {
    Config::has_accounts_file(flags, environment).unwrap_or(false)
        && Config::account_names(flags, environment)
            .is_ok_and(|names| names.iter().any(|name| name == account))
}

fn store(flags: &Flags, environment: Environment<'_>) -> Result<Store, Failure> {
    let store = set_up::store(flags, environment, "default", &Context::new(), PATIENCE)?;
    set_up::ready(&store, false)?;
    Ok(store)
}

/// `100 campaigns, 1 run`; of tables without rows nothing.
fn told(rows: &Rows) -> String {
    let word = |table: &str| ROWS.iter().find(|(name, _)| *name == table).map_or("row", |(_, word)| word);
    let mut parts = Vec::new();
    for (table, count) in rows.iter().filter(|(_, count)| *count > 0) {
        parts.push(format!("{count} {}{}", word(table), if *count == 1 { "" } else { "s" }));
    }
    if parts.is_empty() { "nothing".into() } else { parts.join(", ") }
}

fn refused(command: &str, account: &str, new: Option<&str>, refusal: &Refusal, store: &Store) -> Failure {
    let shown = visible(account);
    Failure::usage(match refusal {
        Refusal::AtWork { host, pid, silent } => format!(
            "{command} {shown}: host {} pid {pid} works on it (heartbeat {} ago): stop it, then run {command} again",
            visible(host),
            duration(*silent)
        ),
        Refusal::Busy => {
            format!("{command} {shown}: other processes begin and end runs of it: stop them first")
        }
        Refusal::Unknown => {
            let known = store.run(|client, _| overview::accounts(client)).unwrap_or_default();
            format!("{command} {shown}: {}", set_up::unknown(account, &known))
        }
        Refusal::Taken(table) => format!(
            "{command} {shown}: {} has rows in {table} already: choose another name, or forget it first",
            visible(new.unwrap_or_default())
        ),
        Refusal::NotKept(table) => format!(
            "{command} {shown}: nothing was changed, as a trigger, rule or policy of {table} drops rows"
        ),
    })
}
