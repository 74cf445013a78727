//! The schema: migrations in order, each applied once, under a lock, and recognised again by its checksum.

use std::fmt::Write as _;

use postgres::Error;
use postgres::types::Type;
use ring::digest::{SHA256, digest};

use super::schema_name::{Choice, SchemaName};
use super::survey::{self, HISTORY, Namesake, Survey};
use super::{Client, Transaction};
use crate::version::VERSION;

/// All migrations, oldest first; the first has version 1. An applied one is never edited.
const MIGRATIONS: [(&str, &str); 7] = [
    ("first", include_str!("../../sql/migrations/0001_first.sql")),
    ("samples", include_str!("../../sql/migrations/0002_samples.sql")),
    ("gates", include_str!("../../sql/migrations/0003_gates.sql")),
    ("joining", include_str!("../../sql/migrations/0004_joining.sql")),
    ("totals", include_str!("../../sql/migrations/0005_totals.sql")),
    ("doubted_gates", include_str!("../../sql/migrations/0006_doubted_gates.sql")),
    ("history", include_str!("../../sql/migrations/0007_history.sql")),
];

/// Two processes that migrate at once wait for each other. The lock is the transaction's, so it also works behind a
/// pooler; the number says "campsync" in ASCII.
pub(super) const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(7161677084962221667)";

/// What runs in a migration finds nothing of other roles, not even by a function's name.
pub(super) const PINNED: &str = "SET LOCAL search_path = pg_catalog, pg_temp";

const CREATE_HISTORY: &str = "CREATE TABLE IF NOT EXISTS campaign_sync.schema_migrations (
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
    /// Made by a newer version or another program, or changed by hand: not to be touched. The line says what to do.
    Foreign(String),
}

/// Where our tables are or will be, and what is around them.
#[derive(Clone, Debug)]
pub struct Found {
    /// The schema.
    pub schema: SchemaName,
    /// The database and all namesakes of our tables.
    pub survey: Survey,
    /// How far the schema is.
    pub state: SchemaState,
    /// A line on tables of another program that do no harm where they are.
    pub note: Option<String>,
}

/// How far the database's schema is.
///
/// # Errors
/// The database's.
pub fn state(client: &mut Client) -> Result<SchemaState, Error> {
    Ok(find(client)?.state)
}

/// The same, with what is around it.
///
/// # Errors
/// The database's.
pub fn find(client: &mut Client) -> Result<Found, Error> {
    client.locate()?;
    let (schema, choice) = (client.place().schema().clone(), client.place().choice());
    let survey = Survey::take(client, &schema)?;
    let note = (choice == Choice::Default).then(|| note(&survey, &schema)).flatten();
    let state = match foreign(&survey, &schema, choice) {
        Some(message) => SchemaState::Foreign(message),
        None if survey.within(schema.as_str()).next().is_none() => SchemaState::Behind(MIGRATIONS.len()),
        None if !survey.may_use => SchemaState::Foreign(format!(
            "role {0} may not use schema {schema}: GRANT USAGE ON SCHEMA {schema} TO {0}",
            survey.role
        )),
        None => applied(client)?,
    };
    Ok(Found { schema, survey, state, note })
}

