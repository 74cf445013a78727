//! The queue: every call that touches tasks. A task is held by a worker under an attempt number, and whoever finishes it
//! must still hold it.

use std::time::SystemTime;

use postgres::types::Type;
use postgres::{Error, Row};

use super::{Client, begin};
use crate::platform::Campaign;

/// A process at work on an account's run; it holds tasks.
pub type WorkerId = i64;

/// The place in the listing (`seq`) of a task that `retry` put back: it waits until the listing shows it, or shows it not.
/// `sql/` has the same number.
pub const UNLISTED: i64 = i64::MAX;

/// A claimed task.
#[derive(Clone, Debug)]
pub struct Held {
    /// The campaign's id.
    pub id: String,
    /// The fencing token.
    pub attempt: i32,
    /// The record as it was listed.
    pub payload: String,
}

/// A listed campaign on its way into the queue.
pub struct NewTask<'a> {
    /// The campaign's id.
    pub id: &'a str,
    /// Its place in the listing.
    pub seq: i64,
    /// The record as it was listed.
    pub payload: &'a str,
    /// Whether this process will work on it at once, with attempt number 1.
    pub held: bool,
}

/// A listed record that is no campaign.
pub struct NewDeadLetter<'a> {
    /// The campaign's id, or a name made for it.
    pub key: String,
    /// Whether `key` is the campaign's id.
    pub named: bool,
    /// A word for grouping.
    pub cause: &'static str,
    /// What is wrong with it.
    pub reason: &'a str,
    /// How often it was tried.
    pub attempts: i32,
    /// The record as it was listed.
    pub payload: &'a str,
    /// Whether `retry` makes sense.
    pub retryable: bool,
}

/// The platform's words on the number of campaigns, of pages one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The lowest.
    pub lowest: i64,
    /// The highest.
    pub highest: i64,
    /// The last one.
    pub last: i64,
}

impl Totals {
    /// Those of pages in their order; none when no page tells.
    pub fn of(totals: impl Iterator<Item = Option<i64>>) -> Option<Self> {
        let each = totals.flatten().map(|total| Self { lowest: total, highest: total, last: total });
        each.reduce(Self::and)
    }

    /// With those of the pages behind.
    #[must_use]
    pub fn and(self, behind: Self) -> Self {
        Self {
            lowest: self.lowest.min(behind.lowest),
            highest: self.highest.max(behind.highest),
            last: behind.last,
        }
    }
}

/// What the lister has got, to be committed with its checkpoint.
#[derive(Default)]
pub struct Pages<'a> {
    /// The page that the run stands at.
    pub from_page: i64,
    /// The page it will stand at.
    pub next_page: i64,
    /// The size that pages are numbered by from there on.
    pub page_size: i32,
    /// Whether the last page has been seen.
    pub last: bool,
    /// The platform's words on the number of campaigns.
    pub totals: Option<Totals>,
    /// These end a listing that has become shorter while it was read.
    pub moved: bool,
    /// The valid ones, ids not repeated, save those that are …
    pub tasks: Vec<NewTask<'a>>,
    /// … finished already: they never become tasks.
    pub finished: Vec<&'a Campaign>,
    /// The others.
    pub invalid: Vec<NewDeadLetter<'a>>,
}

/// So often in a row a process may join a run while its pages are committed, before the lister takes them for refused.
const JOINS_OUTWAITED: u32 = 10;

/// What became of committed pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// How many records this run had not seen before.
    pub new: i64,
    /// The ids, of those that were to be held, that this run has dealt with already, or that others deal with.
    pub left_out: Vec<String>,
    /// Those that were tasks before, are held now, and under which attempt number.
    pub taken: Vec<(String, i32)>,
    /// Whether other workers are on the run.
    pub others: bool,
}

