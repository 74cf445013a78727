-- A batch of finished tasks: each task that this worker still holds under this attempt number is deleted, and only then
-- is its campaign stored, in one statement. A worker that lost its lease deletes nothing and so stores nothing.
WITH batch AS (
    -- Side by side, as in sql/add_pages/campaigns.sql.
    SELECT unnest($3::text[]) AS id, unnest($4::int[]) AS attempt, unnest($5::text[]) AS name,
           unnest($6::text[]) AS status, unnest($7::text[]) AS budget, unnest($8::bigint[]) AS impressions,
           unnest($9::bigint[]) AS clicks, unnest($10::bigint[]) AS conversions,
           unnest($11::timestamptz[]) AS created_at, unnest($12::text[]) AS extra
), done AS (
    DELETE FROM campaign_sync.sync_tasks t
    -- One probe of the primary key for each id, whatever is known of the table: a join would be planned by statistics.
    -- A row that another process changes in the meantime is another version by then, and stays.
    WHERE t.account = $1 AND t.worker_id = $2 AND t.ctid = ANY (ARRAY (
        SELECT (SELECT x.ctid
                FROM campaign_sync.sync_tasks x
                WHERE x.account = $1 AND x.id = b.id AND x.worker_id = $2 AND x.attempt = b.attempt)
        FROM batch b))
    RETURNING t.id, t.attempt, t.run_id
), stored AS (
    INSERT INTO campaign_sync.campaigns AS c (account, id, name, status, budget, impressions, clicks, conversions, created_at, extra,
                                first_synced_at, synced_at, run_id)
    -- By id, so that two writers lock rows in the same order.
    SELECT $1, d.id, b.name, b.status, b.budget::numeric, b.impressions, b.clicks, b.conversions, b.created_at,
           b.extra::jsonb, now(), now(), d.run_id
    FROM done d JOIN batch b ON b.id = d.id AND b.attempt = d.attempt
    ORDER BY d.id
    ON CONFLICT (account, id) DO UPDATE
    SET name = excluded.name, status = excluded.status, budget = excluded.budget, impressions = excluded.impressions,
        clicks = excluded.clicks, conversions = excluded.conversions, created_at = excluded.created_at,
        extra = excluded.extra, synced_at = excluded.synced_at, run_id = excluded.run_id, removed_at = NULL
    RETURNING c.id
), unkept AS (
    -- A trigger, rule or policy may drop a row without an error: the campaign is then a dead letter. Its record is still
    -- seen here, though its task is deleted above.
    INSERT INTO campaign_sync.dead_letters AS l (account, id, run_id, cause, reason, attempts, payload, retryable)
    SELECT $1, d.id, d.run_id, 'unstorable',
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
    UPDATE campaign_sync.workers
    SET synced = synced + (SELECT count(*) FROM stored), failed = failed + (SELECT count(*) FROM unkept),
        heartbeat_at = now()
    WHERE account = $1 AND worker_id = $2
    RETURNING worker_id
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
