//! The one decision after an attempt: a pure function of its result, its history and the policy.

use std::time::{Duration, Instant};

use super::task::History;
use crate::http::retry::Cause;
use crate::platform::CallError;
use crate::sync::Ending;

/// 401s for one campaign, each with another token, after which it is the campaign that is refused.
const MAX_UNAUTHORIZED: u32 = 3;
/// The longest wait before the second attempt, and before any attempt; a wait is between zero and its limit (full jitter).
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(20));

/// The wait after a shortage of this machine's own.
pub const SHORTAGE: Duration = Duration::from_millis(500);

/// How patient the account is.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Attempts at one campaign.
    pub max_attempts: u32,
    /// The longest wait that the platform may ask for.
    pub max_wait: Duration,
}

/// What is known of the API when the attempt is judged.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// How often the lane has recovered from an outage.
    pub recoveries: u64,
    /// The newest send on the lane that succeeded.
    pub newest_success: Option<Instant>,
    /// Whether the token was never accepted for anything.
    pub token_never_accepted: bool,
    /// Between 0 and 1.
    pub jitter: f64,
}

/// What is to become of a task after an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It is synced.
    Done,
    /// Another attempt, when the limiter lets it through. It costs none.
    WhenGateOpens,
    /// Another attempt, with a fresh token. It costs none.
    WithFreshToken,
    /// Another attempt after this time.
    Again(Duration),
    /// Another attempt after this time: this machine could not make it. It costs none.
    WhenAble(Duration),
    /// None: the campaign is a dead letter.
    DeadLetter(&'static str, String),
    /// None: this process's part ends.
    Stop(Ending),
}

/// The wait after the `failures`-th failure in a row (from 1); a hint is a floor, never shortened.
#[must_use]
pub fn backoff(failures: u32, hint: Option<Duration>, jitter: f64) -> Duration {
    let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
    let wait = BACKOFF.0.saturating_mul(doubled).min(BACKOFF.1).mul_f64(jitter);
    // Some jitter above the floor, for the crowd that got the same hint.
    hint.map_or(wait, |hint| hint.saturating_add(wait.min(hint / 20)))
}

/// Decides what becomes of a campaign after an attempt, and updates its history.
pub fn judge(
    result: &Result<(), CallError>,
    history: &mut History,
    evidence: &Evidence,
    policy: &Policy,
    now: Instant,
) -> Decision {
    match result {
        Ok(()) => Decision::Done,
        Err(CallError::RateLimited { .. }) => Decision::WhenGateOpens,
        Err(CallError::Unauthorized) => unauthorized(history, evidence),
        Err(CallError::Shortage(_)) => Decision::WhenAble(SHORTAGE),
        Err(refused @ CallError::Refused { .. }) => Decision::DeadLetter(refused.word(), refused.to_string()),
        Err(CallError::Retry { cause, hint, message }) => {
            failed(*cause, *hint, message, history, evidence, policy, now)
        }
    }
}

fn unauthorized(history: &mut History, evidence: &Evidence) -> Decision {
    history.unauthorized += 1;
    if history.unauthorized >= 2 && evidence.token_never_accepted {
        return Decision::Stop(Ending::CredentialsRefused("a fresh token was refused as well (401)".into()));
    }
    if history.unauthorized >= MAX_UNAUTHORIZED {
        let reason =
            format!("refused with {MAX_UNAUTHORIZED} tokens that are good for other campaigns (401)");
        return Decision::DeadLetter(Cause::Unauthorized.word(), reason);
    }
    Decision::WithFreshToken
}

fn failed(
    cause: Cause,
    hint: Option<Duration>,
    message: &str,
    history: &mut History,
    evidence: &Evidence,
    policy: &Policy,
    now: Instant,
) -> Decision {
    if history.recoveries != evidence.recoveries {
        // The API was down in between: what failed then says nothing of the campaign.
        *history = History { recoveries: evidence.recoveries, ..History::default() };
    }
    history.unauthorized = 0;
    history.tries += 1;
    let first_failed = *history.first_failed.get_or_insert(now);
    let others_succeed = evidence.newest_success.is_some_and(|sent| sent > first_failed);
    if history.tries >= policy.max_attempts && others_succeed {
        let reason = format!("{message}, at the last of {} attempts", history.tries);
        return Decision::DeadLetter(cause.word(), reason);
    }
    match hint {
        Some(hint) if hint > policy.max_wait => {
            Decision::Stop(Ending::WaitTooLong { wait: hint, allowed: policy.max_wait })
        }
        hint => Decision::Again(backoff(history.tries, hint, evidence.jitter)),
    }
}
