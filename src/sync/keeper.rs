//! The keeper: keeps this process's lease alive, and ends the leases of those that are dead.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::session::Session;
use crate::store::{StoreError, leases};

/// Between heartbeats: a fifth of a lease, so that four may fail.
const INTERVAL: Duration = Duration::from_secs(2);

/// Beats until the session is finished.
pub(super) fn keep(session: &Session) {
    let mut news = 0;
    let mut beaten = session.caller.clock.now();
    while !session.finished.load(Ordering::Acquire) {
        let left = INTERVAL.saturating_sub(session.caller.clock.now().saturating_duration_since(beaten));
        if !left.is_zero() {
            news = session.await_news(news, left);
            continue;
        }
        beaten = session.caller.clock.now();
        beat(session);
    }
}

fn beat(session: &Session) {
    let (worker, before) = (session.worker(), session.view());
    let effort = session.effort();
    let run_id = session.run.run_id;
    let scope = session.store.scope();
    // Not `transact`: a heartbeat that fails while the database is away is the next one's business.
    let beat = session
        .store
        .beat(|client, account| leases::heartbeat(client, account, run_id, worker, effort, false));
    match beat {
        Ok(Some(beat)) => {
            if beat.alive {
                session.beats.fetch_add(1, Ordering::Relaxed);
                session.effort_told(worker, effort);
            } else {
                session.lease_lost(worker);
            }
            session.heard(&before, &beat);
            // Only after a heartbeat: its own lease may be over else, and it would end itself.
            if beat.neighbours {
                end_leases(session);
            }
        }
        Ok(None) => session.update_view(|view| view.over = true),
        Err(error) => {
            log::debug!(account = scope.account(), run = scope.run(); "no heartbeat: {error}");
            if !matches!(error, StoreError::Unavailable { .. }) {
                session.end_by(&error);
            }
        }
    }
}

fn end_leases(session: &Session) {
    let scope = session.store.scope();
    match session.store.beat(|client, account| leases::reap(client, account, 0)) {
        Ok((0, _)) => {}
        Ok((dead, freed)) => {
            log::info!(account = scope.account(), run = scope.run(); "{dead} process(es) gone or silent, {freed} task(s) of theirs are free again");
            session.leave_free_tasks();
            session.tell();
        }
        Err(error) => {
            log::debug!(account = scope.account(), run = scope.run(); "dead workers not looked for: {error}")
        }
    }
}
