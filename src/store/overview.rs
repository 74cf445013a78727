//! What `status` looks at; nothing here changes anything.

use std::time::{Duration, SystemTime};

use postgres::types::Type;
use postgres::{Client, Error};

use super::dead_letters::{self, Heap};
use super::runs::{self, Progress};
use super::{queue, quota};
use crate::http::RateLimit;

/// An account at one moment.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The open run, or the last one.
    pub run: Option<Progress>,
    /// Who works on it.
    pub workers: Vec<Worker>,
    /// Tasks that are left.
    pub pending: i64,
    /// What failed for good.
    pub dead_letters: Vec<Heap>,
    /// Since the last run that came to its end.
    pub last_finished: Option<Duration>,
    /// Since the last one of them that synced every campaign.
    pub last_success: Option<Duration>,
    /// The rate limit that was learned.
    pub learned_limit: Option<RateLimit>,
}

/// A process at work.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its machine.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// Since its last sign of life.
    pub heartbeat_age: Duration,
    /// Since it began.
    pub age: Duration,
    /// Campaigns that it stored.
    pub synced: i64,
    /// Tasks that it holds.
    pub holds: i64,
}

/// Looks at an account.
///
/// # Errors
/// The database's.
pub fn look(client: &mut Client, account: &str) -> Result<Overview, Error> {
    let key = [(&account as &(dyn postgres::types::ToSql + Sync), Type::TEXT)];
    let latest = client.query_typed_opt("SELECT max(run_id) FROM sync_runs WHERE account = $1", &key)?;
    let run = match latest.and_then(|row| row.get::<_, Option<i64>>(0)) {
        Some(run_id) => runs::progress(client, account, run_id)?,
        None => None,
    };
    let seconds =
        |value: Option<f64>| value.and_then(|value| Duration::try_from_secs_f64(value.max(0.0)).ok());
    let last = client.query_typed_one(
        "SELECT extract(epoch FROM now() - max(finished_at))::float8,
                extract(epoch FROM now() - max(finished_at) FILTER (WHERE state = 'complete'))::float8
         FROM sync_runs
         WHERE account = $1 AND state IN ('complete', 'partial')",
        &key,
    )?;
    let quota = client
        .query_typed_opt("SELECT limit_requests, limit_window_ms FROM quotas WHERE account = $1", &key)?;
    let learned_limit = quota.as_ref().and_then(quota::limit);
    Ok(Overview {
        run,
        workers: workers(client, account)?,
        pending: queue::count(client, account, None)?,
        dead_letters: dead_letters::by_cause(client, account)?,
        last_finished: seconds(last.get(0)),
        last_success: seconds(last.get(1)),
        learned_limit,
    })
}

fn workers(client: &mut Client, account: &str) -> Result<Vec<Worker>, Error> {
    let rows = client.query_typed(
        "SELECT host, pid, extract(epoch FROM now() - heartbeat_at)::float8 AS silent,
                extract(epoch FROM now() - started_at)::float8 AS age, synced,
                (SELECT count(*) FROM sync_tasks t WHERE t.account = $1 AND t.worker_id = w.worker_id) AS holds
         FROM workers w WHERE account = $1 ORDER BY worker_id",
        &[(&account, Type::TEXT)],
    )?;
    let seconds = |value: f64| Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| Worker {
            host: row.get("host"),
            pid: row.get("pid"),
            heartbeat_age: seconds(row.get("silent")),
            age: seconds(row.get("age")),
            synced: row.get("synced"),
            holds: row.get("holds"),
        })
        .collect())
}

/// What outlasts a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When the last run that listed everything came to its end, with or without dead letters.
    pub last_success: Option<SystemTime>,
    /// How many campaigns have failed for good and were not synced since.
    pub dead_letters: i64,
}

/// Reads it.
///
/// # Errors
/// The database's.
pub fn standing(client: &mut Client, account: &str) -> Result<Standing, Error> {
    let row = client.query_typed_one(
        "SELECT (SELECT max(finished_at) FROM sync_runs
                 WHERE account = $1 AND lists AND state IN ('complete', 'partial')) AS last_success,
                (SELECT count(*) FROM dead_letters WHERE account = $1) AS dead_letters",
        &[(&account, Type::TEXT)],
    )?;
    Ok(Standing { last_success: row.get("last_success"), dead_letters: row.get("dead_letters") })
}

/// The names of all accounts that the database knows.
///
/// # Errors
/// The database's.
pub fn accounts(client: &mut Client) -> Result<Vec<String>, Error> {
    let rows = client.query_typed("SELECT DISTINCT account FROM sync_runs ORDER BY account", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
