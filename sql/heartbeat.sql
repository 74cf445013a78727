-- Keeps the lease of all that a worker holds, with one small write; tells what it must know of its run.
WITH beat AS (
    UPDATE workers
    SET heartbeat_at = now(), requests = $4, limited = $5, retries = $6, rate_limited = $7, token_refreshes = $8
    WHERE account = $1 AND worker_id = $2
    RETURNING run_id
), resumed AS (
    -- Whoever leaves as the last stops the run; one who joins just then, or whose lease had ended, is not seen by it.
    UPDATE sync_runs s
    SET state = 'running'
    FROM beat b
    WHERE s.account = $1 AND s.run_id = b.run_id AND s.state = 'stopped'
)
SELECT s.state, s.lister, s.listing_done,
       (SELECT count(*) FROM workers w WHERE w.account = $1 AND w.run_id = $3 AND w.worker_id <> $2) AS others,
       EXISTS (SELECT FROM beat) AS alive
FROM sync_runs s
WHERE s.account = $1 AND s.run_id = $3
