//! What comes of an attempt: one pure function of its result, its history and the policy. It knows no clock, no lock and no
//! I/O; whoever made the attempt carries the decision out, and counts, logs and tells it.

use std::fmt;
use std::time::Duration;

use super::attempt::Asked;
use super::ending::Ending;
use crate::http::retry::{Backoff, Cause};
use crate::platform::CallError;

/// So many 401s for one campaign, each with another token, and it is the campaign that is refused: a platform that ends its
/// tokens early may meet the same campaign twice or thrice.
const MOST_UNAUTHORIZED: u32 = 5;
/// A wait beyond `--max-wait` is believed once nothing has succeeded for so long, or for `--give-up-after`: one such word may
/// be senseless, and most windows are no longer than a minute.
pub(crate) const DOUBTED: Duration = Duration::from_secs(60);
/// The wait after a shortage is that after so many failures in a row: half a second, on average.
const SHORTAGE_FAILURES: u32 = 3;
/// A token endpoint that refuses by a limit tells of it nowhere else: its waits begin at a second.
const TOKEN_REFUSALS: u32 = 2;

/// How patient to be with an account.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts at one campaign.
    pub max_attempts: u32,
    /// The longest wait that the platform may ask for.
    pub max_wait: Duration,
    /// How long nothing at all may succeed.
    pub give_up_after: Duration,
}

/// What happened before, this attempt included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History {
    /// Attempts that failed.
    pub failures: u32,
    /// 401s.
    pub unauthorized: u32,
    /// 403s.
    pub forbidden: u32,
    /// Refusals by a rate limiter; counted for tokens only, which no limiter paces.
    pub refusals: u32,
    /// The token was accepted before; where a token is asked for, the last one that was given.
    pub token_accepted: bool,
    /// What shows that the platform is up, and that it is this campaign that fails.
    pub proof: Option<Proof>,
    /// The request was abandoned on the way: whatever came of it, it is none of the campaign's doing.
    pub abandoned: bool,
    /// How long nothing at all has succeeded, when that is too long.
    pub given_up: Option<Duration>,
    /// How long nothing has succeeded, refusals included.
    pub luckless: Duration,
    /// What a retry beyond the budget waits in addition.
    pub over_budget: Duration,
}

/// Why a failure is the campaign's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Another campaign, sent after the first failure of this one, went well.
    Others,
    /// No other is left, and the listing answers.
    Listing,
}

/// How patient to be, and with whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy<'a> {
    pub patience: Patience,
    pub backoff: Backoff,
    /// The API's address.
    pub api: &'a str,
    /// Where in the range of the own wait to wait, from 0 to 1.
    pub chance: f64,
}

/// Who wants the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// This program: it lengthens with each failure, and never ends a run.
    OwnBackoff,
    /// The platform: beyond `--max-wait` it ends the run.
    PlatformAsked,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Nothing: it went well.
    Done,
    /// Try again after this time.
    Again(Duration, Because),
    /// Try again as soon as the limiter lets it through.
    WhenGateOpens,
    /// Try again with a fresh token.
    WithFreshToken,
    /// The platform refuses a page that it has promised: where does the listing end now?
    PageGone,
    /// It failed for good.
    DeadLetter {
        /// A word for grouping.
        cause: &'static str,
        /// A line for people.
        reason: String,
    },
    /// The account's part is over already: the next run sees to it.
    Left,
    /// The account's part ends.
    Stop(Ending),
}

impl Decision {
    /// Whether another attempt will be made.
    pub fn is_retry(&self) -> bool {
        matches!(self, Self::Again(..) | Self::WhenGateOpens | Self::WithFreshToken)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Again(wait, Because::OwnBackoff) => write!(f, "next try in {} ms", wait.as_millis()),
            Self::Again(wait, Because::PlatformAsked) => {
                write!(f, "next try in {} ms, as the platform asks", wait.as_millis())
            }
            Self::WhenGateOpens => f.write_str("next try when the limit permits"),
            Self::WithFreshToken => f.write_str("next try with a fresh token"),
            Self::PageGone => f.write_str("looking where the listing ends now"),
            Self::DeadLetter { .. } => f.write_str("a dead letter"),
            Self::Left | Self::Stop(_) => f.write_str("stopping"),
        }
    }
}

/// Decides what comes of an attempt at what was asked.
pub(crate) fn decide(
    asked: Asked<'_>,
    result: Result<(), &CallError>,
    history: &History,
    policy: &Policy<'_>,
) -> Decision {
    let Err(error) = result else { return Decision::Done };
    match error {
        CallError::RateLimited { hint, .. } => refused_by_limit(asked, error, *hint, history, policy),
        CallError::Unauthorized => unauthorized(asked, history, policy),
        CallError::Refused { status, message } => refused(asked, error, (*status, message), history, policy),
        CallError::Retry { .. } if history.abandoned => Decision::Left,
        // No attempt at all: nothing was sent.
        CallError::Shortage(shortage) => given_up(history, policy, &shortage.to_string())
            .unwrap_or_else(|| again(SHORTAGE_FAILURES, None, &History::default(), policy)),
        CallError::Retry { cause, hint, message } => {
            let message = match asked {
                Asked::Token => format!("no token: {message}"),
                Asked::Page(_) | Asked::Campaign(_) => message.clone(),
            };
            failed(asked, (*cause, *hint, &message), history, policy)
        }
    }
}

