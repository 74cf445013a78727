//! A fresh database for one test, gone after it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use campaign_sync::http::{Stop, SystemClock};
use campaign_sync::store::{Client, Conninfo, Pool, Store, schema};
use postgres::types::{FromSqlOwned, ToSql};
use postgres::{NoTls, Row};

use super::cluster::shared_url;
use super::{Cluster, PATIENCE, eventually};

/// An empty database with a name that nobody else has.
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// A new database on the server that all tests share.
    pub fn create() -> Self {
        Self::create_at(shared_url())
    }

    /// A new database on a server of one's own.
    pub fn create_in(cluster: &Cluster) -> Self {
        Self::create_at(cluster.url())
    }

    fn create_at(server: &str) -> Self {
        let name = format!("test_{}_{:016x}", std::process::id(), RandomState::new().hash_one(server));
        let database = Self { server: server.to_owned(), name };
        connect(&database.server).batch_execute(&format!("CREATE DATABASE {}", database.name)).unwrap();
        database
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, as `DATABASE_URL` takes it.
    pub fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').expect("the URL names a database");
        format!("{server}/{}", self.name)
    }

    /// A new connection, which finds our tables without their schema's name.
    pub fn connect(&self) -> Client {
        let mut config: postgres::Config = self.url().parse().expect("a URL");
        let connected = config.options("-c search_path=campaign_sync,public").connect(NoTls);
        connected.unwrap_or_else(|e| panic!("cannot connect to {}: {e}", self.url())).into()
    }

    /// The default account's way into it, with its schema.
    pub fn store(&self) -> Store {
        schema::migrate(&mut self.connect()).unwrap().unwrap();
        let pool = pool(&self.url(), 2);
        let stop = Stop::new();
        let clock = Arc::new(SystemClock::new(stop.clone()));
        Store::new(pool, "default", clock, stop, Duration::from_secs(5))
    }

    /// Waits until nobody is connected any more: a commit that was under way at a kill is made all the same.
    #[track_caller]
    pub fn await_quiet(&self) {
        let others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        eventually(PATIENCE, "the killed process's last statement is over", || self.count(others) == 0);
    }

    /// Runs statements that return nothing of interest.
    #[track_caller]
    pub fn execute(&self, statements: &str) {
        self.connect().batch_execute(statements).unwrap_or_else(|e| panic!("{statements}: {e:?}"));
    }

    /// All rows of a query.
    #[track_caller]
    pub fn rows(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.connect().query(query, parameters).unwrap_or_else(|e| panic!("{query}: {e:?}"))
    }

    /// The first column of each row.
    #[track_caller]
    pub fn column<T: FromSqlOwned>(&self, query: &str) -> Vec<T> {
        self.rows(query, &[]).iter().map(|row| row.get(0)).collect()
    }

    /// The only value of a query with one row of one column.
    #[track_caller]
    pub fn value<T: FromSqlOwned>(&self, query: &str) -> T {
        let mut values = self.column(query);
        assert_eq!(values.len(), 1, "rows of {query}");
        values.remove(0)
    }

    /// How many rows a table (with conditions behind it, if wanted) has.
    #[track_caller]
    pub fn count(&self, table: &str) -> i64 {
        self.value(&format!("SELECT count(*) FROM {table}"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Its server may have been taken away by the test, and goes as a whole then.
        if let Ok(mut client) = postgres::Client::connect(&self.server, NoTls) {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

/// A pool of the program's own.
pub fn pool(url: &str, size: u32) -> Pool {
    let conninfo = Conninfo::from_environment(&|name| (name == "DATABASE_URL").then(|| url.into()));
    Pool::new(&conninfo.unwrap(), size).unwrap()
}

fn connect(url: &str) -> postgres::Client {
    postgres::Client::connect(url, NoTls).unwrap_or_else(|e| panic!("cannot connect to {url}: {e}"))
}
