//! The pool of connections, and the loop that carries a transaction over what passes: restarts, deadlocks, full pools.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use r2d2::PooledConnection;

use super::away::{Away, Kind};
use super::client::Client;
use super::connect::{Attempt, Connector};
use super::conninfo::{Conninfo, ConninfoError};
use super::error::{READ_ONLY, StoreError, leaves_connection_usable};
use super::place::Place;
use super::schema_name::SchemaName;
use super::slots::{Slot, Slots};
use super::under_way::{BrokenOff, LOOK_AGAIN, UnderWay};
use crate::http::{Clock, Stop};

/// The longest wait for a connection, by [`Pool::get`], unless those who have one get on with their work: then they are
/// only many.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The same for whoever is to stop, and once another was broken off.
const WAIT_AFTER_STOP: Duration = Duration::from_secs(2);
const HURRIED_WAIT: Duration = Duration::from_millis(500);
/// r2d2 does not wake those who wait when a broken connection leaves the pool: so they look again this often.
const WAIT_SLICE: Duration = Duration::from_millis(250);
/// The backoff between attempts of a transaction: doubles from the first to the second.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// At most so many connections to one database, shared by all threads; cheap to clone.
#[derive(Clone)]
pub struct Pool {
    connections: r2d2::Pool<Connector>,
    connector: Connector,
    shared: Arc<Shared>,
    under_way: Arc<UnderWay>,
}

struct Shared {
    subject: Arc<str>,
    slots: Arc<Slots>,
    away: Away,
    begun: Instant,
    /// When a transaction last went well, in milliseconds since then.
    last_success: AtomicU64,
    /// The log says that the server grants fewer connections than are wanted.
    few: AtomicBool,
}

/// How a transaction is to be run.
pub(super) struct Manner<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) stop: &'a Stop,
    pub(super) give_up_after: Duration,
    /// It sends much. The driver keeps a connection's buffers at their largest size: that one is not used again.
    pub(super) large: bool,
    /// It is a heartbeat: it goes before all others, and has a slot of its own in the pool.
    pub(super) urgent: bool,
    /// It is tried once: whoever asked for it does so again.
    pub(super) once: bool,
    /// A failure is the caller's matter alone, and not said.
    pub(super) silent: bool,
    pub(super) kind: Kind,
    /// Whose it is.
    pub(super) account: &'a str,
}

