//! `sync`: list, sync and store every campaign of every account; and `retry`: the same for dead letters, without a listing.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::set_up::{self, Context, Signalled};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Account, Config, Environment, Output, Password};
use crate::report::log::{apart, conclude};
use crate::report::metrics::{MetricsFile, Row};
use crate::report::progress::Display;
use crate::report::summary;
use crate::report::trace::Tracer;
use crate::store::runs::Opening;
use crate::store::{Pool, Store, dead_letters};
use crate::sync::{self, Caller, Crew, Ending, Job, Outcome, Retry, Seat};

/// The most requests at once, over all accounts, unless one account alone is given more. Threads that wait are cheap.
pub(crate) const MOST_WORKERS: usize = 256;
/// How long a second signal waits for spans to reach their file.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// The stack of an account's own thread, which only waits for others.
const STACK_BYTES: usize = 512 << 10;

pub(super) fn run(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    work(flags, output, environment, stdout, None)
}

pub(super) fn retry(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let retry = if flags.id.is_empty() { Retry::All } else { Retry::Some(flags.id.clone()) };
    work(flags, output, environment, stdout, Some(&retry))
}

/// One account's part, before it begins.
struct Part<'a> {
    account: &'a Account,
    context: Context,
    store: Store,
    /// When it could be made before anything else.
    caller: Option<Caller>,
    retry: Option<Retry>,
}

/// What all parts share.
struct Whole<'a> {
    config: &'a Config,
    signalled: Signalled,
    display: Display,
    deadline: Option<Instant>,
    tracer: Option<Arc<Tracer>>,
    tells_standing: bool,
}

/// It ended before it began: a setting that says how to tell of it makes no sense. The metrics file, if that is known, tells.
pub(super) fn never_begun(flags: &Flags, environment: Environment<'_>, failure: &Failure) {
    if let Ok(Some(path)) = Output::metrics_file(flags, environment) {
        MetricsFile::new(&path).fail(failure.code, &flags.only);
    }
}

/// Does the work, and has the metrics file tell of it however it ends.
fn work(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
    retry: Option<&Retry>,
) -> Result<i32, Failure> {
    let mut metrics = output.metrics_file.as_deref().map(MetricsFile::new);
    let config = Config::for_api(flags, environment).map_err(Failure::usage);
    let names = match &config {
        Ok(config) => {
            let broken = config.broken.iter().map(|broken| &broken.name);
            config.accounts.iter().map(|account| &account.name).chain(broken).cloned().collect()
        }
        Err(_) => flags.only.clone(),
    };
    let worked = config.and_then(|config| {
        let results = Results::new(output, stdout, metrics.as_mut(), &config);
        work_on(flags, &config, output, environment, results, retry)
    });
    if let Some(metrics) = &mut metrics {
        match &worked {
            Ok(_) => metrics.write(),
            Err(failure) => metrics.fail(failure.code, &names),
        }
    }
    worked
}

fn work_on(
    flags: &Flags,
    config: &Config,
    output: &Output,
    environment: Environment<'_>,
    mut results: Results<'_>,
    retry: Option<&Retry>,
) -> Result<i32, Failure> {
    let context = Context::new();
    let deadline = config.deadline.map(|deadline| context.clock.now() + deadline);
    let signalled = Signalled::listen()?;
    deadline.map_or(Ok(()), |deadline| signalled.expire_at(deadline))?;
    let pool = set_up::pool(flags, environment, config.accounts.len())?;
    let mut parts = parts(config, &pool);
    // A connection takes a while: until then everything else is made ready.
    let prepare = || prepare(&parts, config, &signalled);
    let (prepared, (crew, mut early)) = meanwhile(prepare, || {
        let crew = crew(config);
        if crew.is_err() {
            parts.iter().for_each(|part| part.context.stop.request());
        }
        (crew, early_caller(&parts, config))
    });
    let crew = Arc::new(crew?);
    parts.iter_mut().take(1).for_each(|part| part.caller = early.take());
    for broken in &config.broken {
        let ending = Ending::Misconfigured(broken.error.0.clone());
        results.add(&Outcome::without_run(&broken.name, ending, context.elapsed()));
    }
    if let Err(ending) = prepared {
        results.add_all(&parts, &ending);
        return Ok(results.code());
    }
    if let Some(retry) = retry {
        let pending;
        (parts, pending) = with_dead_letters(parts, retry)?;
        if parts.is_empty() {
            results.nothing_to_retry(pending);
            return Ok(results.code());
        }
    }
    let display = Display::new(output.progress, parts.len());
    let tracer = tracer(output);
    if let Some(tracer) = tracer.clone() {
        signalled.last_words(move || {
            tracer.finish_within(LAST_WORDS);
        });
    }
    let tells_standing = output.metrics_file.is_some();
    // All of them before the first part begins: an account's share of the crew depends on how many there are.
    let seats: Vec<Seat> = parts.iter().map(|part| crew.seat(part.account.workers)).collect();
    let whole = Whole { config, signalled, display, deadline, tracer, tells_standing };
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for (part, seat) in parts.into_iter().zip(seats) {
            let (sender, whole, name) = (sender.clone(), &whole, part.account.name.clone());
            let begun = part.context.clone();
            let job = move || {
                let _everybody_listens = sender.send(part.work(seat, whole));
            };
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES).name(name.clone());
            if let Err(error) = thread.spawn_scoped(scope, job) {
                let ending = Ending::NoThread(error.to_string());
                results.add(&Outcome::without_run(&name, ending, begun.elapsed()));
            }
        }
        drop(sender);
        for outcome in outcomes {
            apart(&mut || results.add(&outcome));
        }
    });
    whole.display.finish();
    whole.tracer.iter().for_each(|tracer| tracer.finish());
    results.total();
    Ok(results.code())
}

