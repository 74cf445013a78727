-- Keeps the lease of all that a worker holds, with one small write; tells what it must know of its run. Now and then, and
-- when it leaves ($11), one of the processes adds a point to the run's samples.
WITH beat AS (
    UPDATE campaign_sync.workers w
    SET heartbeat_at = c.now, requests = $4, limited = $5, retries = $6, rate_limited = $7, token_refreshes = $8,
        durations = $9, retried = $10
    FROM (SELECT now() AS now) c
    WHERE w.account = $1 AND w.worker_id = $2
    RETURNING w.run_id
), worked AS (
    -- This statement does not see what it writes: this worker's own counts are those given.
    SELECT coalesce(sum(w.synced), 0) AS synced, coalesce(sum(w.failed), 0) AS failed,
           coalesce(sum(CASE WHEN w.worker_id = $2 THEN $5 ELSE w.limited END), 0) AS limited,
           coalesce(sum(CASE WHEN w.worker_id = $2 THEN $7 ELSE w.rate_limited END), 0) AS rate_limited
    FROM campaign_sync.workers w
    WHERE w.account = $1 AND w.run_id = $3
), run AS (
    -- The condition is looked at again when another process was first: then there is none.
    SELECT s.*
    FROM campaign_sync.sync_runs s
    WHERE s.account = $1 AND s.run_id = (SELECT b.run_id FROM beat b)
      AND (s.state = 'stopped' OR $11
           OR s.sampled_at <= now() - make_interval(secs => s.sample_seconds))
    FOR NO KEY UPDATE
), point AS (
    SELECT s.run_id, now() AS now,
           CASE WHEN jsonb_array_length(s.samples) < 256 THEN s.samples
                -- Every second one is left, and from now on they are as far apart.
                ELSE (SELECT jsonb_agg(u.point ORDER BY u.place)
                      FROM jsonb_array_elements(s.samples) WITH ORDINALITY AS u (point, place)
                      WHERE u.place % 2 = 0) END
           || jsonb_build_array(jsonb_build_array(
                  (extract(epoch FROM least(now(), s.finished_at) - s.started_at) * 1000)::bigint,
                  s.listed, s.synced + w.synced, s.failed + w.failed,
                  s.limited + w.limited, s.rate_limited + w.rate_limited)) AS samples,
           s.sample_seconds * CASE WHEN jsonb_array_length(s.samples) < 256 THEN 1 ELSE 2 END AS sample_seconds,
           coalesce($12, s.limit_requests) AS limit_requests, coalesce($13, s.limit_window_ms) AS limit_window_ms
    FROM run s, worked w
), noted AS (
    UPDATE campaign_sync.sync_runs s
    -- Whoever leaves as the last stops the run; one who joins just then, or whose lease had ended, is not seen by it.
    SET state = CASE WHEN s.state = 'stopped' THEN 'running' ELSE s.state END,
        samples = p.samples, sample_seconds = p.sample_seconds, sampled_at = p.now,
        limit_requests = p.limit_requests, limit_window_ms = p.limit_window_ms
    FROM point p
    WHERE s.account = $1 AND s.run_id = p.run_id
)
SELECT s.state, s.lister, s.listing_done, s.lists,
       EXISTS (SELECT FROM campaign_sync.workers w WHERE w.account = $1 AND w.worker_id <> $2) AS neighbours,
       (SELECT count(*) FROM campaign_sync.workers w WHERE w.account = $1 AND w.run_id = $3 AND w.worker_id <> $2) AS others,
       EXISTS (SELECT FROM beat) AS alive
FROM campaign_sync.sync_runs s
WHERE s.account = $1 AND s.run_id = $3
