//! One row for each situation.

use super::*;
use crate::own_machine::Shortage;

const SECOND: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(900);
const PATIENCE: Patience =
    Patience { max_attempts: 5, max_wait: MAX_WAIT, give_up_after: Duration::from_secs(300) };
const TOKEN: Asked<'static> = Asked::Token;
const FIRST_PAGE: Asked<'static> = Asked::Page(1);
const PAGE: Asked<'static> = Asked::Page(3);
const CAMPAIGN: Asked<'static> = Asked::Campaign("c");

/// What is expected, without the words for people.
#[derive(Debug, PartialEq)]
enum Expected {
    Own(Duration),
    Asked(Duration),
    Gate,
    FreshToken,
    Dead(&'static str),
    Left,
    PageGone,
    Credentials,
    Request,
    GaveUp,
    TooLong(Duration),
}

fn seen(decision: Decision) -> Expected {
    match decision {
        Decision::Done => panic!("done, after a failure"),
        Decision::Again(wait, Because::OwnBackoff) => Expected::Own(wait),
        Decision::Again(wait, Because::PlatformAsked) => Expected::Asked(wait),
        Decision::WhenGateOpens => Expected::Gate,
        Decision::WithFreshToken => Expected::FreshToken,
        Decision::DeadLetter { cause, .. } => Expected::Dead(cause),
        Decision::Left => Expected::Left,
        Decision::PageGone => Expected::PageGone,
        Decision::Stop(Ending::CredentialsRefused(_)) => Expected::Credentials,
        Decision::Stop(Ending::RequestRefused(_)) => Expected::Request,
        Decision::Stop(Ending::GaveUp { .. }) => Expected::GaveUp,
        Decision::Stop(Ending::WaitTooLong { wait, allowed }) => {
            assert_eq!(allowed, MAX_WAIT);
            Expected::TooLong(wait)
        }
        Decision::Stop(other) => panic!("{other:?}"),
    }
}

fn limited(hint: Option<Duration>) -> CallError {
    CallError::RateLimited { status: 429, hint }
}

fn failed(hint: Option<Duration>) -> CallError {
    CallError::Retry { cause: Cause::ServerError, hint, message: "the platform answered 503".into() }
}

fn shortage() -> CallError {
    CallError::Shortage(Shortage::of_files("no more"))
}

fn refused(status: u16) -> CallError {
    CallError::Refused { status, message: format!("the platform answered {status}") }
}

#[test]
fn each_situation_has_its_decision() {
    use Expected::*;
    let policy = Policy { patience: PATIENCE, backoff: Backoff::default(), api: "http://a", chance: 1.0 };
    let none = History::default();
    let tried = |failures| History { failures, ..none };
    let known = |forbidden| History { forbidden, token_accepted: true, ..none };
    let refusals = |unauthorized, token_accepted| History { unauthorized, token_accepted, ..none };
    let given_up = History { given_up: Some(300 * SECOND), failures: 3, ..none };
    let unlucky = |luckless| History { luckless, refusals: 4, ..none };
    let proven = |failures, proof| History { failures, proof: Some(proof), ..none };
    let (long, short) = (Some(7_200 * SECOND), Some(30 * SECOND));
    let ms = Duration::from_millis;
    for (n, (asked, error, history, expected)) in [
        // 429: no attempt; the limiter knows when to come back, but not for tokens.
        (PAGE, limited(None), none, Gate),
        (CAMPAIGN, limited(short), none, Gate),
        (TOKEN, limited(None), History { refusals: 1, ..none }, Own(SECOND)),
        (TOKEN, limited(short), History { refusals: 1, ..none }, Asked(31 * SECOND)),
        (TOKEN, limited(Some(Duration::ZERO)), History { refusals: 4, ..none }, Own(8 * SECOND)),
        (TOKEN, limited(long), History { refusals: 1, ..none }, TooLong(7_200 * SECOND)),
        // One word beyond all patience may be senseless; the same again and again is meant.
        (PAGE, limited(long), none, Gate),
        (CAMPAIGN, limited(long), unlucky(59 * SECOND), Gate),
        (CAMPAIGN, limited(long), unlucky(60 * SECOND), TooLong(7_200 * SECOND)),
        (CAMPAIGN, limited(short), unlucky(60 * SECOND), Gate),
        (PAGE, limited(None), given_up, GaveUp),
        (CAMPAIGN, limited(None), given_up, GaveUp),
        // 401: a fresh token, unless a fresh one was refused.
        (PAGE, CallError::Unauthorized, refusals(1, true), FreshToken),
        (PAGE, CallError::Unauthorized, refusals(1, false), FreshToken),
        (PAGE, CallError::Unauthorized, refusals(2, false), Credentials),
        (PAGE, CallError::Unauthorized, refusals(5, true), FreshToken),
        (PAGE, CallError::Unauthorized, refusals(6, true), Credentials),
        (CAMPAIGN, CallError::Unauthorized, refusals(1, false), FreshToken),
        (CAMPAIGN, CallError::Unauthorized, refusals(2, false), Credentials),
        (CAMPAIGN, CallError::Unauthorized, refusals(4, true), FreshToken),
        (CAMPAIGN, CallError::Unauthorized, refusals(5, true), Dead("unauthorized")),
        (TOKEN, CallError::Unauthorized, refusals(1, true), Credentials),
        // 403: final for what was never permitted, tried again for what was.
        (PAGE, refused(403), History { forbidden: 1, ..none }, Credentials),
        (PAGE, refused(403), known(1), Own(ms(250))),
        (PAGE, refused(403), known(4), Own(2 * SECOND)),
        (PAGE, refused(403), known(5), Credentials),
        (PAGE, refused(403), History { given_up: given_up.given_up, ..known(2) }, GaveUp),
        (TOKEN, refused(403), History { forbidden: 1, ..none }, Credentials),
        (TOKEN, refused(403), known(1), Own(ms(250))),
        (CAMPAIGN, refused(403), known(0), Dead("forbidden")),
        // Any other refusal is final.
        (FIRST_PAGE, refused(400), known(0), Request),
        (PAGE, refused(405), known(0), Request),
        (PAGE, refused(404), known(0), PageGone),
        (TOKEN, refused(404), none, Request),
        (CAMPAIGN, refused(404), none, Dead("not_found")),
        (CAMPAIGN, refused(200), none, Dead("refused")),
        // Failures: the own wait grows, and a hint lengthens it; only a hint ends a run.
        (PAGE, failed(None), tried(1), Own(ms(250))),
        (PAGE, failed(None), tried(50), Own(20 * SECOND)),
        (PAGE, failed(None), History { over_budget: SECOND, ..tried(1) }, Own(ms(1_250))),
        (CAMPAIGN, failed(Some(Duration::ZERO)), tried(4), Own(2 * SECOND)),
        (CAMPAIGN, failed(short), tried(1), Asked(ms(30_250))),
        (TOKEN, failed(long), tried(1), TooLong(7_200 * SECOND)),
        (CAMPAIGN, failed(long), tried(1), TooLong(7_200 * SECOND)),
        (TOKEN, failed(None), given_up, GaveUp),
        (CAMPAIGN, failed(long), given_up, GaveUp),
        // A shortage of this machine's is no attempt.
        (CAMPAIGN, shortage(), tried(7), Own(SECOND)),
        (PAGE, shortage(), given_up, GaveUp),
        // What is abandoned says nothing of the campaign.
        (CAMPAIGN, failed(None), History { abandoned: true, ..proven(9, Proof::Others) }, Left),
        // A campaign is to blame only while others succeed, or the listing answers.
        (CAMPAIGN, failed(None), tried(5), Own(4 * SECOND)),
        (CAMPAIGN, failed(None), proven(4, Proof::Others), Own(2 * SECOND)),
        (CAMPAIGN, failed(None), proven(5, Proof::Others), Dead("server_error")),
        (CAMPAIGN, failed(long), proven(5, Proof::Listing), Dead("failing")),
        (PAGE, failed(None), proven(5, Proof::Others), Own(4 * SECOND)),
    ]
    .into_iter()
    .enumerate()
    {
        let decision = decide(asked, Err(&error), &history, &policy);
        assert_eq!(seen(decision), expected, "row {n}: {asked:?} {error:?} {history:?}");
    }
    assert_eq!(decide(PAGE, Ok(()), &given_up, &policy), Decision::Done);
}

#[test]
fn no_wait_of_our_own_ends_a_run_however_short_the_longest_one_is() {
    let patience = Patience { max_wait: Duration::from_millis(1), ..PATIENCE };
    let policy = Policy { patience, backoff: Backoff::default(), api: "http://a", chance: 1.0 };
    for failures in 1..30 {
        let history = History { failures, refusals: failures, ..History::default() };
        for asked in [TOKEN, PAGE, CAMPAIGN] {
            for error in [failed(None), failed(Some(Duration::ZERO)), limited(None)] {
                let decision = decide(asked, Err(&error), &history, &policy);
                assert!(decision.is_retry(), "{asked:?} {error:?}: {decision:?}");
            }
        }
    }
}
