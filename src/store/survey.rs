//! What there is in a database before anything of ours is touched: its properties, and every table that has the name of ours.

use postgres::types::Type;
use postgres::{Client, Error};

use super::schema_name::{DEFAULT_SCHEMA, SchemaName};

/// The table that tells which migrations are applied.
pub(super) const HISTORY: &str = "schema_migrations";
/// All tables of this version.
const TABLES: [&str; 9] = [
    HISTORY,
    ACCOUNT_TABLES[0],
    ACCOUNT_TABLES[1],
    ACCOUNT_TABLES[2],
    ACCOUNT_TABLES[3],
    ACCOUNT_TABLES[4],
    ACCOUNT_TABLES[5],
    ACCOUNT_TABLES[6],
    ACCOUNT_TABLES[7],
];
/// Those with rows of an account, in the order in which people are told of them.
pub(super) const ACCOUNT_TABLES: [&str; 8] = [
    "campaigns",
    "campaign_changes",
    "dead_letters",
    "sync_runs",
    "sync_tasks",
    "workers",
    "quotas",
    "access_tokens",
];

/// The database, as a role finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The role.
    pub role: String,
    /// The database's name.
    pub database: String,
    /// Its encoding.
    pub encoding: String,
    /// Whether the server is a standby.
    pub standby: bool,
    /// Whether a transaction may not write, unless it asks to.
    pub read_only: bool,
    /// The setting `search_path`.
    pub search_path: String,
    /// Whether the connection itself sets it, by `options` or `PGOPTIONS`.
    pub path_is_asked_for: bool,
    /// The schemas of `search_path` that exist.
    pub path: Vec<String>,
    /// Whether the schema exists that was asked about.
    pub there: bool,
    /// Whether the role may use it.
    pub may_use: bool,
    /// Whether the role may create tables in it.
    pub may_create_tables: bool,
    /// Whether the role may create schemas.
    pub may_create_schemas: bool,
    /// What has the name of a table of ours, in any schema where ours may be.
    pub namesakes: Vec<Namesake>,
}

/// Something with the name of a table of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namesake {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it is a table, no view or foreign table.
    pub is_table: bool,
    /// The role that owns it.
    pub owner: String,
    /// Whether that role could do harm anyway, or is one of ours.
    pub trusted: bool,
    /// Whether this role sees only some of its rows.
    pub row_security: bool,
    /// Whether this role may read it.
    pub may_read: bool,
    /// Whether it has the columns of our `schema_migrations`.
    pub is_history: bool,
    /// Code of another role that would run as this one.
    pub attached: Option<String>,
}

impl Survey {
    /// Looks around for the tables of one schema.
    ///
    /// # Errors
    /// The database's.
    pub fn take(client: &mut Client, schema: &SchemaName) -> Result<Self, Error> {
        let survey = Self::once(client, schema)?;
        // Another process has made the schema between the two questions: the first one's answers are too old.
        let made_meanwhile = !survey.there && survey.within(schema.as_str()).next().is_some();
        if made_meanwhile { Self::once(client, schema) } else { Ok(survey) }
    }

    fn once(client: &mut Client, schema: &SchemaName) -> Result<Self, Error> {
        let row = client
            .query_typed_one(include_str!("../../sql/surroundings.sql"), &[(&schema.as_str(), Type::TEXT)])?;
        let mut survey = Self {
            role: row.get("role"),
            database: row.get("database"),
            encoding: row.get("encoding"),
            standby: row.get("standby"),
            read_only: row.get("read_only"),
            search_path: row.get("search_path"),
            path_is_asked_for: row.get("path_is_asked_for"),
            path: row.get("path"),
            there: row.get("there"),
            may_use: row.get("may_use"),
            may_create_tables: row.get("may_create_tables"),
            may_create_schemas: row.get("may_create_schemas"),
            namesakes: Vec::new(),
        };
        let schemas: Vec<&str> = survey.candidates().chain([schema.as_str()]).collect();
        let rows = client.query_typed(
            include_str!("../../sql/namesakes.sql"),
            &[(&schemas, Type::TEXT_ARRAY), (&&TABLES[..], Type::TEXT_ARRAY)],
        )?;
        survey.namesakes = rows
            .iter()
            .map(|row| Namesake {
                schema: row.get("schema"),
                name: row.get("name"),
                is_table: row.get("is_table"),
                owner: row.get("owner"),
                trusted: row.get("trusted"),
                row_security: row.get("row_security"),
                may_read: row.get("may_read"),
                is_history: row.get("is_history"),
                attached: row.get("attached"),
            })
            .collect();
        Ok(survey)
    }

    /// Where an installation may be, the likeliest first.
    pub fn candidates(&self) -> impl Iterator<Item = &str> {
        let path =
            self.path.iter().map(String::as_str).filter(|name| ![DEFAULT_SCHEMA, "public"].contains(name));
        [DEFAULT_SCHEMA].into_iter().chain(path).chain(["public"])
    }

    /// What has the name of a table of ours in one schema.
    pub fn within<'a>(&'a self, schema: &'a str) -> impl Iterator<Item = &'a Namesake> {
        self.namesakes.iter().filter(move |namesake| namesake.schema == schema)
    }

    /// The table that may tell of our migrations in one schema, if reading it is safe.
    pub fn history_in(&self, schema: &str) -> Option<&Namesake> {
        let safe = |found: &Namesake| found.is_table && found.trusted && found.attached.is_none();
        let tells = |found: &Namesake| found.schema == schema && found.name == HISTORY && found.is_history;
        self.namesakes.iter().find(|found| tells(found) && safe(found))
    }

    /// The first schema of `search_path`, where the connection itself sets it.
    pub fn schema_asked_for(&self) -> Option<SchemaName> {
        if !self.path_is_asked_for {
            return None;
        }
        let first = self.search_path.split(',').next().unwrap_or_default().trim();
        let quoted = first.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        SchemaName::new(&quoted.map_or_else(|| first.to_lowercase(), str::to_owned))
    }
}

/// Whether the database is a Citus cluster's.
///
/// # Errors
/// The database's.
pub fn is_cluster(client: &mut Client) -> Result<bool, Error> {
    let row = client.query_typed_one(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')",
        &[],
    )?;
    Ok(row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_of_a_connections_own_search_path_is_its_first() {
        let asked = |search_path: &str| {
            let survey =
                Survey { search_path: search_path.into(), path_is_asked_for: true, ..Survey::default() };
            survey.schema_asked_for().map(|name| name.as_str().to_owned())
        };
        assert_eq!(asked("Ads, public").as_deref(), Some("ads"));
        assert_eq!(asked("\"Ads\"").as_deref(), Some("Ads"));
        assert_eq!(asked("\"$user\", public"), None);
        assert_eq!(asked(""), None);
        let not_asked = Survey { search_path: "ads".into(), ..Survey::default() };
        assert_eq!(not_asked.schema_asked_for(), None);
    }
}
