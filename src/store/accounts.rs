//! Accounts that go, or get another name: all their rows, in one transaction that nobody who opens, joins or closes a run can
//! come between.

use std::time::Duration;

use postgres::Error;
use postgres::types::Type;

use super::survey::ACCOUNT_TABLES;
use super::{Client, Transaction, begin, leases};
use crate::version::VERSION;

/// How often a run is looked for that others open and close at the same moment.
pub(crate) const HOLD_TRIES: u32 = 10;

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A process works on the account.
    AtWork {
        /// Its host.
        host: String,
        /// Its process id there.
        pid: i32,
        /// How long ago it was last heard of.
        silent: Duration,
    },
    /// Runs are opened and closed all the time.
    Busy,
    /// The database has no row of it.
    Unknown,
    /// The new name has rows in this table.
    Taken(&'static str),
    /// A trigger, rule or policy keeps no row of this table.
    NotKept(&'static str),
}

/// How many rows each table has of an account.
pub type Rows = Vec<(&'static str, i64)>;

/// The open run of an account, locked, or a row in its place: until the transaction ends, nobody opens, joins or closes a run.
pub(super) struct Held {
    pub run_id: i64,
    /// The row is ours, to be deleted before the end.
    pub placeholder: bool,
}

/// Holds the account's open run. Nothing when it is another one each time.
pub(super) fn hold(transaction: &mut Client, account: &str) -> Result<Option<Held>, Error> {
    for _ in 0..HOLD_TRIES {
        let open = transaction.query_typed_opt(
            "SELECT run_id FROM campaign_sync.sync_runs WHERE account = $1 AND state IN ('running', 'stopped') FOR UPDATE",
            &[(&account, Type::TEXT)],
        )?;
        if let Some(row) = open {
            return Ok(Some(Held { run_id: row.get(0), placeholder: false }));
        }
        // Waits for whoever opens one at the same moment; whoever comes later waits for us.
        let placed = transaction.query_typed_opt(
            "INSERT INTO campaign_sync.sync_runs (account, lists, listing_done, page_size, binary_version)
             VALUES ($1, false, true, 1, $2) ON CONFLICT DO NOTHING RETURNING run_id",
            &[(&account, Type::TEXT), (&VERSION, Type::TEXT)],
        )?;
        if let Some(row) = placed {
            return Ok(Some(Held { run_id: row.get(0), placeholder: true }));
        }
    }
    Ok(None)
}

impl Held {
    /// Takes the placeholder away, if it is one.
    pub(super) fn release(self, transaction: &mut Client, account: &str) -> Result<(), Error> {
        if self.placeholder {
            transaction.execute_typed(
                "DELETE FROM campaign_sync.sync_runs WHERE account = $1 AND run_id = $2",
                &[(&account, Type::TEXT), (&self.run_id, Type::INT8)],
            )?;
        }
        Ok(())
    }
}

/// How many rows there are of an account, by table.
///
/// # Errors
/// The database's.
pub fn rows(client: &mut Client, account: &str) -> Result<Rows, Error> {
    let row = client.query_typed_one(counting(), &[(&account, Type::TEXT)])?;
    Ok(ACCOUNT_TABLES.iter().enumerate().map(|(place, table)| (*table, row.get(place))).collect())
}

/// Deletes all rows of an account; gives how many there were.
///
/// # Errors
/// The database's.
pub fn forget(client: &mut Client, account: &str) -> Result<Result<Rows, Refusal>, Error> {
    let mut transaction = begin(client)?;
    leases::end(&mut transaction, account, 0)?;
    let Some(held) = hold(&mut transaction, account)? else { return Ok(Err(Refusal::Busy)) };
    if let Some(refusal) = at_work(&mut transaction, account)? {
        return Ok(Err(refusal));
    }
    held.release(&mut transaction, account)?;
    let mut removed = Rows::new();
    for table in ACCOUNT_TABLES {
        removed.push((table, delete(&mut transaction, table, account)?));
    }
    if removed.iter().all(|(_, rows)| *rows == 0) {
        return Ok(Err(Refusal::Unknown));
    }
    transaction.commit()?;
    Ok(Ok(removed))
}

/// Gives all rows of an account another account's name, of which there must be none; gives how many there were.
///
/// Its shared token is deleted: the key that it is sealed with is made of the account's name as well.
///
/// # Errors
/// The database's.
pub fn rename(client: &mut Client, old: &str, new: &str) -> Result<Result<Rows, Refusal>, Error> {
    let mut transaction = begin(client)?;
    leases::end(&mut transaction, old, 0)?;
    // In the order of names, so that two who exchange names wait for each other in turn.
    let mut names = [old, new];
    names.sort_unstable();
    for name in names {
        let Some(held) = hold(&mut transaction, name)? else { return Ok(Err(Refusal::Busy)) };
        held.release(&mut transaction, name)?;
    }
    if let Some(refusal) = at_work(&mut transaction, old)? {
        return Ok(Err(refusal));
    }
    let there = rows(&mut transaction, old)?;
    if there.iter().all(|(_, rows)| *rows == 0) {
        return Ok(Err(Refusal::Unknown));
    }
    if let Some((table, _)) = rows(&mut transaction, new)?.into_iter().find(|(_, rows)| *rows > 0) {
        return Ok(Err(Refusal::Taken(table)));
    }
    for (table, count) in &there {
        if *table != "access_tokens" && transfer(&mut transaction, table, old, new)? != *count {
            return Ok(Err(Refusal::NotKept(table)));
        }
        delete(&mut transaction, table, old)?;
    }
    transaction.commit()?;
    Ok(Ok(there))
}

/// The process that was last heard of, if one works on the account. Those that are seen to be dead have left.
fn at_work(transaction: &mut Transaction<'_>, account: &str) -> Result<Option<Refusal>, Error> {
    let row = transaction.query_typed_opt(
        "SELECT host, pid, extract(epoch FROM now() - heartbeat_at)::float8 AS silent
         FROM campaign_sync.workers WHERE account = $1 ORDER BY heartbeat_at DESC LIMIT 1",
        &[(&account, Type::TEXT)],
    )?;
    Ok(row.map(|row| Refusal::AtWork {
        host: row.get("host"),
        pid: row.get("pid"),
        silent: Duration::try_from_secs_f64(row.get::<_, f64>("silent").max(0.0)).unwrap_or_default(),
    }))
}

// Statements that are the same for each table. Nothing from outside gets into them: tables have the names that they have in
// the migrations, and columns those that the database itself has put into quotes.

fn counting() -> String {
    let count = |table: &&str| format!("(SELECT count(*) FROM campaign_sync.{table} WHERE account = $1)");
    format!("SELECT {}", ACCOUNT_TABLES.iter().map(count).collect::<Vec<_>>().join(", "))
}

fn deleting(table: &'static str) -> String {
    format!("DELETE FROM campaign_sync.{table} WHERE account = $1")
}

/// Whatever columns there are, those of later versions and of users included.
fn listing_columns(table: &'static str) -> String {
    format!(
        "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(attname), ', ' ORDER BY attnum)
         FROM pg_catalog.pg_attribute
         WHERE attrelid = 'campaign_sync.{table}'::regclass AND attnum > 0 AND NOT attisdropped
           AND attname <> 'account' AND attgenerated = ''"
    )
}

fn copying(table: &'static str, quoted_columns: &str) -> String {
    format!(
        "INSERT INTO campaign_sync.{table} (account, {quoted_columns}) OVERRIDING SYSTEM VALUE
         SELECT $2, {quoted_columns} FROM campaign_sync.{table} WHERE account = $1"
    )
}

fn delete(transaction: &mut Client, table: &'static str, account: &str) -> Result<i64, Error> {
    let deleted = transaction.execute_typed(deleting(table), &[(&account, Type::TEXT)])?;
    Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
}

/// Copies an account's rows of a table. A row's account is never updated: where tables are distributed by it, it cannot be.
fn transfer(transaction: &mut Client, table: &'static str, old: &str, new: &str) -> Result<i64, Error> {
    let columns = transaction.query_typed_one(listing_columns(table), &[])?;
    let columns: String = columns.get(0);
    let copied =
        transaction.execute_typed(copying(table, &columns), &[(&old, Type::TEXT), (&new, Type::TEXT)])?;
    Ok(i64::try_from(copied).unwrap_or(i64::MAX))
}
