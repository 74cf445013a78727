//! Opening one connection: hosts in order, TLS or plain text as `sslmode` says, and never longer than agreed.

use std::convert::Infallible;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postgres::config::{SslMode as DriverMode, SslNegotiation};
use postgres::{CancelToken, Client as Driver};
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::client::Client;
use super::conninfo::{Address, Conninfo, ConninfoError, Host, SslMode};
use super::error::{StoreError, TOO_MANY_CONNECTIONS, may_depend_on_tls, unreachable_server};
use super::line::{Dial, Encryption, Line};
use super::place::Place;
use super::prepared::Prepared;
use super::tls;
use crate::in_time::in_time;
use crate::own_machine::{Shortage, spare_files};

/// Attempts that may be abandoned and not yet over, before no further one is begun.
const MOST_UNANSWERED: usize = 8;

/// The driver opens 4 files for a connection, some more to look a name up, and panics when it gets none.
const DRIVER_FILES: usize = 8;

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// What r2d2 keeps: a connection, or why there is none. That way a failure reaches whoever waits, at once and whole,
/// where r2d2's own error is a text that comes after a timeout.
pub(super) struct Attempt {
    pub(super) client: Result<Client, Refusal>,
    pub(super) leash: Arc<Leash>,
    pub(super) finished: Instant,
    /// It has served before: a failure may only mean that it died while idle.
    pub(super) used: bool,
    /// It must not be used again.
    pub(super) spent: bool,
    /// The connector's generation when it was begun.
    generation: u64,
    _counted: Option<Counted>,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) error: StoreError,
    /// Those that there are already can be used.
    pub(super) full: bool,
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self { error, full: false }
    }
}

impl From<Shortage> for Refusal {
    fn from(shortage: Shortage) -> Self {
        Self { error: StoreError::Unavailable { message: shortage.to_string() }, full: true }
    }
}

/// How another thread ends the wait of one connection.
#[derive(Default)]
pub(super) struct Leash {
    line: Arc<Line>,
    server: Option<(CancelToken, Dial)>,
}

impl Leash {
    /// The server's process for it.
    pub(super) fn backend(&self) -> i32 {
        self.line.backend()
    }

    /// Has the server cancel its statement.
    pub(super) fn cancel(&self) {
        if let Some((token, dial)) = &self.server
            && spare_files(DRIVER_FILES).is_ok()
        {
            let dial = Dial { line: Arc::default(), ..dial.clone() };
            let _not_reached = token.cancel_query(dial);
        }
    }

    /// Leaves it.
    pub(super) fn cut(&self) {
        self.line.cut();
    }
}

/// Counts one connection for as long as the value lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// r2d2's manager for the database that a `Conninfo` names; cheap to clone.
#[derive(Clone)]
pub(super) struct Connector {
    hosts: Arc<Vec<Route>>,
    place: Arc<Place>,
    longest: Duration,
    unanswered: Arc<AtomicUsize>,
    generation: Arc<AtomicU64>,
    open: Arc<AtomicUsize>,
    /// Prepared statements were lost on one of the connections.
    lost: Arc<AtomicBool>,
}

/// One server and the ways to connect to it, the preferred one first.
struct Route {
    subject: String,
    host: Host,
    ways: Vec<(postgres::Config, Encryption)>,
    tls: MakeRustlsConnect,
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
            open: Arc::default(),
            lost: Arc::default(),
        })
    }

    /// No connection that is there by now is used again: the next ones find out anew which server takes writes.
    pub(super) fn end_generation(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_outdated(&self, attempt: &Attempt) -> bool {
        attempt.generation != self.generation.load(Ordering::Relaxed)
    }

    /// How many connections there are.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// The driver's timeout ends with TCP's handshake: a server that accepts and then says nothing would hold it for
    /// ever. So the attempt has its own thread, and is left to itself when it takes too long.
    pub(super) fn connect_in_time(&self) -> Result<(Driver, Leash), Refusal> {
        let silent = || {
            let hosts = self.hosts.iter().map(|host| &*host.subject).collect::<Vec<_>>().join(", ");
            let message = format!(
                "{hosts}: the server does not answer (is it overloaded, stopped, or no Postgres at all?)"
            );
            Refusal::from(StoreError::Unavailable { message })
        };
        let unanswered = Counted::new(&self.unanswered);
        if self.unanswered.load(Ordering::Acquire) > MOST_UNANSWERED {
            return Err(silent());
        }
        let line = Arc::<Line>::default();
        let (hosts, own) = (Arc::clone(&self.hosts), Arc::clone(&line));
        let connected = in_time("connect", self.longest, move || {
            let outcome = connect(&hosts, &own);
            drop(unanswered);
            outcome
        });
        match connected {
            Ok(Some(outcome)) => outcome,
            Ok(None) => {
                line.cut();
                Err(silent())
            }
            Err(error) => Err(Shortage::of_threads(error).into()),
        }
    }
}

impl ManageConnection for Connector {
    type Connection = Attempt;
    type Error = Infallible;

