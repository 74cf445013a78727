//! Dead letters: what failed for good, until a later sync of it succeeds.

use std::time::{Duration, SystemTime};

use postgres::Error;
use postgres::types::Type;

use super::{Client, accounts, begin};

/// Which dead letters are to be retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Every one that can be.
    All,
    /// Those of these campaigns.
    Some(Vec<String>),
}

impl Retry {
    /// The ids, if not all are meant.
    #[must_use]
    pub fn ids(&self) -> Option<&[String]> {
        match self {
            Self::All => None,
            Self::Some(ids) => Some(ids),
        }
    }
}

/// What there is to retry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retryable {
    /// Campaigns with a dead letter, and those that an earlier `retry` has put back and not come to.
    pub ids: Vec<String>,
    /// The open run is one of `retry`: it is to be resumed, whatever is left of it.
    pub resumes: bool,
    /// The tasks of the open run, if it is a `sync`'s.
    pub pending: i64,
}

/// What can be retried: all, or some campaigns of it.
///
/// # Errors
/// The database's.
pub fn retryable(client: &mut Client, account: &str, ids: Option<&[String]>) -> Result<Retryable, Error> {
    let row = client.query_typed_one(
        include_str!("../../sql/retryable.sql"),
        &[(&account, Type::TEXT), (&ids, Type::TEXT_ARRAY), (&super::queue::UNLISTED, Type::INT8)],
    )?;
    Ok(Retryable { ids: row.get("ids"), resumes: row.get("resumes"), pending: row.get("pending") })
}

/// Puts them back as tasks of an open run that is locked by the caller's transaction; gives how many.
///
/// # Errors
/// The database's.
pub fn requeue(
    transaction: &mut Client,
    account: &str,
    run_id: i64,
    ids: Option<&[String]>,
) -> Result<usize, Error> {
    let rows = transaction.query_typed(
        include_str!("../../sql/requeue.sql"),
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&ids, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.len())
}

/// Dead letters of one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heap {
    /// The word for grouping.
    pub cause: String,
    /// How many there are.
    pub count: i64,
    /// How many of them can be retried.
    pub retryable: i64,
    /// The newest one's campaign.
    pub example: String,
    /// And its reason.
    pub reason: String,
}

/// An account's dead letters by cause, the largest heap first.
///
/// # Errors
/// The database's.
pub fn by_cause(client: &mut Client, account: &str) -> Result<Vec<Heap>, Error> {
    let rows = client.query_typed(
        "SELECT cause, count(*), count(*) FILTER (WHERE retryable), (array_agg(id ORDER BY failed_at DESC, id))[1],
                (array_agg(reason ORDER BY failed_at DESC, id))[1]
         FROM campaign_sync.dead_letters WHERE account = $1 GROUP BY cause ORDER BY 2 DESC, 1",
        &[(&account, Type::TEXT)],
    )?;
    Ok(rows
        .iter()
        .map(|row| Heap {
            cause: row.get(0),
            count: row.get(1),
            retryable: row.get(2),
            example: row.get(3),
            reason: row.get(4),
        })
        .collect())
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The campaign's id, or a name made for a record without one.
    pub id: String,
    /// The line for people.
    pub reason: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was given up.
    pub failed_at: SystemTime,
}

/// Those of one run and one cause.
#[derive(Clone, Debug)]
pub struct Letters {
    /// The word for grouping.
    pub cause: String,
    /// How many there are.
    pub count: i64,
    /// How many of them have a record that can be retried.
    pub retryable: i64,
    /// The first of them, by id.
    pub first: Vec<Letter>,
}

/// A run's dead letters that no later run has dealt with, at most so many of each cause; the most frequent cause first.
///
/// # Errors
/// The database's.
pub fn of_run(client: &mut Client, account: &str, run_id: i64, most: i64) -> Result<Vec<Letters>, Error> {
    let rows = client.query_typed(
        "SELECT cause, count, retryable_count, id, reason, attempts, failed_at
         FROM (SELECT l.*, row_number() OVER (PARTITION BY cause ORDER BY id) AS place,
                      count(*) OVER (PARTITION BY cause) AS count,
                      count(*) FILTER (WHERE retryable) OVER (PARTITION BY cause) AS retryable_count
               FROM campaign_sync.dead_letters l WHERE account = $1 AND run_id = $2) l
         WHERE place <= $3
         ORDER BY count DESC, cause, place",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&most, Type::INT8)],
    )?;
    let mut letters: Vec<Letters> = Vec::new();
    for row in rows {
        let cause: &str = row.get("cause");
        if letters.last().is_none_or(|last| last.cause != cause) {
            letters.push(Letters {
                cause: cause.to_owned(),
                count: row.get("count"),
                retryable: row.get("retryable_count"),
                first: Vec::new(),
            });
        }
        if let Some(last) = letters.last_mut() {
            last.first.push(Letter {
                id: row.get("id"),
                reason: row.get("reason"),
                attempts: row.get("attempts"),
                failed_at: row.get("failed_at"),
            });
        }
    }
    Ok(letters)
}

