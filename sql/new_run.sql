-- Opens a run. Tasks that are left of a run that is closed were put back by `retry`, or by a version that let them stay: none is
-- lost. They wait for the listing (see sql/claim.sql), if there is one.
WITH left_over AS (
    SELECT count(*) AS count FROM campaign_sync.sync_tasks WHERE account = $1
), run AS (
    INSERT INTO campaign_sync.sync_runs (account, lists, listing_done, page_size, binary_version, keeps_history, listed)
    SELECT $1, $2, NOT $2, $3, $4, $5, CASE WHEN $2 THEN 0 ELSE l.count END
    FROM left_over l
    RETURNING run_id, run_key::text AS run_key, page_size, listing_done, lists
), adopted AS (
    UPDATE campaign_sync.sync_tasks t
    SET run_id = r.run_id, worker_id = 0, attempt = t.attempt + 1, seq = 9223372036854775807
    FROM run r
    WHERE t.account = $1
)
SELECT *, NOT EXISTS (SELECT FROM campaign_sync.campaigns WHERE account = $1) AS first FROM run
