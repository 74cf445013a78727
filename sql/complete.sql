-- A batch of finished tasks: each task that this worker still holds under this attempt number is deleted, and only then
-- is its campaign stored, in one statement. A worker that lost its lease deletes nothing and so stores nothing.
WITH batch AS (
    -- Side by side, as in sql/add_pages.sql.
    SELECT unnest($3::text[]) AS id, unnest($4::int[]) AS attempt, unnest($5::text[]) AS name,
           unnest($6::text[]) AS status, unnest($7::text[]) AS budget, unnest($8::bigint[]) AS impressions,
           unnest($9::bigint[]) AS clicks, unnest($10::bigint[]) AS conversions,
           unnest($11::timestamptz[]) AS created_at, unnest($12::text[]) AS extra
), done AS (
    DELETE FROM campaign_sync.sync_tasks t
    -- One probe of the primary key for each id, whatever is known of the table: a join would be planned by statistics. The
    -- rest is looked at as the row is locked: one that another process has taken in the meantime stays.
    WHERE t.account = $1 AND t.worker_id = $2 AND t.id = ANY (ARRAY (SELECT b.id FROM batch b))
      AND ((t.id, t.attempt) IN (SELECT b.id, b.attempt FROM batch b)) IS TRUE
    RETURNING t.account, t.id, t.attempt, t.run_id
), stored AS (
    INSERT INTO campaign_sync.campaigns AS c (account, id, name, status, budget, impressions, clicks, conversions, created_at, extra,
                                first_synced_at, synced_at, changed_at, run_id)
    -- By id, so that two writers lock rows in the same order.
    SELECT d.account, d.id, b.name, b.status, b.budget::numeric, b.impressions, b.clicks, b.conversions, b.created_at,
           b.extra::jsonb, now(), now(), now(), d.run_id
    FROM done d JOIN batch b ON b.id = d.id AND b.attempt = d.attempt
    ORDER BY d.id
    ON CONFLICT (account, id) DO UPDATE
    SET name = excluded.name, status = excluded.status, budget = excluded.budget, impressions = excluded.impressions,
        clicks = excluded.clicks, conversions = excluded.conversions, created_at = excluded.created_at,
        extra = excluded.extra,
        changed_at = CASE WHEN c.removed_at IS NOT NULL
                            OR (c.name, c.status, c.budget, c.impressions, c.clicks, c.conversions, c.created_at, c.extra)
                               IS DISTINCT FROM (excluded.name, excluded.status, excluded.budget, excluded.impressions,
                                                 excluded.clicks, excluded.conversions, excluded.created_at, excluded.extra)
                          THEN excluded.changed_at ELSE c.changed_at END,
        synced_at = excluded.synced_at, run_id = excluded.run_id, removed_at = NULL
    RETURNING c.account, c.id, c.run_id, c.changed_at, c.synced_at, c.name, c.status, c.budget, c.impressions, c.clicks, c.conversions,
              c.created_at, c.extra
), history AS (
    -- As in sql/add_pages.sql. Only where something changed: its time is then that of this storing. The
    -- row before it is read as it was when the statement began, by one probe of the primary key.
    INSERT INTO campaign_sync.campaign_changes (account, id, changed_at, run_id, what, old, new)
    SELECT s.account, s.id, s.changed_at, s.run_id,
           CASE WHEN o.id IS NULL THEN 'added' WHEN o.removed_at IS NOT NULL THEN 'returned' ELSE 'changed' END,
           CASE WHEN o.id IS NOT NULL THEN
               jsonb_strip_nulls(jsonb_build_object(
                   'name', CASE WHEN o.name <> s.name THEN o.name END,
                   'status', CASE WHEN o.status <> s.status THEN o.status END,
                   'budget', CASE WHEN o.budget <> s.budget THEN o.budget END,
                   'impressions', CASE WHEN o.impressions <> s.impressions THEN o.impressions END,
                   'clicks', CASE WHEN o.clicks <> s.clicks THEN o.clicks END,
                   'conversions', CASE WHEN o.conversions <> s.conversions THEN o.conversions END,
                   'created_at', CASE WHEN o.created_at <> s.created_at THEN o.created_at END))
               -- Nulls in it are the platform's.
               || CASE WHEN o.extra <> s.extra THEN jsonb_build_object('extra', o.extra) ELSE '{}' END END,
           jsonb_strip_nulls(jsonb_build_object(
               'name', CASE WHEN o.name = s.name THEN NULL ELSE s.name END,
               'status', CASE WHEN o.status = s.status THEN NULL ELSE s.status END,
               'budget', CASE WHEN o.budget = s.budget THEN NULL ELSE s.budget END,
               'impressions', CASE WHEN o.impressions = s.impressions THEN NULL ELSE s.impressions END,
               'clicks', CASE WHEN o.clicks = s.clicks THEN NULL ELSE s.clicks END,
               'conversions', CASE WHEN o.conversions = s.conversions THEN NULL ELSE s.conversions END,
               'created_at', CASE WHEN o.created_at = s.created_at THEN NULL ELSE s.created_at END))
           || CASE WHEN o.extra = s.extra THEN '{}' ELSE jsonb_build_object('extra', s.extra) END
    FROM stored s
    LEFT JOIN LATERAL (SELECT c.* FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = s.id LIMIT 1) o ON true
    WHERE s.changed_at = s.synced_at
      AND (SELECT r.keeps_history FROM campaign_sync.sync_runs r WHERE r.account = $1 AND r.run_id = s.run_id)
    ORDER BY s.id
), unkept AS (
    -- A trigger, rule or policy may drop a row without an error: the campaign is then a dead letter. Its record is still
    -- seen here, though its task is deleted above.
    INSERT INTO campaign_sync.dead_letters AS l (account, id, run_id, cause, reason, attempts, payload, retryable)
    SELECT d.account, d.id, d.run_id, 'unstorable',
           'the table campaigns does not keep the row: a trigger, rule or policy drops it without an error', 1,
           (SELECT t.payload FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = d.id), true
    FROM done d
    WHERE (SELECT count(*) FROM stored) < (SELECT count(*) FROM done)
      AND d.id NOT IN (SELECT s.id FROM stored s)
    ORDER BY d.id
    ON CONFLICT (account, id) DO UPDATE
    SET run_id = excluded.run_id, cause = excluded.cause, reason = excluded.reason, attempts = excluded.attempts,
        payload = excluded.payload, retryable = excluded.retryable, failed_at = excluded.failed_at
    RETURNING l.id
), cleared AS (
    DELETE FROM campaign_sync.dead_letters l
    WHERE l.account = $1 AND EXISTS (SELECT FROM campaign_sync.dead_letters WHERE account = $1)
      AND l.id = ANY (ARRAY (SELECT s.id FROM stored s))
), counted AS (
    UPDATE campaign_sync.workers w
    SET synced = w.synced + n.synced, failed = w.failed + n.failed, heartbeat_at = n.now
    FROM (SELECT (SELECT count(*) FROM stored) AS synced, (SELECT count(*) FROM unkept) AS failed, now() AS now) n
    WHERE w.account = $1 AND w.worker_id = $2
    RETURNING w.worker_id
)
-- No row when the lease has ended. An error, which undoes all of it, when a row is nowhere: see NOT_KEPT_SIGN in
-- src/store/error.rs.
SELECT (SELECT count(*) FROM done)
       + CASE WHEN (SELECT count(*) FROM stored) + (SELECT count(*) FROM unkept) < (SELECT count(*) FROM done)
              THEN (SELECT 'campaign-sync: no row kept in dead_letters' FROM done LIMIT 1)::bigint
              WHEN NOT EXISTS (SELECT FROM counted)
              THEN (SELECT 'campaign-sync: no row kept in workers' FROM done LIMIT 1)::bigint
              ELSE 0 END
WHERE EXISTS (SELECT FROM counted) OR EXISTS (SELECT FROM done)
