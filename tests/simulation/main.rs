//! The engine under schedules of faults on virtual time: state machines, a model of the store, simulated platforms and several
//! simulated processes, all from one seed. After each schedule the promises are checked.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]
#![allow(
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]

mod chance;
mod model;
mod platform;
mod world;

use std::time::{Duration, Instant};

use campaign_sync::engine::account::Settings as AccountSettings;
use campaign_sync::http::RateLimit;
use campaign_sync::store::runs::Opening;
use campaign_sync::sync::Patience;
use chance::Chance;
use platform::{Platform, Settings};
use world::{Faults, World};

fn settings(limit: Option<(u32, Duration)>, page_size: i32, seed: u64) -> AccountSettings {
    AccountSettings {
        workers: 8,
        opening: Opening {
            page_size,
            max_age: Duration::from_secs(7 * 86_400),
            fresh: false,
            lists: true,
            keeps_history: true,
        },
        retry: None,
        max_removed: 20,
        keep_history: None,
        shares_since: None,
        keeps_token: seed.is_multiple_of(3),
        tells_standing: false,
        patience: Patience {
            max_attempts: 5,
            max_wait: Duration::from_secs(900),
            give_up_after: Duration::from_secs(300),
        },
        rate_limit: limit.and_then(|(requests, window)| RateLimit::new(requests, window)),
        api: "http://platform".into(),
        credentials: None,
        seed,
    }
}

/// Plays one schedule.
fn play(seed: u64) -> Result<u64, String> {
    let mut chance = Chance::new(seed);
    let start = Instant::now() + Duration::from_secs(1_000_000);
    let accounts = 1 + chance.below(3) as usize;
    let mut parts = Vec::new();
    let mut platforms = Vec::new();
    for account in 0..accounts {
        let limit =
            chance.hits(0.4).then(|| (2 + chance.below(20) as u32, Duration::from_secs(1 + chance.below(5))));
        let known = chance.hits(0.7);
        let down = Duration::from_secs(chance.below(20));
        let platform = Settings {
            campaigns: chance.below(120) as usize,
            limit,
            failing: if chance.hits(0.5) { 0.05 } else { 0.0 },
            hanging: if chance.hits(0.2) { 0.01 } else { 0.0 },
            poisoned_every: if chance.hits(0.3) { 13 } else { 0 },
            refused_every: if chance.hits(0.3) { 17 } else { 0 },
            revoke_every: if chance.hits(0.3) { 29 } else { 0 },
            outage: chance.hits(0.2).then(|| (down, down + Duration::from_secs(chance.below(60)))),
            latency: Duration::from_micros(200 + chance.below(200_000)),
        };
        platforms.push(Platform::new(platform, start));
        parts.push(settings(limit.filter(|_| known), 3 + chance.below(30) as i32, seed ^ account as u64));
    }
    if chance.hits(0.5) {
        // The processes share the accounts out.
        parts.iter_mut().for_each(|part| part.shares_since = Some(start));
    }
    let faults = Faults {
        lost_replies: if chance.hits(0.5) { 0.05 } else { 0.0 },
        slow_store: Duration::from_millis(chance.below(100)),
        kills: (0..chance.below(3)).map(|_| chance.below(400)).collect(),
        suspends: (0..chance.below(2))
            .map(|_| (chance.below(400), Duration::from_secs(chance.below(40))))
            .collect(),
        signals: (0..chance.below(2)).map(|_| chance.below(600)).collect(),
    };
    let mut world = World::new(seed, platforms, faults, start);
    for _ in 0..1 + chance.below(3) {
        world.start_process(8, &parts);
    }
    world.play(Duration::from_secs(3 * 3600))?;
    // Running it again is always the cure.
    let mut last = usize::MAX;
    for _ in 0..6 {
        // A process that was killed before it opened a run has left nothing to resume.
        let done = (0..accounts).all(|n| {
            let ledger = world.model.ledger(&format!("a{n}"));
            !ledger.runs.is_empty() && ledger.open_run().is_none()
        });
        if done && last != usize::MAX {
            break;
        }
        last = world.start_process(8, &parts);
        world.play(Duration::from_secs(3 * 3600))?;
    }
    for (n, part) in parts.iter().enumerate() {
        check(&mut world, n, part.rate_limit.is_some(), last)?;
    }
    Ok(world.events)
}

