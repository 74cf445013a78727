//! A connection whose statements name the tables of one schema, whatever `search_path` says.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use postgres::types::ToSql;
use postgres::{Client as Driver, Error, Row, Statement};

use super::place::Place;
use super::prepared::{Parameters, Prepared};

/// A client of Postgres. What is defined here takes statements that name tables as `campaign_sync.table` and runs them in
/// the schema of this installation; the driver's own calls, behind it, take a statement as it is.
pub struct Client {
    driver: Driver,
    place: Arc<Place>,
    prepared: Prepared,
}

impl Client {
    pub(super) fn new(driver: Driver, place: Arc<Place>, prepared: Prepared) -> Self {
        Self { driver, place, prepared }
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Finds out where the tables are, unless that is known.
    pub(super) fn locate(&mut self) -> Result<(), Error> {
        let place = self.place.clone();
        place.locate(&mut self.driver)
    }

    /// Runs a statement: as it was prepared if it comes back often, else as a text, parsed and planned for this once.
    // Each of a hundred callers would have a copy else.
    #[inline(never)]
    fn run<T>(
        &mut self,
        statement: Cow<'static, str>,
        parameters: Parameters<'_>,
        prepared: impl FnOnce(&mut Driver, &Statement, &[&(dyn ToSql + Sync)]) -> Result<T, Error>,
        text: impl FnOnce(&mut Driver, &str, Parameters<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (driver, schema) = (&mut self.driver, self.place.schema());
        if let Cow::Borrowed(fixed) = statement
            && let Some(found) = self.prepared.find(driver, schema, fixed, parameters)?
        {
            let values: Vec<_> = parameters.iter().map(|(value, _)| *value).collect();
            return prepared(driver, &found, &values).inspect_err(|error| self.prepared.failed(error));
        }
        text(driver, &schema.statement(&statement), parameters)
    }

    /// All rows of a statement.
    ///
    /// # Errors
    /// The database's.
    pub fn query_typed(
        &mut self,
        statement: impl Into<Cow<'static, str>>,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        self.run(
            statement.into(),
            parameters,
            |driver, found, values| driver.query(found, values),
            Driver::query_typed,
        )
    }

    /// The row of a statement that gives at most one.
    ///
    /// # Errors
    /// The database's, and more than one row.
    pub fn query_typed_opt(
        &mut self,
        statement: impl Into<Cow<'static, str>>,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Error> {
        self.run(
            statement.into(),
            parameters,
            |driver, found, values| driver.query_opt(found, values),
            Driver::query_typed_opt,
        )
    }

    /// The row of a statement that gives exactly one.
    ///
    /// # Errors
    /// The database's, and any other number of rows.
    pub fn query_typed_one(
        &mut self,
        statement: impl Into<Cow<'static, str>>,
        parameters: Parameters<'_>,
    ) -> Result<Row, Error> {
        self.run(
            statement.into(),
            parameters,
            |driver, found, values| driver.query_one(found, values),
            Driver::query_typed_one,
        )
    }

    /// The number of rows that a statement changes.
    ///
    /// # Errors
    /// The database's.
    pub fn execute_typed(
        &mut self,
        statement: impl Into<Cow<'static, str>>,
        parameters: Parameters<'_>,
    ) -> Result<u64, Error> {
        self.run(
            statement.into(),
            parameters,
            |driver, found, values| driver.execute(found, values),
            Driver::execute_typed,
        )
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
impl From<Driver> for Client {
    fn from(driver: Driver) -> Self {
        Self::new(driver, Arc::default(), Prepared::new(0, Arc::default()))
    }
}

impl Deref for Client {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.driver
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }
}
