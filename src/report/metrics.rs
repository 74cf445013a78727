//! Metrics of each account's last part in a run, in Prometheus' text form, for node_exporter's textfile collector.
//!
//! Counters go on from what the file says, as counters do; so do the values that a part could not find out anew. What the
//! file has of other accounts stays.

mod exposition;
mod file;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exposition::Sample;
pub use file::MetricsFile;
#[cfg(test)]
pub(crate) use file::{LONGEST_TURN, MOST_BYTES};

use crate::http::retry::Cause;
use crate::http::stats::{Counts, LATENCY_BOUNDS, STATUS_CLASSES};
use crate::store::overview::Freshness;
use crate::sync::{Ending, Outcome};

const LAST_SUCCESS: &str = "campaign_sync_last_success_timestamp_seconds";
const LAST_FINISHED: &str = "campaign_sync_last_finished_timestamp_seconds";
const EXIT_CODE: &str = "campaign_sync_last_exit_code";
const LISTING_FAILURES: &str = "campaign_sync_consecutive_listing_failures";
const DURATION: &str = "campaign_sync_run_duration_seconds";
const CAMPAIGNS: &str = "campaign_sync_campaigns";
const LISTED: &str = "campaign_sync_listed_campaigns";
const TOTAL: &str = "campaign_sync_platform_campaigns";
const NOT_REMOVED: &str = "campaign_sync_not_removed_campaigns";
const DEAD_LETTERS: &str = "campaign_sync_dead_letters";
const REQUESTS: &str = "campaign_sync_requests_total";
const RETRIES: &str = "campaign_sync_retries_total";
const TOKENS: &str = "campaign_sync_token_refreshes_total";
const WAITED: &str = "campaign_sync_rate_limit_wait_seconds_total";
const LATENCY: &str = "campaign_sync_request_duration_seconds";

/// What becomes of campaigns.
const STATES: [&str; 4] = ["synced", "failed", "pending", "removed"];

/// What one account's part in a run has to say.
#[derive(Clone, Debug)]
pub struct Row {
    account: String,
    exit_code: i32,
    elapsed: Option<Duration>,
    freshness: Freshness,
    dead_letters: Option<i64>,
    /// In the order of [`STATES`].
    campaigns: Option<[i64; STATES.len()]>,
    /// Of a listing that is done: campaigns listed, the platform's total, and those that were not marked as removed.
    listed: Option<(i64, Option<i64>, i64)>,
    listing: Listing,
    counts: Counts,
    waited: Duration,
}

/// How the listing went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// To its last page.
    Complete,
    /// The platform did not let it come to its end.
    Failed,
    /// It was not begun, or stopped on purpose: that says nothing.
    Unknown,
}

impl Row {
    /// What an outcome says.
    #[must_use]
    pub fn new(outcome: &Outcome) -> Self {
        let run = outcome.run.as_ref();
        Self {
            exit_code: outcome.exit_code(),
            elapsed: Some(outcome.elapsed),
            freshness: outcome.standing.as_ref().map(|standing| standing.freshness).unwrap_or_default(),
            dead_letters: outcome.standing.as_ref().map(|standing| standing.dead_letters),
            campaigns: run.map(|run| [run.synced, run.failed, outcome.pending, run.removed]),
            listed: run
                .filter(|run| run.lists && run.listing_done)
                .map(|run| (run.listed, run.total, run.not_removed)),
            listing: listing(outcome),
            counts: outcome.counts.clone(),
            waited: outcome.waited,
            ..Self::failed(&outcome.account, 0)
        }
    }

    /// An account whose part could not even begin.
    #[must_use]
    pub fn failed(account: &str, exit_code: i32) -> Self {
        Self {
            account: account.to_owned(),
            exit_code,
            elapsed: None,
            freshness: Freshness::default(),
            dead_letters: None,
            campaigns: None,
            listed: None,
            listing: Listing::Unknown,
            counts: Counts::default(),
            waited: Duration::ZERO,
        }
    }

