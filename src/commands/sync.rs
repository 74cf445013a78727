//! `sync`: list, sync and store every campaign of every account; and `retry`: the same for dead letters, without a listing.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::set_up::{self, Context, Signalled};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Account, Config, Environment, Output, Password};
use crate::engine::account::Settings;
use crate::engine::job::{Job, JobMaker, Surroundings};
use crate::engine::scheduler::{MAX_OPEN, Scheduler};
use crate::http::agents::Agents;
use crate::http::stats::Stats;
use crate::http::{Secret, Stop, SystemClock};
use crate::report::log::{apart, conclude};
use crate::report::metrics::{MetricsFile, Row};
use crate::report::progress::Display;
use crate::report::summary;
use crate::report::trace::Tracer;
use crate::store::runs::Opening;
use crate::store::tokens::Sealing;
use crate::store::{Pool, Store, dead_letters};
use crate::sync::{self, Ending, Outcome, Recorder, Retry};

/// The most requests at once, over all accounts, unless one account alone is given more. Threads that wait are cheap.
pub(crate) const MOST_WORKERS: usize = 256;
/// A process of this many accounts at most keeps their tokens for the next run. A token's key takes 20 ms of a processor: for
/// hundreds of accounts a login each costs less.
const KEPT_TOKENS: usize = 16;
/// Commands that print passwords, at once.
const PASSWORDS_AT_ONCE: usize = 16;
/// How long a second signal waits for spans to reach their file.
const LAST_WORDS: Duration = Duration::from_millis(100);

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
    retry: Option<Retry>,
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
    for broken in &config.broken {
        let ending = Ending::Misconfigured(broken.error.0.clone());
        results.add(&Outcome::without_run(&broken.name, ending, context.elapsed()));
    }
    if let Err(ending) = prepare(&parts, config, &signalled) {
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
    let passwords = passwords(&parts);
    let mut ready = Vec::new();
    for (part, password) in parts.into_iter().zip(passwords) {
        match password {
            Ok(password) => ready.push((part, password)),
            Err(failure) => results.add(&part.misconfigured(failure)),
        }
    }
    let workers = workers(&ready);
    let agents = set_up::agents(config, workers)?;
    let agents = &agents;
    let jobs = ready.into_iter().map(|(part, password)| -> JobMaker<'_> {
        Box::new(move || part.job(&password, agents, config, output))
    });
    let surroundings = Surroundings {
        workers,
        open: MAX_OPEN,
        clock: Arc::new(SystemClock::new(Stop::new())),
        deadline,
        recorder: tracer.clone().map(|tracer| tracer as Arc<dyn Recorder>),
        watcher: &display,
    };
    let scheduler = Scheduler::new(jobs, surroundings)
        .map_err(|error| Failure::from(Ending::NoThread(format!("{workers} workers: {error}"))))?;
    let (stops, abandons) = (scheduler.handle(), scheduler.handle());
    signalled.abandons(move || abandons.abandon());
    signalled.stops(move |ended| stops.stop(ended.clone()));
    scheduler.run(&mut |outcome| apart(&mut || results.add(&outcome)));
    display.finish();
    tracer.iter().for_each(|tracer| tracer.finish());
    results.total();
    Ok(results.code())
}

/// The accounts' passwords. Commands that print them take their time, so several run at once.
fn passwords(parts: &[Part<'_>]) -> Vec<Result<Secret, Failure>> {
    let get = |part: &Part<'_>| part.account.password.get().map_err(Failure::usage);
    let commands = parts.iter().filter(|part| !matches!(part.account.password, Password::Known(_))).count();
    let pool = (commands > 1)
        .then(|| rayon::ThreadPoolBuilder::new().num_threads(commands.min(PASSWORDS_AT_ONCE)).build().ok())
        .flatten();
    match pool {
        Some(pool) => pool.install(|| parts.par_iter().map(get).collect()),
        None => parts.iter().map(get).collect(),
    }
}

/// Threads for what the accounts ask for together: one more each, for pages and tokens.
fn workers(parts: &[(Part<'_>, Secret)]) -> usize {
    let wanted = parts.iter().map(|(part, _)| part.account.workers + 1);
    let most = wanted.clone().max().unwrap_or(1).max(MOST_WORKERS);
    wanted.sum::<usize>().clamp(1, most)
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

fn parts<'a>(config: &'a Config, pool: &Pool) -> Vec<Part<'a>> {
    let part = |account: &'a Account| {
        let context = Context::new();
        let (clock, stop) = (context.clock.clone(), context.stop.clone());
        let patience = config.deadline.map_or(config.give_up_after, |most| config.give_up_after.min(most));
        let store = Store::new(pool.clone(), &account.name, clock, stop, patience);
        Part { account, context, store, retry: None }
    };
    config.accounts.iter().map(part).collect()
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
    fn misconfigured(&self, failure: Failure) -> Outcome {
        let ending = Ending::Misconfigured(failure.message);
        Outcome::without_run(&self.account.name, ending, self.context.elapsed())
    }

    fn job(
        self,
        password: &Secret,
        agents: &Agents,
        config: &Config,
        output: &Output,
    ) -> Result<Job, Box<Outcome>> {
        let stats = Arc::new(Stats::default());
        let api = set_up::api(self.account, agents, &self.context, password, stats.clone())
            .map_err(|failure| Box::new(self.misconfigured(failure)))?;
        let Part { account, context, store, retry } = self;
        let is_sync = retry.is_none();
        let settings = Settings {
            workers: account.workers,
            opening: Opening {
                page_size: i32::try_from(account.page_size).unwrap_or(10),
                max_age: config.max_run_age,
                fresh: config.fresh,
                lists: retry.is_none(),
                keeps_history: config.keep_history.is_some(),
            },
            retry,
            max_removed: config.max_removed,
            keep_history: config.keep_history,
            shares_since: (config.accounts.len() > 1 && is_sync).then_some(context.begun),
            keeps_token: config.accounts.len() <= KEPT_TOKENS,
            tells_standing: output.metrics_file.is_some(),
            patience: set_up::patience(config, account),
            rate_limit: account.rate_limit,
            api: api.base_url().to_owned(),
            credentials: account.credentials.clone(),
            seed: context.clock.random().to_bits(),
        };
        let sealing = Sealing::new(store.account(), &account.email, password.clone());
        Ok(Job { settings, api, stats, store, sealing, stop: context.stop, begun: context.begun })
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
