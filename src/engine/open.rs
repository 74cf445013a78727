//! An account that the scheduler works on: its state machine, and what carries out its orders.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::Account;
use super::calls::{Done, Event};
use super::committers::Books;
use super::job::Job;
use super::journal::{Beginning, Journal};
use super::workers::Line;
use crate::http::{Clock, Stop};
use crate::store::command::Part;
use crate::store::process::new_worker_id;
use crate::sync::Recorder;
use crate::sync::trace::Trace;

/// A request that took this long and came to nothing has held its worker without an answer. What fails sooner holds up nobody.
const SILENCE: Duration = Duration::from_millis(500);

/// An account that is worked on.
pub(super) struct Open {
    pub(super) account: Account,
    pub(super) part: Part,
    pub(super) run_key: Arc<str>,
    pub(super) line: Arc<Line>,
    pub(super) books: Arc<Books>,
    pub(super) stop: Stop,
    pub(super) begun: Instant,
    /// When its part was told to stop.
    pub(super) stopped_at: Option<Instant>,
    pub(super) is_abandoned: bool,
    pub(super) is_opening: bool,
    /// Its last page was answered, or came to nothing soon.
    pub(super) page_answered: bool,
    /// Its part of the weight.
    pub(super) weight: usize,
    pub(super) is_over: bool,
}

impl Open {
    pub(super) fn new(job: Job, clock: &Arc<dyn Clock>, recorder: Option<&Arc<dyn Recorder>>) -> Self {
        let Job { settings, api, stats, store, sealing, stop, begun } = job;
        let name: Arc<str> = store.account().into();
        let mut trace = Trace::new(clock.clone());
        if let Some(recorder) = recorder {
            trace.keep(recorder.clone(), &name, api.base_url());
        }
        let trace = Arc::new(trace);
        let of = Beginning {
            max_age: settings.opening.max_age,
            is_fresh: settings.opening.fresh,
            is_retry: settings.retry.is_some(),
            give_up_after: settings.patience.give_up_after,
        };
        let journal = Journal::new(stats.clone(), trace.clone(), store.scope().clone(), api.base_url(), &of);
        Self {
            account: Account::new(settings, clock.now()),
            part: Part { account: name.clone(), run_id: 0, worker: new_worker_id() },
            run_key: "".into(),
            line: Arc::new(Line { account: name, api, journal }),
            books: Arc::new(Books::new(store, sealing, stats, trace)),
            stop,
            begun,
            stopped_at: None,
            is_abandoned: false,
            is_opening: true,
            page_answered: true,
            weight: 0,
            is_over: false,
        }
    }

    /// Whether the event says that a worker is free again, and whether its last request was answered.
    pub(super) fn worker_is_free(&mut self, event: &Event) -> Option<bool> {
        let Event::Called(done) = event else { return None };
        match done {
            Done::Token(answer, result) => Some(result.is_ok() || answer.latency() < SILENCE),
            Done::Page { answer, result, .. } => {
                self.page_answered = result.is_ok() || answer.latency() < SILENCE;
                None
            }
            Done::PagesOver { .. } => Some(self.page_answered),
            Done::Sync { done, .. } => {
                let last = done.last();
                Some(last.is_none_or(|(_, answer, result)| result.is_ok() || answer.latency() < SILENCE))
            }
        }
    }
}
