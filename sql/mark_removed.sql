-- Marks what a complete listing no longer shows; nothing is ever deleted.
WITH gone AS (
    UPDATE campaign_sync.campaigns c
    SET removed_at = now()
    WHERE c.account = $1 AND c.removed_at IS NULL AND c.run_id <> $2
      AND (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = c.id) IS DISTINCT FROM $2
    RETURNING 1
)
UPDATE campaign_sync.sync_runs SET removed = (SELECT count(*) FROM gone) WHERE account = $1 AND run_id = $2
RETURNING removed
