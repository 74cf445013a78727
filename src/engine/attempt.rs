//! Attempts that did not go well.

use super::calls::{Answer, Asked};
use super::task::Task;
use crate::platform::CallError;
use crate::sync::{attempt, decision};

/// An attempt that did not go well.
pub(super) struct Attempt {
    pub asked: Asked,
    /// From 1.
    pub number: u32,
    /// The generation of the token that it was made with.
    pub generation: Option<u64>,
    pub answer: Answer,
    pub error: CallError,
}

/// A task that may fail once more at the most, or not at all, with nothing that proves whose fault it is: it waits for a sign of
/// life of the listing.
pub(super) struct Suspect {
    pub task: Task,
    pub attempt: Attempt,
    pub history: decision::History,
}

impl Asked {
    pub(super) fn as_ref(&self) -> attempt::Asked<'_> {
        match self {
            Self::Token => attempt::Asked::Token,
            Self::Page(page) => attempt::Asked::Page(*page),
            Self::Campaign(campaign) => attempt::Asked::Campaign(&campaign.id),
        }
    }
}
