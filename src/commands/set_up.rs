//! What several commands need: a caller, a store, signals.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use crate::calling::Caller;
use crate::cli::Flags;
use crate::config::{Account, Config, DEFAULT, Environment, there_is};
use crate::http::agents::Agents;
use crate::http::client::{Client, ClientSettings};
use crate::http::connections::idle;
use crate::http::lock::lock;
use crate::http::stats::Stats;
use crate::http::{Clock, Secret, Stop, SystemClock};
use crate::platform::Api;
use crate::scope::Scope;
use crate::store::{Conninfo, Pool, Store, StoreError, overview, schema};
use crate::sync::{Ending, GRACE, Patience};

/// Connections for one account: list, write, claim, and keep; more would only wait for each other.
pub(crate) const CONNECTIONS: u32 = 5;
/// Connections for any number of accounts: a server permits 100 to all its users, if nobody has raised it.
pub(crate) const MOST_CONNECTIONS: u32 = 20;

/// Those of r2d2.
const POOL_THREADS: usize = 3;
const SPARE_STACK: usize = 64 << 10;

/// No transaction of ours takes so long: a database that lets it is silent for good.
pub(crate) const LONGEST_TRANSACTION: Duration = Duration::from_secs(1800);

/// Time and stop of one account's part in a command.
#[derive(Clone)]
pub(super) struct Context {
    pub stop: Stop,
    pub clock: Arc<dyn Clock>,
    pub begun: Instant,
}

impl Context {
    pub fn new() -> Self {
        let stop = Stop::new();
        let clock = SystemClock::new(stop.clone());
        Self { begun: clock.now(), clock: Arc::new(clock), stop }
    }

    pub fn elapsed(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.begun)
    }
}

/// A caller for a command that stores nothing.
pub(super) fn caller(config: &Config, account: &Account, context: &Context) -> Result<Caller, Failure> {
    let password = account.password.get().map_err(Failure::usage)?;
    let stats = Arc::new(Stats::default());
    let api = api(account, &agents(config, account.workers + 2)?, context, &password, stats.clone())?;
    let (clock, stop, scope) = (context.clock.clone(), context.stop.clone(), Scope::new(&account.name));
    let patience = patience(config, account);
    let caller = Caller::new(api, account.rate_limit, stats, clock, stop, patience, scope);
    Ok(caller.with_credentials_in(account.credentials.clone()))
}

/// How patient to be with an account.
pub(super) fn patience(config: &Config, account: &Account) -> Patience {
    Patience {
        max_attempts: account.max_attempts,
        max_wait: config.max_wait,
        give_up_after: config.give_up_after,
    }
}

/// What connects to the platforms, for so many threads that call.
pub(super) fn agents(config: &Config, threads: usize) -> Result<Agents, Failure> {
    Agents::new(idle(threads), config.trusted_roots.as_deref())
        .map_err(|error| Failure::usage(format!("SSL_CERT_FILE: {error}")))
}

/// The API for an account.
pub(super) fn api(
    account: &Account,
    agents: &Agents,
    context: &Context,
    password: &Secret,
    stats: Arc<Stats>,
) -> Result<Api, Failure> {
    let settings = ClientSettings {
        base_url: account.api_url.clone(),
        timeout: account.timeout,
        client_id: account.client_id.clone(),
        proxy: account.proxy.clone(),
    };
    let client = Client::new(&settings, agents, context.clock.clone())
        .map_err(|error| Failure::usage(format!("account {:?}: {error}", account.name)))?;
    Ok(Api::new(client, &account.email, password, stats))
}

