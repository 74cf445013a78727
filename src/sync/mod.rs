//! What the commands and the engine share: why a part ends and what came of it, what is decided after an attempt, and how one is
//! traced.

pub(crate) mod attempt;
pub(crate) mod decision;
mod ending;
mod spans;
pub(crate) mod trace;

use std::time::Duration;

pub use decision::Patience;
pub use ending::{Ending, most_serious};
pub use spans::{Recorder, Span, Value};

#[cfg(test)]
pub(crate) use decision::DOUBTED;

use crate::http::RateLimit;
use crate::http::stats::Counts;
use crate::store::closing::NotRemoved;
pub use crate::store::dead_letters::Retry;
use crate::store::overview::{Silent, Standing};
use crate::store::runs::Progress;

/// What is under way when an account's part is to stop has this long to be answered; then it is abandoned. A sync of the
/// reference platform takes 2 s.
pub(crate) const GRACE: Duration = Duration::from_millis(2_500);

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The account's name.
    pub account: String,
    /// The run as it stands now; none when it never came to one.
    pub run: Option<Progress>,
    /// Tasks that are left.
    pub pending: i64,
    /// Why it ended before its time, if it did.
    pub ending: Option<Ending>,
    /// How long this process took.
    pub elapsed: Duration,
    /// The least time in which the run's requests can be made under the rate limit, when one is known.
    pub lower_bound: Option<Duration>,
    /// This process has closed the run, and nothing might be marked as removed for this reason.
    pub not_removed: Option<NotRemoved>,
    /// What this process sent, and what came of it.
    pub counts: Counts,
    /// How long it waited for the rate limit.
    pub waited: Duration,
    /// How the account stands now, when that was wanted and the database has told.
    pub standing: Option<Standing>,
}

impl Outcome {
    /// It ended before there was a run.
    #[must_use]
    pub fn without_run(account: &str, ending: Ending, elapsed: Duration) -> Self {
        Self { ending: Some(ending), elapsed, ..Self::new(account) }
    }

    pub(crate) fn new(account: &str) -> Self {
        Self {
            account: account.to_owned(),
            run: None,
            pending: 0,
            ending: None,
            elapsed: Duration::ZERO,
            lower_bound: None,
            not_removed: None,
            counts: Counts::default(),
            waited: Duration::ZERO,
            standing: None,
        }
    }

    /// The documented exit code.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match (&self.ending, &self.run) {
            (Some(ending), _) => ending.exit_code(),
            (None, Some(run)) if run.failed > 0 || run.state == "partial" => 3,
            (None, _) => 0,
        }
    }
}

/// What this process waits for.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Nothing has succeeded yet.
    pub connecting: bool,
    /// How long it still waits for the rate limit, as far as is known.
    pub waiting: Option<Duration>,
    /// The rate limit, when one is known.
    pub limit: Option<RateLimit>,
    /// The process whose tasks it waits for, when that gives no sign of life.
    pub silent: Option<Silent>,
}

/// Watches a run from outside, for progress.
pub trait Watcher: Send + Sync {
    /// The run has been opened or joined.
    fn joined(&self, account: &str, run_id: i64, resumed: bool);
    /// Whether anybody sees what [`Self::progress`] is told.
    fn watching(&self) -> bool;
    /// A look at the run, a few times a second.
    fn progress(&self, account: &str, run: &Progress, pace: &Pace);
    /// This process's part is over.
    fn finished(&self, account: &str);
}

/// A run that was closed is done, even if a signal came at the last moment.
pub(crate) fn closed(outcome: &Outcome) -> bool {
    outcome.run.as_ref().is_some_and(|run| run.state == "complete" || run.state == "partial")
}

/// The least time for so many requests: the last of them cannot be sent before its window opens.
#[must_use]
pub fn lower_bound(requests: i64, limit: Option<RateLimit>) -> Option<Duration> {
    let limit = limit?;
    let windows = (requests - 1).max(0) / i64::from(limit.requests.get());
    Some(limit.window * u32::try_from(windows).unwrap_or(u32::MAX))
}
