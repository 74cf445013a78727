//! Commands to the database as values, and what comes of them. The engine's state machine makes them; `store::execute` carries
//! them out on Postgres, and the simulator's model of the store does the same in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::StoreError;
use super::closing::Closing;
use super::dead_letters::Retry;
use super::join::Abandoned;
use super::overview::Standing;
use super::queue::{Totals, WorkerId};
use super::runs::{OpenRun, Opening, Progress};
use crate::http::RateLimit;
use crate::http::token::Turn;
use crate::platform::Campaign;
use crate::rate::ledger::{Ask, Grant, Order};

/// What one account's part in a run asks of the database. Each is one transaction, and can be carried out twice without harm.
#[derive(Clone, Debug)]
pub enum Command {
    /// Open a run, or join the one that is open; take its listing if nobody lists; put dead letters back as tasks.
    Open {
        /// How the run is to be opened.
        opening: Opening,
        /// The dead letters to put back: none, all, or those of these campaigns.
        retry: Option<Retry>,
        /// How the account is shared with other processes that have it in their files.
        sharing: Sharing,
    },
    /// Become the run's lister, if nobody is.
    TakeListing,
    /// Store pages with what has come of their campaigns, and the run's next page.
    CommitPages(Pages),
    /// Store what has come of tasks.
    Finish {
        /// Tasks whose campaigns are synced, with their attempt numbers.
        synced: Vec<(Arc<Campaign>, i32)>,
        /// Tasks that failed permanently.
        dead: Vec<DeadTask>,
    },
    /// Take up to this many free tasks.
    Claim(usize),
    /// Look up which tasks this process holds, and how many the run has left.
    Held,
    /// Free these tasks, which this process holds without having them in hand.
    Release(Vec<(String, i32)>),
    /// Put sends on record.
    Reserve(Ask),
    /// Tell the other processes of the account what was learned of the limit.
    Tell(Order),
    /// Get the token that is shared, or the turn to fetch one newer than this generation.
    TokenTurn(u64),
    /// Share a token that was fetched.
    KeepToken(crate::http::token::Grant),
    /// Close the run if all of it is done.
    Close {
        /// The largest share of campaigns, in percent, that may be marked as removed at once.
        max_removed: u8,
        /// Changes that are older are deleted then.
        keep_history: Option<Duration>,
    },
    /// Give the run up: its listing cannot be brought to its end.
    Abandon {
        /// Why.
        reason: String,
    },
    /// This process's part is over: free what it holds.
    Leave {
        /// Why it stops before the end, if it does.
        reason: Option<String>,
        /// Whether to look up how the account stands then.
        tells_standing: bool,
    },
}

/// How processes that have the same accounts in their files share them out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sharing {
    /// An account that another process is at work on is left to that one.
    pub yields: bool,
    /// A run that another process has finished since this moment is as good as one of our own.
    pub done_since: Option<Instant>,
}

/// Why no run was opened or joined.
#[derive(Clone, Debug)]
pub enum Elsewhere {
    /// Another process is at work on the account.
    AtWork,
    /// Another process has done the work.
    Done(Box<Left>),
}

/// Pages on their way into the database.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    /// The page that the run stands at.
    pub from_page: i64,
    /// The page it will stand at.
    pub next_page: i64,
    /// The size that pages are numbered by from there on.
    pub page_size: i32,
    /// Whether the last page is among them.
    pub last: bool,
    /// The platform's words on the number of campaigns.
    pub totals: Option<Totals>,
    /// They end a listing that has become shorter while it was read.
    pub moved: bool,
    /// The listing goes on where another process's ended, which may just be finishing what these pages show.
    pub after_another: bool,
    /// Campaigns that are still to be synced.
    pub tasks: Vec<NewTask>,
    /// Campaigns that are synced already: they never become tasks.
    pub finished: Vec<NewCampaign>,
    /// Records that are no campaign, and campaigns that have failed permanently.
    pub dead: Vec<NewDeadLetter>,
}

/// A listed campaign that is synced already.
#[derive(Clone, Debug)]
pub struct NewCampaign {
    /// The campaign.
    pub campaign: Arc<Campaign>,
    /// Its place in the listing.
    pub seq: i64,
    /// The record as it was listed.
    pub payload: Arc<str>,
}

/// A listed campaign on its way into the queue.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// The campaign's id.
    pub id: String,
    /// Its place in the listing.
    pub seq: i64,
    /// The record as it was listed.
    pub payload: Arc<str>,
    /// Whether this process works on it at once, with attempt number 1.
    pub held: bool,
}

/// A record that becomes a dead letter.
#[derive(Clone, Debug)]
pub struct NewDeadLetter {
    /// The campaign's id, or a name made of the record.
    pub id: String,
    /// Whether `id` is the campaign's.
    pub named: bool,
    /// A word for grouping.
    pub cause: &'static str,
    /// A line for people.
    pub reason: String,
    /// The attempts that were made.
    pub attempts: i32,
    /// The record as it was listed.
    pub payload: Arc<str>,
    /// Whether a retry makes sense.
    pub retryable: bool,
    /// The place in the listing of a campaign that has failed permanently.
    pub seq: Option<i64>,
}

/// A task that failed permanently.
#[derive(Clone, Debug)]
pub struct DeadTask {
    /// The campaign's id.
    pub id: String,
    /// The fencing token.
    pub attempt: i32,
    /// A word for grouping.
    pub cause: &'static str,
    /// A line for people.
    pub reason: String,
    /// The attempts that were made.
    pub tries: i32,
}

