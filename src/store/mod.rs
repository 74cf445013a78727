//! Postgres, and the only place with SQL calls.

pub mod accounts;
mod adding;
mod away;
mod client;
pub mod closing;
pub mod command;
mod connect;
pub mod conninfo;
pub mod dead_letters;
pub mod distribution;
pub mod error;
pub mod execute;
pub mod history;
pub mod join;
pub mod leases;
mod line;
mod messages;
pub mod overview;
mod patience;
mod place;
pub mod pool;
mod prepared;
pub mod process;
pub mod queue;
pub mod quota;
pub mod runs;
mod salvage;
pub mod samples;
pub mod schema;
mod schema_name;
mod slots;
mod survey;
pub mod tls;
pub mod tokens;
mod under_way;

use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postgres::Error;

pub use client::Client;
pub use conninfo::{Conninfo, ConninfoError};
pub use error::{StoreError, UNIQUE_VIOLATION};
pub use pool::{Connection, Pool};
#[cfg(test)]
pub(crate) use schema_name::MAX_NAME_BYTES;
pub use schema_name::SchemaName;
pub use survey::{Namesake, Survey};

#[cfg(test)]
pub(crate) use messages::{ANSWER_BYTES, ASIDE_BYTES, MESSAGE_BYTES};
#[cfg(test)]
pub(crate) use patience::ASK_AFTER;

use crate::http::{Clock, Stop};
use crate::scope::Scope;
use pool::Manner;

/// How long a heartbeat waits for the database: two more can follow within a lease.
pub(crate) const BEAT_PATIENCE: Duration = Duration::from_secs(3);

/// A transaction of several statements; rolled back when it is dropped.
pub(crate) struct Transaction<'a> {
    client: &'a mut Client,
    over: bool,
}

/// Begins a transaction. Whoever is cut off or suspended in the middle of it loses it, lest all others wait for its locks.
/// The driver's own would take a round trip more to say so.
pub(crate) fn begin(client: &mut Client) -> Result<Transaction<'_>, Error> {
    let transaction = Transaction { client, over: false };
    transaction
        .client
        .batch_execute("START TRANSACTION; SET LOCAL idle_in_transaction_session_timeout = '5s'")?;
    Ok(transaction)
}

impl Transaction<'_> {
    pub fn commit(mut self) -> Result<(), Error> {
        self.over = true;
        self.client.batch_execute("COMMIT")
    }
}

impl Deref for Transaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        self.client
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.over {
            // Where the connection is gone, so is the transaction.
            let _gone = self.client.batch_execute("ROLLBACK");
        }
    }
}

/// What a connection may carry at once and be used again: its buffers stay as large.
const LARGE_BYTES: usize = 2 << 20;

/// One account's way into the database: every call is a whole transaction, tried again while the database is away,
/// unless it is to be tried once.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    scope: Scope,
    clock: Arc<dyn Clock>,
    stop: Stop,
    give_up_after: Duration,
    trial: Option<Trial>,
}

/// How far an attempt at a command has come.
#[derive(Clone)]
struct Trial {
    /// Another was made before.
    again: bool,
    /// It has had an effect, so that it is not begun anew: what follows is tried again where it stands.
    stays: Arc<AtomicBool>,
}

impl Store {
    /// A store for one account. Calls fail once the database was away for `give_up_after`, or when `stop` is requested
    /// while it is.
    #[must_use]
    pub fn new(
        pool: Pool,
        account: &str,
        clock: Arc<dyn Clock>,
        stop: Stop,
        give_up_after: Duration,
    ) -> Self {
        Self { pool, scope: Scope::new(account), clock, stop, give_up_after, trial: None }
    }

    /// The account's name.
    #[must_use]
    pub fn account(&self) -> &str {
        self.scope.account()
    }

    /// Whose part it is, for the log.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// How long ago that was.
    pub(crate) fn time_since(&self, moment: Instant) -> Duration {
        self.clock.now().saturating_duration_since(moment)
    }

    /// Whether the account's part is to stop.
    pub(crate) fn stops(&self) -> bool {
        self.stop.requested()
    }

    /// For one attempt at a command: its first transaction is tried once, so that nobody waits with it while the database is
    /// away. `again`: it is not the first attempt.
    pub(crate) fn trying_once(&self, again: bool) -> Self {
        Self { trial: Some(Trial { again, stays: Arc::default() }), ..self.clone() }
    }

