), finished AS (
    -- Side by side, row by row: a single unnest() of them all would first write each down on its own. $25 is empty when no
    -- campaign has anything extra.
    SELECT unnest($17::text[]) AS id, unnest($18::text[]) AS name, unnest($19::text[]) AS status,
           unnest($20::text[]) AS budget, unnest($21::bigint[]) AS impressions, unnest($22::bigint[]) AS clicks,
           unnest($23::bigint[]) AS conversions, unnest($24::timestamptz[]) AS created_at, unnest($25::text[]) AS extra
), done AS (
    -- Put back by `retry`, as a rule, and finished before anybody held it.
    DELETE FROM campaign_sync.sync_tasks t
    WHERE t.account = $1 AND EXISTS (SELECT FROM campaign_sync.sync_tasks WHERE account = $1) AND EXISTS (SELECT FROM run)
      AND t.id = ANY (ARRAY (SELECT f.id FROM finished f)) AND t.worker_id = 0
    RETURNING t.id, t.seq
), stored AS (
    INSERT INTO campaign_sync.campaigns AS c (account, id, name, status, budget, impressions, clicks, conversions, created_at, extra,
                                first_synced_at, synced_at, changed_at, run_id)
    SELECT r.account, f.id, f.name, f.status, f.budget::numeric, f.impressions, f.clicks, f.conversions, f.created_at,
           coalesce(f.extra::jsonb, '{}'), now(), now(), now(), r.run_id
    FROM finished f CROSS JOIN run r
    -- Nor is there a task, as a rule, where campaigns are finished before their page is committed.
    WHERE (NOT EXISTS (SELECT FROM campaign_sync.sync_tasks WHERE account = $1)
           OR (SELECT t.run_id FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = f.id) IS NULL
           OR f.id = ANY (ARRAY (SELECT d.id FROM done d)))
      AND (NOT EXISTS (SELECT FROM campaign_sync.dead_letters WHERE account = $1)
           OR (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = f.id) IS DISTINCT FROM $2)
