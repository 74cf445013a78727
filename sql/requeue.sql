-- Puts dead letters back as free tasks of the open run: all that can be retried, or those of some campaigns. A letter of
-- this very run was counted as failed, one of an earlier run was not counted at all.
WITH picked AS (
    DELETE FROM dead_letters
    WHERE account = $1 AND retryable AND ($3::text[] IS NULL OR id = ANY ($3))
    RETURNING id, run_id, payload
), added AS (
    INSERT INTO sync_tasks (account, id, run_id, seq, payload)
    SELECT $1, p.id, $2, 0, p.payload FROM picked p ORDER BY p.id
    ON CONFLICT (account, id) DO NOTHING
    RETURNING id
), counted AS (
    UPDATE sync_runs
    SET failed = failed - (SELECT count(*) FROM picked WHERE run_id = $2),
        listed = listed + (SELECT count(*) FROM added a JOIN picked p ON p.id = a.id WHERE p.run_id <> $2)
    WHERE account = $1 AND run_id = $2
)
-- An error, which undoes all of it, when a task is nowhere: see NOT_KEPT_SIGN in src/store/error.rs.
SELECT p.id,
       CASE WHEN (SELECT count(*) FROM added) < (SELECT count(*) FROM picked)
             AND p.id NOT IN (SELECT a.id FROM added a)
             AND NOT EXISTS (SELECT FROM sync_tasks t WHERE t.account = $1 AND t.id = p.id)
            THEN ('campaign-sync: no row kept in sync_tasks' || left(p.id, 0))::bigint END AS kept
FROM picked p
