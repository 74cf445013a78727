), unkept AS (
    -- A trigger, rule or policy may drop a row without an error: the campaign is then a dead letter. Its record is still
    -- seen here, though its task is deleted above.
    INSERT INTO campaign_sync.dead_letters AS l (account, id, run_id, cause, reason, attempts, payload, retryable)
    SELECT d.account, d.id, d.run_id, 'unstorable',
           'the table campaigns does not keep the row: a trigger, rule or policy drops it without an error', 1,
           (SELECT t.payload FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = d.id), true
    FROM done d
    WHERE (SELECT count(*) FROM stored) < (SELECT count(*) FROM done)
      AND d.id NOT IN (SELECT s.id FROM stored s)
    ORDER BY d.id
    ON CONFLICT (account, id) DO UPDATE
    SET run_id = excluded.run_id, cause = excluded.cause, reason = excluded.reason, attempts = excluded.attempts,
        payload = excluded.payload, retryable = excluded.retryable, failed_at = excluded.failed_at
    RETURNING l.id
), cleared AS (
    DELETE FROM campaign_sync.dead_letters l
    WHERE l.account = $1 AND EXISTS (SELECT FROM campaign_sync.dead_letters WHERE account = $1)
      AND l.id = ANY (ARRAY (SELECT s.id FROM stored s))
), counted AS (
    UPDATE campaign_sync.workers w
    SET synced = w.synced + n.synced, failed = w.failed + n.failed, heartbeat_at = n.now
    FROM (SELECT (SELECT count(*) FROM stored) AS synced, (SELECT count(*) FROM unkept) AS failed, now() AS now) n
    WHERE w.account = $1 AND w.worker_id = $2
    RETURNING w.worker_id
)
-- No row when the lease has ended. An error, which undoes all of it, when a row is nowhere: see NOT_KEPT_SIGN in
-- src/store/error.rs.
SELECT (SELECT count(*) FROM done)
       + CASE WHEN (SELECT count(*) FROM stored) + (SELECT count(*) FROM unkept) < (SELECT count(*) FROM done)
              THEN (SELECT 'campaign-sync: no row kept in dead_letters' FROM done LIMIT 1)::bigint
              WHEN NOT EXISTS (SELECT FROM counted)
              THEN (SELECT 'campaign-sync: no row kept in workers' FROM done LIMIT 1)::bigint
              ELSE 0 END
WHERE EXISTS (SELECT FROM counted) OR EXISTS (SELECT FROM done)
