//! What runs were like while they lasted: read by `report` and `status`, written with heartbeats.

use std::time::{Duration, SystemTime};

use postgres::types::Type;
use postgres::{Error, Row};

use super::{Client, quota};
use crate::http::RateLimit;

/// A run at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Since its start.
    pub at: Duration,
    /// Campaigns seen.
    pub listed: i64,
    /// Campaigns stored.
    pub synced: i64,
    /// Campaigns that became dead letters.
    pub failed: i64,
    /// Requests that count towards the rate limit.
    pub limited: i64,
    /// Those of them that it refused.
    pub refused: i64,
}

/// A run from its start to its end, or to now.
#[derive(Clone, Debug)]
pub struct Course {
    /// Its number.
    pub run_id: i64,
    /// `running`, `complete`, `partial`, `stopped` or `abandoned`.
    pub state: String,
    /// False for a run of `retry`.
    pub lists: bool,
    /// Whether the last page is in.
    pub listing_done: bool,
    /// When it was opened.
    pub started_at: SystemTime,
    /// When it was closed or abandoned.
    pub finished_at: Option<SystemTime>,
    /// From its start to its end, to the moment it was stopped, or to now.
    pub lasted: Duration,
    /// The platform's word on the number of campaigns.
    pub total: Option<i64>,
    /// Campaigns seen.
    pub listed: i64,
    /// Campaigns stored.
    pub synced: i64,
    /// Campaigns that became dead letters.
    pub failed: i64,
    /// Campaigns found gone.
    pub removed: i64,
    /// Campaigns no longer listed that were not marked as removed, …
    pub not_removed: i64,
    /// … and why, or why none would have been: a word for grouping.
    pub not_removed_reason: Option<String>,
    /// Requests of all its processes.
    pub requests: i64,
    /// Those that count towards the rate limit.
    pub limited: i64,
    /// Refusals by the rate limiter.
    pub refused: i64,
    /// Attempts made again, not for a refusal.
    pub retries: i64,
    /// Tokens fetched.
    pub token_refreshes: i64,
    /// The rate limit it worked under, when one was known.
    pub limit: Option<RateLimit>,
    /// Requests by duration, as [`spread`](crate::http::spread) has them; empty for a run of a version that did not count.
    pub durations: Vec<i64>,
    /// Retries by cause, in the order of [`Cause::ALL`](crate::http::retry::Cause::ALL); or empty, as above.
    pub retried: Vec<i64>,
    /// Why it was stopped.
    pub last_error: Option<String>,
    /// The version that opened it.
    pub binary_version: String,
    /// Its points, the last of them its end; empty unless it was asked for alone.
    pub samples: Vec<Sample>,
}

/// One run; none if there is no such run of this account.
///
/// # Errors
/// The database's.
pub fn course(client: &mut Client, account: &str, run_id: i64) -> Result<Option<Course>, Error> {
    Ok(courses(client, account, Some(run_id), 1)?.pop())
}

/// The last so many runs without their points, newest first.
///
/// # Errors
/// The database's.
pub fn recent(client: &mut Client, account: &str, most: i64) -> Result<Vec<Course>, Error> {
    courses(client, account, None, most)
}

fn courses(client: &mut Client, account: &str, run_id: Option<i64>, most: i64) -> Result<Vec<Course>, Error> {
    let rows = client.query_typed(
        include_str!("../../sql/run_courses.sql"),
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&most, Type::INT8)],
    )?;
    Ok(rows.iter().map(read).collect())
}

fn read(row: &Row) -> Course {
    let lasted = row.get::<_, f64>("lasted_s");
    let mut course = Course {
        run_id: row.get("run_id"),
        state: row.get("state"),
        lists: row.get("lists"),
        listing_done: row.get("listing_done"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
        lasted: Duration::try_from_secs_f64(lasted.max(0.0)).unwrap_or_default(),
        total: row.get("total"),
        listed: row.get("listed"),
        synced: row.get("synced"),
        failed: row.get("failed"),
        removed: row.get("removed"),
        not_removed: row.get("not_removed"),
        not_removed_reason: row.get("not_removed_reason"),
        requests: row.get("requests"),
        limited: row.get("limited"),
        refused: row.get("rate_limited"),
        retries: row.get("retries"),
        token_refreshes: row.get("token_refreshes"),
        limit: quota::limit(row),
        durations: row.get("durations"),
        retried: row.get("retried"),
        last_error: row.get("last_error"),
        binary_version: row.get("binary_version"),
        samples: Vec::new(),
    };
    if let Some(text) = row.get::<_, Option<&str>>("samples") {
        let points: Vec<Vec<i64>> = serde_json::from_str(text).unwrap_or_default();
        course.samples = smooth(points.iter().filter_map(|point| sample(point)).collect(), end(&course));
    }
    course
}

/// What the row itself says: so the shortest run has a last point.
fn end(course: &Course) -> Sample {
    Sample {
        at: course.lasted,
        listed: course.listed,
        synced: course.synced,
        failed: course.failed,
        limited: course.limited,
        refused: course.refused,
    }
}

fn sample(point: &[i64]) -> Option<Sample> {
    let [millis, listed, synced, failed, limited, refused, ..] = *point else { return None };
    let at = Duration::from_millis(u64::try_from(millis).ok()?);
    Some(Sample { at, listed, synced, failed, limited, refused })
}

/// In order of time, up to the end and never beyond what is reached later: a process that leaves in the moment of a sample
/// may have been counted twice.
fn smooth(mut samples: Vec<Sample>, end: Sample) -> Vec<Sample> {
    samples.sort_by_key(|sample| sample.at);
    samples.retain(|sample| sample.at < end.at);
    samples.push(end);
    let mut later = end;
    for sample in samples.iter_mut().rev() {
        sample.listed = sample.listed.min(later.listed);
        sample.synced = sample.synced.min(later.synced);
        sample.failed = sample.failed.min(later.failed);
        sample.limited = sample.limited.min(later.limited);
        sample.refused = sample.refused.min(later.refused);
        later = *sample;
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_end_with_the_run_and_never_fall() {
        let at = |seconds: u64, synced: i64| Sample {
            at: Duration::from_secs(seconds),
            synced,
            ..Sample::default()
        };
        let points = vec![at(4, 9), at(2, 12), at(0, 1), at(9, 9)];
        assert_eq!(smooth(points, at(8, 10)), [at(0, 1), at(2, 9), at(4, 9), at(8, 10)]);
        assert_eq!(smooth(Vec::new(), at(0, 3)), [at(0, 3)]);
        assert_eq!(sample(&[1, 2, 3]), None);
    }
}
