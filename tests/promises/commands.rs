//! The next engine on a real Postgres: its commands do what the simulator's model of the store does, and its scheduler copies
//! accounts whole.

#![allow(
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]

#[path = "../simulation/model.rs"]
#[allow(dead_code, reason = "the simulator uses the rest")]
mod model;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use campaign_sync::engine::account::Settings;
use campaign_sync::engine::job::{Handle, Job, JobMaker, Surroundings};
use campaign_sync::engine::scheduler::Scheduler;
use campaign_sync::http::agents::Agents;
use campaign_sync::http::client::{Client as Http, ClientSettings};
use campaign_sync::http::secret::Secret;
use campaign_sync::http::stats::Stats;
use campaign_sync::http::token::{Grant, Turn};
use campaign_sync::http::{Clock, RateLimit, Stop, SystemClock};
use campaign_sync::platform::{Api, Campaign};
use campaign_sync::rate::ledger::{Ask, Correction, Mark, Order};
use campaign_sync::store::command::{
    Command, DeadTask, NewCampaign, NewDeadLetter, NewTask, Pages, Part, Reply, Sharing,
};
use campaign_sync::store::dead_letters::Retry;
use campaign_sync::store::execute::execute;
use campaign_sync::store::queue::Totals;
use campaign_sync::store::runs::Opening;
use campaign_sync::store::runs::Progress;
use campaign_sync::store::tokens::Sealing;
use campaign_sync::store::{Client, Conninfo, Pool, Store, leases};
use campaign_sync::sync::{Ending, Outcome, Pace, Patience, Watcher};
use mock_api::{EMAIL, PASSWORD};
use model::Model;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::{Database, PATIENCE, eventually};

const ACCOUNT: &str = "default";

fn sealing() -> Sealing {
    Sealing::new(ACCOUNT, "a@example.com", Secret::new("a password".to_owned()))
}

fn campaign(id: &str) -> Arc<Campaign> {
    Arc::new(Campaign {
        id: id.into(),
        name: "n".into(),
        status: "active".into(),
        budget: "1.50".into(),
        impressions: 1,
        clicks: 1,
        conversions: 1,
        created_at: SystemTime::UNIX_EPOCH,
        extra: "{}".into(),
    })
}

fn opening(lists: bool) -> Opening {
    Opening {
        page_size: 10,
        max_age: Duration::from_secs(7 * 86_400),
        fresh: false,
        lists,
        keeps_history: true,
    }
}

fn hourly() -> RateLimit {
    RateLimit::new(5, Duration::from_secs(3_600)).unwrap()
}

fn ask(want: u32, correction: Option<Correction>) -> Ask {
    let margin = Duration::from_millis(20);
    Ask { limit: Some(hourly()), learned: false, margin, want, late: Duration::ZERO, correction }
}

/// What one of three workers does next.
#[derive(Clone, Debug)]
struct Act {
    worker: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Open {
        lists: bool,
        retry: Option<Option<Vec<u8>>>,
    },
    TakeListing,
    Commit {
        records: Vec<(u8, Record)>,
        stale: bool,
        last: bool,
        total: Option<i64>,
    },
    Finish {
        synced: Vec<u8>,
        dead: Vec<u8>,
        fenced: bool,
    },
    Claim(usize),
    Held,
    Release(Vec<u8>),
    /// Whether the limit was learned.
    Reserve(u32, bool),
    /// The same, with a correction of the last one: how many of it were not made.
    Correct(u32, u32),
    Learn,
    CloseGate,
    TellSends,
    TokenTurn(u64),
    KeepToken,
    Close(u8),
    Leave(bool),
    /// Its lease ends.
    Die,
}

/// What a page has of a campaign.
#[derive(Clone, Copy, Debug)]
enum Record {
    Task { version: u8, held: bool },
    Finished,
    Dead { named: bool },
}

