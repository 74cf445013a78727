-- Locks the workers whose heartbeat is older than $2 seconds by the database's own clock, worker $3, which leaves by itself, and
-- workers $4, whose processes are seen to be gone. Those that are taking tasks at this moment are passed over: they are alive. The
-- one that leaves waits for its last heartbeat: passed over, it would take its counts with it.
WITH early AS (
    -- Heartbeats in the future are there because the clock was turned back. From now on they have as long as any other.
    UPDATE campaign_sync.workers w
    SET heartbeat_at = e.now
    FROM (
        SELECT worker_id, now() AS now FROM campaign_sync.workers
        WHERE account = $1 AND worker_id <> $3 AND heartbeat_at > now() + make_interval(secs => $2)
        FOR UPDATE SKIP LOCKED
    ) e
    WHERE w.account = $1 AND w.worker_id = e.worker_id
), leaving AS (
    SELECT worker_id FROM campaign_sync.workers WHERE account = $1 AND worker_id = $3 FOR UPDATE
), dead AS (
    SELECT worker_id
    FROM campaign_sync.workers
    WHERE account = $1 AND worker_id <> $3
      AND (worker_id = ANY ($4) OR heartbeat_at < now() - make_interval(secs => $2))
    FOR UPDATE SKIP LOCKED
)
SELECT worker_id FROM leaving
UNION ALL
SELECT worker_id FROM dead