    fn connect(&self) -> Result<Attempt, Infallible> {
        let generation = self.generation.load(Ordering::Relaxed);
        let (client, leash) = match self.connect_in_time() {
            Ok((driver, leash)) => {
                let prepared = Prepared::new(leash.backend(), self.lost.clone());
                (Ok(Client::new(driver, self.place.clone(), prepared)), leash)
            }
            Err(refusal) => (Err(refusal), Leash::default()),
        };
        Ok(Attempt {
            _counted: client.is_ok().then(|| Counted::new(&self.open)),
            client,
            leash: Arc::new(leash),
            finished: Instant::now(),
            used: false,
            spent: false,
            generation,
        })
    }

    fn is_valid(&self, _attempt: &mut Attempt) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, attempt: &mut Attempt) -> bool {
        attempt.spent
            || self.is_outdated(attempt)
            || attempt.client.as_ref().map_or(true, |client| client.is_closed())
    }
}

/// Tries the hosts in order; one that refuses ends the search, as in libpq.
fn connect(hosts: &[Route], line: &Arc<Line>) -> Result<(Driver, Leash), Refusal> {
    let mut last = StoreError::Internal { message: "no database host is configured".into() }.into();
    for host in hosts {
        match host.connect(line) {
            Err(refusal @ Refusal { error: StoreError::Unavailable { .. }, .. }) => last = refusal,
            outcome => return outcome,
        }
    }
    Err(last)
}

impl Route {
    fn new(conninfo: &Conninfo, host: &Host, tls: &MakeRustlsConnect) -> Self {
        use Encryption::{Always, Direct, Never, Offered};
        let always = if conninfo.sslnegotiation == SslNegotiation::Direct { Direct } else { Always };
        let ways: &[_] = match (&host.address, conninfo.sslmode) {
            (Address::Unix(_), _) | (_, SslMode::Disable) => &[Never],
            (_, SslMode::Allow) => &[Never, always],
            (_, SslMode::Prefer) => &[Offered, Never],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[always],
        };
        Self {
            subject: format!("database {}", conninfo.at(host)),
            host: host.clone(),
            ways: ways.iter().map(|way| (driver_config(conninfo, host), *way)).collect(),
            tls: tls.clone(),
        }
    }

    fn connect(&self, line: &Arc<Line>) -> Result<(Driver, Leash), Refusal> {
        let said = |refusal: Refusal| Refusal { error: refusal.error.of(&self.subject), ..refusal };
        self.try_ways(line).map_err(said)
    }

    fn try_ways(&self, line: &Arc<Line>) -> Result<(Driver, Leash), Refusal> {
        spare_files(DRIVER_FILES)?;
        let addresses = self.addresses()?;
        let mut ways = self.ways.iter().peekable();
        while let Some(way) = ways.next() {
            match self.try_addresses(way, &addresses, line)? {
                Ok(connected) => return Ok(connected),
                Err(error) if ways.peek().is_some() && may_depend_on_tls(&error) => {}
                Err(error) => {
                    let full = error.code().is_some_and(|code| code.code() == TOO_MANY_CONNECTIONS);
                    let origin = self.host.password_origin.as_deref();
                    return Err(Refusal { error: StoreError::from(error).with_password_in(origin), full });
                }
            }
        }
        Err(no_way())
    }

    /// Tries one address after the other; the last one's error is the driver's.
    fn try_addresses(
        &self,
        (config, encryption): &(postgres::Config, Encryption),
        addresses: &[Option<IpAddr>],
        line: &Arc<Line>,
    ) -> Result<Result<(Driver, Leash), postgres::Error>, Refusal> {
        let mut last = Err(no_way());
        for address in addresses {
            spare_files(DRIVER_FILES)?;
            let mut config = config.clone();
            if let Some(address) = address {
                config.hostaddr(*address);
            }
            let dial = Dial { tls: self.tls.clone(), encryption: *encryption, line: Arc::clone(line) };
            match PostgresConnectionManager::new(config, dial.clone()).connect() {
                Ok(client) => {
                    let server = Some((client.cancel_token(), dial));
                    return Ok(Ok((client, Leash { line: Arc::clone(line), server })));
                }
                Err(error) => last = Ok(Err(error)),
            }
        }
        last
    }

    /// What the name stands for, where there is one to look up. The driver would look it up in a thread of its own, and
    /// panic when it gets none.
    fn addresses(&self) -> Result<Vec<Option<IpAddr>>, Refusal> {
        let name = match &self.host {
            Host { address: Address::Tcp(name), hostaddr: None, .. } => name,
            _ => return Ok(vec![None]),
        };
        let found =
            (&**name, self.host.port).to_socket_addrs().map_err(|error| unreachable_server(&error))?;
        Ok(found.take(MOST_ADDRESSES).map(|address| Some(address.ip())).collect())
    }
}

fn no_way() -> Refusal {
    StoreError::Internal { message: "no way to connect".into() }.into()
}

/// The driver takes each connection over TCP for TLS that begins at once: see [`Dial`].
fn driver_config(conninfo: &Conninfo, host: &Host) -> postgres::Config {
    let (mode, negotiation) = match &host.address {
        Address::Tcp(_) => (DriverMode::Require, SslNegotiation::Direct),
        Address::Unix(_) => (DriverMode::Disable, SslNegotiation::Postgres),
    };
    let mut config = postgres::Config::new();
    config
        .user(&conninfo.user)
        .dbname(&conninfo.dbname)
        .port(host.port)
        .application_name(&conninfo.application_name)
        .connect_timeout(conninfo.connect_timeout)
        .ssl_mode(mode)
        .ssl_negotiation(negotiation)
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
