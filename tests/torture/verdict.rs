//! What must hold at the end of a schedule.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mock_api::{Fate, Kind, most_in_window};

use crate::network::Rates;
use crate::plan::{After, Event, Plan};
use crate::stage::{End, Stage};
use crate::support::assert_no_secret;

/// What does not depend on when it is asked.
pub fn all(stage: &Stage<'_>) -> Vec<String> {
    let mut violations = effects(stage);
    violations.extend(stage.beside.others_loss(&stage.database, stage.plan.attempts));
    violations.extend(repeats(stage));
    violations.extend(tokens(stage));
    for end in &stage.ends {
        violations.extend(ending(stage.plan, end));
    }
    secrets(stage);
    violations
}

struct Letter {
    cause: String,
    reason: String,
    attempts: i32,
    payload: String,
    /// Whether the test has its row refused.
    refused: bool,
}

/// Every campaign that the platform lists is a row of the last run with what was served last, or a dead letter of it that
/// can be explained.
pub fn contents(stage: &Stage<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    let every = stage.plan.field.refused.map_or(1, |refused| refused.every);
    let newest =
        "account = 'default' AND run_id = (SELECT max(run_id) FROM sync_runs WHERE account = 'default')";
    let rows: BTreeSet<String> = stage
        .database
        .rows(&format!("SELECT id FROM campaigns WHERE removed_at IS NULL AND {newest}"))
        .iter()
        .map(|row| row.get(0))
        .collect();
    let letters: BTreeMap<String, Letter> = stage
        .database
        .rows(&format!(
            "SELECT id, cause, reason, attempts, payload, torture_is_refused(id, {every}) FROM dead_letters WHERE {newest}"
        ))
        .iter()
        .map(|row| {
            let (cause, reason, attempts, payload) = (row.get(1), row.get(2), row.get(3), row.get(4));
            (row.get(0), Letter { cause, reason, attempts, payload, refused: row.get(5) })
        })
        .collect();
    let mut known = 0;
    for (key, fate) in stage.platform.fates() {
        let letter = letters.get(&key).or_else(|| letters.values().find(|letter| letter.payload == key));
        known += usize::from(rows.contains(&key)) + usize::from(letter.is_some());
        match (fate, rows.contains(&key), letter) {
            (Fate::Row, true, None) => {}
            (_, false, Some(letter)) => {
                let invalid = fate == Fate::DeadLetter && stage.platform.misfortune(&key).is_none();
                if let Some(why) = unexplained(stage, &key, letter, invalid) {
                    violations
                        .push(format!("dead letter of {key:?} {why}: {}, {}", letter.cause, letter.reason));
                }
            }
            (_, row, _) => violations.push(format!("{key:?} is to be a {fate:?}; is it a row? {row}")),
        }
    }
    if known != rows.len() + letters.len() {
        violations.push(format!(
            "{known} are known, {} rows and {} letters are there",
            rows.len(),
            letters.len()
        ));
    }
    violations.extend(differences(stage, &rows));
    violations
}

