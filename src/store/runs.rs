//! Runs: opened, looked at, stopped and given up; `closing` closes them.

use std::time::{Duration, SystemTime};

use postgres::Error;
use postgres::types::Type;

use super::Client;

/// The open run of an account, new or found.
#[derive(Clone, Debug)]
pub struct OpenRun {
    /// Its number.
    pub run_id: i64,
    /// Its random key, as text: what idempotency keys are made of.
    pub run_key: String,
    /// The size of its pages, kept for the whole run.
    pub page_size: i32,
    /// Whether its last page is in.
    pub listing_done: bool,
    /// False for a run of `retry`.
    pub lists: bool,
    /// False when it was there before.
    pub new: bool,
}

/// How a run is to be opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The page size of a new run.
    pub page_size: i32,
    /// An open run in which nothing has happened for longer is abandoned.
    pub max_age: Duration,
    /// Abandon an open run of any age.
    pub fresh: bool,
    /// Whether a new run lists; one of `retry` does not.
    pub lists: bool,
    /// Whether a new run writes down what changed, in `campaign_changes`.
    pub keeps_history: bool,
}

/// A run as it stands.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Its number.
    pub run_id: i64,
    /// `running`, `complete`, `partial`, `stopped` or `abandoned`.
    pub state: String,
    /// False for a run of `retry`.
    pub lists: bool,
    /// Whether the last page is in.
    pub listing_done: bool,
    /// The page the lister comes to next.
    pub next_page: i64,
    /// Campaigns a page.
    pub page_size: i32,
    /// The platform's word on the number of campaigns.
    pub total: Option<i64>,
    /// Campaigns seen.
    pub listed: i64,
    /// Campaigns stored.
    pub synced: i64,
    /// Campaigns that became dead letters.
    pub failed: i64,
    /// Campaigns found gone.
    pub removed: i64,
    /// Campaigns no longer listed that were not marked as removed, …
    pub not_removed: i64,
    /// … and why, or why none would have been: a word for grouping.
    pub not_removed_reason: Option<String>,
    /// Requests of all its processes.
    pub requests: i64,
    /// Those that count towards the rate limit.
    pub limited: i64,
    /// Attempts made again.
    pub retries: i64,
    /// Refusals by the rate limiter.
    pub rate_limited: i64,
    /// Tokens fetched.
    pub token_refreshes: i64,
    /// Seconds from its start to its end, or until now.
    pub elapsed_s: f64,
    /// Why it was stopped.
    pub last_error: Option<String>,
    /// The version that opened it.
    pub binary_version: String,
    /// When it was opened.
    pub started_at: SystemTime,
    /// When it was closed.
    pub finished_at: Option<SystemTime>,
}

/// Reads one run.
///
/// # Errors
/// The database's.
pub fn progress(client: &mut Client, account: &str, run_id: i64) -> Result<Option<Progress>, Error> {
    let row = client.query_typed_opt(
        include_str!("../../sql/run_progress.sql"),
        &[(&account, Type::TEXT), (&run_id, Type::INT8)],
    )?;
    Ok(row.map(|row| Progress {
        run_id: row.get("run_id"),
        state: row.get("state"),
        lists: row.get("lists"),
        listing_done: row.get("listing_done"),
        next_page: row.get("next_page"),
        page_size: row.get("page_size"),
        total: row.get("total"),
        listed: row.get("listed"),
        synced: row.get("synced"),
        failed: row.get("failed"),
        removed: row.get("removed"),
        not_removed: row.get("not_removed"),
        not_removed_reason: row.get("not_removed_reason"),
        requests: row.get("requests"),
        limited: row.get("limited"),
        retries: row.get("retries"),
        rate_limited: row.get("rate_limited"),
        token_refreshes: row.get("token_refreshes"),
        elapsed_s: row.get("elapsed_s"),
        last_error: row.get("last_error"),
        binary_version: row.get("binary_version"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
    }))
}

/// The newest run that lists and was finished within this time. Of an account that has very many, only the last few are
/// looked at.
///
/// # Errors
/// The database's.
pub fn finished_within(
    client: &mut Client,
    account: &str,
    time: Duration,
) -> Result<Option<Progress>, Error> {
    let row = client.query_typed_opt(
        "SELECT r.run_id
         FROM (SELECT s.run_id, s.state, s.lists, s.finished_at FROM campaign_sync.sync_runs s
               WHERE s.account = $1 ORDER BY s.run_id DESC LIMIT 20) r
         WHERE r.state IN ('complete', 'partial') AND r.lists AND r.finished_at > now() - make_interval(secs => $2)
         ORDER BY r.finished_at DESC LIMIT 1",
        &[(&account, Type::TEXT), (&time.as_secs_f64(), Type::FLOAT8)],
    )?;
    row.map_or(Ok(None), |row| progress(client, account, row.get(0)))
}

/// The last of its processes leaves a run before its end: `stopped`, to be resumed.
///
/// # Errors
/// The database's.
pub fn stop(client: &mut Client, account: &str, run_id: i64, reason: &str) -> Result<(), Error> {
    client.execute_typed(
        "UPDATE campaign_sync.sync_runs s
         SET last_error = $3, state = CASE WHEN o.others THEN s.state ELSE 'stopped' END
         FROM (SELECT EXISTS (SELECT FROM campaign_sync.workers w WHERE w.account = $1 AND w.run_id = $2) AS others) o
         WHERE s.account = $1 AND s.run_id = $2 AND s.state = 'running'",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&reason, Type::TEXT)],
    )?;
    Ok(())
}

/// Gives a run up that cannot come to its end: the next one begins anew.
///
/// # Errors
/// The database's.
pub fn abandon(client: &mut Client, account: &str, run_id: i64, reason: &str) -> Result<(), Error> {
    client.execute_typed(
        "UPDATE campaign_sync.sync_runs s SET state = 'abandoned', finished_at = c.now, lister = 0, last_error = $3
         FROM (SELECT now() AS now) c
         WHERE s.account = $1 AND s.run_id = $2 AND s.state IN ('running', 'stopped')
           AND NOT EXISTS (SELECT FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.run_id = $2)",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&reason, Type::TEXT)],
    )?;
    Ok(())
}
