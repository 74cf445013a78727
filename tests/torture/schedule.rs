//! A schedule from its beginning to its end: before, the faults, the cure, and after; with what must hold in between.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ground::Ground;
use crate::plan::{After, Begin, Event, HORIZON, Leave, Plan};
use crate::stage::{End, Stage};
use crate::support::{PATIENCE, Signal, eventually};
use crate::tally::Tally;
use crate::verdict;
use crate::watch::{Snapshot, Watch};

/// Faults go on until the platform was asked so often, but not for longer than this.
const FEW: u64 = 40;
const LONGEST: Duration = Duration::from_secs(6);

/// What came of a schedule.
pub struct Report {
    pub seed: u64,
    pub violations: Vec<String>,
    pub tally: Arc<Tally>,
    pub took: Duration,
}

/// Plays the schedule of a seed.
pub fn play(ground: &Ground, seed: u64) -> Report {
    let begun = Instant::now();
    let tally = Arc::new(Tally::default());
    let plan = Plan::of(seed);
    let played = catch_unwind(AssertUnwindSafe(|| acts(ground, &plan, &tally)));
    let violations = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        vec![format!("{}\n{plan:?}", text.unwrap_or_default())]
    });
    Report { seed, violations, tally, took: begun.elapsed() }
}

fn acts(ground: &Ground, plan: &Plan, tally: &Arc<Tally>) -> Vec<String> {
    let place = ground.place(plan.has(|event| *event == Event::CrashDatabase));
    let mut stage = Stage::set(plan, &place, tally);
    let mut violations = Vec::new();
    if plan.begin == Begin::Older {
        stage.heal();
        stage.beside.heal();
        let retries = plan.has(|event| *event == Event::Retry);
        stage.platform.change(|settings| {
            settings.revision = 0;
            if retries {
                settings.faults.refused_every = 3;
            }
        });
        cure(&mut stage, "sync", &mut violations);
    }
    let watch = Watch::of(&stage.database);
    suffer(&mut stage);
    violations.extend(moment(&stage, "after the faults"));
    violations.extend(verdict::living(&stage, "after the faults"));
    bury_the_dead(&mut stage);
    cure(&mut stage, "sync", &mut violations);
    if plan.settings.faults.ends_early > 0 && stage.ends.last().is_some_and(End::is_short) {
        // A run whose listing had ended early is resumed, and says so; the next one lists everything.
        cure(&mut stage, "sync", &mut violations);
    }
    violations.extend(moment(&stage, "at the end"));
    violations.extend(verdict::contents(&stage));
    violations.extend(verdict::rate_limit(&stage));
    match plan.after {
        After::Nothing => {}
        After::Retry => retry(&mut stage, &mut violations),
        After::Newer => renew(&mut stage, &mut violations),
    }
    let (looks, seen) = watch.end();
    violations.extend(seen.into_iter().map(|fault| format!("while it ran: {fault}")));
    if looks == 0 {
        violations.push("nobody has looked".into());
    }
    violations.extend(verdict::all(&stage));
    violations.append(&mut stage.violations);
    note_faults(&stage);
    if !violations.is_empty() {
        violations.push(said(&stage));
    }
    violations
}

/// The processes run while everything goes wrong, until the faults have ended and so have they.
fn suffer(stage: &mut Stage<'_>) {
    let plan = stage.plan;
    stage.spoil();
    for _ in 0..plan.processes {
        stage.launch("sync", &[], true);
    }
    let started = Instant::now();
    let asked = stage.platform.ledger().total;
    // On a busy machine it takes a while until there is anything to spoil.
    let slow = |stage: &Stage<'_>, few: u64| {
        started.elapsed() < LONGEST && stage.platform.ledger().total < asked + few
    };
    while slow(stage, 1) && stage.collect().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    let mut events = plan.events.iter().peekable();
    while begun.elapsed() < HORIZON || events.peek().is_some() || slow(stage, FEW) {
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= begun.elapsed()) {
            stage.act(*event);
        }
        for code in stage.collect() {
            if !matches!(code, Some(0 | 3)) && stage.launched < 8 {
                stage.launch("sync", &[], true);
            }
        }
        if stage.processes.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    stage.heal();
    stage.continue_all();
    if plan.leave == Leave::Alone && plan.field.hanging > 0 {
        stage.wait_for_good_accounts();
    }
    stage.beside.heal();
    for who in 0..stage.processes.len() {
        match plan.leave {
            Leave::Alone => {}
            Leave::Interrupted => stage.signal(who, Signal::Int),
            Leave::Killed => stage.signal(who, Signal::Kill),
        }
    }
    stage.wait_for_all();
}

/// A process that was killed holds its tasks for ten seconds more: mostly, that time is made to pass.
fn bury_the_dead(stage: &mut Stage<'_>) {
    match stage.plan.seed % 24 {
        0 => {}
        1..=4 => stage.end_leases(false),
        _ => stage.end_leases(true),
    }
}

