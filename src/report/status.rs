//! An account's state, for people and as one JSON object.

use std::time::Duration;

use serde_json::{Value, json};

use super::standing::Standing;
use super::summary::not_whole;
use super::text::{age, duration, rfc3339, visible};
use crate::foreign;
use crate::store::leases::LEASE_SECONDS;
use crate::store::overview::{Overview, Worker};

/// After this time the pace means something.
const SETTLED: Duration = Duration::from_secs(60);

/// How long the open run may still take: from the pace of those at work, or the rate limit that was learned, whichever is
/// slower.
#[allow(clippy::cast_precision_loss)]
fn expected(overview: &Overview) -> Option<Duration> {
    let run = overview.run.as_ref().filter(|run| run.state == "running")?;
    let done = run.synced.saturating_add(run.failed);
    let left = run.total.unwrap_or(run.listed).max(run.listed).saturating_sub(done);
    if left <= 0 {
        return None;
    }
    let by_limit = overview.learned_limit.and_then(|limit| {
        let windows = left as f64 / f64::from(limit.requests.get());
        Duration::try_from_secs_f64(limit.window.as_secs_f64() * windows).ok()
    });
    // The first seconds tell little: within a limit's window the first requests go out at once.
    let settled = overview.workers.iter().any(|worker| worker.age >= SETTLED);
    let pace = pace(overview);
    let by_pace = (pace > 0.0 && (settled || by_limit.is_none()))
        .then(|| Duration::try_from_secs_f64(left as f64 / pace).ok())
        .flatten();
    by_limit.into_iter().chain(by_pace).max()
}

/// Campaigns a second, of all who are at work, since they began.
#[allow(clippy::cast_precision_loss)]
fn pace(overview: &Overview) -> f64 {
    let of = |worker: &Worker| worker.synced as f64 / worker.age.as_secs_f64().max(0.1);
    // An empty sum is minus zero.
    overview.workers.iter().map(of).sum::<f64>().max(0.0)
}

/// The account's standing, as `status --json` names it.
pub(super) fn standing(overview: &Overview) -> &'static str {
    match Standing::of(overview) {
        Standing::Stopped => "stopped",
        Standing::Failed => "failed",
        Standing::Waiting => "waiting",
        Standing::Working => "working",
        Standing::Complete => "complete",
    }
}

/// A few lines.
#[must_use]
pub fn text(account: &str, overview: &Overview) -> String {
    let mut lines = Vec::new();
    match &overview.run {
        None => lines.push(format!("{}: no run yet", visible(account))),
        Some(run) => {
            let total = run.total.unwrap_or(run.listed).max(run.listed);
            lines.push(format!(
                "{}: run {} {}: {} of {total} synced, {} failed, {} pending{}",
                visible(account),
                run.run_id,
                Standing::of(overview).state(run),
                run.synced,
                run.failed,
                overview.pending,
                if run.listing_done { "" } else { ", still listing" }
            ));
            if let Some(expected) = expected(overview) {
                lines.push(format!("  {:.1} campaigns/s, about {} left", pace(overview), duration(expected)));
            }
            lines.extend(not_whole(run).map(|open| format!("  {open}")));
            if let Some(error) = &run.last_error {
                lines.push(format!("  last error: {}", visible(error)));
            }
        }
    }
    if let Some(closed) = overview.gate {
        lines.push(match overview.gate_asked {
            Some(asked) => format!(
                "  no request for another {}: the platform asked to wait {}, longer than --max-wait allows; then one request finds out, and sync --fresh does not wait",
                duration(closed),
                duration(asked)
            ),
            None => format!("  no request for another {}: a rate limit was met", duration(closed)),
        });
    }
    for worker in &overview.workers {
        let silent = worker.heartbeat_age.as_secs_f64() > LEASE_SECONDS;
        lines.push(format!(
            "  {} pid {}: {} synced, holds {}, heartbeat {} ago{}",
            visible(&worker.host),
            worker.pid,
            worker.synced,
            worker.holds,
            duration(worker.heartbeat_age),
            if silent { " (dead: its tasks are free at the next sync)" } else { "" }
        ));
    }
    for heap in &overview.dead_letters {
        lines.push(format!(
            "  dead letters, {}: {}, such as {}: {}",
            visible(&heap.cause),
            heap.count,
            visible(&heap.example),
            visible(&heap.reason)
        ));
    }
    let retryable: i64 = overview.dead_letters.iter().map(|heap| heap.retryable).sum();
    if retryable > 0 {
        lines.push(format!("  campaign-sync retry retries {retryable} of them"));
    }
    let others = overview.dead_letters.iter().map(|heap| heap.count).sum::<i64>() - retryable;
    if others > 0 {
        lines.push(format!("  {others} of them have no record that can be retried: once the platform has fixed it, the next sync stores it"));
    }
    lines.push(format!("  {}", fresh(overview)));
    if let Some(lost) = &overview.abandoned {
        lines.push(format!(
            "  run {} abandoned {} ago: {} of {} campaigns listed were synced",
            lost.run_id,
            age(lost.age),
            lost.synced,
            lost.listed
        ));
    }
    lines.join("\n") + "\n"
}