/// What comes of a [`Command`].
#[derive(Debug)]
pub enum Reply {
    /// Of [`Command::Open`].
    Opened(Result<Opened, StoreError>),
    /// Of [`Command::Open`] as well, where there is nothing to do at the moment.
    Elsewhere(Elsewhere),
    /// Of [`Command::TakeListing`]: the page to go on from, if the listing is this process's.
    Listing(Result<Option<Checkpoint>, StoreError>),
    /// Of [`Command::CommitPages`]: nothing when this process does not list any more.
    Committed(Result<Option<Committed>, StoreError>),
    /// Of [`Command::Finish`].
    Finished(Result<Finished, StoreError>),
    /// Of [`Command::Claim`].
    Claimed(Result<Vec<Claimed>, StoreError>),
    /// Of [`Command::Held`].
    Held(Result<Holding, StoreError>),
    /// Of [`Command::Release`]: how many were freed.
    Released(Result<u64, StoreError>),
    /// Of [`Command::Reserve`].
    Reserved(Result<Grant, StoreError>),
    /// Of [`Order::TellSends`]: the ages of the sends on record, oldest first.
    Sends(Result<Vec<Duration>, StoreError>),
    /// Of [`Command::KeepToken`]: the token's generation.
    Kept(Result<u64, StoreError>),
    /// Of any other [`Command::Tell`]. Nobody waits for it.
    Told(Result<(), StoreError>),
    /// Of [`Command::TokenTurn`], with the generation of the newest token that was shared.
    TokenTurn(Result<(Turn, u64), StoreError>),
    /// Of [`Command::Close`].
    Closed(Result<Closing, StoreError>),
    /// Of [`Command::Abandon`].
    Abandoned(Result<(), StoreError>),
    /// Of [`Command::Leave`].
    Left(Result<Left, StoreError>),
}

impl Reply {
    /// The error that it is.
    #[must_use]
    pub fn error(&self) -> Option<&StoreError> {
        match self {
            Self::Opened(result) => result.as_ref().err(),
            Self::Listing(result) => result.as_ref().err(),
            Self::Committed(result) => result.as_ref().err(),
            Self::Finished(result) => result.as_ref().err(),
            Self::Claimed(result) => result.as_ref().err(),
            Self::Held(result) => result.as_ref().err(),
            Self::Released(result) => result.as_ref().err(),
            Self::Reserved(result) => result.as_ref().err(),
            Self::Sends(result) => result.as_ref().err(),
            Self::Kept(result) => result.as_ref().err(),
            Self::Told(result) | Self::Abandoned(result) => result.as_ref().err(),
            Self::TokenTurn(result) => result.as_ref().err(),
            Self::Closed(result) => result.as_ref().err(),
            Self::Left(result) => result.as_ref().err(),
            Self::Elsewhere(_) => None,
        }
    }
}

/// How a process has left a run.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// The run as it stands.
    pub run: Option<Progress>,
    /// Its tasks that are left.
    pub pending: i64,
    /// How the account stands, if that was asked for.
    pub standing: Option<Standing>,
}

/// The run that was opened or joined.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The run.
    pub run: OpenRun,
    /// Where to list from, if this process is the lister.
    pub listing: Option<Checkpoint>,
    /// Whether other processes work on the run.
    pub others: bool,
    /// Whether the run has tasks that nobody holds.
    pub free_tasks: bool,
    /// The rate limit on record.
    pub limit: Option<RateLimit>,
    /// For how long the gate on record stays closed, and whether that is doubted.
    pub gate: Option<(Duration, bool)>,
    /// How many dead letters were put back.
    pub requeued: usize,
    /// The open run that was given up for it.
    pub abandoned: Option<Abandoned>,
}

/// Where a listing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The next page.
    pub page: i64,
    /// The size that pages are numbered by.
    pub page_size: i32,
}

/// What became of committed pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// How many records the run had not seen before.
    pub new: i64,
    /// The ids of tasks that the run has dealt with already, or that another process holds.
    pub left_out: Vec<String>,
    /// Tasks that were put back before this listing showed them, and are held now under these attempt numbers.
    pub taken: Vec<(String, i32)>,
    /// Whether other processes work on the run.
    pub others: bool,
    /// Finished campaigns that could not be stored as such: they are tasks.
    pub unstored: Vec<String>,
    /// Campaigns that can be written in no form, or as tasks only, and the database's words.
    pub refused: Vec<(String, String)>,
    /// One of them can be written in no form: the run stands at these pages.
    pub stands: bool,
}

/// What became of finished tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Tasks that were still held: the others belong to somebody else by now.
    pub stored: usize,
    /// Campaigns that can be written neither as they are nor as dead letters, and the database's words.
    pub refused: Vec<(String, String)>,
    /// Whether other processes work on the run.
    pub others: bool,
}

/// What this process holds of a run, as the database has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Ids and attempt numbers.
    pub held: Vec<(String, i32)>,
    /// How many tasks the run has left, whoever holds them.
    pub left: usize,
}

/// A task that was free.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The campaign's id.
    pub id: String,
    /// The fencing token.
    pub attempt: i32,
    /// The record as it was listed.
    pub payload: String,
}

/// Whose command it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The account.
    pub account: Arc<str>,
    /// Its run; 0 before it is opened.
    pub run_id: i64,
    /// This process.
    pub worker: WorkerId,
}
