//! A connection whose statements name the tables of one schema, whatever `search_path` says.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use postgres::types::{ToSql, Type};
use postgres::{Error, Row};

use super::place::Place;

/// What a statement is given, with the types it takes it for.
type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// A client of Postgres. What is defined here takes statements that name tables as `campaign_sync.table` and runs them in
/// the schema of this installation; the driver's own calls, behind it, take a statement as it is.
pub struct Client {
    driver: postgres::Client,
    place: Arc<Place>,
}

impl Client {
    pub(super) fn new(driver: postgres::Client, place: Arc<Place>) -> Self {
        Self { driver, place }
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Finds out where the tables are, unless that is known.
    pub(super) fn locate(&mut self) -> Result<(), Error> {
        let place = self.place.clone();
        place.locate(&mut self.driver)
    }

    /// All rows of a statement.
    ///
    /// # Errors
    /// The database's.
    pub fn query_typed(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.driver.query_typed(&self.place.schema().statement(statement), parameters)
    }

    /// The row of a statement that gives at most one.
    ///
    /// # Errors
    /// The database's, and more than one row.
    pub fn query_typed_opt(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Error> {
        self.driver.query_typed_opt(&self.place.schema().statement(statement), parameters)
    }

    /// The row of a statement that gives exactly one.
    ///
    /// # Errors
    /// The database's, and any other number of rows.
    pub fn query_typed_one(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Row, Error> {
        self.driver.query_typed_one(&self.place.schema().statement(statement), parameters)
    }

    /// The number of rows that a statement changes.
    ///
    /// # Errors
    /// The database's.
    pub fn execute_typed(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        self.driver.execute_typed(&self.place.schema().statement(statement), parameters)
    }

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// The database's.
    pub fn batch_execute(&mut self, statement: &str) -> Result<(), Error> {
        self.driver.batch_execute(&self.place.schema().statement(statement))
    }
}

/// In the default schema, or wherever an installation is found once it is looked for.
impl From<postgres::Client> for Client {
    fn from(driver: postgres::Client) -> Self {
        Self::new(driver, Arc::default())
    }
}

impl Deref for Client {
    type Target = postgres::Client;

    fn deref(&self) -> &postgres::Client {
        &self.driver
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut postgres::Client {
        &mut self.driver
    }
}