/// Commits pages with their checkpoint; nothing when this worker does not list (any more).
///
/// # Errors
/// The database's.
pub fn add_pages(
    client: &mut Client,
    account: &str,
    run_id: i64,
    lister: WorkerId,
    pages: &Pages<'_>,
) -> Result<Option<Added>, Error> {
    let ids: Vec<&str> = pages.tasks.iter().map(|task| task.id).collect();
    let seqs: Vec<i64> = pages.tasks.iter().map(|task| task.seq).collect();
    let payloads: Vec<&str> = pages.tasks.iter().map(|task| task.payload).collect();
    let held: Vec<bool> = pages.tasks.iter().map(|task| task.held).collect();
    let keys: Vec<&str> = pages.invalid.iter().map(|letter| letter.key.as_str()).collect();
    let reasons: Vec<&str> = pages.invalid.iter().map(|letter| letter.reason).collect();
    let raw: Vec<&str> = pages.invalid.iter().map(|letter| letter.payload).collect();
    let named: Vec<bool> = pages.invalid.iter().map(|letter| letter.named).collect();
    let causes: Vec<&str> = pages.invalid.iter().map(|letter| letter.cause).collect();
    let attempts: Vec<i32> = pages.invalid.iter().map(|letter| letter.attempts).collect();
    let retryable: Vec<bool> = pages.invalid.iter().map(|letter| letter.retryable).collect();
    let mut extra = texts(&pages.finished, |campaign| &campaign.extra);
    // As a rule there is nothing extra at all.
    if extra.iter().all(|extra| *extra == "{}") {
        extra.clear();
    }
    let mut add = || {
        client.query_typed_one(
            include_str!("../../sql/add_pages.sql"),
            &[
                (&account, Type::TEXT),
                (&run_id, Type::INT8),
                (&lister, Type::INT8),
                (&pages.from_page, Type::INT8),
                (&ids, Type::TEXT_ARRAY),
                (&seqs, Type::INT8_ARRAY),
                (&payloads, Type::TEXT_ARRAY),
                (&held, Type::BOOL_ARRAY),
                (&keys, Type::TEXT_ARRAY),
                (&reasons, Type::TEXT_ARRAY),
                (&raw, Type::TEXT_ARRAY),
                (&named, Type::BOOL_ARRAY),
                (&pages.next_page, Type::INT8),
                (&pages.last, Type::BOOL),
                (&pages.totals.map(|totals| totals.last), Type::INT8),
                (&pages.page_size, Type::INT4),
                (&texts(&pages.finished, |campaign| &campaign.id), Type::TEXT_ARRAY),
                (&texts(&pages.finished, |campaign| &campaign.name), Type::TEXT_ARRAY),
                (&texts(&pages.finished, |campaign| &campaign.status), Type::TEXT_ARRAY),
                (&texts(&pages.finished, |campaign| &campaign.budget), Type::TEXT_ARRAY),
                (&counts(&pages.finished, |campaign| campaign.impressions), Type::INT8_ARRAY),
                (&counts(&pages.finished, |campaign| campaign.clicks), Type::INT8_ARRAY),
                (&counts(&pages.finished, |campaign| campaign.conversions), Type::INT8_ARRAY),
                (&times(&pages.finished), Type::TIMESTAMPTZ_ARRAY),
                (&extra, Type::TEXT_ARRAY),
                (&causes, Type::TEXT_ARRAY),
                (&retryable, Type::BOOL_ARRAY),
                (&pages.totals.map(|totals| totals.lowest), Type::INT8),
                (&pages.totals.map(|totals| totals.highest), Type::INT8),
                (&pages.moved, Type::BOOL),
                (&attempts, Type::INT4_ARRAY),
            ],
        )
    };
    let mut row = add()?;
    for _ in 0..JOINS_OUTWAITED {
        if !row.get::<_, bool>("joined") {
            break;
        }
        row = add()?;
    }
    Ok(row.get::<_, Option<i64>>("added").map(|new| {
        let (taken, attempts): (Vec<String>, Vec<i32>) = (row.get("taken"), row.get("attempts"));
        let taken = taken.into_iter().zip(attempts).collect();
        Added { new, left_out: row.get("left_out"), taken, others: row.get("others") }
    }))
}

/// Whether this worker lists and its run has come to this page: whether a commit of whose answer it did not hear was made.
///
/// # Errors
/// The database's.
pub fn has_reached(
    client: &mut Client,
    account: &str,
    run_id: i64,
    lister: WorkerId,
    page: i64,
) -> Result<bool, Error> {
    let row = client.query_typed_one(
        "SELECT EXISTS (SELECT FROM campaign_sync.sync_runs s
                        WHERE s.account = $1 AND s.run_id = $2 AND s.lister = $3 AND s.next_page = $4 AND s.state = 'running')
            AND EXISTS (SELECT FROM campaign_sync.workers w WHERE w.account = $1 AND w.worker_id = $3)",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&lister, Type::INT8), (&page, Type::INT8)],
    )?;
    Ok(row.get(0))
}

/// As [`add_pages`], for the first pages of a lister that goes on where another one was, and may show what that one had
/// shown: what is just being finished is waited for, else it would be taken for new.
///
/// # Errors
/// The database's.
pub fn add_pages_after_another(
    client: &mut Client,
    account: &str,
    run_id: i64,
    lister: WorkerId,
    pages: &Pages<'_>,
) -> Result<Option<Added>, Error> {
    let ids: Vec<&str> = pages.tasks.iter().map(|task| task.id).collect();
    let mut transaction = begin(client)?;
    transaction.query_typed(
        "SELECT FROM campaign_sync.sync_tasks WHERE account = $1 AND id = ANY ($2) FOR UPDATE",
        &[(&account, Type::TEXT), (&ids, Type::TEXT_ARRAY)],
    )?;
    let added = add_pages(&mut transaction, account, run_id, lister, pages)?;
    transaction.commit()?;
    Ok(added)
}

