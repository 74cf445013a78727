-- Tasks that are left of a run that is closed were put back by `retry`, or by a version that let them stay: none is lost. They
-- go to the run that was just opened and wait for its listing (see sql/claim.sql), if there is one.
WITH adopted AS (
    UPDATE campaign_sync.sync_tasks t
    SET run_id = $2, worker_id = 0, attempt = t.attempt + 1, seq = 9223372036854775807
    WHERE t.account = $1
    RETURNING t.id
)
UPDATE campaign_sync.sync_runs s
SET listed = CASE WHEN s.lists THEN 0 ELSE n.count END
FROM (SELECT count(*) AS count FROM adopted) n
WHERE s.account = $1 AND s.run_id = $2