fn act() -> impl Strategy<Value = Act> {
    let ids = || proptest::collection::vec(0..8u8, 0..10);
    let record = prop_oneof![
        4 => (0..2u8, any::<bool>()).prop_map(|(version, held)| Record::Task { version, held }),
        2 => Just(Record::Finished),
        1 => any::<bool>().prop_map(|named| Record::Dead { named }),
    ];
    let records = proptest::collection::vec((0..8u8, record), 0..6);
    let total = proptest::option::weighted(0.3, 4..9i64);
    let rarely = || proptest::bool::weighted(0.1);
    let retry = proptest::option::weighted(0.3, proptest::option::of(ids()));
    let what = prop_oneof![
        3 => (proptest::bool::weighted(0.8), retry).prop_map(|(lists, retry)| What::Open { lists, retry }),
        2 => Just(What::TakeListing),
        12 => (records, rarely(), proptest::bool::weighted(0.3), total)
            .prop_map(|(records, stale, last, total)| What::Commit { records, stale, last, total }),
        10 => (ids(), ids(), rarely())
            .prop_map(|(synced, dead, fenced)| What::Finish { synced, dead, fenced }),
        6 => (1..5usize).prop_map(What::Claim),
        2 => Just(What::Held),
        2 => ids().prop_map(What::Release),
        2 => (1..4u32, any::<bool>()).prop_map(|(want, learned)| What::Reserve(want, learned)),
        2 => (1..4u32, 0..4u32).prop_map(|(want, unsent)| What::Correct(want, unsent)),
        2 => Just(What::Learn),
        2 => Just(What::TellSends),
        1 => rarely().prop_map(|gate| if gate { What::CloseGate } else { What::TellSends }),
        1 => (0..3u64).prop_map(What::TokenTurn),
        1 => Just(What::KeepToken),
        8 => prop_oneof![Just(0u8), Just(50), Just(100)].prop_map(What::Close),
        2 => any::<bool>().prop_map(What::Leave),
        1 => Just(What::Die),
    ];
    (0..3usize, what).prop_map(|(worker, what)| Act { worker, what })
}

/// The same acts on Postgres and on the model.
struct Play<'a> {
    store: &'a Store,
    sealing: &'a Sealing,
    client: &'a mut Client,
    model: Model,
    parts: [Option<Part>; 3],
    /// The last grant: what Postgres and the model call it, and how many it was for.
    granted: Option<(Mark, Mark, u32)>,
}

