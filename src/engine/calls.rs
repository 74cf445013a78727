//! What an account's state machine is told, and what it wants done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pages::Record;
use super::task::Task;
use crate::http::hints::Hints;
use crate::http::token::{Grant, Token};
use crate::platform::CallError;
use crate::store::command::{Command, NewDeadLetter, Reply};
use crate::sync::Ending;

/// Something has happened.
#[derive(Debug)]
pub enum Event {
    /// A worker has something to tell.
    Called(Done),
    /// A committer has carried a command out.
    Stored(Reply),
    /// The heartbeat has looked at the run.
    News(News),
    /// This process was taken for dead and goes on as another worker.
    Reborn,
    /// This process's part is to stop.
    Stop(Ending),
    /// A moment has come that the machine has named.
    Tick,
}

/// What the heartbeat has seen of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether other processes work on the run.
    pub others: bool,
    /// Whether the last page is in.
    pub listing_done: bool,
    /// Whether the run was closed, or abandoned (true).
    pub over: Option<bool>,
}

/// What the machine wants done.
#[derive(Debug)]
pub enum Action {
    /// By a worker.
    Call(Call),
    /// By a committer.
    Store(Command),
}

/// What a worker is to do: blocking calls in a row, without a decision between them. It stops at the first that does not
/// succeed.
#[derive(Debug)]
pub enum Call {
    /// Fetch a token.
    Token,
    /// Fetch up to this many pages, one after another, and tell of each.
    Pages {
        /// What to send them with.
        token: Arc<Token>,
        /// The first page.
        page: i64,
        /// Campaigns a page.
        page_size: i32,
        /// How many.
        most: usize,
        /// Not to be sent after this moment: the turns are for now.
        until: Option<Instant>,
    },
    /// Sync these campaigns.
    Sync {
        /// What to send them with.
        token: Arc<Token>,
        /// The tasks.
        tasks: Vec<Task>,
        /// Not to be sent after this moment: the turns are for now.
        until: Option<Instant>,
    },
}

/// How an exchange went, whatever came of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Just before the request was sent.
    pub sent_at: Instant,
    /// When the answer was complete, or the failure known.
    pub answered_at: Instant,
    /// The status; none when there was no answer.
    pub status: Option<u16>,
    /// What the answer said of limits.
    pub hints: Hints,
}

impl Answer {
    /// From the request to the end of its answer.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.answered_at.saturating_duration_since(self.sent_at)
    }
}

/// What came of a [`Call`].
#[derive(Debug)]
pub enum Done {
    /// A token, or none.
    Token(Answer, Result<Grant, CallError>),
    /// A page, or none; the burst goes on after a good one.
    Page(Answer, Result<Page, CallError>),
    /// The burst of pages is over.
    PagesOver,
    /// The burst of syncs is over.
    Sync {
        /// The token's generation.
        generation: u64,
        /// What came of those that were sent.
        done: Vec<(Task, Answer, Result<(), CallError>)>,
        /// Those that were not.
        unsent: Vec<Task>,
    },
}

/// A page whose records are read.
#[derive(Debug)]
pub struct Page {
    /// The page that was asked for.
    pub page: i64,
    /// The page that was served, when the answer told it.
    pub served: Option<i64>,
    /// The page size that was asked for.
    pub page_size: i32,
    /// The page size that the platform tells.
    pub limit: Option<i64>,
    /// Whether another page follows.
    pub has_more: bool,
    /// The platform's word on the number of campaigns.
    pub total: Option<i64>,
    /// The valid records.
    pub records: Vec<Record>,
    /// The others.
    pub invalid: Vec<NewDeadLetter>,
}

/// What the process has left to give to an account at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Workers that have nothing to do.
    pub workers: usize,
    /// Records that may be fetched and held, by their weight.
    pub records: usize,
}

/// In place of one account's number: all of them.
pub(super) const ALL: usize = usize::MAX;

/// Something has happened to an account; with `ALL` in place of its number, to each of them.
pub(super) struct Message {
    pub account: usize,
    pub event: Event,
}
