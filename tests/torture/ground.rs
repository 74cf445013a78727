//! Where schedules take place: a Postgres server for all of them, one more for those that crash it, and in it a database
//! for each, with the schema, the triggers that make faults, and those that record what took effect.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postgres::{Client, NoTls, Row};

use crate::support::{Cluster, Program};

/// The servers.
pub struct Ground {
    calm: Server,
    crashing: Mutex<Option<Server>>,
}

/// One server with the template of the databases.
pub struct Server {
    cluster: Mutex<Cluster>,
    url: String,
}

/// The server of a schedule.
pub enum Place<'a> {
    Shared(&'a Server),
    Own(MutexGuard<'a, Option<Server>>),
}

/// A database; gone with its value.
pub struct Database {
    server: String,
    name: String,
}

const OPTIONS: &str = "-c search_path=campaign_sync,public -c torture.exempt=on -c lock_timeout=300 -c statement_timeout=10000 -c synchronous_commit=on";
const TEMPLATE: &str = "torture_template";

impl Ground {
    pub fn new() -> Self {
        Self { calm: Server::new(), crashing: Mutex::new(None) }
    }

    /// The server for one schedule; one that may be crashed is its own for the time.
    pub fn place(&self, crashes: bool) -> Place<'_> {
        if !crashes {
            return Place::Shared(&self.calm);
        }
        let mut own = self.crashing.lock().unwrap_or_else(PoisonError::into_inner);
        own.get_or_insert_with(Server::new);
        Place::Own(own)
    }
}

impl Place<'_> {
    pub fn server(&self) -> &Server {
        match self {
            Self::Shared(server) => server,
            Self::Own(server) => server.as_ref().expect("made when it was taken"),
        }
    }
}

impl Server {
    fn new() -> Self {
        let cluster = Cluster::new();
        let url = cluster.url().to_owned();
        let template = Database::create(&url, TEMPLATE.into(), None);
        Program::new(&["migrate"]).database(&template.url()).run().expect_code(0);
        template.connect().unwrap().batch_execute(include_str!("ground.sql")).unwrap();
        // It stays for as long as the server.
        std::mem::forget(template);
        Self { cluster: Mutex::new(cluster), url }
    }

    pub fn database(&self) -> Database {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("torture_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Database::create(&self.url, name, Some(TEMPLATE))
    }

    /// Has commits that nobody waits for written out after so many milliseconds.
    pub fn write_log_after(&self, millis: u64) {
        let mut client = Client::connect(&self.url, NoTls).unwrap();
        client.batch_execute(&format!("ALTER SYSTEM SET wal_writer_delay = {millis}")).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    }

    /// Crashes and recovers.
    pub fn crash(&self) {
        self.cluster.lock().unwrap().restart_immediate();
    }
}

impl Database {
    fn create(server: &str, name: String, template: Option<&str>) -> Self {
        let from = template.map_or_else(String::new, |template| format!(" TEMPLATE {template}"));
        let mut client = Client::connect(server, NoTls).unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name}{from}")).unwrap();
        Self { server: server.to_owned(), name }
    }

    pub fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').expect("the URL names a database");
        format!("{server}/{}", self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same by way of another address, where TLS is not to hide anything.
    pub fn url_by(&self, address: SocketAddr) -> String {
        let (user, _) = self.server.split_once('@').expect("the URL names a user");
        format!("{user}@{address}/{}?sslmode=disable", self.name)
    }

    pub fn address(&self) -> SocketAddr {
        let (_, rest) = self.server.split_once('@').expect("the URL names a user");
        rest.split('/').next().unwrap_or_default().parse().expect("the URL names an address")
    }

    pub fn password(&self) -> &str {
        let (user, _) = self.server.split_once('@').expect("the URL names a user");
        user.rsplit(':').next().unwrap_or_default()
    }

    /// A connection around all faults. It never waits for long for what a process holds that is cut off or asleep.
    pub fn connect(&self) -> Result<Client, postgres::Error> {
        let mut config: postgres::Config = self.url().parse().expect("a URL");
        config
            .application_name("torture")
            .options(OPTIONS)
            .connect_timeout(Duration::from_secs(10))
            .connect(NoTls)
    }

    /// Rows by a new connection.
    pub fn rows(&self, query: &str) -> Vec<Row> {
        let mut client = self.connect().unwrap();
        client.query(query, &[]).unwrap_or_else(|error| panic!("{query}: {error:?}"))
    }

    pub fn execute(&self, statements: &str) {
        let mut client = self.connect().unwrap();
        client.batch_execute(statements).unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.server, NoTls) {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}
