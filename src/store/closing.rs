//! Closing a run, and what becomes of the campaigns that its listing no longer showed.

use std::fmt;

use postgres::types::{ToSql, Type};
use postgres::{Error, Row};

use super::{Client, begin};

/// So few tasks can be finished in a moment.
const FEW: i64 = 16;

/// What closing a run has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is not at its end.
    Open {
        /// So few tasks are left that any moment may be it.
        near: bool,
    },
    /// Another process has closed or abandoned it.
    Over,
    /// Closed. When nothing may be marked as removed, it says why.
    Closed(Option<NotRemoved>),
}

/// Why nothing was marked as removed, with the numbers that say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRemoved {
    /// The reason.
    pub reason: Reason,
    /// Campaigns that were listed.
    pub listed: i64,
    /// The platform's last word on their number, and the lowest and highest one.
    pub totals: Option<(i64, i64, i64)>,
    /// Campaigns that were not listed, …
    pub unlisted: i64,
    /// … of so many that were there.
    pub present: i64,
}

/// A reason to mark nothing as removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The listing has become shorter while it was read.
    Moved,
    /// The platform's total has changed while the listing was read.
    TotalChanged,
    /// Fewer campaigns were listed than the platform says there are.
    BelowTotal,
    /// More campaigns were listed than the platform says there are.
    AboveTotal,
    /// So many records have no usable id, and may be any campaign's.
    NoId(i64),
    /// They are more than this share, in percent, of those that were there.
    MaxRemoved(u8),
}

impl Reason {
    /// A word for grouping, as `sync_runs` and JSON have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::TotalChanged => "total_changed",
            Self::BelowTotal => "below_total",
            Self::AboveTotal => "above_total",
            Self::NoId(_) => "no_id",
            Self::MaxRemoved(_) => "max_removed",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Moved, Self::TotalChanged, Self::BelowTotal, Self::AboveTotal]
            .into_iter()
            .find(|reason| reason.word() == word)
    }
}

impl fmt::Display for NotRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (listed, unlisted, present) = (self.listed, self.unlisted, self.present);
        let (total, lowest, highest) = self.totals.unwrap_or((listed, listed, listed));
        match self.reason {
            Reason::Moved => write!(
                f,
                "the listing became shorter while it was read: {listed} campaigns were listed, the platform says {total}"
            )?,
            Reason::TotalChanged => write!(
                f,
                "the platform's total changed from {lowest} to {highest}, or back, while it was listed: {listed} campaigns were listed"
            )?,
            Reason::BelowTotal | Reason::AboveTotal => {
                write!(f, "{listed} campaigns were listed, but the platform says that there are {total}")?;
            }
            Reason::NoId(records) => write!(
                f,
                "{unlisted} of {present} campaigns are no longer listed, but {records} listed record(s) have no usable id"
            )?,
            Reason::MaxRemoved(percent) => write!(
                f,
                "{unlisted} of {present} campaigns are no longer listed, more than --max-removed {percent}%"
            )?,
        }
        f.write_str(match self.reason {
            Reason::MaxRemoved(_) => {
                ": none was marked as removed; if that is right, run again with --max-removed 100"
            }
            _ => ": nothing was marked as removed; the next sync lists everything again",
        })
    }
}

/// Closes the run if all of it is done, and marks what its complete listing no longer shows, unless that is more than
/// `max_removed` percent of what was there.
///
/// # Errors
/// The database's.
pub fn close(client: &mut Client, account: &str, run_id: i64, max_removed: u8) -> Result<Closing, Error> {
    // Asked over and over by processes that wait for others.
    let row = client.query_typed_opt(
        "SELECT s.state, s.listing_done,
                (SELECT count(*) FROM (SELECT FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.run_id = $2 LIMIT $3 + 1) few) AS tasks
         FROM campaign_sync.sync_runs s WHERE s.account = $1 AND s.run_id = $2",
        &[(&account, Type::TEXT), (&run_id, Type::INT8), (&FEW, Type::INT8)],
    )?;
    match row {
        Some(row) if matches!(row.get("state"), "running" | "stopped") => {
            let (listing_done, tasks): (bool, i64) = (row.get("listing_done"), row.get("tasks"));
            if !listing_done || tasks > 0 {
                return Ok(Closing::Open { near: listing_done && tasks <= FEW });
            }
        }
        _ => return Ok(Closing::Over),
    }
    let closing = try_to_close(client, account, run_id, max_removed)?;
    Ok(closing.unwrap_or(Closing::Open { near: true }))
}

/// Nothing when it is not all done.
fn try_to_close(
    client: &mut Client,
    account: &str,
    run_id: i64,
    max_removed: u8,
) -> Result<Option<Closing>, Error> {
    let key: [(&(dyn ToSql + Sync), Type); 2] = [(&account, Type::TEXT), (&run_id, Type::INT8)];
    let close = |client: &mut Client| client.query_typed_opt(include_str!("../../sql/close_run.sql"), &key);
    let mut transaction = begin(client)?;
    let Some(row) = close(&mut transaction)? else { return Ok(None) };
    let mut not_removed = not_whole(&row);
    if row.get("lists") {
        let counts = transaction.query_typed_one(include_str!("../../sql/count_unlisted.sql"), &key)?;
        let (unlisted, present): (i64, i64) = (counts.get("unlisted"), counts.get("present"));
        let unnamed: i64 = row.get("unnamed");
        let reason = match &not_removed {
            _ if unlisted == 0 => None,
            Some(not_whole) => Some(not_whole.reason),
            None if unnamed > 0 => Some(Reason::NoId(unnamed)),
            None if i128::from(unlisted) * 100 > i128::from(present) * i128::from(max_removed) => {
                Some(Reason::MaxRemoved(max_removed))
            }
            None => {
                transaction.query_typed(include_str!("../../sql/mark_removed.sql"), &key)?;
                None
            }
        };
        if let Some(reason) = reason {
            transaction.execute_typed(
                "UPDATE campaign_sync.sync_runs SET not_removed = $3, not_removed_reason = $4 WHERE account = $1 AND run_id = $2",
                &[
                    (&account, Type::TEXT),
                    (&run_id, Type::INT8),
                    (&unlisted, Type::INT8),
                    (&reason.word(), Type::TEXT),
                ],
            )?;
            not_removed = Some(NotRemoved { unlisted, present, ..because(&row, reason) });
        }
    }
    transaction.commit()?;
    Ok(Some(Closing::Closed(not_removed)))
}

/// Why the listing of a closed run was not whole, if so.
fn not_whole(row: &Row) -> Option<NotRemoved> {
    let word: Option<&str> = row.get("not_removed_reason");
    word.and_then(Reason::from_word).map(|reason| because(row, reason))
}

fn because(row: &Row, reason: Reason) -> NotRemoved {
    let total: Option<i64> = row.get("total");
    let totals = total.map(|total| {
        let bound = |name| row.get::<_, Option<i64>>(name).unwrap_or(total);
        (total, bound("lowest_total"), bound("highest_total"))
    });
    NotRemoved { reason, listed: row.get("listed"), totals, unlisted: 0, present: 0 }
}
