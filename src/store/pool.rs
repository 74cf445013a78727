//! The pool of connections, and the loop that carries a transaction over what passes: restarts, deadlocks, full pools.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use r2d2::PooledConnection;

use super::client::Client;
use super::connect::{Connector, Generation};
use super::conninfo::{Conninfo, ConninfoError};
use super::error::{READ_ONLY, StoreError, leaves_connection_usable};
use super::place::Place;
use super::schema_name::SchemaName;
use crate::http::lock::lock;
use crate::http::{Clock, Stop};

/// The longest wait for a connection, by [`Pool::get`], unless those who have one get on with their work: then they are
/// only many.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// r2d2 does not wake those who wait when a broken connection leaves the pool: so they look again this often.
const WAIT_SLICE: Duration = Duration::from_millis(250);
/// The backoff between attempts of a transaction: doubles from the first to the second.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// At most so many connections to one database, shared by all threads; cheap to clone.
#[derive(Clone)]
pub struct Pool {
    connections: r2d2::Pool<Connector>,
    subject: Arc<str>,
    /// Whether the log already says that the database is away.
    away: Arc<AtomicBool>,
    begun: Instant,
    /// When a transaction last went well, in milliseconds since then.
    last_success: Arc<AtomicU64>,
    under_way: Arc<UnderWay>,
    generation: Generation,
}

/// The transactions that are under way, by number, and since when.
#[derive(Default)]
struct UnderWay(Mutex<BTreeMap<u64, Instant>>);

impl UnderWay {
    fn longest(&self) -> Duration {
        lock(&self.0).values().map(Instant::elapsed).max().unwrap_or_default()
    }

    fn begin(&self) -> Begun<'_> {
        let mut all = lock(&self.0);
        let number = all.keys().next_back().map_or(0, |last| last + 1);
        all.insert(number, Instant::now());
        Begun { all: self, number }
    }
}

struct Begun<'a> {
    all: &'a UnderWay,
    number: u64,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        lock(&self.all.0).remove(&self.number);
    }
}

/// A connection on loan; goes back to the pool when dropped, unless it is broken.
pub struct Connection(PooledConnection<Connector>);

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        match &self.0.client {
            Ok(client) => client,
            Err(_) => unreachable!("a failed attempt never becomes a Connection, see Pool::get"),
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        match &mut self.0.client {
            Ok(client) => client,
            Err(_) => unreachable!("a failed attempt never becomes a Connection, see Pool::get"),
        }
    }
}

/// Why an attempt of a transaction failed.
struct Failure {
    error: StoreError,
    /// The connection had died while idle, which says nothing of the database.
    stale: bool,
}

impl Pool {
    /// A pool of at most `size` connections (at least 1); connects to nothing yet.
    ///
    /// # Errors
    /// When a certificate or key cannot be read.
    pub fn new(conninfo: &Conninfo, size: u32) -> Result<Self, ConninfoError> {
        Self::in_schema(conninfo, size, None)
    }

