//! The schema: migrations in order, each applied once, under a lock, and recognised again by its checksum.

use std::fmt::Write as _;

use postgres::error::SqlState;
use postgres::types::Type;
use postgres::{Client, Error};
use ring::digest::{SHA256, digest};

/// All migrations, oldest first; the first has version 1. An applied one is never edited.
const MIGRATIONS: [(&str, &str); 5] = [
    ("first", include_str!("../../sql/migrations/0001_first.sql")),
    ("samples", include_str!("../../sql/migrations/0002_samples.sql")),
    ("gates", include_str!("../../sql/migrations/0003_gates.sql")),
    ("joining", include_str!("../../sql/migrations/0004_joining.sql")),
    ("totals", include_str!("../../sql/migrations/0005_totals.sql")),
];

/// Two processes that migrate at once wait for each other. The lock is the transaction's, so it also works behind a
/// pooler; the number says "campsync" in ASCII.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7161677084962221667)";

const HISTORY: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)";

/// What the database's schema is to this binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// Exactly what this binary was built for.
    Current,
    /// So many migrations are missing.
    Behind(usize),
    /// Made by a newer version, or changed by hand: not to be touched. The line says what to do.
    Foreign(String),
}

/// How far the database's schema is.
///
/// # Errors
/// The database's.
pub fn state(client: &mut Client) -> Result<SchemaState, Error> {
    let rows =
        client.query_typed("SELECT version, name, checksum FROM schema_migrations ORDER BY version", &[]);
    let rows = match rows {
        // Without privileges on the schema the table may be invisible, but then nothing else works either.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            return Ok(SchemaState::Behind(MIGRATIONS.len()));
        }
        rows => rows?,
    };
    for (index, row) in rows.iter().enumerate() {
        let (version, name, found): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        let Some((expected_name, sql)) = MIGRATIONS.get(index) else {
            return Ok(SchemaState::Foreign(format!(
                "the database has schema version {version} ({name}), this campaign-sync {} knows only {}: install the \
                 newer version that made it",
                env!("CARGO_PKG_VERSION"),
                MIGRATIONS.len()
            )));
        };
        if found != checksum(sql) || name != *expected_name {
            return Ok(SchemaState::Foreign(format!(
                "migration {version} ({name}) in the database is not the one this campaign-sync {} knows: it was made by \
                 another build; use that, or an empty database",
                env!("CARGO_PKG_VERSION")
            )));
        }
    }
    Ok(match MIGRATIONS.len() - rows.len() {
        0 => SchemaState::Current,
        missing => SchemaState::Behind(missing),
    })
}

/// The statements that would give this role what it lacks to work with a current schema; none when it lacks nothing.
///
/// # Errors
/// The database's.
pub fn missing_grants(client: &mut Client) -> Result<Vec<String>, Error> {
    let rows = client.query_typed(include_str!("../../sql/missing_privileges.sql"), &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Brings the schema up to date, in one transaction, and says how many migrations were applied. Any number of processes
/// may call it at once. The inner error is a foreign schema's line.
///
/// # Errors
/// The database's.
pub fn migrate(client: &mut Client) -> Result<Result<usize, String>, Error> {
    if state(client)? == SchemaState::Current {
        return Ok(Ok(0));
    }
    let mut transaction = super::begin(client)?;
    transaction.batch_execute(LOCK)?;
    transaction.batch_execute(HISTORY)?;
    // The state again, now that nobody else can change it.
    let missing = match state(&mut transaction)? {
        SchemaState::Current => 0,
        SchemaState::Behind(missing) => missing,
        SchemaState::Foreign(message) => return Ok(Err(message)),
    };
    let applied = MIGRATIONS.len() - missing;
    for (index, (name, sql)) in MIGRATIONS.iter().enumerate().skip(applied) {
        transaction.batch_execute(sql)?;
        let version = i32::try_from(index + 1).unwrap_or(i32::MAX);
        transaction.execute_typed(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            &[(&version, Type::INT4), (name, Type::TEXT), (&checksum(sql), Type::TEXT)],
        )?;
    }
    transaction.commit()?;
    Ok(Ok(missing))
}

fn checksum(sql: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in digest(&SHA256, sql.as_bytes()).as_ref() {
        // Writing to a String cannot fail.
        let _infallible = write!(hex, "{byte:02x}");
    }
    hex
}
