-- Opens a run. Whether tasks are left of an earlier one is told: they are for sql/adopt_tasks.sql.
WITH run AS (
    INSERT INTO campaign_sync.sync_runs (account, lists, listing_done, page_size, binary_version, keeps_history)
    VALUES ($1, $2, NOT $2, $3, $4, $5)
    RETURNING run_id, run_key::text AS run_key, page_size, listing_done, lists
)
SELECT *, EXISTS (SELECT FROM campaign_sync.sync_tasks WHERE account = $1) AS left_over
FROM run