    /// The same, for the tables in one schema; without one, for those of the installation that is found.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_schema(
        conninfo: &Conninfo,
        size: u32,
        schema: Option<SchemaName>,
    ) -> Result<Self, ConninfoError> {
        let connector = Connector::new(conninfo, Place::new(schema))?;
        let generation = connector.generation();
        let connections = r2d2::Pool::builder()
            .max_size(size.max(1))
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(LONGEST_WAIT)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(connector);
        Ok(Self {
            connections,
            subject: format!("database {conninfo}").into(),
            away: Arc::default(),
            begun: Instant::now(),
            last_success: Arc::default(),
            under_way: Arc::default(),
            generation,
        })
    }

    /// Watches over the transactions from a thread of its own: the driver waits for ever for a server that takes questions
    /// and never answers. Calls `silent`, once, with a line that says so, when one takes longer than `longest`.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn watch(&self, longest: Duration, silent: impl FnOnce(&str) + Send + 'static) -> io::Result<()> {
        let (under_way, subject) = (Arc::downgrade(&self.under_way), self.subject.clone());
        let every = (longest / 10).min(Duration::from_secs(1));
        let watch = move || {
            while let Some(under_way) = under_way.upgrade() {
                if under_way.longest() > longest {
                    let seconds = longest.as_secs();
                    return silent(&format!(
                        "{subject}: no answer for {seconds} s (is it stopped, or locked?)"
                    ));
                }
                drop(under_way);
                thread::sleep(every);
            }
        };
        thread::Builder::new().name("watch".into()).spawn(watch).map(drop)
    }

    /// A connection from the pool, or a new one; waits for it for 5 s, and for as long as others that have one succeed.
    ///
    /// # Errors
    /// At once when the database cannot be reached or refuses; after 5 s without any success when it does not answer, or
    /// when all connections are in use.
    pub fn get(&self) -> Result<Connection, StoreError> {
        let asked = Instant::now();
        while asked.elapsed() < LONGEST_WAIT || self.succeeded_within(LONGEST_WAIT) {
            let Ok(attempt) = self.connections.get_timeout(WAIT_SLICE) else { continue };
            match &attempt.client {
                // The pool drops it.
                Ok(_) if self.generation.is_over(&attempt) => {}
                Ok(_) => return Ok(Connection(attempt)),
                Err(error) if attempt.finished >= asked => return Err(error.clone()),
                // It failed when nobody waited for it any more: old news.
                Err(_) => {}
            }
        }
        let (subject, size) = (&self.subject, self.connections.max_size());
        let message = format!(
            "{subject}: no connection within {} s (the server does not answer, or all {size} connections are in use)",
            LONGEST_WAIT.as_secs()
        );
        Err(StoreError::Unavailable { message })
    }

    /// Runs a whole transaction, again and again while the database is unavailable, until `give_up_after` has passed
    /// since the first failure or a stop is requested. The transaction must be idempotent: when the connection is lost
    /// during the commit, nobody knows whether it took effect.
    ///
    /// # Errors
    /// The last failure: `Unavailable` when time is up or a stop was requested, anything else at once.
    pub fn run<T>(
        &self,
        clock: &dyn Clock,
        stop: &Stop,
        give_up_after: Duration,
        transaction: impl FnMut(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        self.run_sized(clock, stop, give_up_after, false, transaction)
    }

    /// The same; the driver keeps a connection's buffers at their largest size, so one that has carried something `large` is
    /// not used again.
    pub(super) fn run_sized<T>(
        &self,
        clock: &dyn Clock,
        stop: &Stop,
        give_up_after: Duration,
        large: bool,
        mut transaction: impl FnMut(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let mut failing_since = None;
        let mut backoff = SHORTEST_BACKOFF;
        loop {
            let failure = match self.attempt(large, &mut transaction) {
                Ok(value) => {
                    if self.away.swap(false, Ordering::Relaxed) {
                        log::info!("{} is available again", self.subject);
                    }
                    return Ok(value);
                }
                Err(failure) if failure.stale => continue,
                Err(failure) => failure.error,
            };
            if !matches!(failure, StoreError::Unavailable { .. }) {
                return Err(failure);
            }
            let since = *failing_since.get_or_insert_with(|| clock.now());
            let left = give_up_after.saturating_sub(clock.now().saturating_duration_since(since));
            if left.is_zero() || stop.requested() {
                return Err(failure);
            }
            if self.away.swap(true, Ordering::Relaxed) {
                log::debug!("{failure}");
            } else {
                log::warn!("{failure}; trying again");
            }
            clock.sleep(backoff.mul_f64(0.5 + clock.random() / 2.0).min(left));
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn succeeded_within(&self, duration: Duration) -> bool {
        let last = self.last_success.load(Ordering::Relaxed);
        last > 0 && u128::from(self.now().saturating_sub(last)) < duration.as_millis()
    }

    fn attempt<T>(
        &self,
        large: bool,
        transaction: &mut impl FnMut(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Failure> {
        let mut connection = self.get().map_err(|error| Failure { error, stale: false })?;
        let _under_way = self.under_way.begin();
        match connection.locate().and_then(|()| transaction(&mut connection)) {
            Ok(value) => {
                connection.0.used = true;
                connection.0.spent |= large;
                self.last_success.store(self.now(), Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => {
                let usable = leaves_connection_usable(&error);
                if error.code().is_some_and(|code| code.code() == READ_ONLY) {
                    self.generation.end();
                }
                let error = StoreError::from(error);
                let lost = !usable && matches!(error, StoreError::Unavailable { .. });
                let stale = lost && connection.0.used;
                connection.0.used = true;
                connection.0.spent = !usable;
                Err(Failure { error: error.of(&self.subject), stale })
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({}, {:?})", self.subject, self.connections.state())
    }
}
