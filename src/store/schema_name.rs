//! The name of the schema that our tables are in, and the statements that name it.

use std::borrow::Cow;
use std::fmt;

/// The schema of a new installation; every statement of this program names it.
pub const DEFAULT_SCHEMA: &str = "campaign_sync";

/// How a statement names a table of ours: followed by the table's name.
const PREFIX: &str = "campaign_sync.";

/// The longest name that Postgres keeps whole, in bytes (NAMEDATALEN - 1).
pub(crate) const MAX_NAME_BYTES: usize = 63;

/// A schema's name: valid, and safe in any statement once it is quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaName(String);

impl SchemaName {
    /// Takes a name of 1 to 63 bytes, of letters, digits, `_` and `-`, that does not begin with `pg_`; `None` for any other.
    /// The quotes of SQL are never a part of it, so that it can stand between either of them.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=MAX_NAME_BYTES).contains(&name.len());
        let plain = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
        let free = !name.to_ascii_lowercase().starts_with("pg_") && name != "information_schema";
        (fits && plain && free).then(|| Self(name.to_owned()))
    }

    /// The name as it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as an identifier of SQL.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// The statement that creates it.
    #[must_use]
    pub fn creation(&self) -> String {
        format!("CREATE SCHEMA {}", self.quoted())
    }

    /// The statement, with the tables of this schema.
    #[must_use]
    pub fn statement<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        match self.0 == DEFAULT_SCHEMA {
            true => Cow::Borrowed(sql),
            false => Cow::Owned(sql.replace(PREFIX, &format!("{}.", self.quoted()))),
        }
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self(DEFAULT_SCHEMA.into())
    }
}

/// For people: quoted where psql wants it.
impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if first && self.0.chars().all(plain) { f.write_str(&self.0) } else { f.write_str(&self.quoted()) }
    }
}

/// How a schema came to be the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `--schema` names it.
    Setting,
    /// The connection's own `search_path` names it.
    SearchPath,
    /// An installation of ours was found in it.
    Found,
    /// None of these.
    Default,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_quotes_is_no_name() {
        for name in
            ["", "a\"b", "a'b", "a.b", "a b", "a;b", "pg_catalog", "information_schema", "a\0b", "$user"]
        {
            assert_eq!(SchemaName::new(name), None, "{name:?}");
        }
        assert_eq!(SchemaName::new(&"a".repeat(64)), None);
        assert_eq!(SchemaName::new(&"a".repeat(63)).map(|name| name.0.len()), Some(63));
        assert_eq!(SchemaName::new("Ads-1").map(|name| name.to_string()).as_deref(), Some("\"Ads-1\""));
        assert_eq!(SchemaName::new("ads_1").map(|name| name.to_string()).as_deref(), Some("ads_1"));
    }

    #[test]
    fn a_statement_names_the_tables_of_its_schema() {
        let sql = "SELECT FROM campaign_sync.campaigns WHERE id = 'campaign_sync'";
        assert_eq!(SchemaName::default().statement(sql), sql);
        let public = SchemaName::new("public").map(|name| name.statement(sql).into_owned());
        assert_eq!(public.as_deref(), Some("SELECT FROM \"public\".campaigns WHERE id = 'campaign_sync'"));
    }
}
