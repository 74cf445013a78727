//! How an account stands: whether a person has to do something about it, in a word and in one line.

use signal_hook::consts::{SIGINT, SIGTERM};

use super::text::{age, visible};
use crate::store::leases::LEASE_SECONDS;
use crate::store::overview::Overview;
use crate::store::runs::Progress;
use crate::sync::Ending;

/// How an account stands, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The last run could not go on, was abandoned, or there was none.
    Stopped,
    /// Campaigns have failed, or the listing was not whole.
    Failed,
    /// A run is open and no process works on it: the next `sync` resumes it.
    Waiting,
    /// A run is under way.
    Working,
    /// All listed campaigns are synced.
    Complete,
}

impl Standing {
    /// How this account stands.
    #[must_use]
    pub fn of(overview: &Overview) -> Self {
        let Some(run) = &overview.run else { return Self::Stopped };
        let alive = |age: std::time::Duration| age.as_secs_f64() <= LEASE_SECONDS;
        let at_work = overview.workers.iter().any(|worker| alive(worker.heartbeat_age));
        match run.state.as_str() {
            "running" if at_work => Self::Working,
            // Cut off on purpose, at the deadline or by a signal: the next run resumes it.
            "stopped" if run.last_error.as_deref().is_some_and(is_wanted) => Self::Waiting,
            "running" if run.last_error.is_some() || overview.abandoned.is_some() => Self::Stopped,
            "running" => Self::Waiting,
            "complete" | "partial"
                if !overview.dead_letters.is_empty() || run.not_removed_reason.is_some() =>
            {
                Self::Failed
            }
            "complete" => Self::Complete,
            "partial" => Self::Failed,
            _ => Self::Stopped,
        }
    }

    /// The word for the state of the last run: a run that nobody works on is not called running.
    pub(super) fn state(self, run: &Progress) -> String {
        match (run.state.as_str(), self) {
            ("running", Self::Stopped | Self::Waiting) => "interrupted".into(),
            (state, _) => visible(state),
        }
    }

    /// Whether a person has to look at it.
    #[must_use]
    pub fn needs_a_person(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// What `status --exit-code` makes of it, as `sync` would have ended.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Stopped | Self::Waiting => 5,
            Self::Failed => 3,
            Self::Working | Self::Complete => 0,
        }
    }
}

/// Whether a run was stopped by whoever runs it.
fn is_wanted(reason: &str) -> bool {
    let wanted = [Ending::Deadline, Ending::Interrupted(SIGINT), Ending::Interrupted(SIGTERM)];
    wanted.iter().any(|ending| ending.to_string() == reason)
}

/// One line for an account with which nothing is wrong.
#[must_use]
pub fn line(account: &str, overview: &Overview) -> String {
    let account = visible(account);
    let Some(run) = &overview.run else { return format!("{account}: never synced\n") };
    let total = run.total.unwrap_or(run.listed).max(run.listed);
    let standing = Standing::of(overview);
    let when = match (standing, overview.freshness.success_age) {
        (Standing::Waiting, _) => {
            format!(", {} pending, nobody at work: the next sync resumes it", overview.pending)
        }
        (Standing::Working, _) => format!(", {} pending", overview.pending),
        (_, Some(past)) => format!(", {} ago", age(past)),
        (_, None) => String::new(),
    };
    format!("{account}: run {} {}: {} of {total} synced{when}\n", run.run_id, standing.state(run), run.synced)
}

/// The line above all accounts.
#[must_use]
pub fn total(standings: &[Standing]) -> String {
    let count = |wanted: Standing| standings.iter().filter(|standing| **standing == wanted).count();
    let parts = [
        (count(Standing::Stopped), "stopped"),
        (count(Standing::Failed), "with failed campaigns"),
        (count(Standing::Waiting), "to be resumed"),
        (count(Standing::Working), "running"),
        (count(Standing::Complete), "complete"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}")).collect();
    format!("{} accounts: {}\n", standings.len(), parts.join(", "))
}
