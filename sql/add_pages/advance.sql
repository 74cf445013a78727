    RETURNING id
), cleared AS (
    DELETE FROM dead_letters l
    WHERE l.account = $1 AND EXISTS (SELECT FROM dead_letters WHERE account = $1)
      AND l.id = ANY (ARRAY (SELECT s.id FROM stored s))
), counted AS (
    UPDATE workers
    SET synced = synced + (SELECT count(*) FROM stored), heartbeat_at = now()
    WHERE account = $1 AND worker_id = $3 AND EXISTS (SELECT FROM stored)
), advanced AS (
    UPDATE sync_runs s
    SET next_page = $13, listing_done = $14, total = coalesce($15, s.total), page_size = $16,
        listed = s.listed + n.records + (SELECT count(*) FROM stored), failed = s.failed + n.buried,
        unnamed = s.unnamed + n.unnamed
    FROM run r CROSS JOIN news n
    WHERE s.account = $1 AND s.run_id = r.run_id
    RETURNING n.records, n.left_out
)
-- Null when this process no longer lists; else how many records were new, and the ids that were left out.
SELECT (SELECT a.records + (SELECT count(*) FROM stored) FROM advanced a) AS added,
       (SELECT a.left_out FROM advanced a) AS left_out
