//! The account's rate limit, shared by its processes: send times in one row, by the database's clock.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use postgres::types::{ToSql, Type};
use postgres::{Error, Row};

use super::{Client, Store};
use crate::http::RateLimit;
use crate::http::ledger::Ledger;
use crate::http::lock::lock;
use crate::http::sharing::SharingError;
use crate::http::window::{Gate, Reservation};

/// A longer wait than ten years is none that a clock could reckon with.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// A turn that is refused without a time is asked for again after this one.
const PAUSE: Duration = Duration::from_millis(50);

/// The ledger in the database.
pub struct SharedLedger {
    store: Store,
    /// The newest send of this process, by the database's clock.
    newest: Mutex<Option<SystemTime>>,
}

impl SharedLedger {
    /// The ledger of the store's account.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, newest: Mutex::default() }
    }
}

impl SharedLedger {
    /// Closes the gate; `asked` is what the platform asked for, where that is more than is waited for.
    fn close(&self, wait: Duration, asked: Option<f64>) -> Result<(), SharingError> {
        let seconds = wait.as_secs_f64();
        self.store.run(|client, account| {
            client.execute_typed(
                "INSERT INTO campaign_sync.quotas AS q (account, gate_set_at, gate_until, gate_asked_s)
                 SELECT $1, c.now, c.now + make_interval(secs => $2), $3 FROM clock_timestamp() AS c (now)
                 ON CONFLICT (account) DO UPDATE
                 -- A gate that was closed in the future was closed before the clock was turned back.
                 SET gate_until = greatest(
                         q.gate_until - greatest(q.gate_set_at - excluded.gate_set_at, interval '0'), excluded.gate_until),
                     gate_set_at = excluded.gate_set_at, gate_asked_s = excluded.gate_asked_s",
                &[(&account, Type::TEXT), (&seconds, Type::FLOAT8), (&asked, Type::FLOAT8)],
            )
        })?;
        Ok(())
    }
}

/// Forgets the gate and the limit that was learned; what was sent stays on record.
pub(super) fn forget(client: &mut Client, account: &str) -> Result<(), Error> {
    client.execute_typed(
        "UPDATE campaign_sync.quotas SET gate_until = NULL, gate_set_at = NULL, gate_asked_s = NULL, learned_at = NULL
         WHERE account = $1",
        &[(&account, Type::TEXT)],
    )?;
    Ok(())
}

/// The gate in a row's `gate_s` and `gate_asked_s`: for how long it is still closed, and what the platform asked for, where
/// that is more than is waited for.
pub(super) fn gate(row: &Row) -> Option<(Duration, Option<Duration>)> {
    let seconds = |name| {
        let value = row.get::<_, Option<f64>>(name)?;
        Duration::try_from_secs_f64(value).ok().filter(|time| !time.is_zero())
    };
    Some((seconds("gate_s")?, seconds("gate_asked_s")))
}

/// The rate limit in a row's `limit_requests` and `limit_window_ms`, when it has one.
pub(super) fn limit(row: &Row) -> Option<RateLimit> {
    let requests = u32::try_from(row.get::<_, Option<i32>>("limit_requests")?).ok()?;
    let millis = u64::try_from(row.get::<_, Option<i64>>("limit_window_ms")?).ok()?;
    RateLimit::new(requests, Duration::from_millis(millis))
}

/// What came of asking: the short way or the long one.
enum Asked {
    Recorded(Row),
    Reserved(Row),
}