/// Dead letters that are read or removed at once.
pub const BATCH: u32 = 10_000;

/// Which dead letters are meant; all, where nothing is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Those of these causes.
    pub causes: Option<Vec<String>>,
    /// Those of these campaigns.
    pub ids: Option<Vec<String>>,
}

/// One that is meant.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// What it says itself.
    pub letter: Letter,
    /// The word for grouping.
    pub cause: String,
    /// Whether it can be retried.
    pub retryable: bool,
    /// The run that gave it up.
    pub run_id: i64,
    /// How long ago.
    pub age: Duration,
}

/// Those that are meant behind the id `after`, by id, at most [`BATCH`].
///
/// # Errors
/// The database's.
pub fn chosen(
    client: &mut Client,
    account: &str,
    choice: &Choice,
    after: &str,
) -> Result<Vec<Chosen>, Error> {
    let rows = client.query_typed(
        "SELECT id, cause, reason, attempts, retryable, run_id, failed_at,
                extract(epoch FROM now() - failed_at)::float8 AS age_s
         FROM campaign_sync.dead_letters
         WHERE account = $1 AND id > $2 AND ($3::text[] IS NULL OR cause = ANY ($3)) AND ($4::text[] IS NULL OR id = ANY ($4))
         ORDER BY id LIMIT $5",
        &[
            (&account, Type::TEXT),
            (&after, Type::TEXT),
            (&choice.causes, Type::TEXT_ARRAY),
            (&choice.ids, Type::TEXT_ARRAY),
            (&i64::from(BATCH), Type::INT8),
        ],
    )?;
    let read = |row: &postgres::Row| Chosen {
        letter: Letter {
            id: row.get("id"),
            reason: row.get("reason"),
            attempts: row.get("attempts"),
            failed_at: row.get("failed_at"),
        },
        cause: row.get("cause"),
        retryable: row.get("retryable"),
        run_id: row.get("run_id"),
        age: Duration::try_from_secs_f64(row.get::<_, f64>("age_s").max(0.0)).unwrap_or_default(),
    };
    Ok(rows.iter().map(read).collect())
}

/// How many are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Of the open run: it still goes by them.
    pub open: i64,
    /// Of others.
    pub closed: i64,
}

/// Counts those that are meant.
///
/// # Errors
/// The database's.
pub fn count(client: &mut Client, account: &str, choice: &Choice) -> Result<Count, Error> {
    let row = client.query_typed_one(
        "SELECT count(*) FILTER (WHERE run_id = o.open) AS open, count(*) FILTER (WHERE run_id IS DISTINCT FROM o.open) AS closed
         FROM campaign_sync.dead_letters
         CROSS JOIN (SELECT (SELECT run_id FROM campaign_sync.sync_runs
                             WHERE account = $1 AND state IN ('running', 'stopped')) AS open) o
         WHERE account = $1 AND ($2::text[] IS NULL OR cause = ANY ($2)) AND ($3::text[] IS NULL OR id = ANY ($3))",
        &[
            (&account, Type::TEXT),
            (&choice.causes, Type::TEXT_ARRAY),
            (&choice.ids, Type::TEXT_ARRAY),
        ],
    )?;
    Ok(Count { open: row.get("open"), closed: row.get("closed") })
}

/// Deletes those that are meant, but none of the open run: at most [`BATCH`]. Gives how many; nothing when runs are opened and
/// closed all the time. To the open run a campaign without its dead letter would be one that was never listed.
///
/// # Errors
/// The database's.
pub fn purge(client: &mut Client, account: &str, choice: &Choice) -> Result<Option<u64>, Error> {
    let mut transaction = begin(client)?;
    let Some(held) = accounts::hold(&mut transaction, account)? else { return Ok(None) };
    let deleted = transaction.execute_typed(
        // The run is asked for outside as well: a letter that the open run replaces in this moment stays.
        "DELETE FROM campaign_sync.dead_letters
         WHERE account = $1 AND run_id <> $2
           AND id = ANY (ARRAY (
               SELECT id FROM campaign_sync.dead_letters
               WHERE account = $1 AND run_id <> $2
                 AND ($3::text[] IS NULL OR cause = ANY ($3)) AND ($4::text[] IS NULL OR id = ANY ($4))
               ORDER BY id LIMIT $5))",
        &[
            (&account, Type::TEXT),
            (&held.run_id, Type::INT8),
            (&choice.causes, Type::TEXT_ARRAY),
            (&choice.ids, Type::TEXT_ARRAY),
            (&i64::from(BATCH), Type::INT8),
        ],
    )?;
    held.release(&mut transaction, account)?;
    transaction.commit()?;
    Ok(Some(deleted))
}
