-- Closes the gate for $2 seconds; $3 is what the platform asked for, where that is more. Nothing where there is no row yet.
WITH row AS (
    SELECT gate_until, gate_set_at FROM campaign_sync.quotas WHERE account = $1 FOR UPDATE
), clock AS MATERIALIZED (
    -- Read only when the row is ours.
    SELECT r.*, clock_timestamp() AS now FROM row r
), gate AS (
    -- A gate that was closed in the future was closed before the clock was turned back.
    SELECT greatest(c.gate_until - greatest(c.gate_set_at - c.now, interval '0'), c.now + make_interval(secs => $2)) AS until,
           c.now, $3::float8 AS asked_s
    FROM clock c
)
UPDATE campaign_sync.quotas q
SET gate_until = g.until, gate_set_at = g.now, gate_asked_s = g.asked_s
FROM gate g
WHERE q.account = $1
