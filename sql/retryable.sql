-- What there is to retry: dead letters, and tasks of the open run that `retry` has put back. Of campaigns $2, or of all.
WITH open AS (
    SELECT run_id, lists FROM campaign_sync.sync_runs WHERE account = $1 AND state IN ('running', 'stopped')
), letters AS (
    SELECT id FROM campaign_sync.dead_letters WHERE account = $1 AND retryable AND ($2::text[] IS NULL OR id = ANY ($2))
), tasks AS (
    SELECT t.id
    FROM campaign_sync.sync_tasks t
    WHERE t.account = $1 AND ($2::text[] IS NULL OR t.id = ANY ($2))
      AND t.run_id = (SELECT o.run_id FROM open o)
      AND (t.seq = $3 OR NOT (SELECT o.lists FROM open o))
)
SELECT ARRAY (SELECT id FROM letters UNION SELECT id FROM tasks) AS ids,
       $2::text[] IS NULL AND EXISTS (SELECT FROM open WHERE NOT lists) AS resumes,
       (SELECT count(*) FROM campaign_sync.sync_tasks t
        WHERE t.account = $1 AND t.run_id = (SELECT o.run_id FROM open o WHERE o.lists)) AS pending
