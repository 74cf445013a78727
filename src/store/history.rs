//! What changed in campaigns: written with them (`sql/complete.sql`, `sql/add_pages.sql`), and pruned when a run is closed.

use std::time::Duration;

use postgres::Error;
use postgres::types::Type;

use super::Client;

/// Changes that are deleted at once.
pub const BATCH: u32 = 10_000;

/// Deletes changes older than `kept`, the oldest [`BATCH`] at most; gives how many.
///
/// # Errors
/// The database's.
pub fn prune(client: &mut Client, account: &str, kept: Duration) -> Result<u64, Error> {
    client.execute_typed(
        include_str!("../../sql/prune_changes.sql"),
        &[(&account, Type::TEXT), (&kept.as_secs_f64(), Type::FLOAT8), (&i64::from(BATCH), Type::INT8)],
    )
}