impl Play<'_> {
    fn act(&mut self, act: Act) {
        // However slow the machine is, nobody is dead who is not said to be.
        self.client.batch_execute("UPDATE workers SET heartbeat_at = now()").unwrap();
        if let What::Open { lists, retry } = act.what {
            let known =
                self.parts[act.worker].take().filter(|part| self.model.workers.contains_key(&part.worker));
            let part = known.unwrap_or_else(|| Part {
                account: ACCOUNT.into(),
                run_id: 0,
                worker: self.model.register(Instant::now()),
            });
            let retry =
                retry.map(|ids| ids.map_or(Retry::All, |ids| Retry::Some(ids.into_iter().map(id).collect())));
            let command = Command::Open { opening: opening(lists), retry, sharing: Sharing::default() };
            let reply = self.both(&part, &command);
            let Reply::Opened(Ok(opened)) = reply else { panic!("{reply:?}") };
            self.parts[act.worker] = Some(Part { run_id: opened.run.run_id, ..part });
            return;
        }
        if self.parts[act.worker].is_none() {
            self.act(Act { worker: act.worker, what: What::Open { lists: true, retry: None } });
        }
        let part = self.parts[act.worker].clone().expect("opened");
        if let What::Die = act.what {
            self.model.workers.remove(&part.worker);
            let silent = "UPDATE workers SET heartbeat_at = now() - interval '11 s' WHERE worker_id = $1";
            self.client.execute(silent, &[&part.worker]).unwrap();
            leases::reap(self.client, ACCOUNT, 0).unwrap();
            return;
        }
        let leaves = matches!(act.what, What::Leave(_));
        let command = self.command(&part, act.what);
        self.both(&part, &command);
        if leaves {
            self.model.workers.remove(&part.worker);
        }
    }

    fn command(&mut self, part: &Part, what: What) -> Command {
        let ledger = self.model.ledger(ACCOUNT);
        let attempt = |id: &String| ledger.tasks.get(id).map_or(1, |task| task.attempt);
        match what {
            What::TakeListing => Command::TakeListing,
            What::Commit { records, stale, last, total } => {
                let at =
                    ledger.runs.iter().find(|run| run.run_id == part.run_id).map_or(1, |run| run.next_page);
                pages(at + i64::from(stale), &records, last, total)
            }
            What::Finish { synced, dead, fenced } => {
                let synced = distinct(synced.into_iter().map(id));
                let dead = distinct(dead.into_iter().map(id).filter(|id| !synced.contains(id)));
                let number = |id: &String| attempt(id) - i32::from(fenced);
                let letter = |id: &String| DeadTask {
                    id: id.clone(),
                    attempt: number(id),
                    cause: "gone",
                    reason: "r".into(),
                    tries: 3,
                };
                Command::Finish {
                    synced: synced.iter().map(|id| (campaign(id), number(id))).collect(),
                    dead: dead.iter().map(letter).collect(),
                }
            }
            What::Claim(most) => {
                // Who of two with the same place goes first is nobody's promise.
                let mut places: Vec<i64> = ledger.tasks.values().map(|task| task.seq).collect();
                places.sort_unstable();
                Command::Claim(if places.windows(2).any(|two| two[0] == two[1]) { 100 } else { most })
            }
            What::Held => Command::Held,
            What::Release(ids) => {
                let ids = distinct(ids.into_iter().map(id));
                Command::Release(ids.into_iter().map(|id| (id.clone(), attempt(&id))).collect())
            }
            What::Reserve(want, learned) => {
                // What is on record goes before what was learned, and after what the user says.
                let limit = RateLimit::new(4, Duration::from_secs(3_600));
                Command::Reserve(Ask { limit, learned, ..ask(want, None) })
            }
            What::Correct(want, unsent) => {
                let correction = self.granted.map(|(mark, _, granted)| Correction {
                    mark,
                    unsent: unsent.min(granted),
                    later: -1_000,
                });
                Command::Reserve(ask(want, correction))
            }
            What::Learn => {
                let ages = [2, 1].map(Duration::from_secs).to_vec();
                Command::Tell(Order::Learn(hourly(), ages))
            }
            What::CloseGate => Command::Tell(Order::CloseGate(Duration::from_secs(1_800))),
            What::TellSends => Command::Tell(Order::TellSends),
            What::TokenTurn(outdated) => Command::TokenTurn(outdated),
            What::KeepToken => {
                Command::KeepToken(Grant { access_token: Secret::new("token".to_owned()), lifetime: None })
            }
            What::Close(max_removed) => Command::Close { max_removed, keep_history: None },
            What::Leave(stops) => {
                Command::Leave { reason: stops.then(|| "stopped".to_owned()), tells_standing: false }
            }
            What::Open { .. } | What::Die => unreachable!("dealt with above"),
        }
    }

    /// Carries a command out on both, and compares what came of it.
    fn both(&mut self, part: &Part, command: &Command) -> Reply {
        let modelled = self.model.execute(part, &self.as_modelled(command), false, Instant::now());
        let reply = execute(self.store, self.sealing, part, command);
        assert_eq!(
            told(&reply),
            told(&modelled),
            "Postgres's reply and the model's to {command:?} of {part:?}"
        );
        assert_eq!(
            rows(self.client),
            self.modelled(),
            "Postgres's rows and the model's after {command:?} of {part:?}"
        );
        if let (Reply::Reserved(Ok(real)), Reply::Reserved(Ok(grant))) = (&reply, &modelled)
            && let (Some(mark), Some(other)) = (real.mark, grant.mark)
        {
            self.granted = Some((mark, other, grant.granted));
        }
        reply
    }

    /// The command with what the model calls a grant.
    fn as_modelled(&self, command: &Command) -> Command {
        let mut command = command.clone();
        if let Command::Reserve(Ask { correction: Some(correction), .. }) = &mut command
            && let Some((_, mark, _)) = self.granted
        {
            correction.mark = mark;
        }
        command
    }

    fn modelled(&mut self) -> Vec<String> {
        let ledger = self.model.ledger(ACCOUNT);
        let mut lines = Vec::new();
        for (id, row) in &ledger.campaigns {
            lines.push(format!("campaign {id} {} {}", row.run_id, row.removed));
        }
        for (id, task) in &ledger.tasks {
            let (run, worker, attempt) = (task.run_id, task.worker, task.attempt);
            lines.push(format!("task {id} {run} {worker} {attempt} {} {}", task.seq, task.payload));
        }
        for (id, letter) in &ledger.dead_letters {
            let (run, cause, attempts) = (letter.run_id, &letter.cause, letter.attempts);
            lines.push(format!(
                "letter {id} {run} {cause} {attempts} {} {}",
                letter.retryable, letter.payload
            ));
        }
        for run in &ledger.runs {
            let (page, size, total) = (run.next_page, run.page_size, run.totals.map(|totals| totals.last));
            lines.push(format!(
                "run {} {} {} {} {page} {size} {} {total:?} {}",
                run.run_id, run.state, run.lists, run.lister, run.listing_done, run.listed
            ));
            lines.extend(run.members.iter().map(|worker| format!("worker {worker} {}", run.run_id)));
        }
        lines.sort();
        lines
    }
}

