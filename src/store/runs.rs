//! Runs, from open to closed.

use std::time::{Duration, SystemTime};

use postgres::types::Type;
use postgres::{Client, Error};

use super::begin;

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
    /// Whether the account had no campaign when it was opened or joined.
    pub first: bool,
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

/// So few tasks can be finished in a moment.
const FEW: i64 = 16;

/// What closing a run has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is not at its end.
    Open {
        /// So few tasks are left that any moment may be it.
        near: bool,
    },
    /// Another process has closed or abandoned it.
    Over,
    /// Closed; so many campaigns were marked as removed.
    Closed(i64),
    /// Closed, but so many of so many campaigns would have been marked as removed at once: none was.
    RemovalRefused(i64, i64),
}

/// Closes the run if all of it is done, and marks what its complete listing no longer shows, unless that is more than
/// `max_removed` percent of what was there. Of an account that had none before there is nothing to look for: `first`. A
/// process that is `alone` tries without asking.
///
/// # Errors
/// The database's.
pub fn close(
    client: &mut Client,
    account: &str,
    run_id: i64,
    max_removed: u8,
    (first, alone): (bool, bool),
) -> Result<Closing, Error> {
    if alone && let Some(closing) = try_to_close(client, account, run_id, max_removed, first)? {
        return Ok(closing);
    }
    // Asked over and over by processes that wait for others.
    let row = client.query_typed_opt(
        "SELECT s.state, s.listing_done,
                (SELECT count(*) FROM (SELECT FROM sync_tasks t WHERE t.account = $1 AND t.run_id = $2 LIMIT $3 + 1) few) AS tasks
         FROM sync_runs s WHERE s.account = $1 AND s.run_id = $2",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&FEW, Type::INT8)],
    )?;
    match row {
        Some(row) if matches!(row.get("state"), "running" | "stopped") => {
            let (listing_done, tasks): (bool, i64) = (row.get("listing_done"), row.get("tasks"));
            if !listing_done || tasks > 0 {
                return Ok(Closing::Open { near: listing_done && tasks <= FEW });
            }
        }
        _ => return Ok(Closing::Over),
    }
    let closing = try_to_close(client, account, run_id, max_removed, first)?;
    Ok(closing.unwrap_or(Closing::Open { near: true }))
}

/// Nothing when it is not all done.
fn try_to_close(
    client: &mut Client,
    account: &str,
    run_id: i64,
    max_removed: u8,
    first: bool,
) -> Result<Option<Closing>, Error> {
    let key: [(&(dyn postgres::types::ToSql + Sync), Type); 2] =
        [(&account, Type::TEXT), (&run_id, Type::INT8)];
    let close = |client: &mut Client| client.query_typed_opt(include_str!("../../sql/close_run.sql"), &key);
    if first {
        return Ok(close(client)?.map(|_| Closing::Closed(0)));
    }
    let mut transaction = begin(client)?;
    let Some(row) = close(&mut transaction)? else { return Ok(None) };
    let mut closing = Closing::Closed(0);
    if row.get("may_remove") {
        let row = transaction.query_typed_one(include_str!("../../sql/count_unlisted.sql"), &key)?;
        let (unlisted, present): (i64, i64) = (row.get("unlisted"), row.get("present"));
        if unlisted > 0 && i128::from(unlisted) * 100 > i128::from(present) * i128::from(max_removed) {
            closing = Closing::RemovalRefused(unlisted, present);
        } else if unlisted > 0 {
            let row = transaction.query_typed_one(include_str!("../../sql/mark_removed.sql"), &key)?;
            closing = Closing::Closed(row.get("removed"));
        }
    }
    transaction.commit()?;
    Ok(Some(closing))
}

/// The last of its processes leaves a run before its end: `stopped`, to be resumed.
///
/// # Errors
/// The database's.
pub fn stop(client: &mut Client, account: &str, run_id: i64, reason: &str) -> Result<(), Error> {
    client.execute_typed(
        "UPDATE sync_runs SET last_error = $3,
                state = CASE WHEN EXISTS (SELECT FROM workers w WHERE w.account = $1 AND w.run_id = $2)
                             THEN state ELSE 'stopped' END
         WHERE account = $1 AND run_id = $2 AND state = 'running'",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&reason, Type::TEXT)],
    )?;
    Ok(())
}
