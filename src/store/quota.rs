//! The account's rate limit, shared by its processes: send times in one row, by the database's clock.

use std::time::Duration;

use postgres::types::{ToSql, Type};
use postgres::{Error, Row};

use super::Client;
use crate::http::RateLimit;
use crate::rate::ledger::{Ask, Gate, Grant, Mark};

/// A longer wait than ten years is none that a clock could reckon with.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The short way is tried when what is asked for is a smaller part of the limit than one in so many.
const ROOM: u32 = 20;
/// A turn that is refused without a time is asked for again after this one.
const PAUSE: Duration = Duration::from_millis(50);

/// Closes the gate; `asked` is what the platform asked for, where that is more than is waited for.
pub(super) fn close_gate(
    client: &mut Client,
    account: &str,
    wait: Duration,
    asked: Option<f64>,
) -> Result<(), Error> {
    let seconds = wait.as_secs_f64();
    update(
        client,
        include_str!("../../sql/close_gate.sql"),
        &[(&account, Type::TEXT), (&seconds, Type::FLOAT8), (&asked, Type::FLOAT8)],
    )
}

/// Executes a statement that changes the row of the account, the first parameter; makes the row if it is not there yet.
fn update(
    client: &mut Client,
    fixed: &'static str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<(), Error> {
    if client.execute_typed(fixed, parameters)? == 0 {
        make_row(client, &parameters[..1])?;
        client.execute_typed(fixed, parameters)?;
    }
    Ok(())
}

fn make_row(client: &mut Client, account: &[(&(dyn ToSql + Sync), Type)]) -> Result<(), Error> {
    client.execute_typed(
        "INSERT INTO campaign_sync.quotas (account) VALUES ($1) ON CONFLICT (account) DO NOTHING",
        account,
    )?;
    Ok(())
}

