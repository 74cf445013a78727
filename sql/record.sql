-- Puts sends on record as of now, while no limit is known and no gate is closed: the short way of sql/reserve.sql for the
-- first sends to a platform that may have no limit. No row means that the long way has to be gone: a limit or a gate is on
-- record, or there is something to clean up, or the clock was turned back, or somebody else has sent less than $4 seconds
-- ago: the newest send on record is not $3, this process's.
INSERT INTO campaign_sync.quotas AS q (account, sent_at, sent_count) VALUES ($1, ARRAY[clock_timestamp()], ARRAY[$2::integer])
ON CONFLICT (account) DO UPDATE
SET sent_at = q.sent_at || clock_timestamp(), sent_count = q.sent_count || $2::integer
WHERE (q.gate_until IS NULL OR q.gate_until < clock_timestamp()) AND q.gate_asked_s IS NULL
  AND (q.learned_at IS NULL OR q.learned_at < now() - interval '1 day')
  AND cardinality(q.sent_at) BETWEEN 1 AND 255 AND q.sent_at[1] > clock_timestamp() - interval '2 minutes'
  AND q.sent_at[cardinality(q.sent_at)] <= clock_timestamp()
  AND (q.sent_at[cardinality(q.sent_at)] = $3
       OR q.sent_at[cardinality(q.sent_at)] <= clock_timestamp() - make_interval(secs => $4))
RETURNING (SELECT sum(u.count) FROM unnest(sent_count) AS u (count)) AS sends, sent_at[cardinality(sent_at)] AS at