/// Why this dead letter should not be.
fn unexplained(stage: &Stage<'_>, id: &str, letter: &Letter, invalid: bool) -> Option<&'static str> {
    let plan = stage.plan;
    let attempts = u64::try_from(letter.attempts).unwrap_or(0);
    let explained = match letter.cause.as_str() {
        "invalid" => invalid,
        "unstorable" => letter.refused && plan.field.refused.is_some_and(|refused| refused.makes_letters()),
        "not_found" | "gone" | "refused" | "forbidden" => stage.platform.misfortune(id).is_some(),
        "unauthorized" => may_be_refused(plan),
        "connect" | "timeout" | "interrupted" | "unparsable" | "server_error" | "redirect" | "failing" => {
            if attempts < plan.attempts {
                return Some("came too early");
            }
            plan.harms_syncs()
        }
        _ => false,
    };
    (!explained).then_some("has no reason")
}

/// Rows that are not what the platform said last of them, field by field; decimals digit by digit.
fn differences(stage: &Stage<'_>, rows: &BTreeSet<String>) -> Vec<String> {
    let served = stage.platform.served();
    let (ids, records): (Vec<&String>, Vec<&String>) =
        rows.iter().filter_map(|id| Some((id, served.get(id)?))).unzip();
    let mut client = stage.database.connect().unwrap();
    let different = client
        .query(
            "SELECT to_jsonb(c)::text, s.record
             FROM unnest($1::text[], $2::text[]) s (id, record)
             CROSS JOIN LATERAL (SELECT s.record::jsonb AS r) r
             LEFT JOIN campaigns c ON c.account = 'default' AND c.id = s.id
             WHERE (c.name, c.status, c.budget::text, c.impressions, c.clicks, c.conversions, c.created_at, c.extra)
                IS DISTINCT FROM
                   (r ->> 'name', r ->> 'status', r ->> 'budget', (r ->> 'impressions')::bigint,
                    (r ->> 'clicks')::bigint, (r ->> 'conversions')::bigint, (r ->> 'created_at')::timestamptz,
                    r - '{id,name,status,budget,impressions,clicks,conversions,created_at}'::text[])",
            &[&ids, &records],
        )
        .unwrap();
    let mut violations: Vec<String> = different
        .iter()
        .map(|row| {
            format!("stored {:?}, served {}", row.get::<_, Option<String>>(0), row.get::<_, String>(1))
        })
        .collect();
    if ids.len() != rows.len() {
        violations.push(format!("{} rows, {} of them ever served", rows.len(), ids.len()));
    }
    violations
}

/// What the platform has is not marked as removed, whatever its listing showed or said.
pub fn living(stage: &Stage<'_>, when: &str) -> Vec<String> {
    let removed = stage.database.rows("SELECT id FROM campaigns WHERE removed_at IS NOT NULL");
    removed.iter().map(|row| format!("{when}: {:?} is marked as removed", row.get::<_, String>(0))).collect()
}

/// What is listed is not marked as removed, and what is not is.
pub fn removals(stage: &Stage<'_>) -> Vec<String> {
    let listed: BTreeSet<String> = stage.platform.fates().into_iter().map(|(id, _)| id).collect();
    let rows =
        stage.database.rows("SELECT id, removed_at IS NOT NULL FROM campaigns WHERE account = 'default'");
    let believed = stage.plan.field.total_off == (0, 0);
    let wrong = rows.iter().filter(|row| {
        let (id, removed): (String, bool) = (row.get(0), row.get(1));
        // A total that contradicts the listing lets nobody be taken for gone.
        if !believed {
            return removed;
        }
        // Records without an id may be anybody's: then nobody is taken for gone.
        removed == listed.contains(&id) && (removed || !stage.plan.settings.odd)
    });
    wrong.map(|row| format!("{:?}: removed is {}", row.get::<_, String>(0), row.get::<_, bool>(1))).collect()
}

/// A campaign is stored in the transaction that ends its task, by the worker that holds it, or in the one that lists it, by
/// the lister; once a run.
fn effects(stage: &Stage<'_>) -> Vec<String> {
    let query = "
        SELECT 'stored outside the transaction that ends its task or lists it', s.id
        FROM torture_effects s
        WHERE s.what = 'stored' AND NOT EXISTS (
            SELECT FROM torture_effects t
            WHERE t.tx = s.tx AND t.run_id = s.run_id
              AND (t.what = 'listed' OR (t.what = 'ended' AND t.id = s.id)))
        UNION ALL
        SELECT 'stored by a worker that does not hold it', s.id
        FROM torture_effects s
        JOIN torture_effects t ON t.tx = s.tx AND (t.what = 'listed' OR (t.what = 'ended' AND t.id = s.id))
        WHERE s.what = 'stored' AND NOT EXISTS (
            SELECT FROM torture_effects w
            WHERE w.what = 'counted' AND w.tx = s.tx AND w.worker_id = t.worker_id)
          -- What a retry had put back and nobody held is the lister's, when its page shows it.
          AND NOT (t.what = 'ended' AND t.worker_id = 0
                   AND EXISTS (SELECT FROM torture_effects l WHERE l.tx = s.tx AND l.what = 'listed'))
        UNION ALL
        SELECT 'stored twice in a run', id
        FROM torture_effects WHERE what = 'stored' GROUP BY id, run_id HAVING count(*) > 1";
    let rows = stage.database.rows(query);
    rows.iter().map(|row| format!("{:?} was {}", row.get::<_, String>(1), row.get::<_, String>(0))).collect()
}

/// A limit that the program was told is kept as it sends. Two thirds of a window of grace: two bursts are a whole one
/// apart, and a busy machine may hold one up.
pub fn rate_limit(stage: &Stage<'_>) -> Option<String> {
    let (limit, window) = stage.plan.settings.rate_limit.filter(|_| stage.plan.told)?;
    // A process that is stopped between taking its turn and sending sends late: no limiter can help that.
    // And what the database has forgotten by its clock was sent all the same: then the platform's refusals keep the limit.
    if stage.plan.has(|event| matches!(event, Event::Stop(_))) || stage.plan.clock_leaps() {
        return None;
    }
    let sends = stage.api.sends();
    let first = sends.first()?;
    let times: Vec<_> = sends.iter().map(|at| at.duration_since(*first)).collect();
    let most = most_in_window(&times, window / 3);
    // What the database has forgotten, nobody else knows of: each time, that is a window at the most.
    let limit = limit as usize * (1 + stage.forgotten);
    (most > limit)
        .then(|| format!("{most} requests in a third of {window:?}, where {limit} are allowed in the whole"))
}

/// How often a process or a lease ended such that what was done may have to be done again, or was forgotten.
fn losses(stage: &Stage<'_>) -> usize {
    let bad_ends = stage.ends.iter().filter(|end| end.is_bad(stage.plan)).count();
    bad_ends + stage.leases_ended * stage.launched + stage.forgotten
}

/// What was refused was answered all the same, and is asked for again by each retry.
fn refused(stage: &Stage<'_>) -> BTreeSet<String> {
    let Some(refused) = stage.plan.field.refused else { return BTreeSet::new() };
    let (table, every) = (refused.table, refused.every);
    let ids = "SELECT id FROM campaigns UNION SELECT id FROM dead_letters";
    let query = format!(
        "SELECT id FROM ({ids}) i WHERE torture_is_refused(id, {every}) AND '{table}' <> 'dead_letters'"
    );
    stage.database.rows(&query).iter().map(|row| row.get(0)).collect()
}

/// A sync that was answered with success is not asked for again in its run, unless the answer or what was made of it was
/// lost.
fn repeats(stage: &Stage<'_>) -> Vec<String> {
    let plan = stage.plan;
    let ledger = stage.platform.ledger();
    let mut done: HashMap<(&str, &str), usize> = HashMap::new();
    let mut asked: HashMap<(&str, &str), usize> = HashMap::new();
    for seen in ledger.of(Kind::Sync) {
        let key = (seen.key.as_str(), seen.subject.as_str());
        *done.entry(key).or_default() += usize::from(seen.success);
        *asked.entry(key).or_default() += usize::from(!matches!(seen.status, 401 | 429));
    }
    let losses = losses(stage);
    // The sleeper and whoever was stopped may have lost replies by sleeping.
    let replies = if plan.loses_replies() { usize::MAX / 2 } else { 0 };
    let refused = refused(stage);
    let retries = |id: &str| if refused.contains(id) { stage.retries } else { 0 };
    let many = |(key, times): (&(&str, &str), &usize)| {
        format!("the sync of {:?} was answered {times} times with success, {losses} losses", key.1)
    };
    let mut violations: Vec<String> = done
        .iter()
        .filter(|((_, id), times)| **times > 1 + losses + replies + retries(id))
        .map(many)
        .collect();
    let most = usize::try_from(plan.attempts).unwrap() * 4 * (1 + losses) + 20;
    for ((_, id), times) in asked {
        if times > most {
            violations.push(format!("the sync of {id:?} was asked for {times} times, {losses} losses"));
        }
    }
    violations
}

/// A token is fetched when there is none, or when the last one has ended or was refused; once, by one process.
fn tokens(stage: &Stage<'_>) -> Option<String> {
    let plan = stage.plan;
    let ledger = stage.platform.ledger();
    let fetched = ledger.of(Kind::Token).filter(|seen| seen.success).count() as u64;
    let refused: BTreeSet<u64> =
        ledger.requests.iter().filter(|seen| seen.status == 401).map(|seen| seen.token).collect();
    let refused = refused.len() as u64;
    // Such a token is not shared: nobody can say for how long it is good.
    let shared = format!("{:?}", plan.settings.expires_in) != "Fixed(0.0)"
        && plan.settings.token_lifetime > std::time::Duration::from_secs(60);
    let launched = stage.launched as u64;
    let lifetimes = if shared {
        0
    } else {
        let elapsed = ledger.requests.last().map_or(0.0, |seen| seen.at.as_secs_f64());
        let life = plan.settings.token_lifetime.as_secs_f64();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let ended = (elapsed / (life * 0.85)) as u64 + 1;
        (ended + refused) * launched
    };
    let lost = if plan.api == Rates::default() && !plan.loses_replies() { 0 } else { fetched };
    // A jump ends tokens, and turns to fetch one.
    let jumps = stage.clock_jumps * 2 * launched;
    let most = 1 + refused + lifetimes + lost + jumps + losses(stage) as u64;
    (fetched > most)
        .then(|| format!("{fetched} tokens were fetched, {most} can be explained ({refused} were refused)"))
}

fn may_be_refused(plan: &Plan) -> bool {
    plan.settings.faults.revoke_every > 0
        || plan.has(|event| *event == Event::RevokeTokens)
        || plan.settings.token_lifetime.as_secs() < 60
}

/// A process ends with a documented code, and says the same in its summary.
fn ending(plan: &Plan, end: &End) -> Vec<String> {
    let mut violations = Vec::new();
    let outcome = &end.outcome;
    let mut must = |holds: bool, what: &str| {
        if !holds {
            violations.push(format!("{what}: {} {}", outcome.status, outcome.stdout));
        }
    };
    for sign in ["panicked", "internal error", "stack backtrace", "/srv/app"] {
        must(!outcome.stderr.contains(sign) && !outcome.stdout.contains(sign), sign);
    }
    let Some(code) = outcome.code() else {
        // Before it has begun to listen for signals, an interrupt is the system's business.
        let sent = (end.killed, end.interrupted > 0, outcome.signal());
        must(matches!(sent, (true, _, Some(9)) | (_, true, Some(2))), "ended by a signal that nobody sent");
        return violations;
    };
    let known = match code {
        0 | 3 => true,
        4 => end.faulty && may_be_refused(plan),
        5 => end.faulty,
        // A retry puts tasks back in one statement, all or none.
        2 => {
            let retries = |table: &str| end.command == "retry" && table == "sync_tasks";
            end.faulty
                && plan
                    .field
                    .refused
                    .is_some_and(|refused| !refused.makes_letters() || retries(refused.table))
        }
        130 => end.interrupted > 0,
        _ => false,
    };
    must(known, "an exit code that is not to be");
    let lines =
        outcome.stdout.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let Some(summary) = lines.into_iter().find(|line| line["account"] == "default") else {
        // A `retry` without anything to retry has nothing to say, and a second signal leaves no time for it.
        let idle = code == 0 && outcome.stdout.is_empty() && end.command == "retry";
        must(idle || end.interrupted > 1, "no summary");
        return violations;
    };
    let count = |name: &str| summary[name].as_i64().unwrap_or(-1);
    let (state, listed) = (summary["state"].as_str().unwrap_or_default(), count("listed"));
    // Of two accounts, the more serious end counts.
    let code = match state {
        "complete" if plan.has_others() && code > 0 => 0,
        "partial" if plan.has_others() && code != 3 => 3,
        _ => code,
    };
    match code {
        0 => {
            must(state == "complete" && count("failed") == 0, "0, but not complete");
            must(listed == count("synced"), "0, but not everything is synced");
        }
        3 => {
            must(state == "partial" && count("failed") > 0, "3, but not partial");
            must(listed == count("synced") + count("failed"), "3, but something is missing");
        }
        _ => {
            must(state != "complete" && state != "partial", "closed, but not a success");
            must(summary["error"].is_string(), "no success, and no error");
        }
    }
    must(!matches!(code, 0 | 3) || count("pending") == 0, "done, but something is pending");
    let agrees = summary["total"].is_null() || count("listed") == count("total");
    must(count("removed") == 0 || agrees, "something is removed, though the totals contradict each other");
    let honest = plan.settings.total_off == (0, 0) && plan.settings.faults.ends_early == 0;
    // A retry counts what it puts back, and the listing of a run that was open may have changed meanwhile.
    let steady = honest && plan.after != After::Newer && !plan.has(|event| *event == Event::Retry);
    must(
        !matches!(code, 0 | 3) || !steady || agrees,
        "done, but not all is listed that the platform says there is",
    );
    violations
}

/// No output and no table shows a secret; fails by a panic, which the schedule takes for a violation.
fn secrets(stage: &Stage<'_>) {
    let mut outputs: Vec<String> =
        stage.ends.iter().flat_map(|end| [end.outcome.stdout.clone(), end.outcome.stderr.clone()]).collect();
    let tables = stage.database.rows(
        "SELECT query_to_xml(format('SELECT to_jsonb(t)::text AS r FROM %I t', relname), true, true, '')::text
         FROM pg_class WHERE relkind = 'r' AND relnamespace = 'campaign_sync'::regnamespace AND relname NOT LIKE 'torture%'",
    );
    outputs.extend(tables.iter().map(|row| row.get(0)));
    outputs.extend(stage.beside.written());
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let platforms = stage.beside.platforms().chain([(&stage.platform, stage.plan.seed)]);
    let tokens: Vec<String> = platforms.flat_map(|(platform, seed)| tokens_of(platform, seed)).collect();
    let mut secrets = vec![mock_api::PASSWORD, stage.database.password()];
    secrets.extend(tokens.iter().map(String::as_str));
    assert_no_secret(&outputs, &secrets);
}

/// The first and the last that it has given.
fn tokens_of(platform: &mock_api::Server, seed: u64) -> Vec<String> {
    let given = platform.ledger().tokens;
    (0..given)
        .filter(|nth| *nth < 4 || nth + 4 >= given)
        .map(|nth| format!("token-{:016x}-{nth}", mock_api::settings::mix(seed, nth + 1_000_000)))
        .collect()
}
