//! What an account's state machine is told, and what it wants done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pages::Record;
use super::task::Task;
use crate::http::budget::Memory;
use crate::http::hints::Hints;
use crate::http::token::{Grant, Token};
use crate::platform::{CallError, Campaign};
use crate::rate::limiter::Permit;
use crate::store::command::{Command, NewDeadLetter, Reply};
use crate::sync::Ending;
use crate::sync::decision::Decision;
use crate::sync::trace::Attempted;

/// A request that was written is taken to have arrived after this time, if it was not answered before.
const ON_THE_WAY: Duration = Duration::from_millis(10);

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
    /// What is in flight is not waited for any more.
    Abandon,
    /// A command finds the database away: it is tried again later.
    PutOff,
}

/// What the heartbeat has seen of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// When it was looked at.
    pub asked_at: Instant,
    /// Whether other processes work on the run.
    pub others: bool,
    /// Whether the last page is in.
    pub listing_done: bool,
    /// Whether the run lists: one of `retry` does not, until a `sync` joins it.
    pub lists: bool,
    /// Tasks of dead workers were freed.
    pub freed: bool,
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
    /// By whoever counts, logs and traces.
    Tell(Told),
}

/// Something that log, trace and counts are to tell of.
#[derive(Debug)]
pub enum Told {
    /// An attempt has failed.
    Failed(Box<Failure>),
    /// The platform answers again, after this time.
    AnswersAgain(Duration),
    /// The run was opened or joined.
    Opened(Box<crate::store::command::Opened>),
    /// The platform makes pages of only this many campaigns, and not of the second.
    SmallerPages(i32, i32),
    /// The database has forgotten that the listing is done.
    ListingForgotten,
    /// The listing has no end, for this reason.
    Endless(String),
    /// So many tasks are held here without being in hand, and are worked.
    Found(usize),
    /// A campaign that can be stored in no form.
    Unstorable(String, String),
}

/// What was asked of the platform.
#[derive(Clone, Debug)]
pub enum Asked {
    /// A token.
    Token,
    /// A page of the listing.
    Page(i64),
    /// A campaign's sync.
    Campaign(Arc<Campaign>),
}

/// An attempt that has failed, and what was decided.
#[derive(Debug)]
pub struct Failure {
    /// What was asked.
    pub asked: Asked,
    /// From 1. Those at a campaign are counted as `--max-attempts` counts them: a 401 or 429 costs none.
    pub number: u32,
    /// How the exchange went.
    pub answer: Answer,
    /// What came of it.
    pub error: CallError,
    /// What comes next.
    pub(crate) decision: Decision,
    /// Everybody is to know.
    pub warns: bool,
}

/// What a worker is to do: blocking calls in a row, without a decision between them. It stops at the first that does not
/// succeed.
#[derive(Debug)]
pub enum Call {
    /// Fetch a token; attempts are counted from 1.
    Token(u32),
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
        /// Which attempt at the first page this is, from 1.
        attempt: u32,
        /// Not to be sent after its time: the turns are for now.
        permit: Option<Permit>,
    },
    /// Sync these campaigns.
    Sync {
        /// What to send them with.
        token: Arc<Token>,
        /// The tasks.
        tasks: Vec<Task>,
        /// Not to be sent after its time: the turns are for now.
        permit: Option<Permit>,
    },
}

/// How an exchange went, whatever came of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Just before the request was sent.
    pub sent_at: Instant,
    /// When the request had been written to the connection, as far as is known.
    pub written_at: Instant,
    /// When the answer was complete, or the failure known.
    pub answered_at: Instant,
    /// The status; none when there was no answer.
    pub status: Option<u16>,
    /// A rate limiter refused it: a 429, or a 403 that speaks of a limit.
    pub refused: bool,
    /// What the answer said of limits.
    pub hints: Hints,
    /// What the trace remembers of it, if there is one.
    pub(crate) seen: Option<Box<Attempted>>,
}

impl Answer {
    /// An answer of which no trace is kept.
    #[must_use]
    pub fn new(sent_at: Instant, answered_at: Instant, status: Option<u16>, hints: Hints) -> Self {
        let (written_at, refused) = (sent_at, status == Some(429));
        Self { sent_at, written_at, answered_at, status, refused, hints, seen: None }
    }

    /// By when the request had arrived: a little after it was written, if it was not answered by then.
    #[must_use]
    pub fn arrived(&self) -> Option<Instant> {
        self.status.map(|_| self.answered_at.min(self.written_at + ON_THE_WAY))
    }

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
    Page {
        /// The token's generation.
        generation: u64,
        /// The page that was asked for.
        page: i64,
        /// With what it was sent.
        permit: Option<Permit>,
        /// How the exchange went.
        answer: Answer,
        /// What came of it.
        result: Result<Page, CallError>,
    },
    /// The burst of pages is over.
    PagesOver {
        /// With what they were to be sent.
        permit: Option<Permit>,
        /// How many were not.
        unsent: u32,
    },
    /// The burst of syncs is over.
    Sync {
        /// The token's generation.
        generation: u64,
        /// With what they were to be sent.
        permit: Option<Permit>,
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
    /// It ends a listing that has become shorter while it was read.
    pub moved: bool,
    /// Its part of the memory for all pages, if it is a large one.
    pub memory: Option<Memory>,
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
