//! The workers' jobs, and the pump that gives them to the crew when a request may be sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::caller::Halt;
use super::decision::Decision;
use super::inbox::Work;
use super::session::{Done, Session};
use super::trace::CampaignSpan;
use crate::http::concurrency::Outcome;
use crate::http::health::Lane;
use crate::store::queue::Failed;

/// A turn that is older was not used at once, as the limiter asks for.
const STALE: Duration = Duration::from_millis(500);
/// How long the pump waits before it looks again whether it should end.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A request that took so long and came to nothing has held its place without an answer. What fails sooner holds up nobody.
const SILENCE: Duration = Duration::from_millis(500);

/// Gives the crew one task after another, each at the moment when its request may be sent. Returns when a stop is
/// requested or the inbox is closed.
pub(super) fn pump(session: &Arc<Session>) {
    let caller = &session.caller;
    let mut news = 0;
    let over = || caller.stop.requested() || session.finished.load(Ordering::Acquire);
    while !over() {
        let Some(work) = session.inbox.pop(LOOK_AGAIN, || session.job_begun()) else { continue };
        let Some(work) = past_breaker(session, work) else {
            session.job_put_back();
            continue;
        };
        if !session.concurrency.try_acquire(session.most_at_once()) {
            session.inbox.put_back(work);
            session.job_put_back();
            news = session.await_news(news, LOOK_AGAIN);
            continue;
        }
        let unused = |work: Work| {
            session.concurrency.release(Outcome::Neutral, caller.clock.now());
            session.inbox.put_back(work);
            session.job_put_back();
        };
        if !session.seat.take_place(over) {
            unused(work);
            continue;
        }
        let asked = Instant::now();
        match caller.try_turn() {
            Ok(None) => {
                let sent = session.clone();
                session.seat.give(move || begin(&sent, work, asked));
            }
            Ok(Some(wait)) => {
                session.seat.leave_place();
                unused(work);
                let _halted = caller.wait_for_turn(wait);
            }
            Err(_halted) => {
                session.seat.leave_place();
                unused(work);
            }
        }
    }
}

/// Begins a job, unless its turn is stale: a process that was stopped in between must not send as if no time had passed.
fn begin(session: &Arc<Session>, work: Work, asked: Instant) {
    let lag = asked.elapsed();
    if lag < STALE || session.caller.limiter.unlimited() {
        session.caller.limiter.lagged(lag);
        return run(session, work);
    }
    session.inbox.put_back(work);
    session.concurrency.release(Outcome::Neutral, asked);
    session.seat.leave_place();
    session.job_ended();
}

/// A worker's job: one task, and then others for as long as there is no need to wait for anything.
fn run(session: &Arc<Session>, mut work: Work) {
    loop {
        let key = session.idempotency_key(&work.campaign.id);
        let is_last = |work: &Work| is_last(session, work);
        let (decision, outcome, sent_at) = session.caller.sync(&mut work, &key, is_last);
        let failed =
            outcome == Outcome::Overload || decision.as_ref().is_ok_and(|decision| decision.is_retry());
        session.seat.answered(sent_at.elapsed() < SILENCE || !failed);
        settle(session, work, decision);
        session.concurrency.release(outcome, sent_at);
        match next(session) {
            Some(another) => work = another,
            None => break,
        }
    }
    session.seat.leave_place();
    session.job_ended();
}

fn next(session: &Session) -> Option<Work> {
    if session.caller.stop.requested()
        || session.seat.wanted()
        || !session.concurrency.try_acquire(session.most_at_once())
    {
        return None;
    }
    // The turn first: a task that has none would go back, and with it the breaker's trial would be lost.
    let turn = session.caller.limiter.try_acquire_at_once();
    let work = turn.then(|| session.inbox.try_pop()).flatten().and_then(|work| past_breaker(session, work));
    if work.is_none() {
        session.concurrency.release(Outcome::Neutral, Instant::now());
    }
    work
}

/// The task, if it may be tried now; else it waits in the inbox.
fn past_breaker(session: &Session, work: Work) -> Option<Work> {
    if !session.caller.needs_breaker(&work) {
        return Some(work);
    }
    match session.caller.health.admit(Lane::Sync) {
        Ok(()) => Some(work),
        Err(wait) => {
            session.inbox.push_later(work, wait);
            None
        }
    }
}

/// The page size by which to ask whether the listing answers, when no other campaign may ever go well any more.
fn is_last(session: &Session, work: &Work) -> Option<i32> {
    let view = session.view();
    let remaining = session.inbox.len() + 1;
    let last = view.listing_done && view.others == 0 && work.tries > 0;
    (last && session.caller.are_few(remaining, !session.lists())).then_some(session.run.page_size)
}

fn settle(session: &Session, mut work: Work, decision: Result<Decision, Halt>) {
    match decision {
        Ok(Decision::Done) => {
            work.span.as_deref_mut().into_iter().for_each(CampaignSpan::synced);
            session.deliver(Done::Synced {
                attempt: work.attempt,
                campaign: work.campaign,
                origin: work.origin,
                grip: work.grip,
            });
        }
        Ok(Decision::DeadLetter { cause, reason }) => bury(session, work, cause, reason),
        Ok(Decision::WhenGateOpens | Decision::WithFreshToken) => session.inbox.put_back(work),
        Ok(Decision::Again(wait, _)) => session.inbox.push_later(work, wait),
        // It stays held in the database, and is free again as soon as this process leaves.
        Ok(Decision::PageGone | Decision::Left | Decision::Stop(_)) | Err(Halt) => {}
    }
}

fn bury(session: &Session, mut work: Work, cause: &'static str, reason: String) {
    work.span.as_mut().into_iter().for_each(|span| span.dead(cause, &reason));
    let tries = i32::try_from(work.tries.max(1)).unwrap_or(i32::MAX);
    let id = work.campaign.id.clone();
    let failed = Failed { id, attempt: work.attempt, cause, reason, tries, retryable: true };
    session.deliver(Done::Dead { failed, origin: work.origin, grip: Some(work.grip) });
}