/// The trace file, if one is wanted and can be written to.
fn tracer(output: &Output) -> Option<Arc<Tracer>> {
    match Tracer::open(output.trace_file.as_deref()?) {
        Ok(tracer) => Some(Arc::new(tracer)),
        Err(cause) => {
            log::warn!("{cause}; the sync itself is not affected");
            None
        }
    }
}

/// Does the one in a thread of its own while the other is done here; after each other where there is no thread.
fn meanwhile<A: Send, B>(one: impl Fn() -> A + Send + Sync, other: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, &one);
        let other = other();
        // A panic has ended the program.
        let one = thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(&one);
        (one, other)
    })
}

fn parts<'a>(config: &'a Config, pool: &Pool) -> Vec<Part<'a>> {
    let part = |account: &'a Account| {
        let context = Context::new();
        let (clock, stop) = (context.clock.clone(), context.stop.clone());
        let patience = config.deadline.map_or(config.give_up_after, |most| config.give_up_after.min(most));
        let store = Store::new(pool.clone(), &account.name, clock, stop, patience);
        Part { account, context, store, caller: None, retry: None }
    };
    config.accounts.iter().map(part).collect()
}

/// The caller of an only account. Where others would have to wait for it, or a command prints the password, it is made in
/// the account's own thread.
fn early_caller(parts: &[Part<'_>], config: &Config) -> Option<Caller> {
    match parts {
        [only] if matches!(only.account.password, Password::Known(_)) => only.new_caller(config).ok(),
        _ => None,
    }
}

/// Sees to the schema, once for all.
fn prepare(parts: &[Part<'_>], config: &Config, signalled: &Signalled) -> Result<(), Ending> {
    let Some(first) = parts.first() else { return Ok(()) };
    for part in parts {
        let stop = part.context.stop.clone();
        signalled.stops(move |_| stop.request());
    }
    let done = set_up::schema(&first.store, config.migrate);
    match signalled.by() {
        Some(signal) => Err(Ending::Interrupted(signal)),
        None => done.map(drop),
    }
}

/// Threads for what the accounts ask for together.
fn crew(config: &Config) -> Result<Crew, Failure> {
    let wanted = config.accounts.iter().map(|account| account.workers);
    let most = wanted.clone().max().unwrap_or(1).max(MOST_WORKERS);
    let size = wanted.sum::<usize>().clamp(1, most);
    Crew::new(size).map_err(|error| Ending::NoThread(format!("{size} workers: {error}")).into())
}

/// Those accounts that have something to retry, or to resume of an earlier `retry`; and how many tasks the runs of the others
/// have left.
fn with_dead_letters<'a>(parts: Vec<Part<'a>>, retry: &Retry) -> Result<(Vec<Part<'a>>, i64), Failure> {
    let mut missing: HashSet<&String> = retry.ids().unwrap_or_default().iter().collect();
    let (mut kept, mut pending) = (Vec::new(), 0);
    for part in parts {
        let found = part
            .store
            .run(|client, account| dead_letters::retryable(client, account, retry.ids()))
            .map_err(set_up::from_store)?;
        missing.retain(|id| !found.ids.contains(id));
        if found.resumes || !found.ids.is_empty() {
            let retry = retry.ids().map_or(Retry::All, |_| Retry::Some(found.ids));
            kept.push(Part { retry: Some(retry), ..part });
        } else {
            pending += found.pending;
        }
    }
    if let Some(missing) = missing.iter().min() {
        return Err(Failure::usage(format!(
            "--id {missing:?}: there is no such dead letter that could be retried; see campaign-sync status"
        )));
    }
    Ok((kept, pending))
}

impl Part<'_> {
    fn new_caller(&self, config: &Config) -> Result<Caller, Failure> {
        set_up::caller(config, self.account, &self.context, Some(&self.store))
    }

    fn work(mut self, seat: Seat, whole: &Whole<'_>) -> Outcome {
        let early = self.caller.take();
        let caller = match early.map_or_else(|| self.new_caller(whole.config), Ok) {
            Ok(caller) => Arc::new(match &whole.tracer {
                Some(tracer) => caller.traced(tracer.clone()),
                None => caller,
            }),
            Err(failure) => {
                let ending = Ending::Misconfigured(failure.message);
                return Outcome::without_run(&self.account.name, ending, self.context.elapsed());
            }
        };
        whole.signalled.ends(&caller);
        let job = Job {
            caller,
            store: self.store,
            opening: Opening {
                page_size: i32::try_from(self.account.page_size).unwrap_or(10),
                max_age: whole.config.max_run_age,
                fresh: whole.config.fresh,
                lists: self.retry.is_none(),
                keeps_history: whole.config.keep_history.is_some(),
            },
            workers: self.account.workers,
            max_removed: whole.config.max_removed,
            keep_history: whole.config.keep_history,
            deadline: whole.deadline,
            retry: self.retry,
            tells_standing: whole.tells_standing,
        };
        sync::run(&job, seat, &whole.display)
    }
}

