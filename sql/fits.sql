-- Puts sends on record, as of $4 seconds from now, that fit under a limit of $3 in any case: together with all that is on
-- record, old or not. The short way of sql/reserve.sql under a generous limit. No row means that the long way has to be gone: they may not fit, a
-- gate is on record, or no row at all, or another limit than this one, which was learned ($5), or there is something to clean up,
-- or the clock was turned back.
WITH row AS (
    SELECT sent_at, sent_count, gate_until, gate_asked_s, $5 AND limit_requests <> $3 AS is_another FROM campaign_sync.quotas WHERE account = $1 FOR UPDATE
), clock AS MATERIALIZED (
    -- Read only when the row is ours.
    SELECT r.*, clock_timestamp() AS now, (SELECT sum(u.count) FROM unnest(r.sent_count) AS u (count)) AS sends FROM row r
), fits AS MATERIALIZED (
    SELECT c.sent_at || c.now + make_interval(secs => $4) AS sent_at, c.sent_count || $2::integer AS sent_count
    FROM clock c
    WHERE (c.gate_until IS NULL OR c.gate_until < c.now) AND c.gate_asked_s IS NULL AND c.is_another IS NOT TRUE
      AND cardinality(c.sent_at) BETWEEN 1 AND 255 AND c.sent_at[cardinality(c.sent_at)] <= c.now + interval '5 seconds'
      AND c.sends + $2 <= $3
), written AS (
    UPDATE campaign_sync.quotas q
    SET sent_at = f.sent_at, sent_count = f.sent_count
    FROM fits f
    WHERE q.account = $1
    RETURNING q.account
)
SELECT FROM written
