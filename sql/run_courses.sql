-- One run ($2), or the last $3 without their samples: newest first, with the counts of the workers still with them.
SELECT s.run_id, s.state, s.lists, s.listing_done, s.total, s.listed, s.removed,
       (s.synced + coalesce(w.synced, 0))::bigint AS synced,
       (s.failed + coalesce(w.failed, 0))::bigint AS failed,
       (s.requests + coalesce(w.requests, 0))::bigint AS requests,
       (s.limited + coalesce(w.limited, 0))::bigint AS limited,
       (s.retries + coalesce(w.retries, 0))::bigint AS retries,
       (s.rate_limited + coalesce(w.rate_limited, 0))::bigint AS rate_limited,
       (s.token_refreshes + coalesce(w.token_refreshes, 0))::bigint AS token_refreshes,
       ARRAY (SELECT sum(u.count)::bigint
              FROM (SELECT s.durations UNION ALL
                    SELECT v.durations FROM campaign_sync.workers v WHERE v.account = $1 AND v.run_id = s.run_id) AS d (counts),
                   unnest(d.counts) WITH ORDINALITY AS u (count, place)
              GROUP BY u.place ORDER BY u.place) AS durations,
       ARRAY (SELECT sum(u.count)::bigint
              FROM (SELECT s.retried UNION ALL
                    SELECT v.retried FROM campaign_sync.workers v WHERE v.account = $1 AND v.run_id = s.run_id) AS d (counts),
                   unnest(d.counts) WITH ORDINALITY AS u (count, place)
              GROUP BY u.place ORDER BY u.place) AS retried,
       -- One that was stopped or abandoned was at work until its last sample; rows of the first schema have none.
       extract(epoch FROM CASE WHEN s.state IN ('complete', 'partial') THEN s.finished_at
                               WHEN s.state = 'running' THEN now()
                               WHEN s.sampled_at > s.started_at THEN s.sampled_at
                               ELSE coalesce(s.finished_at, s.started_at) END - s.started_at)::float8 AS lasted_s,
       s.started_at, s.finished_at, s.not_removed, s.not_removed_reason, s.last_error, s.binary_version, s.limit_requests, s.limit_window_ms,
       CASE WHEN $2::bigint IS NOT NULL THEN s.samples::text END AS samples
FROM campaign_sync.sync_runs s
LEFT JOIN LATERAL (
    SELECT sum(w.synced) AS synced, sum(w.failed) AS failed, sum(w.requests) AS requests, sum(w.limited) AS limited,
           sum(w.retries) AS retries, sum(w.rate_limited) AS rate_limited, sum(w.token_refreshes) AS token_refreshes
    FROM campaign_sync.workers w
    WHERE w.account = $1 AND w.run_id = s.run_id
) w ON true
WHERE s.account = $1 AND ($2 IS NULL OR s.run_id = $2)
ORDER BY s.run_id DESC
LIMIT $3
