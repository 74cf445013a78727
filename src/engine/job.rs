//! What the scheduler is given: the accounts to work on, and what they have in common; and the handle by which it is stopped.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::account::Settings;
use super::calls::{ALL, Event, Message};
use crate::http::stats::Stats;
use crate::http::{Clock, Stop};
use crate::platform::Api;
use crate::store::Store;
use crate::store::tokens::Sealing;
use crate::sync::{Ending, Outcome, Recorder, Watcher};

/// One account to work on.
pub struct Job {
    /// How.
    pub settings: Settings,
    /// Its platform.
    pub api: Api,
    /// What is counted of its calls.
    pub stats: Arc<Stats>,
    /// Its way into the database.
    pub store: Store,
    /// What its tokens are sealed with.
    pub sealing: Sealing,
    /// Ends its waits.
    pub stop: Stop,
    /// When this process began with it.
    pub begun: Instant,
}

/// What all accounts have in common.
pub struct Surroundings<'a> {
    /// How many workers there are.
    pub workers: usize,
    /// How many accounts are worked on at once.
    pub open: usize,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// When all is to end.
    pub deadline: Option<Instant>,
    /// Who keeps traces, if anybody does.
    pub recorder: Option<Arc<dyn Recorder>>,
    /// Who shows progress.
    pub watcher: &'a dyn Watcher,
}

/// Puts an end to the work on all accounts.
#[derive(Clone)]
pub struct Handle(pub(super) Sender<Message>);

impl Handle {
    /// Nothing new is begun; what is in flight is awaited and committed.
    pub fn stop(&self, ending: Ending) {
        // When all is over there is nothing to stop.
        let _over = self.0.send(Message { account: ALL, event: Event::Stop(ending) });
    }

    /// What is in flight is not waited for any more.
    pub fn abandon(&self) {
        let _over = self.0.send(Message { account: ALL, event: Event::Abandon });
    }
}

/// Makes an account's job. It may turn out that there is none.
pub type JobMaker<'a> = Box<dyn FnOnce() -> Result<Job, Box<Outcome>> + 'a>;
