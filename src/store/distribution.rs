//! Tables spread over the nodes of a Citus cluster: each account's rows are on one of them.

use std::collections::HashMap;

use postgres::Error;
use postgres::types::Type;

use super::schema::{LOCK, PINNED};
use super::survey::{ACCOUNT_TABLES, HISTORY, is_cluster};
use super::{Client, begin};

/// The table that the others are laid beside.
const FIRST: &str = ACCOUNT_TABLES[0];

/// Why the tables cannot be distributed; nothing when they can.
///
/// # Errors
/// The database's.
pub fn refusal(client: &mut Client) -> Result<Option<String>, Error> {
    if is_cluster(client)? {
        return Ok(None);
    }
    let row = client.query_typed_one("SELECT pg_catalog.current_database()::text", &[])?;
    let database: String = row.get(0);
    Ok(Some(format!(
        "database {database} lacks the extension citus: CREATE EXTENSION citus in it, on every node, or leave --distributed out"
    )))
}

/// Whether some of our tables are distributed: then those of later migrations have to be, too.
///
/// # Errors
/// The database's.
pub fn is_distributed(client: &mut Client) -> Result<bool, Error> {
    Ok(is_cluster(client)? && methods(client)?.contains_key(FIRST))
}

/// Distributes every table that is not distributed yet: by account, rows of one account on one node, and the migrations' table
/// on every node. Each in a transaction of its own, so that what was cut short is taken up again. Gives how many there were. The
/// inner error is a line on a table that is distributed otherwise.
///
/// # Errors
/// The database's.
pub fn distribute(client: &mut Client) -> Result<Result<usize, String>, Error> {
    client.locate()?;
    let mut done = 0;
    for table in ACCOUNT_TABLES.into_iter().chain([HISTORY]) {
        let mut transaction = begin(client)?;
        transaction.batch_execute(PINNED)?;
        // Two processes take turns.
        transaction.batch_execute(LOCK)?;
        let expected = if table == HISTORY { "n" } else { "h" };
        match methods(&mut transaction)?.get(table).map(String::as_str) {
            Some(found) if found == expected => continue,
            Some(_) => {
                return Ok(Err(format!(
                    "table {table} is distributed, but not {}: SELECT undistribute_table('{}.{table}'), then run migrate --distributed again",
                    if table == HISTORY { "as a reference table" } else { "by account" },
                    transaction.place().schema()
                )));
            }
            None => transaction.query_typed(distributing(table), &[])?,
        };
        transaction.commit()?;
        done += 1;
    }
    Ok(Ok(done))
}

/// The call that distributes a table. Nothing from outside gets into it.
fn distributing(table: &'static str) -> String {
    if table == HISTORY {
        return format!(
            "SELECT pg_catalog.create_reference_table('campaign_sync.{table}'::pg_catalog.regclass)"
        );
    }
    // The first has a group of its own: another program's tables are not moved with ours.
    let beside = if table == FIRST { "none".to_owned() } else { format!("campaign_sync.{FIRST}") };
    format!(
        "SELECT pg_catalog.create_distributed_table('campaign_sync.{table}'::pg_catalog.regclass, 'account', \
         colocate_with => '{beside}')"
    )
}

/// How each of the schema's tables is distributed, where it is.
fn methods(client: &mut Client) -> Result<HashMap<String, String>, Error> {
    client.locate()?;
    let schema = client.place().schema().as_str().to_owned();
    let rows = client.query_typed(include_str!("../../sql/distribution.sql"), &[(&schema, Type::TEXT)])?;
    Ok(rows.iter().map(|row| (row.get("name"), row.get("method"))).collect())
}