/// A refusal by a rate limiter costs no attempt, but it is nothing that could go on for ever either.
fn refused_by_limit(
    asked: Asked<'_>,
    error: &CallError,
    hint: Option<Duration>,
    history: &History,
    policy: &Policy<'_>,
) -> Decision {
    if let Some(stop) = given_up(history, policy, &error.to_string()) {
        return stop;
    }
    let too_long = hint.filter(|hint| *hint > policy.patience.max_wait);
    match (asked, too_long) {
        (Asked::Token, Some(wait)) => wait_too_long(wait, policy),
        (Asked::Token, None) => again(TOKEN_REFUSALS + history.refusals, hint, history, policy),
        (_, Some(wait)) if history.luckless >= policy.patience.give_up_after.min(DOUBTED) => {
            wait_too_long(wait, policy)
        }
        (Asked::Page(_) | Asked::Campaign(_), _) => Decision::WhenGateOpens,
    }
}

fn unauthorized(asked: Asked<'_>, history: &History, policy: &Policy<'_>) -> Decision {
    let credentials = |message: &str| Decision::Stop(Ending::CredentialsRefused(message.into()));
    let again_refused = history.unauthorized >= 2 && !history.token_accepted;
    match asked {
        Asked::Token => credentials("the platform knows no such email and password"),
        _ if again_refused => credentials("a fresh token was refused as well (401)"),
        Asked::Page(_) if history.unauthorized > policy.patience.max_attempts => {
            credentials("a fresh token was refused as well (401)")
        }
        Asked::Campaign(_) if history.unauthorized >= MOST_UNAUTHORIZED => Decision::DeadLetter {
            cause: Cause::Unauthorized.word(),
            reason: format!(
                "refused with {MOST_UNAUTHORIZED} tokens that are good for other campaigns (401)"
            ),
        },
        Asked::Page(_) | Asked::Campaign(_) => Decision::WithFreshToken,
    }
}

fn refused(
    asked: Asked<'_>,
    error: &CallError,
    (status, message): (u16, &str),
    history: &History,
    policy: &Policy<'_>,
) -> Decision {
    match asked {
        Asked::Campaign(_) => Decision::DeadLetter { cause: error.word(), reason: message.to_owned() },
        // What was permitted before: a firewall on the way, more likely than the credentials.
        _ if status == 403 && history.token_accepted && history.forbidden < policy.patience.max_attempts => {
            given_up(history, policy, message)
                .unwrap_or_else(|| again(history.forbidden, None, history, policy))
        }
        Asked::Token if status == 403 => {
            Decision::Stop(Ending::CredentialsRefused("the platform knows no such email and password".into()))
        }
        Asked::Page(_) if status == 403 => Decision::Stop(Ending::CredentialsRefused(message.to_owned())),
        _ if is_page_gone(asked, status) => Decision::PageGone,
        Asked::Token => Decision::Stop(Ending::RequestRefused(format!("no token: {message}"))),
        Asked::Page(_) => Decision::Stop(Ending::RequestRefused(message.to_owned())),
    }
}

/// Whether a refusal says that this page of the listing is not there, rather than that the settings are wrong.
pub(crate) fn is_page_gone(asked: Asked<'_>, status: u16) -> bool {
    matches!(asked, Asked::Page(page) if page > 1) && matches!(status, 400 | 404 | 410 | 416 | 422)
}

/// A failure of the campaign, or of the API? It is the campaign's only when something proves that the API works.
fn failed(
    asked: Asked<'_>,
    (cause, hint, message): (Cause, Option<Duration>, &str),
    history: &History,
    policy: &Policy<'_>,
) -> Decision {
    let failures = history.failures;
    let last = matches!(asked, Asked::Campaign(_)) && failures >= policy.patience.max_attempts;
    if last && history.proof == Some(Proof::Others) {
        let reason = format!("{message}, at the last of {failures} attempts");
        return Decision::DeadLetter { cause: cause.word(), reason };
    }
    if let Some(stop) = given_up(history, policy, message) {
        return stop;
    }
    if last && history.proof == Some(Proof::Listing) {
        let reason = format!("failed {failures} times, while the listing answers");
        return Decision::DeadLetter { cause: "failing", reason };
    }
    match hint.filter(|hint| *hint > policy.patience.max_wait) {
        Some(wait) => wait_too_long(wait, policy),
        None => again(failures, hint, history, policy),
    }
}

fn again(failures: u32, hint: Option<Duration>, history: &History, policy: &Policy<'_>) -> Decision {
    let own = policy.backoff.after(failures, None, policy.chance);
    let wait = policy.backoff.after(failures, hint, policy.chance);
    let because = if wait > own { Because::PlatformAsked } else { Because::OwnBackoff };
    Decision::Again(wait.saturating_add(history.over_budget), because)
}

fn wait_too_long(wait: Duration, policy: &Policy<'_>) -> Decision {
    Decision::Stop(Ending::WaitTooLong { wait, allowed: policy.patience.max_wait })
}

fn given_up(history: &History, policy: &Policy<'_>, last: &str) -> Option<Decision> {
    let after = history.given_up?;
    Some(Decision::Stop(Ending::GaveUp { after, api: policy.api.to_owned(), last: last.to_owned() }))
}

#[cfg(test)]
mod tests;
