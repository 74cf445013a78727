//! The result of a run, for people and as one JSON object.

use std::time::Duration;

use serde::Serialize;

use super::text::{duration, rfc3339, visible};
use crate::foreign;
use crate::store::runs::Progress;
use crate::sync::{Ending, Outcome};

/// What `sync --json` prints for each account.
#[derive(Serialize)]
struct Summary<'a> {
    account: &'a str,
    run_id: Option<i64>,
    state: &'a str,
    listed: i64,
    synced: i64,
    failed: i64,
    pending: i64,
    removed: i64,
    requests: i64,
    retries: i64,
    rate_limited: i64,
    token_refreshes: i64,
    elapsed_s: f64,
    lower_bound_s: Option<f64>,
    error: Option<String>,
    total: Option<i64>,
    not_removed: i64,
    not_removed_reason: Option<&'a str>,
    started_at: Option<String>,
    finished_at: Option<String>,
}

/// The outcome as one line of JSON.
#[must_use]
pub fn json(outcome: &Outcome) -> String {
    let run = outcome.run.as_ref();
    let count = |field: fn(&Progress) -> i64| run.map_or(0, field);
    let summary = Summary {
        account: &outcome.account,
        run_id: run.map(|run| run.run_id),
        state: run.map_or("stopped", |run| run.state.as_str()),
        listed: count(|run| run.listed),
        synced: count(|run| run.synced),
        failed: count(|run| run.failed),
        pending: outcome.pending,
        removed: count(|run| run.removed),
        requests: count(|run| run.requests),
        retries: count(|run| run.retries),
        rate_limited: count(|run| run.rate_limited),
        token_refreshes: count(|run| run.token_refreshes),
        elapsed_s: millis(outcome.elapsed),
        lower_bound_s: outcome.lower_bound.map(millis),
        error: outcome.ending.as_ref().map(Ending::to_string),
        total: run.and_then(|run| run.total),
        not_removed: count(|run| run.not_removed),
        not_removed_reason: run.and_then(|run| run.not_removed_reason.as_deref()),
        started_at: run.and_then(|run| rfc3339(run.started_at)),
        finished_at: run.and_then(|run| run.finished_at).and_then(rfc3339),
    };
    foreign::json(serde_json::to_string(&summary).unwrap_or_default())
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// The outcome in a few lines.
#[must_use]
pub fn text(outcome: &Outcome) -> String {
    let Some(run) = &outcome.run else {
        return format!("{}: not synced\n", visible(&outcome.account));
    };
    let mut lines = vec![format!(
        "{}: run {} {}: {} of {} campaigns synced{}{}{}",
        visible(&outcome.account),
        run.run_id,
        visible(&run.state),
        run.synced,
        run.listed,
        part(run.failed, "failed (dead letters)"),
        part(outcome.pending, "pending"),
        part(run.removed, "marked as removed"),
    )];
    lines.extend(not_whole(run));
    let bound = outcome
        .lower_bound
        .filter(|bound| !bound.is_zero())
        .map_or_else(String::new, |bound| format!(" (minimum under the rate limit: {})", duration(bound)));
    // A run that others have worked on, or this process's predecessors, took longer than this process.
    let whole = Duration::try_from_secs_f64(run.elapsed_s).unwrap_or_default();
    let resumed = if whole > outcome.elapsed + Duration::from_secs(1) {
        format!(" (this process: {})", duration(outcome.elapsed))
    } else {
        String::new()
    };
    lines.push(format!(
        "{} in {}{resumed}{bound}. {}{}{}{}",
        counted(run.synced, "campaign", "campaigns"),
        duration(if resumed.is_empty() { outcome.elapsed } else { whole }),
        counted(run.requests, "request", "requests"),
        part(run.retries, if run.retries == 1 { "retry" } else { "retries" }),
        part(run.rate_limited, "rate-limited (429)"),
        part(run.token_refreshes, if run.token_refreshes == 1 { "login" } else { "logins" }),
    ));
    lines.join("\n") + "\n"
}

/// What a listing that is done has left open: campaigns that it did not show, and those not marked for that.
pub(super) fn not_whole(run: &Progress) -> Option<String> {
    let total = run.total.filter(|total| run.lists && run.listing_done && run.listed < *total);
    let unlisted = total.map(|total| format!("{} campaigns listed, the platform says {total}", run.listed));
    let not_removed = run.not_removed_reason.as_deref().map(|reason| match run.not_removed {
        0 => format!("the listing was not whole ({reason})"),
        count => format!("{count} no longer listed but not marked as removed ({reason})"),
    });
    let parts: Vec<String> = unlisted.into_iter().chain(not_removed).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// So many names of accounts that failed are in the last line.
const NAMED: usize = 20;

/// How many accounts have ended how, and which of them not well, by names and exit codes.
#[must_use]
pub fn total(ended: &[(String, i32)]) -> String {
    let with = |wanted: &[i32]| ended.iter().filter(|(_, code)| wanted.contains(code)).count();
    let (complete, partial) = (with(&[0]), with(&[3]));
    let stopped = ended.len() - complete - partial;
    let counts =
        [(complete, "complete"), (partial, "with dead letters"), (stopped, "stopped before the end")];
    let counts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}")).collect();
    // The most serious first: whoever has stopped, then whoever has dead letters.
    let mut failed: Vec<&(String, i32)> = ended.iter().filter(|(_, code)| *code != 0).collect();
    failed.sort_by_key(|(name, code)| (*code == 3, name));
    let names = failed.iter().take(NAMED).map(|(name, code)| format!("{} (exit code {code})", visible(name)));
    let mut names: Vec<String> = names.collect();
    if failed.len() > NAMED {
        names.push(format!("and {} more: campaign-sync status --failed", failed.len() - NAMED));
    }
    let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
    format!("{} accounts: {}{names}\n", ended.len(), counts.join(", "))
}

fn counted(count: i64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

fn part(count: i64, what: &str) -> String {
    if count > 0 { format!(", {count} {what}") } else { String::new() }
}