/// Without faults, one more run does it.
fn cure(stage: &mut Stage<'_>, command: &'static str, violations: &mut Vec<String>) {
    stage.launch(command, &[], false);
    let code = stage.wait(0);
    if !matches!(code, Some(0 | 3)) {
        let outcome = stage.ends.last().map(|end| end.outcome.to_string()).unwrap_or_default();
        violations.push(format!("{command} without faults ends with {code:?}\n{outcome}"));
    }
}

/// What holds at every moment, at this one.
fn moment(stage: &Stage<'_>, when: &str) -> Vec<String> {
    let mut client = stage.database.connect().unwrap();
    let snapshot = Snapshot::of(&mut client).unwrap();
    let mut faults: Vec<String> = snapshot.iter().flat_map(Snapshot::faults).collect();
    if when == "at the end" && !snapshot.is_some_and(|snapshot| snapshot.is_closed()) {
        faults.push("the run is not closed".into());
    }
    faults.into_iter().map(|fault| format!("{when}: {fault}")).collect()
}

fn retry(stage: &mut Stage<'_>, violations: &mut Vec<String>) {
    stage.platform.set_faults(mock_api::Faults::default());
    cure(stage, "retry", violations);
    violations.extend(moment(stage, "after retry"));
    let left = stage
        .database
        .rows("SELECT id, cause, reason FROM dead_letters WHERE account = 'default' AND retryable AND cause <> 'invalid'");
    for row in left {
        let (id, cause, reason): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        violations.push(format!("retry leaves {id:?}: {cause}, {reason}"));
    }
}

/// The campaigns change, some go. A process of a run that is abandoned meanwhile sleeps, and wakes up too late.
fn renew(stage: &mut Stage<'_>, violations: &mut Vec<String>) {
    let gone = stage.plan.settings.campaigns / 12;
    stage.platform.change(|settings| {
        settings.revision = 2;
        settings.sync_latency = Duration::from_millis(60);
    });
    let before = stage.platform.ledger().syncs;
    stage.launch("sync", &[], true);
    eventually(PATIENCE, "the run of the sleeper", || {
        stage.platform.ledger().syncs > before || stage.processes.iter_mut().all(|p| !p.running.is_running())
    });
    stage.signal(0, Signal::Stop);
    stage.platform.change(|settings| {
        settings.revision = 3;
        settings.absent = (1..=gone).collect();
    });
    stage.launch("sync", &["--fresh"], true);
    eventually(PATIENCE, "the newer run has tasks or is over", || {
        let done = stage.database.rows(
            "SELECT FROM sync_runs WHERE run_id = (SELECT max(run_id) FROM sync_runs WHERE account = 'default')
             AND started_at > now() - interval '20 s' AND listed > 0 AND listing_done",
        );
        !done.is_empty() || stage.processes.len() < 2 || !stage.processes[1].running.is_running()
    });
    stage.continue_all();
    stage.wait_for_all();
    cure_if_open(stage, violations);
    violations.extend(moment(stage, "after the newer run"));
    violations.extend(verdict::contents(stage));
    violations.extend(verdict::removals(stage));
}

fn cure_if_open(stage: &mut Stage<'_>, violations: &mut Vec<String>) {
    if !stage.database.rows("SELECT FROM sync_runs WHERE state IN ('running', 'stopped')").is_empty() {
        cure(stage, "sync", violations);
    }
}

fn note_faults(stage: &Stage<'_>) {
    let ledger = stage.platform.ledger();
    let answered = |status: u16| ledger.requests.iter().filter(|seen| seen.status == status).count() as u64;
    for (status, kind) in [
        (0, "platform: no answer, or a broken one"),
        (302, "platform: redirect"),
        (401, "platform: token refused"),
        (429, "platform: rate limit"),
        (500, "platform: 500"),
        (502, "platform: 502"),
        (503, "platform: 503"),
        (504, "platform: 504"),
    ] {
        stage.tally.add(kind, answered(status));
    }
    let broken = ledger.requests.iter().filter(|seen| seen.status == 200 && !seen.success).count();
    stage.tally.add("platform: 200 that is none", broken as u64);
    let hits = stage.database.rows("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM torture_hits");
    stage.tally.add("database: write refused", u64::try_from(hits[0].get::<_, i64>(0)).unwrap());
}

/// The last words of every process, for whoever has to find out.
fn said(stage: &Stage<'_>) -> String {
    let mut text = format!("{:?}\n", stage.plan);
    for end in &stage.ends {
        let outcome = &end.outcome;
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n    ");
        text +=
            &format!("  {} after {:?}\n    {}    {last}\n", outcome.status, outcome.elapsed, outcome.stdout);
    }
    text
}
