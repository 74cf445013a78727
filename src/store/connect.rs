//! Opening one connection: hosts in order, TLS or plain text as `sslmode` says, and never longer than agreed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postgres::Client as Driver;
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::client::Client;
use super::conninfo::{Address, Conninfo, ConninfoError, Host, SslMode};
use super::error::{StoreError, may_depend_on_tls};
use super::place::Place;
use super::tls;
use crate::in_time::in_time;
use crate::own_machine::spare_files;

/// Attempts that may be abandoned and not yet over, before no further one is begun.
const MOST_UNANSWERED: usize = 8;

/// The driver opens 4 files for a connection, some more to look a name up, and panics when it gets none.
const DRIVER_FILES: usize = 8;

/// What r2d2 keeps: a connection, or why there is none. That way a failure reaches whoever waits, at once and whole,
/// where r2d2's own error is a text that comes after a timeout.
pub(super) struct Attempt {
    pub(super) client: Result<Client, StoreError>,
    pub(super) finished: Instant,
    /// It has served before: a failure may only mean that it died while idle.
    pub(super) used: bool,
    /// It must not be used again.
    pub(super) spent: bool,
    /// The connector's generation when it was begun.
    generation: u64,
}

/// r2d2's manager for the database that a `Conninfo` names.
pub(super) struct Connector {
    hosts: Arc<Vec<Route>>,
    place: Arc<Place>,
    longest: Duration,
    unanswered: Arc<AtomicUsize>,
    generation: Arc<AtomicU64>,
}

/// Tells a connector's connections that the servers have changed roles.
#[derive(Clone)]
pub(super) struct Generation(Arc<AtomicU64>);

impl Generation {
    /// No connection that is there by now is used again: the next ones find out anew which server takes writes.
    pub(super) fn end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self, attempt: &Attempt) -> bool {
        attempt.generation != self.0.load(Ordering::Relaxed)
    }
}

/// One server and the ways to connect to it, the preferred one first.
struct Route {
    subject: String,
    ways: Vec<PostgresConnectionManager<MakeRustlsConnect>>,
}

impl Connector {
    pub(super) fn new(conninfo: &Conninfo, place: Place) -> Result<Self, ConninfoError> {
        let tls = tls::connector(conninfo)?;
        let hosts: Vec<_> = conninfo.hosts.iter().map(|host| Route::new(conninfo, host, &tls)).collect();
        let ways: usize = hosts.iter().map(|host| host.ways.len()).sum();
        // Twice, because a name may have an address of each family and the first may be a black hole.
        let longest = conninfo.connect_timeout * 2 * u32::try_from(ways).unwrap_or(u32::MAX);
        Ok(Self {
            hosts: Arc::new(hosts),
            place: Arc::new(place),
            longest,
            unanswered: Arc::default(),
            generation: Arc::default(),
        })
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(Arc::clone(&self.generation))
    }

    /// The driver's timeout ends with TCP's handshake: a server that accepts and then says nothing would hold it for
    /// ever. So the attempt has its own thread, and is left to itself when it takes too long.
    fn connect_in_time(&self) -> Result<Driver, StoreError> {
        let silent = || StoreError::Unavailable {
            message: format!(
                "{}: the server does not answer (is it overloaded, stopped, or no Postgres at all?)",
                self.hosts.iter().map(|host| &*host.subject).collect::<Vec<_>>().join(", ")
            ),
        };
        if self.unanswered.fetch_add(1, Ordering::Relaxed) >= MOST_UNANSWERED {
            self.unanswered.fetch_sub(1, Ordering::Relaxed);
            return Err(silent());
        }
        let (hosts, unanswered) = (Arc::clone(&self.hosts), Arc::clone(&self.unanswered));
        let connected = in_time("connect", self.longest, move || {
            let outcome = connect(&hosts);
            unanswered.fetch_sub(1, Ordering::Relaxed);
            outcome
        });
        match connected {
            Ok(outcome) => outcome.unwrap_or_else(|| Err(silent())),
            Err(error) => {
                self.unanswered.fetch_sub(1, Ordering::Relaxed);
                Err(StoreError::Unavailable { message: format!("no thread for a connection: {error}") })
            }
        }
    }
}