/// Opens the gate: the platform did not mean it.
pub(super) fn open_gate(client: &mut Client, account: &str) -> Result<(), Error> {
    client.execute_typed(
        "UPDATE campaign_sync.quotas SET gate_until = NULL, gate_set_at = NULL, gate_asked_s = NULL WHERE account = $1",
        &[(&account, Type::TEXT)],
    )?;
    Ok(())
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

/// For how long a gate stays closed, and whether that is doubted.
pub type ClosedGate = (Duration, bool);

/// The limit that is on record, and for how long the gate stays closed.
pub(super) fn known(
    client: &mut Client,
    account: &str,
) -> Result<(Option<RateLimit>, Option<ClosedGate>), Error> {
    let row = client.query_typed_opt(
        "SELECT CASE WHEN learned_at > now() - interval '1 day' THEN limit_requests END AS limit_requests, limit_window_ms,
                gate_asked_s,
                greatest(0, extract(epoch FROM gate_until - greatest(now(), gate_set_at)))::float8 AS gate_s
         FROM campaign_sync.quotas WHERE account = $1",
        &[(&account, Type::TEXT)],
    )?;
    let gate = |row: &Row| {
        let wait = Duration::try_from_secs_f64(row.get::<_, Option<f64>>("gate_s")?).unwrap_or_default();
        Some((wait, row.get::<_, Option<f64>>("gate_asked_s").is_some()))
    };
    Ok(row.map_or((None, None), |row| (limit(&row), gate(&row))))
}

/// Puts sends on record, as far as the limit and the gate permit.
pub(super) fn reserve(client: &mut Client, account: &str, asking: &Ask) -> Result<Grant, Error> {
    let most = asking.limit.map(|limit| i32::try_from(limit.requests.get()).unwrap_or(i32::MAX));
    let seconds = asking.limit.map(|limit| limit.window.as_secs_f64());
    let (margin, late) = (asking.margin.as_secs_f64(), asking.late.as_secs_f64());
    let count = i64::from(asking.want);
    let mark = asking.correction.map(|correction| correction.mark.0);
    let unsent =
        asking.correction.map_or(0, |correction| i32::try_from(correction.unsent).unwrap_or(i32::MAX));
    let later = asking.correction.map_or(0, |correction| correction.later);
    let ask = [
        (&account as &(dyn ToSql + Sync), Type::TEXT),
        (&count, Type::INT8),
        (&most, Type::INT4),
        (&late, Type::FLOAT8),
        (&asking.learned, Type::BOOL),
        (&seconds, Type::FLOAT8),
        (&margin, Type::FLOAT8),
        (&mark, Type::INT8),
        (&unsent, Type::INT4),
        (&later, Type::INT8),
    ];
    // The short way, where they fit in any case: beside what is on record, which is never nothing there. Under a small limit
    // it is full as a rule. What is corrected to be earlier matters only where it is full.
    if asking.limit.is_some_and(|limit| asking.want.saturating_mul(ROOM) < limit.requests.get())
        && asking.correction.is_none_or(|correction| correction.later < 0)
        && client.query_typed_opt(include_str!("../../sql/fits.sql"), &ask[..5])?.is_some()
    {
        let (granted, wait) = (asking.want, Duration::ZERO);
        return Ok(Grant { granted, wait, mark: None, limit: None, gate: Gate::Open });
    }
    const LONG_WAY: &str = include_str!("../../sql/reserve.sql");
    let row = match client.query_typed_opt(LONG_WAY, &ask)? {
        Some(row) => row,
        // The account's first send ever: its row is not there yet.
        None => {
            make_row(client, &ask[..1])?;
            client.query_typed_one(LONG_WAY, &ask)?
        }
    };
    let kept = match (row.get::<_, Option<i32>>("most"), row.get::<_, Option<f64>>("seconds")) {
        (Some(most), Some(seconds)) => u32::try_from(most)
            .ok()
            .zip(Duration::try_from_secs_f64(seconds).ok())
            .and_then(|(most, window)| RateLimit::new(most, window)),
        _ => None,
    };
    let granted = whole(row.get("granted"));
    // What is no time that could be waited for is longer than any.
    let wait = Duration::try_from_secs_f64(row.get("wait_s")).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    let wait = match granted < asking.want {
        // A row that somebody else has written may permit nothing and tell no time: never ask again without a pause.
        true if wait.is_zero() => PAUSE,
        _ => wait,
    };
    let gate = match (row.get::<_, bool>("doubted"), row.get::<_, bool>("closed")) {
        (true, true) => Gate::Doubted,
        (true, false) if granted > 0 => Gate::Probe,
        (false, true) => Gate::Closed,
        (_, false) => Gate::Open,
    };
    // Told only where it is another one than was given.
    let mark = row.get::<_, Option<i64>>("mark").filter(|_| granted > 0).map(Mark);
    Ok(Grant { granted, wait, mark, limit: kept.filter(|_| kept != asking.limit), gate })
}

fn whole(count: i64) -> u32 {
    u32::try_from(count).unwrap_or(if count < 0 { 0 } else { u32::MAX })
}

/// The ages of the sends on record, oldest first.
pub(super) fn ages(client: &mut Client, account: &str) -> Result<Vec<Duration>, Error> {
    let rows = client.query_typed(
        "SELECT extract(epoch FROM clock_timestamp() - u.at)::float8, u.count
         FROM campaign_sync.quotas q, unnest(q.sent_at, q.sent_count) WITH ORDINALITY AS u (at, count, place)
         WHERE q.account = $1 ORDER BY u.at, u.place",
        &[(&account, Type::TEXT)],
    )?;
    let ages = rows.iter().flat_map(|row| {
        let age = Duration::try_from_secs_f64(row.get(0)).unwrap_or_default();
        std::iter::repeat_n(age, usize::try_from(row.get::<_, i32>(1)).unwrap_or(0))
    });
    Ok(ages.collect())
}

/// Keeps a limit that was learned. The sends of these ages go on record with it, unless a limit was known: then they are there.
pub(super) fn learn(
    client: &mut Client,
    account: &str,
    limit: RateLimit,
    ages: &[Duration],
) -> Result<(), Error> {
    let most = i32::try_from(limit.requests.get()).unwrap_or(i32::MAX);
    let millis = i64::try_from(limit.window.as_millis()).unwrap_or(i64::MAX);
    let ages: Vec<f64> = ages.iter().map(Duration::as_secs_f64).collect();
    update(
        client,
        include_str!("../../sql/learn.sql"),
        &[(&account, Type::TEXT), (&most, Type::INT4), (&millis, Type::INT8), (&ages, Type::FLOAT8_ARRAY)],
    )
}