/// The connections for so many accounts, to the database that the environment names.
pub(super) fn pool(flags: &Flags, environment: Environment<'_>, accounts: usize) -> Result<Pool, Failure> {
    let schema = Config::schema(flags, environment).map_err(Failure::usage)?;
    let conninfo = Conninfo::from_environment(&|name| environment.variable(name)).map_err(Failure::usage)?;
    let wanted = u32::try_from(accounts).unwrap_or(u32::MAX).saturating_mul(CONNECTIONS);
    spare_threads(POOL_THREADS).map_err(no_thread)?;
    let pool = Pool::in_schema(&conninfo, wanted.min(MOST_CONNECTIONS), schema).map_err(Failure::usage)?;
    let watched = pool.watch(LONGEST_TRANSACTION, |silence| {
        // The thread that waits cannot be freed: only the end of the process ends its wait. Leases end by themselves.
        crate::report::log::conclude(None, None, &format!("{silence}; run again to resume"));
        std::process::exit(5);
    });
    watched.map_err(no_thread)?;
    Ok(pool)
}

/// Whether so many threads can be started now: refused to r2d2, one is a panic.
fn spare_threads(count: usize) -> io::Result<()> {
    std::thread::scope(|scope| {
        let (held, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..count {
            let wait = wait.clone();
            std::thread::Builder::new().stack_size(SPARE_STACK).spawn_scoped(scope, move || {
                let _until_all_are_there = lock(&wait).recv();
            })?;
        }
        drop(held);
        Ok(())
    })
}

fn no_thread(error: io::Error) -> Failure {
    Ending::NoThread(error.to_string()).into()
}

/// The store of one account, in the database that the environment names.
pub(super) fn store(
    flags: &Flags,
    environment: Environment<'_>,
    account: &str,
    context: &Context,
    give_up_after: Duration,
) -> Result<Store, Failure> {
    let pool = pool(flags, environment, 1)?;
    Ok(Store::new(pool, account, context.clock.clone(), context.stop.clone(), give_up_after))
}

/// Whoever only looks wants to know soon that the database does not answer.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// For commands that only look at the database: a store, and the accounts to look at.
pub(super) fn look(flags: &Flags, environment: Environment<'_>) -> Result<(Store, Vec<String>), Failure> {
    let named = Config::account_names(flags, environment).map_err(Failure::usage)?;
    let store = store(flags, environment, "default", &Context::new(), LOOK_PATIENCE)?;
    ready(&store, false)?;
    if !named.is_empty() && Config::has_accounts_file(flags, environment).map_err(Failure::usage)? {
        return Ok((store, named));
    }
    let known = store.run(|client, _| overview::accounts(client)).map_err(from_store)?;
    if named.is_empty() {
        return Ok((store, known));
    }
    // Without an accounts file the database alone knows which accounts there are, and "default" is always one.
    match named.iter().find(|name| *name != DEFAULT && !known.contains(name)) {
        Some(name) => Err(Failure::usage(format!("--only {name:?}: {}", unknown(name, &known)))),
        None => Ok((store, named)),
    }
}

/// What is said of an account that the database has no row of.
pub(super) fn unknown(name: &str, known: &[String]) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    format!("no such account in the database; {}", there_is(name, &known))
}

/// Brings the schema up to date, or checks that it is.
pub(super) fn schema(store: &Store, migrate: bool) -> Result<usize, Ending> {
    let state = store.run(|client, _| schema::state(client))?;
    match state {
        schema::SchemaState::Current => Ok(0),
        schema::SchemaState::Foreign(message) => Err(Ending::DatabaseRefused(message)),
        schema::SchemaState::Behind(missing) if !migrate => Err(Ending::DatabaseRefused(format!(
            "the database's schema lacks {missing} migration(s): run campaign-sync migrate; sync does it too, without --no-migrate"
        ))),
        schema::SchemaState::Behind(_) => Ok(store.migrate()?),
    }
}

/// A failure of the database, with its exit code; where there is no run that could be resumed.
pub(super) fn from_store(error: StoreError) -> Failure {
    let message = error.to_string();
    Failure { code: Ending::from(error).exit_code(), message }
}

/// As [`schema`], for commands that work on no run.
pub(super) fn ready(store: &Store, migrate: bool) -> Result<usize, Failure> {
    schema(store, migrate).map_err(|ending| match ending {
        Ending::DatabaseUnavailable(message) => Failure { code: 5, message },
        other => other.into(),
    })
}

/// Called with the reason: a signal, or the deadline.
type Stopper = Box<dyn Fn(&Ending) + Send>;