impl ManageConnection for Connector {
    type Connection = Attempt;
    type Error = Infallible;

    fn connect(&self) -> Result<Attempt, Infallible> {
        let generation = self.generation.load(Ordering::Relaxed);
        let client = self.connect_in_time().map(|driver| Client::new(driver, self.place.clone()));
        Ok(Attempt { client, finished: Instant::now(), used: false, spent: false, generation })
    }

    fn is_valid(&self, _attempt: &mut Attempt) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, attempt: &mut Attempt) -> bool {
        attempt.spent
            || attempt.generation != self.generation.load(Ordering::Relaxed)
            || attempt.client.as_ref().map_or(true, |client| client.is_closed())
    }
}

/// Tries the hosts in order; one that refuses ends the search, as in libpq.
fn connect(hosts: &[Route]) -> Result<Driver, StoreError> {
    let mut last = StoreError::Internal { message: "no database host is configured".into() };
    for host in hosts {
        match host.connect() {
            Err(error @ StoreError::Unavailable { .. }) => last = error,
            outcome => return outcome,
        }
    }
    Err(last)
}

impl Route {
    fn new(conninfo: &Conninfo, host: &Host, tls: &MakeRustlsConnect) -> Self {
        use postgres::config::SslMode::{Disable, Prefer, Require};
        let modes: &[_] = match (&host.address, conninfo.sslmode) {
            (Address::Unix(_), _) | (_, SslMode::Disable) => &[Disable],
            (_, SslMode::Allow) => &[Disable, Require],
            (_, SslMode::Prefer) => &[Prefer, Disable],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Require],
        };
        let way =
            |&mode: &_| PostgresConnectionManager::new(driver_config(conninfo, host, mode), tls.clone());
        Self { subject: format!("database {}", conninfo.at(host)), ways: modes.iter().map(way).collect() }
    }

    fn connect(&self) -> Result<Driver, StoreError> {
        let mut ways = self.ways.iter().peekable();
        while let Some(way) = ways.next() {
            if let Err(shortage) = spare_files(DRIVER_FILES) {
                let unavailable = StoreError::Unavailable { message: shortage.to_string() };
                return Err(unavailable.of(&self.subject));
            }
            match way.connect() {
                Ok(client) => return Ok(client),
                Err(error) if ways.peek().is_some() && may_depend_on_tls(&error) => {}
                Err(error) => return Err(StoreError::from(error).of(&self.subject)),
            }
        }
        Err(StoreError::Internal { message: format!("{}: no way to connect", self.subject) })
    }
}

fn driver_config(conninfo: &Conninfo, host: &Host, mode: postgres::config::SslMode) -> postgres::Config {
    let mut config = postgres::Config::new();
    config
        .user(&conninfo.user)
        .dbname(&conninfo.dbname)
        .port(host.port)
        .application_name(&conninfo.application_name)
        .connect_timeout(conninfo.connect_timeout)
        .ssl_mode(mode)
        .ssl_negotiation(conninfo.sslnegotiation)
        .channel_binding(conninfo.channel_binding)
        .keepalives(conninfo.keepalive.enabled)
        .notice_callback(|notice| log::debug!("Postgres: {}", notice.message().escape_debug()));
    match &host.address {
        Address::Tcp(name) => config.host(name),
        Address::Unix(directory) => config.host_path(directory),
    };
    if let Some(address) = host.hostaddr {
        config.hostaddr(address);
    }
    if let Some(password) = &host.password {
        config.password(password.reveal());
    }
    if let Some(options) = &conninfo.options {
        config.options(options);
    }
    if conninfo.read_write {
        config.target_session_attrs(postgres::config::TargetSessionAttrs::ReadWrite);
    }
    let given = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
    if let Some(idle) = given(conninfo.keepalive.idle) {
        config.keepalives_idle(idle);
    }
    if let Some(interval) = given(conninfo.keepalive.interval) {
        config.keepalives_interval(interval);
    }
    if conninfo.keepalive.count > 0 {
        config.keepalives_retries(conninfo.keepalive.count);
    }
    if let Some(longest) = given(conninfo.keepalive.user_timeout) {
        config.tcp_user_timeout(longest);
    }
    config
}
