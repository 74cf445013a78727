-- Gives an open run up, and its tasks: the next listing shows them again. Those that `retry` put back stay for the next run.
WITH tasks AS (
    DELETE FROM campaign_sync.sync_tasks WHERE account = $1 AND run_id = $2 AND seq < 9223372036854775807
), clock AS (
    SELECT now() AS now
)
UPDATE campaign_sync.sync_runs s
SET state = 'abandoned', finished_at = c.now, lister = 0
FROM clock c
WHERE s.account = $1 AND s.run_id = $2