impl Ledger for SharedLedger {
    fn reserve(
        &self,
        limit: Option<RateLimit>,
        margin: Duration,
        want: u32,
        apart: Duration,
    ) -> Result<Reservation, SharingError> {
        let most = limit.map(|limit| i32::try_from(limit.requests.get()).unwrap_or(i32::MAX));
        let seconds = limit.map(|limit| limit.window.as_secs_f64());
        let (count, margin, apart) = (i64::from(want), margin.as_secs_f64(), apart.as_secs_f64());
        let newest = *lock(&self.newest);
        let asked = self.store.run(|client, account| {
            let ask = [
                (&account as &(dyn ToSql + Sync), Type::TEXT),
                (&count, Type::INT8),
                (&newest, Type::TIMESTAMPTZ),
                (&apart, Type::FLOAT8),
                (&most, Type::INT4),
                (&seconds, Type::FLOAT8),
                (&margin, Type::FLOAT8),
            ];
            let recorded = match limit {
                None => client.query_typed_opt(include_str!("../../sql/record.sql"), &ask[..4])?,
                Some(_) => client.query_typed_opt(include_str!("../../sql/fits.sql"), &ask[..5])?,
            };
            if let Some(row) = recorded {
                return Ok(Asked::Recorded(row));
            }
            if let Some(row) = client.query_typed_opt(include_str!("../../sql/reserve.sql"), &ask)? {
                return Ok(Asked::Reserved(row));
            }
            // The account's first send ever, under a limit that was given: its row is not there yet.
            client.execute_typed(
                "INSERT INTO campaign_sync.quotas (account) VALUES ($1) ON CONFLICT (account) DO NOTHING",
                &ask[..1],
            )?;
            client.query_typed_one(include_str!("../../sql/reserve.sql"), &ask).map(Asked::Reserved)
        })?;
        let whole = |count: i64| u32::try_from(count).unwrap_or(if count < 0 { 0 } else { u32::MAX });
        let recorded = |row: &Row| *lock(&self.newest) = Some(row.get("at"));
        let row = match asked {
            Asked::Reserved(row) => row,
            Asked::Recorded(row) => {
                recorded(&row);
                let before = whole(row.get::<_, i64>("sends") - count);
                let (wait, gate) = (Duration::ZERO, Gate::Open);
                return Ok(Reservation { granted: want, wait, limit, before, gate });
            }
        };
        let kept = match (row.get::<_, Option<i32>>("most"), row.get::<_, Option<f64>>("seconds")) {
            (Some(most), Some(seconds)) => u32::try_from(most)
                .ok()
                .zip(Duration::try_from_secs_f64(seconds).ok())
                .and_then(|(most, window)| RateLimit::new(most, window)),
            _ => None,
        };
        let (granted, before) = (whole(row.get("granted")), whole(row.get("sends")));
        if granted > 0 {
            recorded(&row);
        }
        // What is no time that could be waited for is longer than any.
        let wait = Duration::try_from_secs_f64(row.get("wait_s")).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        // A row that somebody else has written may permit nothing and tell no time: never ask again without a pause.
        let wait = if granted == 0 && wait.is_zero() { PAUSE } else { wait };
        let gate = match (row.get::<_, bool>("doubted"), row.get::<_, bool>("closed")) {
            (true, true) => Gate::Doubted,
            (true, false) if granted > 0 => Gate::Probe,
            (false, true) => Gate::Closed,
            (_, false) => Gate::Open,
        };
        Ok(Reservation { granted, wait, limit: limit.or(kept), before, gate })
    }

    fn ages(&self) -> Result<Vec<Duration>, SharingError> {
        let rows = self.store.run(|client, account| {
            client.query_typed(
                "SELECT extract(epoch FROM clock_timestamp() - u.at)::float8, u.count
                 FROM campaign_sync.quotas q, unnest(q.sent_at, q.sent_count) WITH ORDINALITY AS u (at, count, place)
                 WHERE q.account = $1 ORDER BY u.at, u.place",
                &[(&account, Type::TEXT)],
            )
        })?;
        let ages = rows.iter().flat_map(|row| {
            let age = Duration::try_from_secs_f64(row.get(0)).unwrap_or_default();
            std::iter::repeat_n(age, usize::try_from(row.get::<_, i32>(1)).unwrap_or(0))
        });
        Ok(ages.collect())
    }

    fn take_back(&self, count: u32) -> Result<(), SharingError> {
        let count = i64::from(count);
        self.store.run(|client, account| {
            client.execute_typed(
                include_str!("../../sql/take_back.sql"),
                &[(&account, Type::TEXT), (&count, Type::INT8)],
            )
        })?;
        Ok(())
    }

    fn learn(&self, limit: RateLimit) -> Result<(), SharingError> {
        let most = i32::try_from(limit.requests.get()).unwrap_or(i32::MAX);
        let millis = i64::try_from(limit.window.as_millis()).unwrap_or(i64::MAX);
        self.store.run(|client, account| {
            client.execute_typed(
                "INSERT INTO campaign_sync.quotas (account, limit_requests, limit_window_ms, learned_at) VALUES ($1, $2, $3, now())
                 ON CONFLICT (account) DO UPDATE
                 SET limit_requests = excluded.limit_requests, limit_window_ms = excluded.limit_window_ms,
                     learned_at = excluded.learned_at",
                &[(&account, Type::TEXT), (&most, Type::INT4), (&millis, Type::INT8)],
            )
        })?;
        Ok(())
    }

    fn close_gate(&self, wait: Duration) -> Result<(), SharingError> {
        self.close(wait, None)
    }

    fn doubt(&self, wait: Duration, asked: Duration) -> Result<(), SharingError> {
        self.close(wait, Some(asked.as_secs_f64()))
    }

    fn open_gate(&self) -> Result<(), SharingError> {
        self.store.run(|client, account| {
            client.execute_typed(
                "UPDATE campaign_sync.quotas SET gate_until = NULL, gate_set_at = NULL, gate_asked_s = NULL WHERE account = $1",
                &[(&account, Type::TEXT)],
            )
        })?;
        Ok(())
    }
}
