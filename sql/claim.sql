-- Takes free tasks in the order of the listing; rows that another process is claiming are passed over, not waited for.
-- The rows are locked by then, and found by their primary key: a join would be planned by statistics that a young table lacks.
WITH alive AS (
    -- Locked until the claim is committed: a lease that ends in between would leave tasks with nobody.
    SELECT run_id FROM campaign_sync.workers WHERE account = $1 AND worker_id = $2 FOR KEY SHARE
), listing AS (
    -- What `retry` put back waits until the listing has shown it, and is worked with its record; or until all is listed.
    SELECT s.listing_done FROM campaign_sync.sync_runs s WHERE s.account = $1 AND s.run_id = (SELECT a.run_id FROM alive a)
), free AS (
    SELECT id
    FROM campaign_sync.sync_tasks
    -- A worker of a run that was abandoned has no part in the next one.
    WHERE account = $1 AND worker_id = 0 AND run_id = (SELECT a.run_id FROM alive a)
      AND seq <= (SELECT CASE WHEN l.listing_done THEN 9223372036854775807 ELSE 9223372036854775806 END FROM listing l)
    ORDER BY seq
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE campaign_sync.sync_tasks t
SET worker_id = $2, attempt = t.attempt + 1
WHERE t.account = $1 AND t.id = ANY (ARRAY (SELECT f.id FROM free f))
RETURNING t.id, t.attempt, t.payload
