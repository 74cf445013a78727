//! Dead letters: what failed for good, until a later sync of it succeeds.

use std::time::SystemTime;

use postgres::types::Type;
use postgres::{Client, Error};

/// How many dead letters can be retried: all, or those of some campaigns.
///
/// # Errors
/// The database's.
pub fn retryable(client: &mut Client, account: &str, ids: Option<&[String]>) -> Result<Vec<String>, Error> {
    let rows = client.query_typed(
        "SELECT id FROM dead_letters WHERE account = $1 AND retryable AND ($2::text[] IS NULL OR id = ANY ($2))",
        &[(&account, Type::TEXT), (&ids, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Puts them back as tasks of the run; gives how many.
///
/// # Errors
/// The database's.
pub fn requeue(
    client: &mut Client,
    account: &str,
    run_id: i64,
    ids: Option<&[String]>,
) -> Result<usize, Error> {
    let rows = client.query_typed(
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
         FROM dead_letters WHERE account = $1 GROUP BY cause ORDER BY 2 DESC, 1",
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
    /// The first of them, by id.
    pub first: Vec<Letter>,
}

/// A run's dead letters that no later run has dealt with, at most so many of each cause; the most frequent cause first.
///
/// # Errors
/// The database's.
pub fn of_run(client: &mut Client, account: &str, run_id: i64, most: i64) -> Result<Vec<Letters>, Error> {
    let rows = client.query_typed(
        "SELECT cause, count, id, reason, attempts, failed_at
         FROM (SELECT l.*, row_number() OVER (PARTITION BY cause ORDER BY id) AS place,
                      count(*) OVER (PARTITION BY cause) AS count
               FROM dead_letters l WHERE account = $1 AND run_id = $2) l
         WHERE place <= $3
         ORDER BY count DESC, cause, place",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&most, Type::INT8)],
    )?;
    let mut letters: Vec<Letters> = Vec::new();
    for row in rows {
        let cause: &str = row.get("cause");
        if letters.last().is_none_or(|last| last.cause != cause) {
            letters.push(Letters { cause: cause.to_owned(), count: row.get("count"), first: Vec::new() });
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