fn id(number: u8) -> String {
    format!("c{number}")
}

fn distinct(ids: impl Iterator<Item = String>) -> Vec<String> {
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    ids.dedup();
    ids
}

fn pages(from_page: i64, records: &[(u8, Record)], last: bool, total: Option<i64>) -> Command {
    let mut pages = Pages { from_page, next_page: from_page + 1, page_size: 10, last, ..Pages::default() };
    pages.totals = Totals::of([total].into_iter());
    let mut seen = [false; 8];
    for (place, (number, record)) in records.iter().enumerate() {
        if std::mem::replace(&mut seen[usize::from(*number)], true) {
            continue;
        }
        let (id, seq) = (id(*number), from_page * 10 + place as i64);
        match *record {
            Record::Task { version, held } => {
                let payload = format!("{{\"version\":{version}}}").into();
                pages.tasks.push(NewTask { id, seq, payload, held });
            }
            Record::Finished => {
                pages.finished.push(NewCampaign { campaign: campaign(&id), seq, payload: "{}".into() });
            }
            Record::Dead { named } => pages.dead.push(NewDeadLetter {
                id,
                named,
                cause: "invalid",
                reason: "r".into(),
                attempts: 2,
                payload: "{}".into(),
                retryable: named,
                seq: None,
            }),
        }
    }
    Command::CommitPages(pages)
}

/// A reply as far as it does not depend on the clock.
fn told(reply: &Reply) -> String {
    let long = |wait: Duration| wait > Duration::from_secs(60);
    match reply {
        Reply::Opened(Ok(opened)) => {
            let run = &opened.run;
            let run = (run.run_id, run.page_size, run.listing_done, run.lists, run.new);
            let (gate, limit) = (opened.gate.map(|(wait, _)| long(wait)).filter(|long| *long), opened.limit);
            format!(
                "{run:?} {:?} {} {} {limit:?} {gate:?} {}",
                opened.listing, opened.others, opened.free_tasks, opened.requeued
            )
        }
        Reply::Committed(Ok(Some(committed))) => {
            let mut committed = committed.clone();
            committed.left_out.sort();
            committed.taken.sort();
            format!("{committed:?}")
        }
        Reply::Claimed(Ok(claimed)) => {
            let mut claimed: Vec<String> = claimed.iter().map(|task| format!("{task:?}")).collect();
            claimed.sort();
            format!("{claimed:?}")
        }
        Reply::Held(Ok(holding)) => {
            let mut holding = holding.clone();
            holding.held.sort();
            format!("{holding:?}")
        }
        Reply::Reserved(Ok(grant)) => {
            format!("{} {} {:?}", grant.granted, long(grant.wait), grant.limit)
        }
        Reply::Sends(Ok(ages)) => format!("{} sends", ages.len()),
        Reply::TokenTurn(Ok((Turn::Use(kept), _))) => {
            format!("{} {}", kept.generation, kept.access_token.reveal())
        }
        Reply::TokenTurn(Ok((Turn::Wait(_), _))) => "wait".into(),
        Reply::Left(Ok(left)) => format!("{} left", left.pending),
        other => format!("{other:?}"),
    }
}

