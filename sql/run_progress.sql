-- One run as it stands: its own counts and those of the workers still with it.
SELECT s.run_id, s.state, s.lists, s.listing_done, s.next_page, s.page_size, s.total, s.listed,
       (s.synced + coalesce(w.synced, 0))::bigint AS synced,
       (s.failed + coalesce(w.failed, 0))::bigint AS failed,
       s.removed, s.not_removed, s.not_removed_reason,
       (s.requests + coalesce(w.requests, 0))::bigint AS requests,
       (s.limited + coalesce(w.limited, 0))::bigint AS limited,
       (s.retries + coalesce(w.retries, 0))::bigint AS retries,
       (s.rate_limited + coalesce(w.rate_limited, 0))::bigint AS rate_limited,
       (s.token_refreshes + coalesce(w.token_refreshes, 0))::bigint AS token_refreshes,
       extract(epoch FROM coalesce(s.finished_at, now()) - s.started_at)::float8 AS elapsed_s,
       s.last_error, s.binary_version, s.started_at, s.finished_at
FROM campaign_sync.sync_runs s
LEFT JOIN LATERAL (
    SELECT sum(w.synced) AS synced, sum(w.failed) AS failed, sum(w.requests) AS requests, sum(w.limited) AS limited,
           sum(w.retries) AS retries, sum(w.rate_limited) AS rate_limited, sum(w.token_refreshes) AS token_refreshes
    FROM campaign_sync.workers w
    WHERE w.account = $1 AND w.run_id = s.run_id
) w ON true
WHERE s.account = $1 AND s.run_id = $2
