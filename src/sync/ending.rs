//! How a run, or this process's part in it, came to its end, and the exit code that says so.

use std::fmt;
use std::time::Duration;

use crate::http::RateLimit;
use crate::rate::limiter::Why;
use crate::store::error::StoreError;

/// Why this process stopped before everything was done. The first reason is the one that counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// SIGINT or SIGTERM, with its number.
    Interrupted(i32),
    /// The time that `--deadline` allows is over.
    Deadline,
    /// Nothing has succeeded for as long as `--give-up-after` allows.
    GaveUp {
        /// For how long.
        after: Duration,
        /// The API's address.
        api: String,
        /// What the last attempt said.
        last: String,
    },
    /// The server asks to wait for longer than `--max-wait`.
    WaitTooLong {
        /// How long it asks.
        wait: Duration,
        /// How long is allowed.
        allowed: Duration,
    },
    /// The rate limit makes the next request wait for longer than `--max-wait`.
    LimitTooSlow {
        /// The limit.
        limit: RateLimit,
        /// It is the user's own, and not what the platform has shown.
        own: bool,
        /// How long the wait is.
        wait: Duration,
        /// How long is allowed.
        allowed: Duration,
    },
    /// The platform refuses the credentials.
    CredentialsRefused(String),
    /// The platform refuses the request as such: a wrong address or page size, most likely.
    RequestRefused(String),
    /// The listing cannot be brought to its end.
    Listing(String),
    /// The platform refuses a page of the listing that it has promised.
    ListingMoved {
        /// Which one, and what the platform said.
        cause: String,
        /// It was so before: the run is given up.
        again: bool,
    },
    /// The run was abandoned by another process.
    Abandoned,
    /// The database is out of reach.
    DatabaseUnavailable(String),
    /// The database refuses us, or is not what we need.
    DatabaseRefused(String),
    /// A setting of this account is wrong.
    Misconfigured(String),
    /// The system has no thread for us, for this reason.
    NoThread(String),
    /// A fault of ours.
    Internal(String),
}

impl Ending {
    /// The documented exit code.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Internal(_) => 1,
            Self::RequestRefused(_) | Self::DatabaseRefused(_) | Self::Misconfigured(_) => 2,
            Self::CredentialsRefused(_) => 4,
            Self::Deadline
            | Self::GaveUp { .. }
            | Self::WaitTooLong { .. }
            | Self::LimitTooSlow { .. }
            | Self::Listing(_)
            | Self::ListingMoved { .. }
            | Self::Abandoned
            | Self::DatabaseUnavailable(_)
            | Self::NoThread(_) => 5,
            Self::Interrupted(signal) => 128 + signal,
        }
    }
}

/// The exit code for several accounts: what a person has to see to comes before what a later run cures.
pub fn most_serious(codes: impl IntoIterator<Item = i32>) -> i32 {
    const ORDER: [i32; 5] = [1, 2, 4, 5, 3];
    let rank = |code: &i32| match ORDER.iter().position(|other| other == code) {
        Some(place) => ORDER.len() - place,
        None if *code == 0 => 0,
        // A signal: the user knows already, and what else went wrong may be for its sake.
        None => usize::MAX,
    };
    codes.into_iter().max_by_key(rank).unwrap_or(0)
}

/// What comes before the place of the credentials.
const CHECK: &str = "; check ";

impl Ending {
    /// What ends a part, rather than a wait for a turn that is longer than `allowed`; `own` says that the limit is the user's. A
    /// wait of our own never does.
    pub(crate) fn of_wait(
        wait: Duration,
        why: Why,
        allowed: Duration,
        limit: Option<RateLimit>,
        own: bool,
    ) -> Option<Self> {
        match why {
            _ if wait <= allowed => None,
            Why::Gate => Some(Self::WaitTooLong { wait, allowed }),
            Why::RateLimit => limit.map(|limit| Self::LimitTooSlow { limit, own, wait, allowed }),
            Why::Backoff | Why::Pacing => None,
        }
    }