/// The promises to one account.
fn check(world: &mut World, n: usize, limit_known: bool, last: usize) -> Result<(), String> {
    let ending = world.processes[last].accounts[n].ending().cloned();
    let platform = &world.platforms[n];
    let ledger = world.model.accounts.get(&format!("a{n}")).ok_or("no account")?;
    let account = |what: String| Err(format!("account {n}: {what}; it ended with {ending:?}"));
    if let Some(run) = ledger.open_run() {
        return account(format!("its run is still open: {run:?}"));
    }
    if !ledger.tasks.is_empty() {
        return account(format!("{} tasks are left", ledger.tasks.len()));
    }
    let newest = ledger.runs.last().ok_or("no run")?;
    for id in (1..=platform.settings.campaigns).map(|n| format!("c{n}")) {
        let row = ledger.campaigns.get(&id);
        let letter = ledger.dead_letters.get(&id);
        if platform.is_poisoned(&id) {
            if letter.is_none() {
                return account(format!("{id} is no dead letter, {row:?}"));
            }
            continue;
        }
        match (row, letter) {
            (Some(row), _) if row.run_id == newest.run_id && !row.removed => {}
            (None, Some(letter)) | (Some(_), Some(letter)) if letter.run_id == newest.run_id => {
                // Bad luck five times over is allowed where syncs fail by chance, and an outage is no reason.
                if platform.settings.failing == 0.0 && platform.settings.hanging == 0.0 {
                    return account(format!("{id} is a dead letter for nothing: {}", letter.cause));
                }
            }
            other => {
                return account(format!(
                    "{id} of {} is lost: {other:?}; newest run {newest:?}",
                    platform.settings.campaigns
                ));
            }
        }
    }
    if let Some((id, times)) = ledger.stored.iter().find(|(_, times)| **times > 1) {
        return account(format!("{id:?} was stored {times} times"));
    }
    if limit_known && platform.refused > 0 {
        return account(format!(
            "{} of {} requests were refused under a known limit",
            platform.refused, platform.limited
        ));
    }
    Ok(())
}

#[test]
fn the_promises_hold_under_schedules_of_faults() {
    let first: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let seconds: u64 =
        std::env::var("SIMULATE_SECONDS").ok().and_then(|seed| seed.parse().ok()).unwrap_or(10);
    let most: u64 = std::env::var("SCHEDULES").ok().and_then(|seed| seed.parse().ok()).unwrap_or(u64::MAX);
    let begun = Instant::now();
    let (mut schedules, mut events, mut violations) = (0, 0, Vec::new());
    while begun.elapsed() < Duration::from_secs(seconds) && schedules < most {
        let seed = first + schedules;
        match std::panic::catch_unwind(|| play(seed)) {
            Ok(Ok(played)) => events += played,
            Ok(Err(violation)) => violations.push(format!("seed {seed}: {violation}")),
            Err(_) => violations.push(format!("seed {seed}: panic")),
        }
        schedules += 1;
    }
    println!("{schedules} schedules from seed {first}, {events} events, {} violations", violations.len());
    assert!(violations.is_empty(), "{}", violations[..violations.len().min(5)].join("\n"));
}

/// However long the store takes with what it is told of tokens.
#[test]
fn a_token_is_fetched_once_for_each_time_that_one_is_refused() {
    let start = Instant::now() + Duration::from_secs(1_000_000);
    for seed in 0..200 {
        let mut chance = Chance::new(seed);
        let platform = Settings {
            campaigns: 60,
            limit: None,
            failing: 0.0,
            hanging: 0.0,
            poisoned_every: 0,
            refused_every: 0,
            revoke_every: 5 + chance.below(20),
            outage: None,
            latency: Duration::from_millis(1 + chance.below(60)),
        };
        let faults = Faults { slow_store: Duration::from_millis(200), ..Faults::default() };
        let part = AccountSettings { keeps_token: true, ..settings(None, 20, seed) };
        let mut world = World::new(seed, vec![Platform::new(platform, start)], faults, start);
        world.start_process(8, &[part]);
        world.play(Duration::from_secs(3 * 3600)).unwrap();
        let platform = &world.platforms[0];
        let refused = platform.refused_tokens.len() as u64;
        assert!(
            refused > 0 && platform.tokens <= 1 + refused,
            "seed {seed}: {} for {refused}",
            platform.tokens
        );
    }
}
