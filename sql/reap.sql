-- Ends the lease of workers that are locked already: their tasks are free again, their counts go to their runs, and none of
-- them is a lister any more. A statement of its own after the lock: it must see the tasks that they were given until then.
WITH gone AS (
    SELECT worker_id FROM campaign_sync.workers WHERE account = $1 AND worker_id = ANY ($2)
), freed AS (
    UPDATE campaign_sync.sync_tasks t SET worker_id = 0 FROM gone g WHERE t.account = $1 AND t.worker_id = g.worker_id
    RETURNING g.worker_id
), left_over AS (
    DELETE FROM campaign_sync.workers w USING gone g WHERE w.account = $1 AND w.worker_id = g.worker_id
    RETURNING w.*
), sums AS (
    SELECT run_id, least(max(heartbeat_at), now()) AS heartbeat_at, array_agg(worker_id) AS ids, sum(synced) AS synced, sum(failed) AS failed,
           sum(requests) AS requests, sum(limited) AS limited, sum(retries) AS retries,
           sum(rate_limited) AS rate_limited, sum(token_refreshes) AS token_refreshes,
           ARRAY (SELECT sum(u.count)::bigint
                  FROM left_over w, unnest(w.durations) WITH ORDINALITY AS u (count, place)
                  WHERE w.run_id = o.run_id GROUP BY u.place ORDER BY u.place) AS durations,
           ARRAY (SELECT sum(u.count)::bigint
                  FROM left_over w, unnest(w.retried) WITH ORDINALITY AS u (count, place)
                  WHERE w.run_id = o.run_id GROUP BY u.place ORDER BY u.place) AS retried
    FROM left_over o
    GROUP BY run_id
), runs AS (
    SELECT r.run_id, r.durations, r.retried
    FROM campaign_sync.sync_runs r
    WHERE r.account = $1 AND r.run_id IN (SELECT l.run_id FROM sums l)
    ORDER BY r.run_id
    FOR NO KEY UPDATE
), totals AS (
    SELECT l.*,
           ARRAY (SELECT coalesce(u.ours, 0) + coalesce(u.theirs, 0)
                  FROM unnest(r.durations, l.durations) WITH ORDINALITY AS u (ours, theirs, place) ORDER BY place) AS all_durations,
           ARRAY (SELECT coalesce(u.ours, 0) + coalesce(u.theirs, 0)
                  FROM unnest(r.retried, l.retried) WITH ORDINALITY AS u (ours, theirs, place) ORDER BY place) AS all_retried
    FROM sums l JOIN runs r ON r.run_id = l.run_id
), counted AS (
    UPDATE campaign_sync.sync_runs s
    SET synced = s.synced + l.synced, failed = s.failed + l.failed, requests = s.requests + l.requests,
        limited = s.limited + l.limited, retries = s.retries + l.retries, rate_limited = s.rate_limited + l.rate_limited,
        token_refreshes = s.token_refreshes + l.token_refreshes, durations = l.all_durations, retried = l.all_retried,
        lister = CASE WHEN s.lister = ANY (l.ids) THEN 0 ELSE s.lister END,
        progress_at = greatest(s.progress_at, l.heartbeat_at)
    FROM totals l
    WHERE s.account = $1 AND s.run_id = l.run_id
)
SELECT w.worker_id, w.host, w.pid, extract(epoch FROM now() - w.heartbeat_at)::float8 AS silent,
       (SELECT count(*) FROM freed f WHERE f.worker_id = w.worker_id) AS freed
FROM left_over w
ORDER BY w.worker_id
