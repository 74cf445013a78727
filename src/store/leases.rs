//! Who works on a run: processes with a heartbeat, by the database's clock. A lease belongs to the worker, so one small
//! write keeps all that it holds.

use std::{array, fmt};

use postgres::types::Type;
use postgres::{Error, Row};

use super::process::Process;
use super::queue::WorkerId;
use super::{Client, begin};
use crate::foreign::visible;
use crate::http::retry::Cause;
use crate::http::stats::Stats;
use crate::http::{RateLimit, spread};

/// A worker whose last heartbeat is older is dead: its tasks are free. Seconds of the database's clock.
pub const LEASE_SECONDS: f64 = 10.0;

/// Counts that a worker reports with its heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Requests sent, of every kind.
    pub requests: i64,
    /// Those of them that count towards the rate limit.
    pub limited: i64,
    /// Attempts made again.
    pub retries: i64,
    /// Refusals by the rate limiter.
    pub rate_limited: i64,
    /// Tokens fetched.
    pub token_refreshes: i64,
    /// Requests by duration, as [`spread`] has them.
    pub durations: [i64; spread::BUCKETS],
    /// Retries by cause, in the order of [`Cause::ALL`].
    pub retried: [i64; Cause::ALL.len()],
    /// The rate limit, when one is known.
    pub limit: Option<RateLimit>,
}

impl Effort {
    /// What was counted in this process, and the limit that it knows.
    #[must_use]
    pub fn of(stats: &Stats, limit: Option<RateLimit>) -> Self {
        let counts = stats.counts();
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            requests: signed(counts.requests()),
            limited: signed(counts.limited),
            retries: signed(counts.retried()),
            rate_limited: signed(counts.rate_limited()),
            token_refreshes: signed(counts.token_refreshes),
            durations: counts.durations.map(signed),
            retried: counts.retries.map(signed),
            limit,
        }
    }

    /// With what was counted before as well.
    #[must_use]
    pub fn and(self, before: Self) -> Self {
        self.with(before, i64::saturating_add)
    }

    /// Without what was counted before.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        self.with(before, i64::saturating_sub)
    }

    fn with(self, before: Self, each: fn(i64, i64) -> i64) -> Self {
        Self {
            requests: each(self.requests, before.requests),
            limited: each(self.limited, before.limited),
            retries: each(self.retries, before.retries),
            rate_limited: each(self.rate_limited, before.rate_limited),
            token_refreshes: each(self.token_refreshes, before.token_refreshes),
            durations: array::from_fn(|place| each(self.durations[place], before.durations[place])),
            retried: array::from_fn(|place| each(self.retried[place], before.retried[place])),
            limit: self.limit,
        }
    }
}

/// What a heartbeat tells.
#[derive(Clone, Debug)]
pub struct Beat {
    /// False when this worker was taken for dead: nothing that it holds is its own any more.
    pub alive: bool,
    /// Whether its run was closed or abandoned. One that was `stopped` goes on with this process.
    pub over: bool,
    /// The worker that lists, or 0.
    pub lister: WorkerId,
    /// Whether the last page is in.
    pub listing_done: bool,
    /// Whether the run lists: one of `retry` does not, until a `sync` joins it.
    pub lists: bool,
    /// Whether the account has any other worker, dead or alive.
    pub neighbours: bool,
    /// How many other workers are on the run.
    pub others: i64,
}

/// Registers a process as a worker on a run, under a number of its own making: done twice, it is one worker.
///
/// # Errors
/// The database's.
pub fn register(
    client: &mut Client,
    account: &str,
    run_id: i64,
    worker: WorkerId,
    process: &Process,
) -> Result<(), Error> {
    let pid = i32::try_from(process.pid).unwrap_or(0);
    // A row that is not kept is an error.
    client.query_typed_one(
        "INSERT INTO campaign_sync.workers (account, worker_id, run_id, host, pid, machine, process_start)
         OVERRIDING SYSTEM VALUE
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (account, worker_id) DO UPDATE
         SET run_id = excluded.run_id, heartbeat_at = excluded.heartbeat_at
         RETURNING worker_id",
        &[
            (&account, Type::TEXT),
            (&worker, Type::INT8),
            (&run_id, Type::INT8),
            (&process.host, Type::TEXT),
            (&pid, Type::INT4),
            (&process.machine, Type::TEXT),
            (&process.started, Type::INT8),
        ],
    )?;
    Ok(())
}