/// How fresh the account's rows are.
fn fresh(overview: &Overview) -> String {
    let ago = |past: Duration| format!("{} ago", age(past));
    let failed = overview.run.as_ref().filter(|run| run.state == "partial").map(|run| run.failed);
    let failed = failed.map_or_else(|| "with failed campaigns".into(), |failed| format!("{failed} failed"));
    match (overview.freshness.success_age, overview.freshness.finished_age) {
        (Some(success), Some(finished)) if finished < success => {
            format!(
                "last finished run {}, {failed}; last fully successful run {}",
                ago(finished),
                ago(success)
            )
        }
        (Some(success), _) => format!("last fully successful run {}", ago(success)),
        (None, Some(finished)) => {
            format!("last finished run {}, {failed}; never fully successful", ago(finished))
        }
        (None, None) => "no finished run yet".into(),
    }
}

/// One object.
#[must_use]
pub fn json(account: &str, overview: &Overview) -> String {
    let seconds = |duration: Duration| (duration.as_secs_f64() * 1000.0).round() / 1000.0;
    let run = overview.run.as_ref().map(|run| {
        json!({
            "run_id": run.run_id, "state": run.state, "listing_done": run.listing_done, "total": run.total,
            "listed": run.listed, "synced": run.synced, "failed": run.failed, "removed": run.removed,
            "not_removed": run.not_removed, "not_removed_reason": run.not_removed_reason,
            "requests": run.requests, "retries": run.retries, "rate_limited": run.rate_limited,
            "elapsed_s": (run.elapsed_s * 1000.0).round() / 1000.0, "last_error": run.last_error,
            "version": run.binary_version, "started_at": rfc3339(run.started_at),
            "finished_at": run.finished_at.and_then(rfc3339),
        })
    });
    let workers: Vec<Value> = overview
        .workers
        .iter()
        .map(|worker| {
            json!({
                "host": worker.host, "pid": worker.pid, "heartbeat_age_s": seconds(worker.heartbeat_age),
                "synced": worker.synced, "holds": worker.holds,
            })
        })
        .collect();
    let letters: Vec<Value> = overview
        .dead_letters
        .iter()
        .map(|heap| json!({ "cause": heap.cause, "count": heap.count, "retryable": heap.retryable, "example": heap.example, "reason": heap.reason }))
        .collect();
    let object = json!({
        "account": account, "standing": standing(overview), "run": run, "workers": workers, "pending": overview.pending, "dead_letters": letters,
        "last_success_age_s": overview.freshness.success_age.map(seconds),
        "last_finished_age_s": overview.freshness.finished_age.map(seconds),
        "last_success_at": overview.freshness.last_success.and_then(rfc3339),
        "last_finished_at": overview.freshness.last_finished.and_then(rfc3339),
        "abandoned": overview.abandoned.as_ref().map(|lost| json!({
            "run_id": lost.run_id, "age_s": seconds(lost.age), "listed": lost.listed, "synced": lost.synced,
        })), "pace_per_s": (pace(overview) * 10.0).round() / 10.0,
        "expected_s": expected(overview).map(seconds),
        "gate_s": overview.gate.map(seconds), "gate_asked_s": overview.gate_asked.map(seconds),
        "rate_limit": overview.learned_limit.map(|limit| limit.to_string()),
    });
    foreign::json(object.to_string())
}
