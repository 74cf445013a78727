-- Puts sends on record as of now, while no limit is known and no gate is closed: the short way of sql/reserve.sql for the
-- first sends to a platform that may have no limit. No row means that the long way has to be gone: a limit or a gate is on
-- record, or no row at all, or there is something to clean up, or the clock was turned back, or somebody else has sent less
-- than $4 seconds ago: the newest send on record is not $3, this process's.
UPDATE quotas
SET sent_at = sent_at || clock_timestamp(), sent_count = sent_count || $2::integer
WHERE account = $1 AND (gate_until IS NULL OR gate_until < clock_timestamp())
  AND (learned_at IS NULL OR learned_at < now() - interval '1 day')
  AND cardinality(sent_at) BETWEEN 1 AND 255 AND sent_at[1] > clock_timestamp() - interval '2 minutes'
  AND sent_at[cardinality(sent_at)] <= clock_timestamp()
  AND (sent_at[cardinality(sent_at)] = $3
       OR sent_at[cardinality(sent_at)] <= clock_timestamp() - make_interval(secs => $4))
RETURNING (SELECT sum(u.count) FROM unnest(sent_count) AS u (count)) AS sends, sent_at[cardinality(sent_at)] AS at