/// For one transaction: a table of which nothing is known yet is taken for an empty one, and sorting all of it for cheap.
/// With this, a claim reads just what it takes, from the index of free tasks. What is switched off is planned as endlessly
/// costly where there is no other way, and that would be compiled.
pub const CLAIM_SETTINGS: &str = "SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off; \
    SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// Claims up to `most` free tasks.
///
/// # Errors
/// The database's.
pub fn claim(client: &mut Client, account: &str, worker: WorkerId, most: i64) -> Result<Vec<Held>, Error> {
    let mut transaction = begin(client)?;
    transaction.batch_execute(CLAIM_SETTINGS)?;
    let rows = transaction.query_typed(
        include_str!("../../sql/claim.sql"),
        &[(&account, Type::TEXT), (&worker, Type::INT8), (&most, Type::INT8)],
    )?;
    transaction.commit()?;
    Ok(rows.iter().map(held_task).collect())
}

/// Stores the campaigns of finished tasks and deletes the tasks. Gives how many were still held, or nothing when the
/// worker's lease has ended: then none was.
///
/// # Errors
/// The database's; when one row cannot be stored, none is.
pub fn complete(
    client: &mut Client,
    account: &str,
    worker: WorkerId,
    finished: &[(i32, &Campaign)],
) -> Result<Option<i64>, Error> {
    let attempts: Vec<i32> = finished.iter().map(|(attempt, _)| *attempt).collect();
    let campaigns: Vec<&Campaign> = finished.iter().map(|(_, campaign)| *campaign).collect();
    let row = client.query_typed_opt(
        include_str!("../../sql/complete.sql"),
        &[
            (&account, Type::TEXT),
            (&worker, Type::INT8),
            (&texts(&campaigns, |campaign| &campaign.id), Type::TEXT_ARRAY),
            (&attempts, Type::INT4_ARRAY),
            (&texts(&campaigns, |campaign| &campaign.name), Type::TEXT_ARRAY),
            (&texts(&campaigns, |campaign| &campaign.status), Type::TEXT_ARRAY),
            (&texts(&campaigns, |campaign| &campaign.budget), Type::TEXT_ARRAY),
            (&counts(&campaigns, |campaign| campaign.impressions), Type::INT8_ARRAY),
            (&counts(&campaigns, |campaign| campaign.clicks), Type::INT8_ARRAY),
            (&counts(&campaigns, |campaign| campaign.conversions), Type::INT8_ARRAY),
            (&times(&campaigns), Type::TIMESTAMPTZ_ARRAY),
            (&texts(&campaigns, |campaign| &campaign.extra), Type::TEXT_ARRAY),
        ],
    )?;
    Ok(row.map(|row| row.get(0)))
}

fn texts<'a>(campaigns: &[&'a Campaign], field: fn(&Campaign) -> &str) -> Vec<&'a str> {
    campaigns.iter().map(|campaign| field(campaign)).collect()
}

fn counts(campaigns: &[&Campaign], field: fn(&Campaign) -> i64) -> Vec<i64> {
    campaigns.iter().map(|campaign| field(campaign)).collect()
}

fn times(campaigns: &[&Campaign]) -> Vec<SystemTime> {
    campaigns.iter().map(|campaign| campaign.created_at).collect()
}

/// A task that failed for good.
pub struct Failed {
    /// The campaign's id.
    pub id: String,
    /// The fencing token.
    pub attempt: i32,
    /// A word for grouping.
    pub cause: &'static str,
    /// A line for people.
    pub reason: String,
    /// How often it was tried.
    pub tries: i32,
    /// Whether `retry` makes sense.
    pub retryable: bool,
}