/// Keeps the lease, and the run's samples; `leaving` takes one in any case. Nothing when the run is gone.
///
/// # Errors
/// The database's.
pub fn heartbeat(
    client: &mut Client,
    account: &str,
    run_id: i64,
    worker: WorkerId,
    effort: Effort,
    leaving: bool,
) -> Result<Option<Beat>, Error> {
    let requests = effort.limit.and_then(|limit| i32::try_from(limit.requests.get()).ok());
    let window_ms = effort.limit.and_then(|limit| i64::try_from(limit.window.as_millis()).ok());
    let row = client.query_typed_opt(
        include_str!("../../sql/heartbeat.sql"),
        &[
            (&account, Type::TEXT),
            (&worker, Type::INT8),
            (&run_id, Type::INT8),
            (&effort.requests, Type::INT8),
            (&effort.limited, Type::INT8),
            (&effort.retries, Type::INT8),
            (&effort.rate_limited, Type::INT8),
            (&effort.token_refreshes, Type::INT8),
            (&&effort.durations[..], Type::INT8_ARRAY),
            (&&effort.retried[..], Type::INT8_ARRAY),
            (&leaving, Type::BOOL),
            (&requests, Type::INT4),
            (&window_ms, Type::INT8),
        ],
    )?;
    Ok(row.map(|row| Beat {
        alive: row.get("alive"),
        over: !matches!(row.get("state"), "running" | "stopped"),
        lister: row.get("lister"),
        listing_done: row.get("listing_done"),
        lists: row.get("lists"),
        neighbours: row.get("neighbours"),
        others: row.get("others"),
    }))
}

/// A dead worker whose lease was ended: its tasks are free.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Its host.
    pub host: String,
    /// Its process.
    pub pid: i32,
    /// Seconds since its last heartbeat, by the database's clock.
    pub silent: f64,
    /// Tasks that it held.
    pub tasks: i64,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, pid, silent, tasks } = self;
        let (host, silent) = (visible(host), silent.max(0.0));
        match tasks {
            0 => {
                write!(f, "host {host} pid {pid} is dead (no heartbeat for {silent:.0} s); it held no tasks")
            }
            1 => write!(f, "took over 1 task from host {host} pid {pid} (no heartbeat for {silent:.0} s)"),
            _ => write!(
                f,
                "took over {tasks} tasks from host {host} pid {pid} (no heartbeat for {silent:.0} s)"
            ),
        }
    }
}

/// Ends the leases of dead workers, and that of `leaving` (0 for none). Gives how many dead there were and how many
/// tasks are free again.
///
/// # Errors
/// The database's.
pub fn reap(client: &mut Client, account: &str, leaving: WorkerId) -> Result<(i64, i64), Error> {
    let mut transaction = begin(client)?;
    let (dead, freed) = end(&mut transaction, account, leaving)?;
    transaction.commit()?;
    Ok((i64::try_from(dead.len()).unwrap_or(i64::MAX), freed))
}

/// Ends the leases of dead workers; gives those.
///
/// # Errors
/// The database's.
pub fn take_over(client: &mut Client, account: &str) -> Result<Vec<Ended>, Error> {
    let mut transaction = begin(client)?;
    let (dead, _freed) = end(&mut transaction, account, 0)?;
    transaction.commit()?;
    Ok(dead)
}