/// Why nothing may be done in this schema, as it is; `None` when nothing is in the way.
fn foreign(survey: &Survey, schema: &SchemaName, choice: Choice) -> Option<String> {
    if !survey.there && choice == Choice::SearchPath && *schema != SchemaName::default() {
        return Some(format!(
            "search_path (options, PGOPTIONS) names schema {schema}, which is not there: CREATE SCHEMA {schema}, or leave \
             search_path out: campaign-sync makes a schema of its own"
        ));
    }
    let ours: Vec<&Namesake> = survey.within(schema.as_str()).collect();
    if let Some(bad) = ours.iter().find(|found| !found.is_table || !found.trusted || found.attached.is_some())
    {
        return Some(distrust(bad, &survey.role));
    }
    let history = ours.iter().find(|found| found.name == HISTORY);
    if let Some(other) = history.map_or(ours.first(), |history| (!history.is_history).then_some(history)) {
        return Some(another_programs(other) + &own_schema(schema));
    }
    if choice != Choice::Default || !ours.is_empty() {
        return None;
    }
    // Before there was a schema of our own, ours were there. Whether these are, their owner has to say.
    let elsewhere = || survey.namesakes.iter().filter(|found| found.schema != schema.as_str());
    elsewhere().find(|found| found.name == HISTORY && found.is_history).or_else(|| {
        elsewhere().find(|found| found.name == "campaigns")
    })
    .map(|found| {
        format!(
            "{}; campaign-sync keeps its tables in a schema of its own: say so by --schema {schema} (CAMPAIGN_SYNC_SCHEMA), \
             or, if that table is campaign-sync's, run as {}",
            another_programs(found), found.owner
        )
    })
}

fn another_programs(found: &Namesake) -> String {
    let Namesake { schema, name, owner, .. } = found;
    format!("table {schema}.{name} (owner {owner}) belongs to another program")
}

fn own_schema(schema: &SchemaName) -> String {
    let example = if *schema == SchemaName::default() { "campaign_sync_2" } else { "campaign_sync" };
    format!(
        ": give campaign-sync a schema of its own by --schema {example} (CAMPAIGN_SYNC_SCHEMA), without search_path in DATABASE_URL"
    )
}

fn distrust(found: &Namesake, role: &str) -> String {
    let Namesake { schema, name, owner, .. } = found;
    let name = format!("{schema}.{name}");
    match &found.attached {
        _ if !found.is_table => format!(
            "{name} is no table (owner {owner}): it belongs to another program; give campaign-sync a schema of its own by \
             --schema NAME (CAMPAIGN_SYNC_SCHEMA)"
        ),
        _ if !found.trusted => format!(
            "table {name} belongs to role {owner}, whose code would run as {role}: run as {owner}, or ALTER TABLE {name} \
             OWNER TO {role} if you trust it, or give campaign-sync a schema of its own by --schema NAME"
        ),
        Some(attached) => format!(
            "table {name} (owner {owner}) has a {attached}, which would run as {role}: remove it, or run as {owner}"
        ),
        None => format!("table {name} (owner {owner}) is not campaign-sync's"),
    }
}

/// A table of another program that stays where it is, beside ours.
fn note(survey: &Survey, schema: &SchemaName) -> Option<String> {
    let other = survey.namesakes.iter().find(|found| found.schema != schema.as_str())?;
    Some(format!(
        "{}: it is left alone; campaign-sync has a schema of its own, {schema}",
        another_programs(other)
    ))
}