fn rows(client: &mut Client) -> Vec<String> {
    let query = "SELECT format('campaign %s %s %s', id, run_id, (removed_at IS NOT NULL)::text) FROM campaigns
        UNION ALL SELECT format('task %s %s %s %s %s %s', id, run_id, worker_id, attempt, seq, payload) FROM sync_tasks
        UNION ALL SELECT format('letter %s %s %s %s %s %s', id, run_id, cause, attempts, retryable::text, payload) FROM dead_letters
        UNION ALL SELECT format('run %s %s %s %s %s %s %s %s %s', run_id, state, lists::text, lister, next_page, page_size,
                                listing_done::text, coalesce('Some(' || total || ')', 'None'), listed) FROM sync_runs
        UNION ALL SELECT format('worker %s %s', worker_id, run_id) FROM workers";
    let mut lines: Vec<String> = client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    lines.sort();
    lines
}

#[test]
fn whatever_workers_ask_postgres_and_the_simulators_model_reply_the_same_and_hold_the_same() {
    let database = Database::create();
    let (store, sealing) = (database.store(), sealing());
    let settings = ProptestConfig {
        cases: 20,
        failure_persistence: None,
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    };
    let client = std::cell::RefCell::new(database.connect());
    let outcome = TestRunner::new(settings).run(&proptest::collection::vec(act(), 1..60), |acts| {
        let client = &mut client.borrow_mut();
        client
            .batch_execute(
                "TRUNCATE campaigns, dead_letters, sync_tasks, workers, sync_runs, quotas, access_tokens RESTART IDENTITY",
            )
            .unwrap();
        let (model, parts) = (Model::default(), [None, None, None]);
        let mut play = Play { store: &store, sealing: &sealing, client, model, parts, granted: None };
        acts.into_iter().for_each(|act| play.act(act));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Many accounts of one platform, worked on by one process.
fn jobs(database: &Database, url: &str, accounts: usize, limit: Option<RateLimit>) -> Vec<Job> {
    let url_of_database = database.url();
    let get = |name: &str| (name == "DATABASE_URL").then(|| url_of_database.clone().into());
    let pool = Pool::new(&Conninfo::from_environment(&get).unwrap(), 6).unwrap();
    (0..accounts).map(|account| job(&pool, url, &format!("a{account}"), limit)).collect()
}

fn job(pool: &Pool, url: &str, name: &str, rate_limit: Option<RateLimit>) -> Job {
    let stop = Stop::new();
    let clock = Arc::new(SystemClock::new(stop.clone()));
    let client = ClientSettings {
        base_url: url.to_owned(),
        timeout: Duration::from_secs(30),
        // The mock has a limit for each.
        client_id: Some(name.to_owned()),
        proxy: None,
    };
    let password = Secret::new(PASSWORD.to_owned());
    let stats = Arc::new(Stats::default());
    Job {
        settings: Settings {
            workers: 8,
            opening: opening(true),
            retry: None,
            max_removed: 20,
            keep_history: None,
            shares_since: None,
            keeps_token: false,
            tells_standing: false,
            patience: Patience {
                max_attempts: 5,
                max_wait: Duration::from_secs(900),
                give_up_after: Duration::from_secs(300),
            },
            rate_limit,
            api: url.to_owned(),
            credentials: None,
            seed: 1,
        },
        api: Api::new(
            Http::new(&client, &Agents::new(8, None).unwrap(), clock.clone()).unwrap(),
            EMAIL,
            &password,
            stats.clone(),
        ),
        stats,
        begun: clock.now(),
        store: Store::new(pool.clone(), name, clock, stop.clone(), Duration::from_secs(60)),
        stop,
        sealing: Sealing::new(name, EMAIL, password),
    }
}

/// Nobody looks.
struct Unwatched;

impl Watcher for Unwatched {
    fn joined(&self, _account: &str, _run_id: i64, _resumed: bool) {}

    fn watching(&self) -> bool {
        false
    }

    fn progress(&self, _account: &str, _run: &Progress, _pace: &Pace) {}

    fn finished(&self, _account: &str) {}
}

/// Works on all of them with eight workers; `begun` is told how to stop that.
fn work(jobs: Vec<Job>, begun: impl FnOnce(Handle)) -> Vec<Outcome> {
    let surroundings = Surroundings {
        workers: 8,
        open: 16,
        clock: Arc::new(SystemClock::new(Stop::new())),
        deadline: None,
        recorder: None,
        watcher: &Unwatched,
    };
    let scheduler =
        Scheduler::new(jobs.into_iter().map(|job| -> JobMaker<'_> { Box::new(|| Ok(job)) }), surroundings)
            .unwrap();
    begun(scheduler.handle());
    let mut outcomes = Vec::new();
    scheduler.run(&mut |outcome| outcomes.push(outcome));
    outcomes
}

/// The state of every run, with how many there are.
fn states(database: &Database) -> Vec<String> {
    database.column("SELECT format('%s %s', count(*), state) FROM sync_runs GROUP BY state ORDER BY state")
}

#[test]
fn forty_accounts_sixteen_at_once_are_copied_whole_by_eight_workers_and_no_campaign_is_synced_twice() {
    let server = mock_api::start(mock_api::Settings::fast(30)).unwrap();
    let database = Database::create();
    database.store();
    let outcomes = work(jobs(&database, &server.url(), 40, None), |_| ());
    for outcome in &outcomes {
        assert_eq!(outcome.ending, None);
        let run = outcome.run.as_ref().expect("its run");
        assert_eq!(
            (run.state.as_str(), run.listed, run.synced, run.failed, outcome.pending),
            ("complete", 30, 30, 0, 0)
        );
        // A token, three pages and a sync for each campaign.
        assert_eq!((run.requests, run.token_refreshes.max(1), run.rate_limited), (34, 1, 0));
    }
    assert_eq!((states(&database), database.count("campaigns")), (vec!["40 complete".to_owned()], 1_200));
    assert_eq!((database.count("sync_tasks"), database.count("workers")), (0, 0));
}

#[test]
fn two_processes_share_an_account_under_its_limit_and_each_effect_is_there_once() {
    let window = Duration::from_secs(1);
    let settings = mock_api::Settings { rate_limit: Some((40, window)), ..mock_api::Settings::fast(150) };
    let server = mock_api::start(settings).unwrap();
    let database = Database::create();
    database.store();
    let limit = RateLimit::new(40, window);
    std::thread::scope(|scope| {
        let start = || scope.spawn(|| work(jobs(&database, &server.url(), 1, limit), |_| ()));
        let both = [start(), start()];
        for process in both {
            let outcomes = process.join().unwrap();
            assert_eq!(outcomes[0].ending, None);
        }
    });
    // Whoever comes when all is done begins a run of its own.
    let runs: i64 = database.value("SELECT count(*) FROM sync_runs WHERE state = 'complete'");
    assert_eq!((database.count("sync_runs"), database.count("campaigns")), (runs, 150));
    let refused: i64 = database.value("SELECT sum(rate_limited)::bigint FROM sync_runs");
    assert_eq!(refused, 0, "under a known limit");
}

#[test]
fn who_is_stopped_leaves_nothing_held_and_the_next_goes_on_from_there() {
    let settings =
        mock_api::Settings { sync_latency: Duration::from_millis(50), ..mock_api::Settings::fast(200) };
    let server = mock_api::start(settings).unwrap();
    let database = Database::create();
    database.store();
    let (tells, told) = std::sync::mpsc::channel();
    let outcomes = std::thread::scope(|scope| {
        let begun = move |handle| tells.send(handle).unwrap();
        let process = scope.spawn(|| work(jobs(&database, &server.url(), 1, None), begun));
        let handle: Handle = told.recv().unwrap();
        eventually(PATIENCE, "some are stored", || database.count("campaigns") > 0);
        handle.stop(Ending::Interrupted(15));
        process.join().unwrap()
    });
    assert_eq!(outcomes[0].ending, Some(Ending::Interrupted(15)));
    assert_eq!(states(&database), ["1 stopped"]);
    assert_eq!((database.count("workers"), database.count("sync_tasks WHERE worker_id <> 0")), (0, 0));
    let stored = database.count("campaigns");
    assert!(stored < 200, "{stored} were stored by then");
    let outcomes = work(jobs(&database, &server.url(), 1, None), |_| ());
    assert_eq!(outcomes[0].ending, None);
    assert_eq!((states(&database), database.count("campaigns")), (vec!["1 complete".to_owned()], 200));
}
