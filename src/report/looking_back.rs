//! Past runs and failed campaigns, as tables for people and as JSON.

use std::time::Duration;

use serde_json::json;

use super::text::{age, duration, rfc3339, visible};
use crate::foreign;
use crate::store::dead_letters::Chosen;
use crate::store::samples::Course;

/// A table with its columns side by side, the last of them as wide as it is.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let wide = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(wide).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// To the second.
fn short(moment: std::time::SystemTime) -> String {
    let text = rfc3339(moment).unwrap_or_default();
    text.get(..19).map_or_else(String::new, |second| format!("{second}Z"))
}

/// Runs in the order in which they are given.
#[must_use]
pub fn runs_text(runs: &[(&str, Course)]) -> String {
    if runs.is_empty() {
        return "no run yet; campaign-sync sync makes one\n".into();
    }
    let mut rows = vec![cells([
        "ACCOUNT", "RUN", "STATE", "STARTED", "LASTED", "LISTED", "SYNCED", "FAILED", "REMOVED", "REQUESTS",
        "ERROR",
    ])];
    for (account, run) in runs {
        let error =
            run.last_error.as_deref().filter(|_| !matches!(run.state.as_str(), "complete" | "partial"));
        rows.push(vec![
            visible(account),
            run.run_id.to_string(),
            visible(&run.state) + if run.lists { "" } else { " (retry)" },
            short(run.started_at),
            duration(run.lasted),
            run.listed.to_string(),
            run.synced.to_string(),
            run.failed.to_string(),
            run.removed.to_string(),
            run.requests.to_string(),
            error.map(visible).unwrap_or_default(),
        ]);
    }
    table(&rows)
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A run as one object.
#[must_use]
pub fn run_json(account: &str, run: &Course) -> String {
    foreign::json(
        json!({
            "account": account, "run_id": run.run_id, "state": run.state, "lists": run.lists,
            "listing_done": run.listing_done, "started_at": rfc3339(run.started_at),
            "finished_at": run.finished_at.and_then(rfc3339), "lasted_s": seconds(run.lasted), "total": run.total,
            "listed": run.listed, "synced": run.synced, "failed": run.failed, "removed": run.removed,
            "not_removed": run.not_removed, "not_removed_reason": run.not_removed_reason,
            "requests": run.requests, "retries": run.retries, "rate_limited": run.refused,
            "token_refreshes": run.token_refreshes, "last_error": run.last_error, "version": run.binary_version,
        })
        .to_string(),
    )
}

/// Failed campaigns of an account, below a line that names the columns if they are the first.
#[must_use]
pub fn letters_text(account: &str, letters: &[Chosen], first: bool) -> String {
    let mut rows = vec![cells(["ACCOUNT", "CAMPAIGN", "CAUSE", "STATUS", "ATTEMPTS", "AGE", "REASON"])];
    for chosen in letters {
        let letter = &chosen.letter;
        rows.push(vec![
            visible(account),
            visible(&letter.id),
            visible(&chosen.cause),
            last_status(&letter.reason).map_or_else(|| "-".into(), |status| status.to_string()),
            letter.attempts.to_string(),
            age(chosen.age),
            visible(&letter.reason),
        ]);
    }
    let text = table(&rows);
    match text.split_once('\n') {
        Some((_, rest)) if !first => rest.to_owned(),
        _ => text,
    }
}

/// A failed campaign as one object.
#[must_use]
pub fn letter_json(account: &str, chosen: &Chosen) -> String {
    let letter = &chosen.letter;
    foreign::json(
        json!({
            "account": account, "id": letter.id, "cause": chosen.cause, "reason": letter.reason,
            "last_status": last_status(&letter.reason), "attempts": letter.attempts, "retryable": chosen.retryable,
            "run_id": chosen.run_id, "failed_at": rfc3339(letter.failed_at), "age_s": seconds(chosen.age),
        })
        .to_string(),
    )
}

/// The status of the last answer, where the reason names it.
fn last_status(reason: &str) -> Option<u16> {
    if reason.starts_with("the platform says success: false") {
        return Some(200);
    }
    let digits = reason.split_once("the platform answered ")?.1.get(..3)?;
    digits.parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_status_is_what_the_reason_names() {
        for (reason, status) in [
            ("the platform answered 410: Campaign is gone", Some(410)),
            ("the platform answered 503, at the last of 5 attempts", Some(503)),
            ("the platform answered 503", Some(503)),
            ("the platform says success: false: the platform answered 404", Some(200)),
            ("the platform answered with no JSON (line 1, column 1)", None),
            ("the platform answered ", None),
            ("the platform answered é", None),
            ("impressions: not a whole number", None),
        ] {
            assert_eq!(last_status(reason), status, "{reason}");
        }
    }

    #[test]
    fn columns_stand_side_by_side_and_nothing_trails() {
        let rows = [cells(["A", "B", "C"]), cells(["ü", "long", ""])];
        assert_eq!(table(&rows), "A  B     C\nü  long\n");
        assert_eq!(table(&[]), "");
    }
}