/// Called when what is under way has had its time.
type Abandoner = Box<dyn Fn() + Send>;

/// Called before the process ends at once.
type LastWords = Box<dyn Fn() + Send>;

/// What the first SIGINT or SIGTERM, or the deadline, is to stop.
#[derive(Clone, Default)]
pub(super) struct Signalled(Arc<Mutex<Stoppers>>);

#[derive(Default)]
struct Stoppers {
    /// The reason to stop, once there is one.
    ended: Option<Ending>,
    stoppers: Vec<Stopper>,
    abandoners: Vec<Abandoner>,
    last_words: Vec<LastWords>,
}

impl Signalled {
    /// Listens to SIGINT and SIGTERM: the first ends everything in order, the second the process.
    pub fn listen() -> Result<Self, Failure> {
        let mut signals = Signals::new([SIGINT, SIGTERM])
            .map_err(|error| Failure { code: 1, message: format!("cannot listen for signals: {error}") })?;
        let signalled = Self::default();
        let shared = signalled.0.clone();
        let seen = AtomicI32::new(0);
        let listen = move || {
            for signal in signals.forever() {
                if seen.swap(signal, Ordering::Relaxed) != 0 {
                    lock(&shared).last_words.iter().for_each(|say| say());
                    std::process::exit(128 + signal);
                }
                log::warn!(
                    "stopping: requests in flight have {} s to finish; a second signal stops at once; run again to resume",
                    GRACE.as_secs_f64()
                );
                stop(&shared, Ending::Interrupted(signal));
                let late = shared.clone();
                let abandon = move || {
                    std::thread::sleep(GRACE);
                    lock(&late).abandoners.iter().for_each(|abandon| abandon());
                };
                // Without it, what is under way has until its timeout.
                let _refused = std::thread::Builder::new().name("grace".into()).spawn(abandon);
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(no_thread)?;
        Ok(signalled)
    }

    /// Ends everything at the deadline, whatever it is waiting for then.
    pub fn expire_at(&self, deadline: Instant) -> Result<(), Failure> {
        let shared = self.0.clone();
        let expire = move || {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
            stop(&shared, Ending::Deadline);
        };
        std::thread::Builder::new().name("deadline".into()).spawn(expire).map(drop).map_err(no_thread)
    }

    /// Which signal has come, if one has.
    pub fn by(&self) -> Option<i32> {
        match lock(&self.0).ended {
            Some(Ending::Interrupted(signal)) => Some(signal),
            _ => None,
        }
    }

    /// Has this called when there is a reason to stop; at once when there is one already.
    pub fn stops(&self, stopper: impl Fn(&Ending) + Send + 'static) {
        let mut stoppers = lock(&self.0);
        match &stoppers.ended {
            Some(ended) => stopper(ended),
            None => stoppers.stoppers.push(Box::new(stopper)),
        }
    }

    /// Has this called at the second signal; it must be quick, for nothing else is waited for.
    pub fn last_words(&self, say: impl Fn() + Send + 'static) {
        lock(&self.0).last_words.push(Box::new(say));
    }

    /// Has this called when what is under way has had its time after a signal.
    pub fn abandons(&self, abandon: impl Fn() + Send + 'static) {
        lock(&self.0).abandoners.push(Box::new(abandon));
    }

    /// Has this account's part stopped, and what is under way then abandoned after a grace.
    pub fn ends(&self, caller: &Arc<Caller>) {
        let late = caller.clone();
        lock(&self.0).abandoners.push(Box::new(move || late.abandon()));
        let caller = caller.clone();
        self.stops(move |ended| {
            caller.end(ended.clone());
        });
    }
}

/// The first reason counts, but a signal is told as such also after the deadline.
fn stop(stoppers: &Mutex<Stoppers>, ended: Ending) {
    let mut stoppers = lock(stoppers);
    if stoppers.ended.is_none() || matches!(ended, Ending::Interrupted(_)) {
        stoppers.ended = Some(ended.clone());
    }
    // The last first: whoever knows what to do with the reason has come after who only stops.
    stoppers.stoppers.iter().rev().for_each(|stop| stop(&ended));
}
