-- Keeps a rate limit that was learned, and puts the sends of these ages ($4, in seconds) on record, which was not done while no
-- limit was known. Where one was, they are on record. Nothing where there is no row yet.
WITH row AS (
    SELECT sent_at, sent_count, learned_at FROM campaign_sync.quotas WHERE account = $1 FOR UPDATE
), clock AS MATERIALIZED (
    -- Read only when the row is ours.
    SELECT r.*, clock_timestamp() AS now FROM row r
), sends AS (
    SELECT o.at, o.count, o.place
    FROM clock c, unnest(c.sent_at, c.sent_count) WITH ORDINALITY AS o (at, count, place)
    UNION ALL
    SELECT c.now - make_interval(secs => n.age), 1, n.place
    FROM clock c, unnest($4::float8[]) WITH ORDINALITY AS n (age, place)
    WHERE c.learned_at IS NULL OR c.now - c.learned_at >= interval '1 day'
), kept AS (
    SELECT coalesce(array_agg(s.at ORDER BY s.at, s.place), '{}') AS ats,
           coalesce(array_agg(s.count ORDER BY s.at, s.place), '{}') AS counts
    FROM sends s
)
UPDATE campaign_sync.quotas q
SET limit_requests = $2, limit_window_ms = $3, learned_at = c.now, sent_at = k.ats, sent_count = k.counts
FROM clock c, kept k
WHERE q.account = $1
