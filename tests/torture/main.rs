//! Torture: whole syncs against a platform, networks, a database and a machine that fail in ways drawn from a seed. After
//! every schedule nothing is lost, nothing is doubled, nothing is shown that is secret, and one more run completes it.
//!
//! `SEED=n cargo test --test torture` plays one schedule again. `make torture SECONDS=600` plays new ones for that time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod beside;
mod chance;
mod field;
mod gauges;
mod ground;
mod network;
mod plan;
mod schedule;
mod soak;
mod stage;
#[allow(dead_code, unused_imports, reason = "the promises use the rest")]
#[path = "../support/mod.rs"]
mod support;
mod tally;
mod verdict;
mod watch;

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ground::Ground;
use schedule::Report;
use tally::Tally;

/// The seeds of every test run: some that mix everything, some with one kind of fault alone, where more must hold.
const SEEDS: [u64; 36] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 86, 146, 151, 240, 351, 30_006,
    30_007, 30_090, 600_015, 600_092, 600_164, 600_171, 600_233, 600_247, 600_264, 600_350, 660_196,
];
/// Schedules mostly wait: so many at once keep two cores fairly busy.
const LANES: usize = 12;

/// All schedules that were played.
#[derive(Default)]
struct Played {
    schedules: AtomicU64,
    violated: Mutex<Vec<u64>>,
    tally: Tally,
}

#[test]
fn nothing_is_lost_doubled_or_shown_whatever_fails() {
    let (seed, seconds) = (setting::<u64>("SEED"), setting::<u64>("TORTURE_SECONDS"));
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let first = seed.unwrap_or(now * 1_000);
    let seed_of = |nth: u64| match (seed, seconds) {
        (_, Some(_)) => Some(first + nth),
        (Some(seed), None) => (nth == 0).then_some(seed),
        (None, None) => usize::try_from(nth).ok().and_then(|nth| SEEDS.get(nth).copied()),
    };
    let begun = Instant::now();
    let (played, next, ground) = (Played::default(), AtomicU64::new(0), Ground::new());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while until.is_none_or(|until| Instant::now() < until)
                    && let Some(seed) = seed_of(next.fetch_add(1, Ordering::Relaxed))
                {
                    note(&schedule::play(&ground, seed), &played);
                }
            });
        }
    });
    let Played { schedules, violated, tally } = played;
    let (schedules, violated) = (schedules.into_inner(), violated.into_inner().unwrap());
    let seeds = match (seconds, seed) {
        (Some(_), _) => format!("seeds {first} to {}", first + schedules.saturating_sub(1)),
        (None, Some(seed)) => format!("seed {seed}"),
        (None, None) => format!("seeds {SEEDS:?}"),
    };
    let took = begun.elapsed().as_secs();
    println!(
        "{schedules} schedules ({seeds}) in {took} s; {} with violations {violated:?}; {} faults injected:\n{tally}",
        violated.len(),
        tally.total()
    );
    assert!(violated.is_empty(), "violations with the seeds {violated:?}: SEED=n cargo test --test torture");
}

/// Half an hour, or `SOAK_SECONDS`: `make soak`.
#[test]
#[ignore = "takes half an hour: make soak"]
fn memory_files_connections_and_tables_stay_flat() {
    let faults = soak::soak(setting("SOAK_SECONDS").unwrap_or(1_800));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn note(report: &Report, played: &Played) {
    played.schedules.fetch_add(1, Ordering::Relaxed);
    played.tally.merge(&report.tally);
    if std::env::var_os("TORTURE_VERBOSE").is_some() {
        let (seed, plan) = (report.seed, plan::Plan::of(report.seed));
        let retries = plan.events.iter().filter(|(_, event)| *event == plan::Event::Retry).count();
        eprintln!("SEED={seed} took {:?}: {:?}, {retries} retries", report.took, plan.field);
    }
    if !report.violations.is_empty() {
        eprintln!("SEED={} violates:\n{}", report.seed, report.violations.join("\n"));
        played.violated.lock().unwrap().push(report.seed);
    }
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}