/// How far the migrations of a schema are that is ours.
fn applied(client: &mut Client) -> Result<SchemaState, Error> {
    let rows = client.query_typed(
        "SELECT version, name, checksum FROM campaign_sync.schema_migrations ORDER BY version",
        &[],
    )?;
    for (index, row) in rows.iter().enumerate() {
        let (version, name, found): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        let Some((expected_name, sql)) = MIGRATIONS.get(index) else {
            return Ok(SchemaState::Foreign(format!(
                "the database has schema version {version} ({name}), this campaign-sync {} knows only {}: install the \
                 newer version that made it",
                VERSION,
                MIGRATIONS.len()
            )));
        };
        if found != checksum(sql) || name != *expected_name {
            return Ok(SchemaState::Foreign(format!(
                "migration {version} ({name}) in the database is not the one this campaign-sync {} knows: it was made by \
                 another build; use that, or an empty database",
                VERSION
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
    let rows = client.query_typed(
        include_str!("../../sql/missing_privileges.sql"),
        &[(&client.place().schema().as_str().to_owned(), Type::TEXT)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether the server takes writes and its disk has room for some: 4 MiB that no transaction keeps. A full disk of the
/// server's log, or a quota of other tables' tablespace, is not seen by it. False where this role may not try.
///
/// # Errors
/// The database's, such as that its disk is full.
pub fn try_to_write(client: &mut Client) -> Result<bool, Error> {
    let mut transaction = super::begin(client)?;
    let tried = transaction.batch_execute(
        "CREATE TEMPORARY TABLE campaign_sync_check (line text);
         INSERT INTO campaign_sync_check SELECT repeat('x', 1000) FROM generate_series(1, 4096)",
    );
    match tried {
        Err(error) if error.code() == Some(&postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        tried => tried.map(|()| true),
    }
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
    transaction.batch_execute(PINNED)?;
    transaction.batch_execute(LOCK)?;
    if survey::is_cluster(&mut transaction)? {
        // Shards one after the other: only so may one transaction change distributed tables and those that are on every node.
        transaction.batch_execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")?;
    }
    // The state again, now that nobody else can change it.
    let found = find(&mut transaction)?;
    let missing = match found.state {
        SchemaState::Current => return Ok(Ok(0)),
        SchemaState::Behind(missing) => missing,
        SchemaState::Foreign(message) => return Ok(Err(message)),
    };
    if let Some(message) = wrong_encoding(&found.survey).or_else(|| may_not_create(&found)) {
        return Ok(Err(message));
    }
    apply(&mut transaction, &found, MIGRATIONS.len() - missing)?;
    transaction.commit()?;
    Ok(Ok(missing))
}

/// What the platform sends is UTF-8, and has to be kept as it came.
pub fn wrong_encoding(survey: &Survey) -> Option<String> {
    let Survey { database, encoding, .. } = survey;
    (encoding != "UTF8").then(|| {
        format!(
            "the encoding of database {database} is {encoding}, which cannot hold every campaign: make one by \
             CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    })
}

/// Why this role cannot make the schema, or the tables in it, that are missing.
pub fn may_not_create(found: &Found) -> Option<String> {
    if found.survey.there
        && !found.survey.may_create_tables
        && found.survey.within(found.schema.as_str()).next().is_none()
    {
        let (role, schema) = (&found.survey.role, &found.schema);
        return Some(format!(
            "there are no tables in schema {schema}, and role {role} may not create them: GRANT CREATE, USAGE ON SCHEMA {schema} \
             TO {role}, or run campaign-sync migrate as a role that may"
        ));
    }
    let (Survey { role, database, there, may_create_schemas, .. }, schema) = (&found.survey, &found.schema);
    (!there && !may_create_schemas).then(|| {
        format!(
            "there is no schema {schema} in database {database}, and role {role} may not create it: CREATE SCHEMA {schema} \
             AUTHORIZATION {role}, as a role that may, or set --schema (CAMPAIGN_SYNC_SCHEMA)"
        )
    })
}

fn apply(transaction: &mut Transaction<'_>, found: &Found, applied: usize) -> Result<(), Error> {
    if !found.survey.there {
        transaction.batch_execute(&found.schema.creation())?;
    }
    transaction.batch_execute(CREATE_HISTORY)?;
    // The oldest migrations name no schema: what they create goes to this one. pg_catalog comes first even so.
    transaction.query_typed(
        "SELECT pg_catalog.set_config('search_path', pg_catalog.quote_ident($1) || ', pg_temp', true)",
        &[(&found.schema.as_str(), Type::TEXT)],
    )?;
    for (index, (name, sql)) in MIGRATIONS.iter().enumerate().skip(applied) {
        transaction.batch_execute(sql)?;
        let version = i32::try_from(index + 1).unwrap_or(i32::MAX);
        transaction.execute_typed(
            "INSERT INTO campaign_sync.schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            &[(&version, Type::INT4), (name, Type::TEXT), (&checksum(sql), Type::TEXT)],
        )?;
    }
    Ok(())
}

/// What tells an installation of ours.
pub(super) fn first_checksum() -> String {
    checksum(MIGRATIONS[0].1)
}

fn checksum(sql: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in digest(&SHA256, sql.as_bytes()).as_ref() {
        // Writing to a String cannot fail.
        let _infallible = write!(hex, "{byte:02x}");
    }
    hex
}
