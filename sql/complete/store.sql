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