    /// Whether an attempt was made before of whose end nobody heard.
    fn tries_again(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.again)
    }

    /// The attempt is not to be begun anew, whatever follows.
    fn stay(&self) {
        if let Some(trial) = &self.trial {
            trial.stays.store(true, Ordering::Relaxed);
        }
    }

    /// Whether an attempt that came to nothing can be begun anew.
    pub(crate) fn can_begin_anew(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| !trial.stays.load(Ordering::Relaxed))
    }

    /// Whether it is time to give up what began to fail at `since`.
    pub(crate) fn gives_up(&self, since: Instant) -> bool {
        self.stops() || self.pool.gives_up(since, self.give_up_after, self.clock.now())
    }

    /// Nothing of this account is tried any more.
    pub(crate) fn given_up(&self) {
        self.pool.given_up(self.account());
    }

    /// When to try again what has just failed, after the pause before.
    pub(crate) fn try_again_at(&self, pause: &mut Option<Duration>) -> Instant {
        self.clock.now() + pool::next_backoff(pause, &*self.clock)
    }

    /// Runs a transaction of this account; `transaction` must be idempotent.
    ///
    /// # Errors
    /// As [`Pool::run`].
    #[track_caller]
    pub fn run<T>(
        &self,
        transaction: impl FnMut(&mut Client, &str) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        self.run_sized(0, transaction)
    }

    /// The same for a transaction that sends about so many bytes.
    ///
    /// # Errors
    /// As [`Pool::run`].
    #[track_caller]
    pub fn run_sized<T>(
        &self,
        bytes: usize,
        mut transaction: impl FnMut(&mut Client, &str) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let once = self.can_begin_anew();
        let manner = Manner { large: bytes > LARGE_BYTES, once, ..self.manner(Location::caller()) };
        let outcome = self.pool.run_in(&manner, |client| transaction(client, self.account()));
        if outcome.is_ok() {
            self.stay();
        }
        outcome
    }

    /// The same for a heartbeat: it waits behind nobody, is tried once, and never takes long, as the next one follows soon.
    ///
    /// # Errors
    /// As [`Pool::run`].
    #[track_caller]
    pub fn beat<T>(
        &self,
        mut transaction: impl FnMut(&mut Client, &str) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let manner = self.urgent(Location::caller());
        self.pool.run_in(&manner, |client| transaction(client, self.account()))
    }

    /// The same for a look that is of no consequence: the log says nothing of its failure.
    ///
    /// # Errors
    /// As [`Pool::run`].
    #[track_caller]
    pub fn look<T>(
        &self,
        mut transaction: impl FnMut(&mut Client, &str) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let manner = Manner { silent: true, ..self.urgent(Location::caller()) };
        self.pool.run_in(&manner, |client| transaction(client, self.account()))
    }

    fn urgent(&self, kind: &'static Location<'static>) -> Manner<'_> {
        let manner = self.manner(kind);
        let give_up_after = manner.give_up_after.min(BEAT_PATIENCE);
        Manner { urgent: true, once: true, give_up_after, ..manner }
    }

    fn manner(&self, kind: &'static Location<'static>) -> Manner<'_> {
        let (clock, stop, give_up_after) = (&*self.clock, &self.stop, self.give_up_after);
        let (large, urgent, once, silent, account) = (false, false, false, false, self.account());
        Manner { clock, stop, give_up_after, large, urgent, once, silent, kind, account }
    }

    /// Brings the schema up to date; gives how many migrations were applied.
    ///
    /// # Errors
    /// As [`schema::migrate`].
    pub fn migrate(&self) -> Result<usize, StoreError> {
        let mut outcome: Result<usize, String> = Ok(0);
        self.run(|client, _| {
            outcome = schema::migrate(client)?;
            Ok(())
        })?;
        let applied = outcome.map_err(|message| StoreError::Refused { message })?;
        // Tables that came with a migration follow those that are distributed.
        if applied > 0 && self.run(|client, _| distribution::is_distributed(client))? {
            self.distribute()?;
        }
        Ok(applied)
    }

    /// Distributes the tables over a cluster; gives how many were not yet.
    ///
    /// # Errors
    /// As [`distribution::distribute`].
    pub fn distribute(&self) -> Result<usize, StoreError> {
        let mut outcome: Result<usize, String> = Ok(0);
        self.run(|client, _| {
            outcome = distribution::distribute(client)?;
            Ok(())
        })?;
        outcome.map_err(|message| StoreError::Refused { message })
    }
}