    fn samples(&self, before: &[Sample]) -> Vec<Sample> {
        let mut samples = Samples { before, now: Vec::new() };
        // Zero rather than nothing: an alert on its age is to fire for an account that never was synced.
        for (name, moment) in
            [(LAST_SUCCESS, self.freshness.last_success), (LAST_FINISHED, self.freshness.last_finished)]
        {
            let moment = moment.map(seconds_of).or(samples.before(name, None));
            samples.set(name, None, Some(moment.unwrap_or(0.0)));
        }
        samples.set(EXIT_CODE, None, Some(f64::from(self.exit_code)));
        let failures = samples.before(LISTING_FAILURES, None).unwrap_or(0.0);
        let failures = match self.listing {
            Listing::Complete => 0.0,
            Listing::Failed => failures + 1.0,
            Listing::Unknown => failures,
        };
        samples.set(LISTING_FAILURES, None, Some(failures));
        samples.set(DURATION, None, self.elapsed.map(|elapsed| elapsed.as_secs_f64()));
        for (place, state) in STATES.into_iter().enumerate() {
            let count = self.campaigns.map(|campaigns| number(campaigns[place]));
            samples.set(CAMPAIGNS, Some(("state", state)), count);
        }
        if let Some((listed, total, not_removed)) = self.listed {
            samples.set(LISTED, None, Some(number(listed)));
            // A platform that tells of no total has none, whatever it told before.
            total.iter().for_each(|total| samples.set(TOTAL, None, Some(number(*total))));
            samples.set(NOT_REMOVED, None, Some(number(not_removed)));
        } else {
            [LISTED, TOTAL, NOT_REMOVED].iter().for_each(|name| samples.set(name, None, None));
        }
        samples.set(DEAD_LETTERS, None, self.dead_letters.map(number));
        self.count(&mut samples);
        samples.now
    }

    fn count(&self, samples: &mut Samples<'_>) {
        for (class, count) in STATUS_CLASSES.iter().zip(self.counts.by_class) {
            samples.add(REQUESTS, Some(("status", class)), whole(count));
        }
        for (cause, count) in Cause::ALL.iter().zip(self.counts.retries) {
            samples.add(RETRIES, Some(("cause", cause.word())), whole(count));
        }
        samples.add(TOKENS, None, whole(self.counts.token_refreshes));
        samples.add(WAITED, None, self.waited.as_secs_f64());
        let bounds = LATENCY_BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let mut below = 0;
        for (bound, count) in bounds.zip(self.counts.latency_buckets) {
            below += count;
            samples.add(&format!("{LATENCY}_bucket"), Some(("le", &bound)), whole(below));
        }
        samples.add(&format!("{LATENCY}_sum"), None, self.counts.latency.as_secs_f64());
        samples.add(&format!("{LATENCY}_count"), None, whole(below));
    }
}

fn listing(outcome: &Outcome) -> Listing {
    let failed = matches!(
        outcome.ending,
        Some(
            Ending::Listing(_)
                | Ending::ListingMoved { .. }
                | Ending::GaveUp { .. }
                | Ending::WaitTooLong { .. }
                | Ending::LimitTooSlow { .. }
                | Ending::RequestRefused(_)
        )
    );
    match &outcome.run {
        Some(run) if !run.lists => Listing::Unknown,
        Some(run) if run.listing_done => Listing::Complete,
        _ if failed => Listing::Failed,
        _ => Listing::Unknown,
    }
}

/// An account's samples, made from those before.
struct Samples<'a> {
    before: &'a [Sample],
    now: Vec<Sample>,
}

impl Samples<'_> {
    fn before(&self, name: &str, label: Option<(&str, &str)>) -> Option<f64> {
        self.before.iter().find(|sample| sample.is(name, label)).map(|sample| sample.value)
    }

    /// A gauge; unknown, it stays what it was.
    fn set(&mut self, name: &str, label: Option<(&str, &str)>, value: Option<f64>) {
        if let Some(value) = value.or_else(|| self.before(name, label)) {
            self.now.push(Sample::new(name, label, value));
        }
    }

    /// A counter, or a part of a histogram.
    fn add(&mut self, name: &str, label: Option<(&str, &str)>, more: f64) {
        let before = self.before(name, label).filter(|value| value.is_finite()).unwrap_or(0.0);
        self.now.push(Sample::new(name, label, before + more));
    }
}

fn seconds_of(moment: SystemTime) -> f64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64 / 1000.0
}

#[allow(clippy::cast_precision_loss, reason = "a metric is a double")]
fn number(count: i64) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss, reason = "a metric is a double")]
fn whole(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
