-- A batch of tasks that failed for good becomes dead letters, under the same fence as a success.
WITH batch AS (
    SELECT *
    FROM unnest($3::text[], $4::int[], $5::text[], $6::text[], $7::int[], $8::boolean[])
         AS b (id, attempt, cause, reason, attempts, retryable)
), done AS (
    DELETE FROM campaign_sync.sync_tasks t
    -- One probe of the primary key for each id, whatever is known of the table: a join would be planned by statistics. The
    -- rest is looked at as the row is locked: one that another process has taken in the meantime stays.
    WHERE t.account = $1 AND t.worker_id = $2 AND t.id = ANY (ARRAY (SELECT b.id FROM batch b))
      AND ((t.id, t.attempt) IN (SELECT b.id, b.attempt FROM batch b)) IS TRUE
    RETURNING t.account, t.id, t.attempt, t.run_id, t.payload
), buried AS (
    INSERT INTO campaign_sync.dead_letters AS l (account, id, run_id, cause, reason, attempts, payload, retryable)
    SELECT d.account, d.id, d.run_id, b.cause, b.reason, b.attempts, d.payload, b.retryable
    FROM done d JOIN batch b ON b.id = d.id AND b.attempt = d.attempt
    ORDER BY d.id
    ON CONFLICT (account, id) DO UPDATE
    SET run_id = excluded.run_id, cause = excluded.cause, reason = excluded.reason, attempts = excluded.attempts,
        payload = excluded.payload, retryable = excluded.retryable, failed_at = excluded.failed_at
    RETURNING l.id
), counted AS (
    UPDATE campaign_sync.workers w
    SET failed = w.failed + n.failed, heartbeat_at = n.now
    FROM (SELECT (SELECT count(*) FROM done) AS failed, now() AS now) n
    WHERE w.account = $1 AND w.worker_id = $2
    RETURNING w.worker_id
)
-- As in sql/complete.sql.
SELECT (SELECT count(*) FROM done)
       + CASE WHEN (SELECT count(*) FROM buried) < (SELECT count(*) FROM done)
              THEN (SELECT 'campaign-sync: no row kept in dead_letters' FROM done LIMIT 1)::bigint
              WHEN NOT EXISTS (SELECT FROM counted)
              THEN (SELECT 'campaign-sync: no row kept in workers' FROM done LIMIT 1)::bigint
              ELSE 0 END
WHERE EXISTS (SELECT FROM counted) OR EXISTS (SELECT FROM done)
