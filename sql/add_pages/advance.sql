), cleared AS (
    DELETE FROM campaign_sync.dead_letters l
    WHERE l.account = $1 AND EXISTS (SELECT FROM campaign_sync.dead_letters WHERE account = $1)
      AND l.id = ANY (ARRAY (SELECT s.id FROM stored s))
), counted AS (
    UPDATE campaign_sync.workers w
    SET synced = w.synced + n.synced, heartbeat_at = n.now
    FROM (SELECT (SELECT count(*) FROM stored) AS synced, now() AS now) n
    WHERE w.account = $1 AND w.worker_id = $3 AND EXISTS (SELECT FROM stored)
    RETURNING w.worker_id
), advanced AS (
    UPDATE campaign_sync.sync_runs s
    SET next_page = a.next_page, listing_done = a.listing_done, total = coalesce(a.total, s.total),
        -- Rows that are written on their own, ahead of their page, leave the run where it is.
        page_size = CASE WHEN s.next_page = a.next_page THEN s.page_size ELSE a.page_size END,
        listed = s.listed + a.listed, failed = s.failed + n.buried, unnamed = s.unnamed + n.unnamed,
        -- What is null counts for nothing here.
        lowest_total = least(s.lowest_total, a.lowest_total), highest_total = greatest(s.highest_total, a.highest_total),
        moved = s.moved OR a.moved
    FROM run r CROSS JOIN news n CROSS JOIN LATERAL (
        SELECT $13::bigint AS next_page, $14::boolean AS listing_done, $15::bigint AS total, $16::integer AS page_size,
               $28::bigint AS lowest_total, $29::bigint AS highest_total, $30::boolean AS moved,
               n.records + (SELECT count(*) FROM stored) - (SELECT count(*) FROM done WHERE seq < 9223372036854775807)
               -- What the whole listing has not shown is worked all the same.
               + CASE WHEN $14 THEN (SELECT count(*) FROM campaign_sync.sync_tasks t
                                     WHERE t.account = $1 AND t.run_id = $2 AND t.seq = 9223372036854775807)
                                    - n.waiting - (SELECT count(*) FROM done WHERE seq = 9223372036854775807)
                      ELSE 0 END AS listed
    ) a
    WHERE s.account = $1 AND s.run_id = r.run_id
    RETURNING n.records, n.left_out, n.taken, n.attempts
), unkept AS (
    -- The table that did not keep a row, if one did not; of the finished campaigns, as in tasks.sql.
    SELECT CASE WHEN n.unkept IS NOT NULL THEN n.unkept
                WHEN (SELECT count(*) FROM stored) < (SELECT count(*) FROM finished) AND EXISTS (
                    SELECT FROM finished f CROSS JOIN run r
                    WHERE f.id NOT IN (SELECT s.id FROM stored s)
                      AND ((SELECT t.run_id FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = f.id) IS NULL
                           OR f.id IN (SELECT d.id FROM done d))
                      AND (SELECT c.run_id FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = f.id) IS DISTINCT FROM $2
                      AND (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = f.id) IS DISTINCT FROM $2)
                THEN 'campaigns'
                WHEN EXISTS (SELECT FROM stored) AND NOT EXISTS (SELECT FROM counted) THEN 'workers'
                WHEN EXISTS (SELECT FROM run) AND NOT EXISTS (SELECT FROM advanced) THEN 'sync_runs' END AS name
    FROM news n
)
-- Null when this process no longer lists; else how many records were new, and the ids that were left out. An error, which
-- undoes all of it, when a row is nowhere: see NOT_KEPT_SIGN in src/store/error.rs.
SELECT (SELECT a.records + (SELECT count(*) FROM stored) FROM advanced a)
       + coalesce(('campaign-sync: no row kept in ' || (SELECT u.name FROM unkept u))::bigint, 0) AS added,
       (SELECT a.left_out FROM advanced a) AS left_out,
       (SELECT a.taken FROM advanced a) AS taken, (SELECT a.attempts FROM advanced a) AS attempts,
       EXISTS (SELECT FROM campaign_sync.workers o WHERE o.account = $1 AND o.run_id = $2 AND o.worker_id <> $3) AS others,
       -- It lists, and the run was joined meanwhile: nothing is written, and the statement is to be run once more.
       NOT EXISTS (SELECT FROM run) AND EXISTS (
           SELECT FROM campaign_sync.sync_runs j
           WHERE j.account = $1 AND j.run_id = $2 AND j.lister = $3 AND j.next_page = $4 AND j.state = 'running'
             AND NOT j.listing_done AND EXISTS (SELECT FROM alive)) AS joined
