-- A run of `retry` that a `sync` joins becomes one that lists, and begins anew: its records are those of earlier runs. Nobody
-- holds its tasks any more, which wait for the listing, and what it has dealt with already is listed again.
WITH freed AS (
    UPDATE campaign_sync.sync_tasks t
    SET worker_id = 0, attempt = t.attempt + 1, seq = 9223372036854775807
    WHERE t.account = $1 AND t.run_id = $2
), stored AS (
    UPDATE campaign_sync.campaigns SET run_id = 0 WHERE account = $1 AND run_id = $2
    RETURNING id
), failed AS (
    UPDATE campaign_sync.dead_letters SET run_id = 0 WHERE account = $1 AND run_id = $2
    RETURNING id
)
UPDATE campaign_sync.sync_runs s
SET lists = true, listing_done = false, listed = 0, synced = s.synced - n.stored, failed = s.failed - n.failed
FROM (SELECT (SELECT count(*) FROM stored) AS stored, (SELECT count(*) FROM failed) AS failed) n
WHERE s.account = $1 AND s.run_id = $2
