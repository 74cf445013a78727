//! What an account has to store, and what it has asked of the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pages::Lot;
use crate::platform::Campaign;
use crate::store::command::DeadTask;

/// What has come of tasks whose lots are committed.
#[derive(Debug, Default)]
pub struct Results {
    pub(super) synced: Vec<(Arc<Campaign>, i32)>,
    pub(super) dead: Vec<DeadTask>,
}

impl Results {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.synced.len() + self.dead.len()
    }

    /// The task is held under another number than it was taken for; false when nothing has come of it yet.
    pub(super) fn renumber(&mut self, id: &str, attempt: i32) -> bool {
        let synced = self.synced.iter_mut().filter(|(campaign, _)| campaign.id == id);
        let synced = synced.map(|(_, number)| number);
        let dead = self.dead.iter_mut().filter(|task| task.id == id).map(|task| &mut task.attempt);
        let mut found = synced.chain(dead).peekable();
        let any = found.peek().is_some();
        found.for_each(|number| *number = attempt);
        any
    }
}

/// Whether what the database says is held here is compared with what is in hand: nothing is claimed or closed meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Comparing {
    #[default]
    No,
    Wanted,
    Asked,
}

/// Commands that are being carried out.
#[derive(Debug, Default)]
pub struct Outstanding {
    /// The run is being opened.
    pub opening: bool,
    /// Lots or results are being committed.
    pub committing: bool,
    /// What the records of those lots count for.
    pub weight: usize,
    /// Free tasks are being claimed.
    pub claiming: bool,
    pub(super) lots: Vec<Lot>,
    pub(super) results: usize,
    /// When the last commit was over.
    pub(super) since: Option<Instant>,
    /// Since when something can be committed.
    pub(super) lingers: Option<Instant>,
    pub(super) asked_at: Option<Instant>,
    pub(super) closing: bool,
    pub(super) looks_at: Option<Instant>,
    pub(super) pause: Duration,
    /// Others had little left when they were looked at last.
    pub(super) near: bool,
    pub(super) comparing: Comparing,
    pub(super) compared_at: Option<Instant>,
    /// All tasks that the run had left when it was looked at last were this process's.
    pub(super) holds_the_rest: bool,
    /// Of the tasks that the database says are held here, some were taken again and again, and to no avail.
    pub(super) stuck: bool,
    /// How many tasks the run had left when that was asked for to name them.
    pub left_tasks: Option<i64>,
    /// The run is being given up, for this reason.
    pub(super) abandoning: bool,
    /// A token is being sealed and kept.
    pub keeping: bool,
    pub(super) leaving: bool,
}
