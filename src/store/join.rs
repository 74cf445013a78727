//! Opening or joining a run, in one transaction: the run's row is locked, so that nobody closes it while tasks are put into it
//! or a worker registers.

use std::time::Duration;

use postgres::types::Type;
use postgres::{Error, Row};

use super::dead_letters::{self, Retry};
use super::process::Process;
use super::queue::{self, WorkerId};
use super::runs::{self, OpenRun, Opening};
use super::{Client, begin, leases, quota};
use crate::version::VERSION;

/// What joining a run has come to.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The run.
    pub run: OpenRun,
    /// The open run that was given up for it.
    pub abandoned: Option<Abandoned>,
    /// Dead letters that were put back.
    pub requeued: usize,
}

/// A run that was given up.
#[derive(Clone, Debug)]
pub struct Abandoned {
    /// Its number.
    pub run_id: i64,
    /// How long nothing had happened in it.
    pub idle: Duration,
    /// Campaigns seen.
    pub listed: i64,
    /// Campaigns stored.
    pub synced: i64,
    /// Its tasks, which are left to the next listing.
    pub pending: i64,
}

/// Opens the account's run or joins the open one, puts dead letters back, and registers `worker`. Those who are seen to be dead
/// have left before. Done twice under one worker's number, as after a lost reply, it is as if done once.
///
/// # Errors
/// The database's; a unique violation when two processes open at once: try again.
pub fn join(
    client: &mut Client,
    account: &str,
    opening: &Opening,
    retry: Option<&Retry>,
    worker: WorkerId,
) -> Result<Joined, Error> {
    let mut transaction = begin(client)?;
    let Others { known, .. } = end_the_dead(&mut transaction, account, worker)?;
    let joined = within(&mut transaction, account, opening, retry, worker, known)?;
    transaction.commit()?;
    Ok(joined)
}

/// The workers of an account.
#[derive(Debug, Default)]
pub struct Others {
    /// Processes whose leases were ended, and whose tasks are free.
    pub ended: Vec<leases::Ended>,
    /// Whether another one is at work.
    pub at_work: bool,
    /// Whether this worker was registered before: by a first try, of which nobody heard.
    pub known: bool,
}

/// Ends the leases of the dead, within the caller's transaction.
///
/// # Errors
/// The database's.
pub fn end_the_dead(transaction: &mut Client, account: &str, worker: WorkerId) -> Result<Others, Error> {
    let workers = leases::all(transaction, account)?;
    let known = workers.contains(&worker);
    let others = workers.len() - usize::from(known);
    let ended = if others > 0 { leases::end(transaction, account, 0)?.0 } else { Vec::new() };
    Ok(Others { at_work: others > ended.len(), ended, known })
}

/// The same within the caller's transaction, behind [`end_the_dead`], which tells whether the worker is `known`.
///
/// # Errors
/// As [`join`].
pub fn within(
    transaction: &mut Client,
    account: &str,
    opening: &Opening,
    retry: Option<&Retry>,
    worker: WorkerId,
    known: bool,
) -> Result<Joined, Error> {
    // Begun anew it was already, by the first try.
    let opening = Opening { fresh: opening.fresh && !known, ..opening.clone() };
    let (run, abandoned) = open(transaction, account, &opening)?;
    let requeued = match retry {
        Some(retry) => dead_letters::requeue(transaction, account, run.run_id, retry.ids())?,
        None => 0,
    };
    leases::register(transaction, account, run.run_id, worker, Process::current())?;
    Ok(Joined { run, abandoned, requeued })
}

/// Opens a run, or finds the open one, within the caller's transaction.
///
/// # Errors
/// As [`join`].
pub fn open(
    transaction: &mut Client,
    account: &str,
    opening: &Opening,
) -> Result<(OpenRun, Option<Abandoned>), Error> {
    let found = transaction
        .query_typed_opt(include_str!("../../sql/open_run.sql"), &[(&account, Type::TEXT)])?
        .map(|row| (open_run(&row, false), row.get("idle_s")));
    let abandoned = match found {
        Some((run, idle_s)) if !opening.fresh && idle_s <= opening.max_age.as_secs_f64() => {
            return Ok((resume(transaction, account, opening, run)?, None));
        }
        Some((run, idle_s)) => Some(abandon(transaction, account, run.run_id, idle_s)?),
        None => None,
    };
    if opening.fresh {
        // What an earlier answer said of waits and limits is forgotten as well, should it have been senseless.
        quota::forget(transaction, account)?;
    }
    let row = transaction.query_typed_one(
        include_str!("../../sql/new_run.sql"),
        &[
            (&account, Type::TEXT),
            (&opening.lists, Type::BOOL),
            (&opening.page_size, Type::INT4),
            (&VERSION, Type::TEXT),
            (&opening.keeps_history, Type::BOOL),
        ],
    )?;
    let run = open_run(&row, true);
    if row.get("left_over") {
        transaction.execute_typed(
            include_str!("../../sql/adopt_tasks.sql"),
            &[(&account, Type::TEXT), (&run.run_id, Type::INT8)],
        )?;
    }
    Ok((run, abandoned))
}

fn open_run(row: &Row, new: bool) -> OpenRun {
    OpenRun {
        run_id: row.get("run_id"),
        run_key: row.get("run_key"),
        page_size: row.get("page_size"),
        listing_done: row.get("listing_done"),
        lists: row.get("lists"),
        new,
    }
}

fn resume(client: &mut Client, account: &str, opening: &Opening, run: OpenRun) -> Result<OpenRun, Error> {
    let key: [(&(dyn postgres::types::ToSql + Sync), Type); 2] =
        [(&account, Type::TEXT), (&run.run_id, Type::INT8)];
    client.execute_typed(
        "UPDATE campaign_sync.sync_runs SET state = 'running', joins = joins + 1 WHERE account = $1 AND run_id = $2",
        &key,
    )?;
    if run.lists || !opening.lists {
        return Ok(run);
    }
    client.execute_typed(include_str!("../../sql/begin_listing.sql"), &key)?;
    Ok(OpenRun { lists: true, listing_done: false, ..run })
}

fn abandon(client: &mut Client, account: &str, run_id: i64, idle_s: f64) -> Result<Abandoned, Error> {
    let progress = runs::progress(client, account, run_id)?;
    let (listed, synced) = progress.map_or((0, 0), |run| (run.listed, run.synced));
    let pending = queue::count(client, account, run_id)?;
    client.execute_typed(
        include_str!("../../sql/abandon_run.sql"),
        &[(&account, Type::TEXT), (&run_id, Type::INT8)],
    )?;
    let idle = Duration::try_from_secs_f64(idle_s.max(0.0)).unwrap_or_default();
    Ok(Abandoned { run_id, idle, listed, synced, pending })
}
