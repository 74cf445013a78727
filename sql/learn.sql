-- Keeps a rate limit that was learned, and puts the sends of these ages ($4, in seconds) on record, which was not done while no
-- limit was known. Where one was, they are on record.
INSERT INTO campaign_sync.quotas AS q (account, limit_requests, limit_window_ms, learned_at, sent_at, sent_count)
SELECT $1, $2, $3, c.now, s.ats, s.counts
FROM clock_timestamp() AS c (now),
     LATERAL (SELECT coalesce(array_agg(c.now - make_interval(secs => u.age) ORDER BY u.age DESC), '{}') AS ats,
                     coalesce(array_agg(1 ORDER BY u.age DESC), '{}') AS counts
              FROM unnest($4::float8[]) AS u (age)) s
ON CONFLICT (account) DO UPDATE
SET limit_requests = excluded.limit_requests, limit_window_ms = excluded.limit_window_ms, learned_at = excluded.learned_at,
    (sent_at, sent_count) = (
        SELECT coalesce(array_agg(u.at ORDER BY u.at, u.place), '{}'), coalesce(array_agg(u.count ORDER BY u.at, u.place), '{}')
        FROM (SELECT o.at, o.count, o.place
              FROM unnest(q.sent_at, q.sent_count) WITH ORDINALITY AS o (at, count, place)
              UNION ALL
              SELECT n.at, n.count, n.place
              FROM unnest(excluded.sent_at, excluded.sent_count) WITH ORDINALITY AS n (at, count, place)
              WHERE q.learned_at IS NULL OR excluded.learned_at - q.learned_at >= interval '1 day') u)