    /// The same, with the place of the credentials that were refused.
    pub(crate) fn with_credentials_in(self, place: Option<&str>) -> Self {
        match (self, place) {
            (Self::CredentialsRefused(cause), Some(place)) => {
                Self::CredentialsRefused(format!("{cause}{CHECK}{place}"))
            }
            (other, _) => other,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted(signal) => write!(f, "interrupted by signal {signal}; run again to resume"),
            Self::Deadline => f.write_str("the --deadline is over; run again to resume"),
            Self::GaveUp { after, api, last } => write!(
                f,
                "gave up after {} s without one success at {api}: {last}; if that is the platform's address, run again to resume once it works (--give-up-after sets the patience)",
                after.as_secs()
            ),
            Self::WaitTooLong { wait, allowed } => write!(
                f,
                "the platform asks to wait {} s, longer than --max-wait allows ({} s); run again after that to resume",
                wait.as_secs(),
                allowed.as_secs()
            ),
            Self::LimitTooSlow { limit, own, wait, allowed } => write!(
                f,
                "the next request is {} s away under {} {limit}, longer than --max-wait allows ({} s); raise --max-wait{}, or run again after that to resume",
                wait.as_secs(),
                if *own { "--rate-limit" } else { "the platform's rate limit of" },
                allowed.as_secs(),
                if *own { " or --rate-limit" } else { "" },
            ),
            // With their place in the accounts file, if there is one: see `with_credentials_in`.
            Self::CredentialsRefused(cause) if cause.contains(CHECK) => {
                write!(f, "credentials refused: {cause}")
            }
            Self::CredentialsRefused(cause) => write!(
                f,
                "credentials refused: {cause}{CHECK}AD_PLATFORM_EMAIL and AD_PLATFORM_PASSWORD (or what it is read from)"
            ),
            Self::RequestRefused(cause) => {
                write!(f, "the platform refuses the request: {cause}; check --api-url and --page-size")
            }
            Self::Listing(cause) => {
                write!(
                    f,
                    "the listing is incomplete: {cause}; run again to go on from there, and tell the platform's operators if it stays so"
                )
            }
            Self::ListingMoved { cause, again: false } => write!(
                f,
                "the listing has changed while it was read: {cause}; nothing was marked as removed; run again to ask for that page again, or sync --fresh to list from the first page in a new run"
            ),
            Self::ListingMoved { cause, again: true } => write!(
                f,
                "the listing still cannot be read on: {cause}; nothing was marked as removed, and this run is given up: the next sync lists from the first page in a new run, as with --fresh; tell the platform's operators if it stays so"
            ),
            Self::Abandoned => f.write_str(
                "the run was abandoned by another process (sync --fresh); run again to join the new one",
            ),
            Self::DatabaseUnavailable(cause) => write!(f, "{cause}; run again to resume"),
            Self::DatabaseRefused(cause) | Self::Misconfigured(cause) => f.write_str(cause),
            Self::NoThread(cause) => write!(
                f,
                "cannot start a thread: {cause}; allow more of them (ulimit -u, ulimit -v, TasksMax of a systemd unit) or ask for fewer by --workers, and run again to resume"
            ),
            Self::Internal(cause) => write!(f, "internal error: {cause}; please report it"),
        }
    }
}

impl From<StoreError> for Ending {
    fn from(error: StoreError) -> Self {
        let message = error.with_way_out();
        match error {
            StoreError::Unavailable { .. } => Self::DatabaseUnavailable(message),
            StoreError::Refused { .. } | StoreError::Row { .. } => Self::DatabaseRefused(message),
            StoreError::Internal { .. } => Self::Internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_accounts_the_most_serious_end_counts() {
        for (codes, expected) in [
            (vec![], 0),
            (vec![0, 0], 0),
            (vec![0, 3, 0], 3),
            (vec![3, 5, 0], 5),
            (vec![5, 4, 3], 4),
            (vec![4, 2, 5], 2),
            (vec![2, 1], 1),
            (vec![1, 130, 5], 130),
        ] {
            assert_eq!(most_serious(codes.clone()), expected, "{codes:?}");
        }
    }
}
