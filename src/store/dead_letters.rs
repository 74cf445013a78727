//! Dead letters: what failed for good, until a later sync of it succeeds.

use std::time::SystemTime;

use postgres::Error;
use postgres::types::Type;

use super::Client;

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
