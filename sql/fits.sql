-- Puts sends on record as of now that fit under a limit of $5 in any case: together with all that is on record, old or not.
-- The short way of sql/reserve.sql under a generous limit. No row means that the long way has to be gone: they may not fit, a
-- gate is on record, or no row at all, or there is something to clean up, or the clock was turned back.
UPDATE campaign_sync.quotas
SET sent_at = sent_at || clock_timestamp(), sent_count = sent_count || $2::integer
WHERE account = $1 AND (gate_until IS NULL OR gate_until < clock_timestamp()) AND gate_asked_s IS NULL
  AND cardinality(sent_at) BETWEEN 1 AND 255 AND sent_at[cardinality(sent_at)] <= clock_timestamp()
  AND (SELECT sum(u.count) FROM unnest(sent_count) AS u (count)) + $2 <= $5
RETURNING (SELECT sum(u.count) FROM unnest(sent_count) AS u (count)) AS sends, sent_at[cardinality(sent_at)] AS at