/// A connection on loan; goes back to the pool when dropped, unless it is broken.
pub struct Connection {
    // In this order: a slot is free when its connection is back.
    pooled: PooledConnection<Connector>,
    _slot: Slot,
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        match &self.pooled.client {
            Ok(client) => client,
            Err(_) => unreachable!("a failed attempt never becomes a Connection, see Pool::get"),
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        match &mut self.pooled.client {
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
    /// When it began to wait, of one that was broken off.
    since: Option<Instant>,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, stale: false, since: None }
    }
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
        let (connector, size) = (Connector::new(conninfo, Place::new(schema))?, size.max(1));
        let connections = r2d2::Pool::builder()
            .max_size(size)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(LONGEST_WAIT)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(connector.clone());
        let subject: Arc<str> = format!("database {conninfo}").into();
        Ok(Self {
            connections,
            connector: connector.clone(),
            under_way: Arc::new(UnderWay::new(connector, subject.clone())),
            shared: Arc::new(Shared {
                subject,
                slots: Slots::new(size as usize),
                away: Away::default(),
                begun: Instant::now(),
                last_success: AtomicU64::default(),
                few: AtomicBool::new(false),
            }),
        })
    }

    /// Watches over the transactions from a thread of its own: what the database does not answer is broken off when patience
    /// ends or a stop is requested, and after some seconds the log says who blocks it. Calls `silent`, once, with a line that
    /// says so, when one takes longer than `longest` all the same.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn watch(&self, longest: Duration, silent: impl FnOnce(&str) + Send + 'static) -> io::Result<()> {
        let (under_way, subject) = (Arc::downgrade(&self.under_way), self.shared.subject.clone());
        let every = (longest / 10).min(LOOK_AGAIN);
        let watch = move || {
            while let Some(under_way) = under_way.upgrade() {
                if let Some(waited) = under_way.look_after(longest) {
                    let seconds = waited.as_secs();
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
        self.take(false, &Stop::new())
    }

    fn take(&self, urgent: bool, stop: &Stop) -> Result<Connection, StoreError> {
        let asked = Instant::now();
        let longest = || match stop.requested() {
            false => LONGEST_WAIT,
            true if self.under_way.hurried() => HURRIED_WAIT,
            true => WAIT_AFTER_STOP,
        };
        while asked.elapsed() < longest() || (!stop.requested() && self.succeeded_within(LONGEST_WAIT)) {
            let Some(slot) = self.shared.slots.take(urgent, WAIT_SLICE) else { continue };
            let Ok(pooled) = self.connections.get_timeout(WAIT_SLICE) else { continue };
            match &pooled.client {
                // The pool drops it.
                Ok(_) if self.connector.is_outdated(&pooled) => {}
                Ok(_) => return Ok(Connection { pooled, _slot: slot }),
                Err(refusal) if refusal.full && self.connector.open() > 0 => self.share(&refusal.error),
                Err(refusal) if pooled.finished >= asked => return Err(refusal.error.clone()),
                // It failed when nobody waited for it any more: old news.
                Err(_) => {}
            }
        }
        let (subject, size) = (&self.shared.subject, self.connections.max_size());
        let message = format!(
            "{subject}: no connection within {} s (the server does not answer, or all {size} connections are in use)",
            longest().as_secs_f64()
        );
        Err(StoreError::Unavailable { message })
    }

    /// There are no further connections to be had: those that there are must do.
    fn share(&self, cause: &StoreError) {
        let granted = self.connector.open();
        self.shared.slots.granted(granted);
        if !self.shared.few.swap(true, Ordering::Relaxed) {
            let size = self.connections.max_size();
            log::warn!("{cause}; going on with {granted} connection(s) of {size}, which may be slower");
        }
    }

    /// Runs a whole transaction, again and again while the database is unavailable, unless it is to be tried once, until
    /// `give_up_after` has passed since the first failure or a stop is requested. The transaction must be idempotent: when the connection is lost
    /// during the commit, nobody knows whether it took effect.
    ///
    /// # Errors
    /// The last failure: `Unavailable` when time is up or a stop was requested, anything else at once.
    pub(super) fn run_in<T>(
        &self,
        manner: &Manner<'_>,
        mut transaction: impl FnMut(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let (clock, away) = (manner.clock, &self.shared.away);
        let mut failing_since = None;
        let mut backoff = None;
        loop {
            if let Some(error) = away.expected(clock.now()).filter(|_| manner.once) {
                return Err(error);
            }
            let failure = match self.attempt(manner, &mut transaction) {
                Ok(value) => {
                    if away.succeeded(manner.kind, manner.account, Instant::now()) {
                        log::info!("{} is available again", self.shared.subject);
                    }
                    return Ok(value);
                }
                Err(failure) if failure.stale => continue,
                Err(failure) => failure,
            };
            let (error, begun) = (failure.error, failure.since);
            if !matches!(error, StoreError::Unavailable { .. }) {
                return Err(error);
            }
            let now = clock.now();
            away.unavailable(begun.unwrap_or(now), now, &error);
            let since = *failing_since.get_or_insert(begun.unwrap_or(now));
            let left = manner.give_up_after.saturating_sub(now.saturating_duration_since(since));
            if manner.silent || manner.stop.requested() || left.is_zero() {
                away.given_up(Some(manner.kind), manner.account);
                return Err(error);
            }
            if away.failed(manner.kind, manner.account, Instant::now()) {
                log::warn!("{error}; trying again");
            } else {
                log::debug!("{error}");
            }
            if manner.once {
                return Err(error);
            }
            clock.sleep(next_backoff(&mut backoff, clock).min(left));
        }
    }

    /// Whether it is time to give up what began to fail at `since`: where nobody had any success, the outage counts.
    pub(super) fn gives_up(&self, since: Instant, give_up_after: Duration, now: Instant) -> bool {
        let since = self.shared.away.since(now).map_or(since, |outage| outage.min(since));
        now.saturating_duration_since(since) >= give_up_after
    }

    /// Nothing of this account is tried any more.
    pub(super) fn given_up(&self, account: &str) {
        self.shared.away.given_up(None, account);
    }

    /// The same for a transaction that is nothing out of the ordinary.
    ///
    /// # Errors
    /// The same.
    #[track_caller]
    pub fn run<T>(
        &self,
        clock: &dyn Clock,
        stop: &Stop,
        give_up_after: Duration,
        transaction: impl FnMut(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let kind = std::panic::Location::caller();
        let (large, urgent, once, silent) = (false, false, false, false);
        let manner = Manner { clock, stop, give_up_after, large, urgent, once, silent, kind, account: "" };
        self.run_in(&manner, transaction)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.shared.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn succeeded_within(&self, duration: Duration) -> bool {
        let last = self.shared.last_success.load(Ordering::Relaxed);
        last > 0 && u128::from(self.now().saturating_sub(last)) < duration.as_millis()
    }

    fn attempt<T>(
        &self,
        manner: &Manner<'_>,
        transaction: &mut impl FnMut(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Failure> {
        let mut connection = self.take(manner.urgent, manner.stop)?;
        let leash = connection.pooled.leash.clone();
        let begun = self.under_way.begin(manner.stop, manner.give_up_after, leash);
        let outcome = connection.locate().and_then(|()| transaction(&mut connection));
        let broken_off = begun.end();
        let pooled: &mut Attempt = &mut connection.pooled;
        let used = std::mem::replace(&mut pooled.used, true);
        if let Some(broken_off) = broken_off {
            // A cancellation may be under way that would meet the next statement; and what became of this one is in doubt
            // even if it says that it has succeeded.
            pooled.spent = true;
            return Err(self.unanswered(broken_off));
        }
        match outcome {
            Ok(value) => {
                pooled.spent |= manner.large;
                self.shared.last_success.store(self.now(), Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => {
                let usable = leaves_connection_usable(&error);
                if error.code().is_some_and(|code| code.code() == READ_ONLY) {
                    self.connector.end_generation();
                }
                let error = StoreError::from(error);
                let lost = !usable && matches!(error, StoreError::Unavailable { .. });
                pooled.spent = !usable;
                Err(Failure { stale: lost && used, ..error.of(&self.shared.subject).into() })
            }
        }
    }

    fn unanswered(&self, broken_off: BrokenOff) -> Failure {
        let (subject, waited) = (&self.shared.subject, broken_off.begun.elapsed().as_secs());
        let cause = broken_off.blocked.map(|blocked| format!(": {blocked}")).unwrap_or_default();
        let message = format!("{subject}: no answer for {waited} s{cause}");
        Failure { since: Some(broken_off.begun), ..StoreError::Unavailable { message }.into() }
    }
}

/// The next pause between two attempts, for the one before.
pub(super) fn next_backoff(last: &mut Option<Duration>, clock: &dyn Clock) -> Duration {
    let longest = last.map_or(SHORTEST_BACKOFF, |last| (last * 2).min(LONGEST_BACKOFF));
    *last = Some(longest);
    longest.mul_f64(0.5 + clock.random() / 2.0)
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({}, {:?})", self.shared.subject, self.connections.state())
    }
}
