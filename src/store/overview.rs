//! What `status` looks at; nothing here changes anything.

use std::fmt;
use std::time::{Duration, SystemTime};

use postgres::Error;
use postgres::types::Type;

use super::dead_letters::{self, Heap};
use super::queue::WorkerId;
use super::runs::{self, Progress};
use super::{Client, queue, quota};
use crate::foreign;
use crate::http::RateLimit;

/// The longest name of a machine in a message of ours.
const HOST_CHARACTERS: usize = 60;

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
    /// How fresh its campaigns are.
    pub freshness: Freshness,
    /// The last run that was abandoned, unless one has come to its end since.
    pub abandoned: Option<Abandoned>,
    /// The rate limit that was learned.
    pub learned_limit: Option<RateLimit>,
    /// For how long nobody may send, because a rate limit was met.
    pub gate: Option<Duration>,
    /// What the platform asked for, where that is more than is waited for: one request at a time finds out.
    pub gate_asked: Option<Duration>,
}

/// How fresh an account's campaigns are. One definition for all who tell it, the view `account_freshness`: only a run that lists all campaigns counts; one of
/// `retry` never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// When the last one came to its end that synced every campaign (`complete`), …
    pub last_success: Option<SystemTime>,
    /// … and how long ago, by the database's clock.
    pub success_age: Option<Duration>,
    /// When the last one came to its end, with dead letters (`partial`) or without, …
    pub last_finished: Option<SystemTime>,
    /// … and how long ago.
    pub finished_age: Option<Duration>,
}

/// A run that was given up before its end.
#[derive(Clone, Debug)]
pub struct Abandoned {
    /// Its number.
    pub run_id: i64,
    /// How long ago.
    pub age: Duration,
    /// Campaigns seen, …
    pub listed: i64,
    /// … and stored.
    pub synced: i64,
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
    let latest =
        client.query_typed_opt("SELECT run_id FROM campaign_sync.sync_runs WHERE account = $1 ORDER BY started_at DESC, run_id DESC LIMIT 1", &key)?;
    // By time: on several nodes numbers are not given out in order.
    let run = match latest.map(|row| row.get::<_, i64>(0)) {
        Some(run_id) => runs::progress(client, account, run_id)?,
        None => None,
    };
    let pending = run.as_ref().map_or(Ok(0), |run| queue::count(client, account, run.run_id))?;
    let quota = client.query_typed_opt(
        "SELECT limit_requests, limit_window_ms, gate_asked_s, greatest(0,
                    extract(epoch FROM gate_until - greatest(now(), gate_set_at)))::float8 AS gate_s
             FROM campaign_sync.quotas WHERE account = $1",
        &key,
    )?;
    let learned_limit = quota.as_ref().and_then(quota::limit);
    let gate = quota.as_ref().and_then(quota::gate);
    Ok(Overview {
        run,
        workers: workers(client, account)?,
        pending,
        dead_letters: dead_letters::by_cause(client, account)?,
        freshness: freshness(client, account)?,
        abandoned: abandoned(client, account)?,
        learned_limit,
        gate: gate.map(|(closed, _)| closed),
        gate_asked: gate.and_then(|(_, asked)| asked),
    })
}

/// A process that holds tasks or the listing and gives no sign of life.
#[derive(Clone, Debug, PartialEq)]
pub struct Silent {
    /// Its machine.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// Tasks that it holds.
    pub holds: i64,
    /// Whether it is the run's lister.
    pub lists: bool,
    /// Since its last sign of life.
    pub silent: Duration,
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, pid, holds, lists, silent } = self;
        let listing = if *lists { " and the listing" } else { "" };
        let (host, seconds) = (foreign::one_line(host, HOST_CHARACTERS), silent.as_secs());
        write!(
            f,
            "waiting for process {pid} on {host}, which holds {holds} task(s){listing} and is silent for {seconds} s"
        )
    }
}

