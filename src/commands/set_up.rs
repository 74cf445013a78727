//! What several commands need: a caller, a store, signals.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use crate::config::Config;
use crate::http::client::{Client, ClientSettings};
use crate::http::limiter::{Ledger, Limiter, MemoryLedger};
use crate::http::stats::Stats;
use crate::http::token::{OwnVault, Vault};
use crate::http::{Clock, Stop, SystemClock};
use crate::platform::Api;
use crate::store::quota::SharedLedger;
use crate::store::tokens::SharedVault;
use crate::store::{Conninfo, Pool, Store, StoreError, schema};
use crate::sync::{Caller, Ending, Patience};

/// Connections for one account: list, write, claim, and keep; more would only wait for each other.
const CONNECTIONS: u32 = 5;

/// Time and stop of one command.
pub(super) struct Context {
    pub stop: Stop,
    pub clock: Arc<dyn Clock>,
}

impl Context {
    pub fn new() -> Self {
        let stop = Stop::new();
        Self { clock: Arc::new(SystemClock::new(stop.clone())), stop }
    }
}

/// A caller that shares limit and token through `store`, or, without one, with nobody.
pub(super) fn caller(config: &Config, context: &Context, store: Option<&Store>) -> Result<Caller, Failure> {
    let account = config.one_account().map_err(Failure::usage)?;
    let client = Client::new(
        &ClientSettings {
            base_url: account.api_url.clone(),
            timeout: account.timeout,
            connections: account.workers + 2,
            client_id: account.client_id.clone(),
            trusted_roots: config.trusted_roots.clone(),
        },
        context.clock.clone(),
    )
    .map_err(|error| Failure::usage(format!("SSL_CERT_FILE: {error}")))?;
    let stats = Arc::new(Stats::default());
    let api = Api::new(client, &account.email, &account.password, stats.clone());
    let vault: Box<dyn Vault> = match store {
        Some(store) => Box::new(SharedVault::new(store.clone(), &account.email, account.password.clone())),
        None => Box::new(OwnVault::default()),
    };
    let ledger: Box<dyn Ledger> = match store {
        Some(store) => Box::new(SharedLedger::new(store.clone())),
        None => Box::new(MemoryLedger::new(context.clock.clone())),
    };
    let limiter = Limiter::new(account.rate_limit, ledger, context.clock.clone());
    let patience = Patience {
        max_attempts: account.max_attempts,
        max_wait: config.max_wait,
        give_up_after: config.give_up_after,
    };
    Ok(Caller::new(api, vault, limiter, stats, context.clock.clone(), context.stop.clone(), patience))
}

/// The store of an account, in the database that the environment names.
pub(super) fn store(
    environment: &dyn Fn(&str) -> Option<OsString>,
    account: &str,
    context: &Context,
    give_up_after: Duration,
) -> Result<Store, Failure> {
    let conninfo = Conninfo::from_environment(environment).map_err(Failure::usage)?;
    let pool = Pool::new(&conninfo, CONNECTIONS).map_err(Failure::usage)?;
    Ok(Store::new(pool, account, context.clock.clone(), context.stop.clone(), give_up_after))
}

/// Brings the schema up to date, or checks that it is.
pub(super) fn schema(store: &Store, migrate: bool) -> Result<usize, Ending> {
    let state = store.run(|client, _| schema::state(client))?;
    match state {
        schema::SchemaState::Current => Ok(0),
        schema::SchemaState::Foreign(message) => Err(Ending::DatabaseRefused(message)),
        schema::SchemaState::Behind(missing) if !migrate => Err(Ending::DatabaseRefused(format!(
            "the database's schema lacks {missing} migration(s): run campaign-sync migrate, or leave --no-migrate out"
        ))),
        schema::SchemaState::Behind(_) => Ok(store.migrate()?),
    }
}

/// A failure of the database, with its exit code.
pub(super) fn from_store(error: StoreError) -> Failure {
    Ending::from(error).into()
}

/// Ends the account's part in order at the first SIGINT or SIGTERM, and the process at the second.
pub(super) fn on_signals(caller: &Arc<Caller>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Failure { code: 1, message: format!("cannot listen for signals: {error}") })?;
    let caller = caller.clone();
    let seen = AtomicI32::new(0);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if seen.swap(signal, Ordering::Relaxed) != 0 {
                std::process::exit(128 + signal);
            }
            log::warn!("stopping in order: what is under way is finished; a second signal ends at once");
            caller.end(Ending::Interrupted(signal));
        }
    });
    Ok(())
}