/// Makes dead letters of tasks; gives what [`complete`] gives.
///
/// # Errors
/// The database's.
pub fn bury(
    client: &mut Client,
    account: &str,
    worker: WorkerId,
    failed: &[Failed],
) -> Result<Option<i64>, Error> {
    let ids: Vec<&str> = failed.iter().map(|task| task.id.as_str()).collect();
    let attempts: Vec<i32> = failed.iter().map(|task| task.attempt).collect();
    let causes: Vec<&str> = failed.iter().map(|task| task.cause).collect();
    let reasons: Vec<&str> = failed.iter().map(|task| task.reason.as_str()).collect();
    let tries: Vec<i32> = failed.iter().map(|task| task.tries).collect();
    let retryable: Vec<bool> = failed.iter().map(|task| task.retryable).collect();
    let row = client.query_typed_opt(
        include_str!("../../sql/bury.sql"),
        &[
            (&account, Type::TEXT),
            (&worker, Type::INT8),
            (&ids, Type::TEXT_ARRAY),
            (&attempts, Type::INT4_ARRAY),
            (&causes, Type::TEXT_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
            (&tries, Type::INT4_ARRAY),
            (&retryable, Type::BOOL_ARRAY),
        ],
    )?;
    Ok(row.map(|row| row.get(0)))
}

/// Frees all tasks that this worker holds; gives how many.
///
/// # Errors
/// The database's.
pub fn release(client: &mut Client, account: &str, worker: WorkerId) -> Result<u64, Error> {
    client.execute_typed(
        "UPDATE campaign_sync.sync_tasks SET worker_id = 0 WHERE account = $1 AND worker_id = $2",
        &[(&account, Type::TEXT), (&worker, Type::INT8)],
    )
}

/// Frees these of the tasks that this worker holds, under these attempt numbers; gives how many.
///
/// # Errors
/// The database's.
pub fn release_some(
    client: &mut Client,
    account: &str,
    worker: WorkerId,
    tasks: &[(String, i32)],
) -> Result<u64, Error> {
    let ids: Vec<&str> = tasks.iter().map(|(id, _)| id.as_str()).collect();
    let attempts: Vec<i32> = tasks.iter().map(|(_, attempt)| *attempt).collect();
    client.execute_typed(
        "UPDATE campaign_sync.sync_tasks t SET worker_id = 0
         FROM unnest($3::text[], $4::integer[]) AS r (id, attempt)
         WHERE t.account = $1 AND t.worker_id = $2 AND t.id = r.id AND t.attempt = r.attempt",
        &[
            (&account, Type::TEXT),
            (&worker, Type::INT8),
            (&ids, Type::TEXT_ARRAY),
            (&attempts, Type::INT4_ARRAY),
        ],
    )
}

/// The tasks that this worker holds, with their attempt numbers, and how many its run has left, seen at one moment.
///
/// # Errors
/// The database's.
pub fn holding(
    client: &mut Client,
    account: &str,
    run_id: i64,
    worker: WorkerId,
) -> Result<(Vec<(String, i32)>, i64), Error> {
    let row = client.query_typed_one(
        "SELECT coalesce(array_agg(h.id ORDER BY h.id), '{}') AS ids, coalesce(array_agg(h.attempt ORDER BY h.id), '{}') AS attempts,
                (SELECT count(*) FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.run_id = $2) AS tasks
         FROM campaign_sync.sync_tasks h WHERE h.account = $1 AND h.worker_id = $3",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&worker, Type::INT8)],
    )?;
    let (ids, attempts): (Vec<String>, Vec<i32>) = (row.get("ids"), row.get("attempts"));
    Ok((ids.into_iter().zip(attempts).collect(), row.get("tasks")))
}

fn held_task(row: &Row) -> Held {
    Held { id: row.get("id"), attempt: row.get("attempt"), payload: row.get("payload") }
}

/// Whether other workers are on the run, and whether it has tasks that nobody holds.
///
/// # Errors
/// The database's.
pub fn around(
    client: &mut Client,
    account: &str,
    run_id: i64,
    worker: WorkerId,
) -> Result<(bool, bool), Error> {
    let row = client.query_typed_one(
        "SELECT EXISTS (SELECT FROM campaign_sync.workers
                        WHERE account = $1 AND run_id = $2 AND worker_id <> $3) AS others,
                EXISTS (SELECT FROM campaign_sync.sync_tasks
                        WHERE account = $1 AND run_id = $2 AND worker_id = 0
                          AND (seq < $4 OR (SELECT s.listing_done FROM campaign_sync.sync_runs s
                                            WHERE s.account = $1 AND s.run_id = $2))) AS free_tasks",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&worker, Type::INT8), (&UNLISTED, Type::INT8)],
    )?;
    Ok((row.get("others"), row.get("free_tasks")))
}

/// How many tasks the run has: another process may have opened the next one since.
///
/// # Errors
/// The database's.
pub fn count(client: &mut Client, account: &str, run_id: i64) -> Result<i64, Error> {
    let row = client.query_typed_one(
        "SELECT count(*) FROM campaign_sync.sync_tasks WHERE account = $1 AND run_id = $2",
        &[(&account, Type::TEXT), (&run_id, Type::INT8)],
    )?;
    Ok(row.get(0))
}