/// The one of them that has been silent for longest, beside worker `own`; a heartbeat may be late by as much as another.
///
/// # Errors
/// The database's.
pub fn silent(
    client: &mut Client,
    account: &str,
    own: WorkerId,
) -> Result<Option<(WorkerId, Silent)>, Error> {
    let row = client.query_typed_opt(
        "SELECT worker_id, host, pid, extract(epoch FROM now() - heartbeat_at)::float8 AS silent,
                (SELECT count(*) FROM campaign_sync.sync_tasks t
                 WHERE t.account = $1 AND t.worker_id = w.worker_id) AS holds,
                EXISTS (SELECT FROM campaign_sync.sync_runs s
                        WHERE s.account = $1 AND s.run_id = w.run_id AND s.lister = w.worker_id
                          AND NOT s.listing_done) AS lists
         FROM campaign_sync.workers w
         WHERE account = $1 AND worker_id <> $2 AND heartbeat_at < now() - interval '4 seconds'
         ORDER BY heartbeat_at LIMIT 1",
        &[(&account, Type::TEXT), (&own, Type::INT8)],
    )?;
    Ok(row.and_then(|row| {
        let silent = Silent {
            host: row.get("host"),
            pid: row.get("pid"),
            holds: row.get("holds"),
            lists: row.get("lists"),
            silent: seconds(row.get("silent")),
        };
        (silent.holds > 0 || silent.lists).then(|| (row.get("worker_id"), silent))
    }))
}

fn freshness(client: &mut Client, account: &str) -> Result<Freshness, Error> {
    let row = client.query_typed_opt(
        "SELECT last_success_at AS success, extract(epoch FROM success_age)::float8 AS success_s,
                last_finished_at AS finished, extract(epoch FROM finished_age)::float8 AS finished_s
         FROM campaign_sync.account_freshness WHERE account = $1",
        &[(&account, Type::TEXT)],
    )?;
    let Some(row) = row else { return Ok(Freshness::default()) };
    let age = |column| row.get::<_, Option<f64>>(column).map(seconds);
    Ok(Freshness {
        last_success: row.get("success"),
        success_age: age("success_s"),
        last_finished: row.get("finished"),
        finished_age: age("finished_s"),
    })
}

fn abandoned(client: &mut Client, account: &str) -> Result<Option<Abandoned>, Error> {
    let row = client.query_typed_opt(
        "SELECT run_id, listed, synced, extract(epoch FROM now() - finished_at)::float8 AS age
         FROM campaign_sync.sync_runs a
         WHERE account = $1 AND state = 'abandoned' AND finished_at IS NOT NULL
           AND NOT EXISTS (SELECT FROM campaign_sync.sync_runs l
                           WHERE l.account = $1 AND l.run_id > a.run_id AND l.lists
                             AND l.state IN ('complete', 'partial'))
         ORDER BY run_id DESC LIMIT 1",
        &[(&account, Type::TEXT)],
    )?;
    Ok(row.map(|row| Abandoned {
        run_id: row.get("run_id"),
        age: seconds(row.get("age")),
        listed: row.get("listed"),
        synced: row.get("synced"),
    }))
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default()
}

fn workers(client: &mut Client, account: &str) -> Result<Vec<Worker>, Error> {
    let rows = client.query_typed(
        "SELECT host, pid, extract(epoch FROM now() - heartbeat_at)::float8 AS silent,
                extract(epoch FROM now() - started_at)::float8 AS age, synced,
                (SELECT count(*) FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.worker_id = w.worker_id) AS holds
         FROM campaign_sync.workers w WHERE account = $1 ORDER BY started_at, worker_id",
        &[(&account, Type::TEXT)],
    )?;
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
    /// How fresh its campaigns are.
    pub freshness: Freshness,
    /// How many campaigns have failed for good and were not synced since.
    pub dead_letters: i64,
}

/// Reads it.
///
/// # Errors
/// The database's.
pub fn standing(client: &mut Client, account: &str) -> Result<Standing, Error> {
    let row = client.query_typed_one(
        "SELECT count(*) AS dead_letters FROM campaign_sync.dead_letters WHERE account = $1",
        &[(&account, Type::TEXT)],
    )?;
    Ok(Standing { freshness: freshness(client, account)?, dead_letters: row.get("dead_letters") })
}

/// The names of all accounts that the database knows.
///
/// # Errors
/// The database's.
pub fn accounts(client: &mut Client) -> Result<Vec<String>, Error> {
    let rows =
        client.query_typed("SELECT DISTINCT account FROM campaign_sync.sync_runs ORDER BY account", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