/// As [`reap`], within the caller's transaction: the dead, and how many tasks are free again.
///
/// # Errors
/// The database's.
pub fn end(transaction: &mut Client, account: &str, leaving: WorkerId) -> Result<(Vec<Ended>, i64), Error> {
    // Whoever leaves does not look for others: that is for those who stay, or come.
    let gone = if leaving == 0 { gone(transaction, account)? } else { Vec::new() };
    let silent = transaction.query_typed(
        include_str!("../../sql/silent.sql"),
        &[
            (&account, Type::TEXT),
            (&LEASE_SECONDS, Type::FLOAT8),
            (&leaving, Type::INT8),
            (&gone, Type::INT8_ARRAY),
        ],
    )?;
    if silent.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let silent: Vec<WorkerId> = silent.iter().map(|row| row.get(0)).collect();
    let rows = transaction.query_typed(
        include_str!("../../sql/reap.sql"),
        &[(&account, Type::TEXT), (&silent, Type::INT8_ARRAY)],
    )?;
    let freed = rows.iter().map(|row| row.get::<_, i64>("freed")).sum();
    let dead = rows.iter().filter(|row| row.get::<_, WorkerId>("worker_id") != leaving);
    let dead = dead.map(|row| Ended {
        host: row.get("host"),
        pid: row.get("pid"),
        silent: row.get("silent"),
        tasks: row.get("freed"),
    });
    Ok((dead.collect(), freed))
}

/// Whether any other worker is on the run.
///
/// # Errors
/// The database's.
pub fn others(client: &mut Client, account: &str, run_id: i64, worker: WorkerId) -> Result<bool, Error> {
    let row = client.query_typed_one(
        "SELECT EXISTS (SELECT FROM campaign_sync.workers WHERE account = $1 AND run_id = $2 AND worker_id <> $3)",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&worker, Type::INT8)],
    )?;
    Ok(row.get(0))
}

/// All workers of an account, dead or alive.
///
/// # Errors
/// The database's.
pub fn all(client: &mut Client, account: &str) -> Result<Vec<WorkerId>, Error> {
    let rows = client.query_typed(
        "SELECT worker_id FROM campaign_sync.workers WHERE account = $1",
        &[(&account, Type::TEXT)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Workers whose processes were on this machine, and are seen to be gone: nobody has to wait for their silence.
fn gone(client: &mut Client, account: &str) -> Result<Vec<WorkerId>, Error> {
    let current = Process::current();
    if current.machine.is_none() {
        return Ok(Vec::new());
    }
    let rows = client.query_typed(
        "SELECT worker_id, host, pid, machine, process_start FROM campaign_sync.workers WHERE account = $1 AND machine = $2",
        &[(&account, Type::TEXT), (&current.machine, Type::TEXT)],
    )?;
    let process = |row: &Row| Process {
        host: row.get("host"),
        pid: u32::try_from(row.get::<_, i32>("pid")).unwrap_or(0),
        machine: row.get("machine"),
        started: row.get("process_start"),
    };
    let gone = rows.iter().filter(|row| current.sees_gone(&process(row)));
    Ok(gone.map(|row| row.get("worker_id")).collect())
}

/// Becomes the run's lister, if nobody is; gives the page to go on from, and the size of pages.
///
/// # Errors
/// The database's.
pub fn take_listing(
    client: &mut Client,
    account: &str,
    run_id: i64,
    worker: WorkerId,
) -> Result<Option<(i64, i32)>, Error> {
    let row = client.query_typed_opt(
        // Locked, as its lease might end in between: then the lister would be one that is not there.
        "WITH alive AS (SELECT worker_id FROM campaign_sync.workers WHERE account = $1 AND worker_id = $3 FOR KEY SHARE)
         UPDATE campaign_sync.sync_runs SET lister = $3
         WHERE account = $1 AND run_id = $2 AND state = 'running' AND NOT listing_done AND lister IN (0, $3)
           AND EXISTS (SELECT FROM alive)
         RETURNING next_page, page_size",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&worker, Type::INT8)],
    )?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}
