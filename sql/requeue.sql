-- Puts dead letters back as free tasks of the open run, which is locked: all that can be retried, or those of some campaigns. A
-- letter of this very run was counted as failed, and has the record of its listing. One of an earlier run waits for the listing,
-- which may have another record and counts it then; where all is listed, it is counted here.
WITH picked AS (
    DELETE FROM campaign_sync.dead_letters
    WHERE account = $1 AND retryable AND ($3::text[] IS NULL OR id = ANY ($3))
    RETURNING account, id, run_id, payload
), added AS (
    INSERT INTO campaign_sync.sync_tasks (account, id, run_id, seq, payload)
    SELECT p.account, p.id, $2, CASE WHEN p.run_id = $2 THEN 0 ELSE 9223372036854775807 END, p.payload
    FROM picked p
    ORDER BY p.id
    ON CONFLICT (account, id) DO NOTHING
    RETURNING id, seq
), counted AS (
    UPDATE campaign_sync.sync_runs s
    SET failed = s.failed - n.failed, listed = s.listed + CASE WHEN s.listing_done THEN n.added ELSE 0 END
    FROM (SELECT (SELECT count(*) FROM picked WHERE run_id = $2) AS failed,
                 (SELECT count(*) FROM added WHERE seq > 0) AS added) n
    WHERE s.account = $1 AND s.run_id = $2
)
-- An error, which undoes all of it, when a task is nowhere: see NOT_KEPT_SIGN in src/store/error.rs.
SELECT p.id,
       CASE WHEN (SELECT count(*) FROM added) < (SELECT count(*) FROM picked)
             AND p.id NOT IN (SELECT a.id FROM added a)
             AND NOT EXISTS (SELECT FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = p.id)
            THEN ('campaign-sync: no row kept in sync_tasks' || left(p.id, 0))::bigint END AS kept
FROM picked p
