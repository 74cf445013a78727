-- Marks what a complete listing no longer shows; nothing is ever deleted.
WITH clock AS (
    SELECT now() AS now
), gone AS (
    UPDATE campaign_sync.campaigns c
    SET removed_at = k.now, changed_at = k.now
    FROM clock k
    WHERE c.account = $1 AND c.removed_at IS NULL AND c.run_id <> $2
      AND (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = c.id) IS DISTINCT FROM $2
    RETURNING c.account, c.id, c.removed_at
), history AS (
    INSERT INTO campaign_sync.campaign_changes (account, id, changed_at, run_id, what)
    SELECT g.account, g.id, g.removed_at, $2, 'removed'
    FROM gone g
    WHERE (SELECT r.keeps_history FROM campaign_sync.sync_runs r WHERE r.account = $1 AND r.run_id = $2)
    ORDER BY g.id
)
UPDATE campaign_sync.sync_runs s
SET removed = n.gone
FROM (SELECT count(*) AS gone FROM gone) n
WHERE s.account = $1 AND s.run_id = $2
RETURNING s.removed