/// Says how each account's part has ended, as soon as it has.
struct Results<'a> {
    output: &'a Output,
    stdout: &'a mut dyn Write,
    metrics: Option<&'a mut MetricsFile>,
    accounts: usize,
    /// Each account that has ended, with its exit code.
    ended: Vec<(String, i32)>,
    /// The exit code when stdout cannot be written to.
    unwritten: i32,
}

impl<'a> Results<'a> {
    fn new(
        output: &'a Output,
        stdout: &'a mut dyn Write,
        metrics: Option<&'a mut MetricsFile>,
        config: &Config,
    ) -> Self {
        let accounts = config.accounts.len() + config.broken.len();
        Self { output, stdout, metrics, accounts, ended: Vec::new(), unwritten: 0 }
    }

    fn add(&mut self, outcome: &Outcome) {
        if let Some(not_removed) = &outcome.not_removed {
            let run = outcome.run.as_ref().map(|run| run.run_id);
            log::warn!(account = outcome.account.as_str(), run = run; "{not_removed}");
        }
        self.summarize(outcome);
        if let Some(run) = outcome.run.as_ref().filter(|run| run.failed > 0) {
            log::warn!(
                account = outcome.account.as_str(), run = run.run_id;
                "{} campaign(s) failed permanently: campaign-sync status shows why; run campaign-sync retry once the cause is fixed",
                run.failed
            );
        }
        if let Some(ending) = &outcome.ending {
            let account = (self.accounts > 1).then_some(outcome.account.as_str());
            let run = outcome.run.as_ref().map(|run| run.run_id);
            conclude(account, run, &ending.to_string());
        }
    }

    fn summarize(&mut self, outcome: &Outcome) {
        let json = self.output.json;
        self.write(&if json { summary::json(outcome) + "\n" } else { summary::text(outcome) });
        self.ended.push((outcome.account.clone(), outcome.exit_code()));
        if let Some(metrics) = &mut self.metrics {
            metrics.add(Row::new(outcome), Instant::now());
        }
    }

    /// The same has happened to all of these: it is said once.
    fn add_all(&mut self, parts: &[Part<'_>], ending: &Ending) {
        for part in parts {
            let elapsed = part.context.elapsed();
            self.summarize(&Outcome::without_run(&part.account.name, ending.clone(), elapsed));
        }
        conclude(None, None, &ending.to_string());
    }

    fn nothing_to_retry(&mut self, pending: i64) {
        if !self.output.json {
            self.write("no dead letters to retry\n");
        }
        if pending > 0 {
            log::info!("{pending} campaign(s) are pending in an open run: campaign-sync sync resumes it");
        }
    }

    /// A last line when there were several.
    fn total(&mut self) {
        if self.accounts > 1 && !self.output.json {
            let text = summary::total(&self.ended);
            self.write(&text);
        }
    }

    fn write(&mut self, text: &str) {
        match written(self.stdout, text) {
            0 => {}
            code => self.unwritten = code,
        }
    }

    /// The most serious exit code.
    fn code(&self) -> i32 {
        sync::most_serious(self.ended.iter().map(|(_, code)| *code).chain([self.unwritten]))
    }
}
