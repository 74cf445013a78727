-- Puts sends on record as of now, while no limit is known and no gate is closed: the short way of sql/reserve.sql for the
-- first sends to a platform that may have no limit. No row means that the long way has to be gone: a limit or a gate is on
-- record, or no row at all, or there is something to clean up, or the clock was turned back, or somebody else has sent less
-- than $4 seconds ago: the newest send on record is not $3, this process's.
WITH row AS (
    SELECT sent_at, sent_count, gate_until, gate_asked_s, learned_at
    FROM campaign_sync.quotas
    WHERE account = $1
    FOR UPDATE
), clock AS MATERIALIZED (
    -- Read only when the row is ours.
    SELECT r.*, clock_timestamp() AS now, r.sent_at[cardinality(r.sent_at)] AS newest FROM row r
), fits AS MATERIALIZED (
    SELECT c.sent_at || c.now AS sent_at, c.sent_count || $2::integer AS sent_count, c.now,
           (SELECT sum(u.count) FROM unnest(c.sent_count) AS u (count)) + $2 AS sends
    FROM clock c
    WHERE (c.gate_until IS NULL OR c.gate_until < c.now) AND c.gate_asked_s IS NULL
      AND (c.learned_at IS NULL OR c.learned_at < now() - interval '1 day')
      AND cardinality(c.sent_at) BETWEEN 1 AND 255 AND c.sent_at[1] > c.now - interval '2 minutes'
      AND c.newest <= c.now AND (c.newest = $3 OR c.newest <= c.now - make_interval(secs => $4))
), written AS (
    UPDATE campaign_sync.quotas q
    SET sent_at = f.sent_at, sent_count = f.sent_count
    FROM fits f
    WHERE q.account = $1
    RETURNING q.account
)
SELECT f.sends::bigint AS sends, f.now AS at FROM fits f WHERE EXISTS (SELECT FROM written)
