-- So many ($2) of the newest sends on record do not count.
WITH row AS (
    SELECT sent_at, sent_count FROM campaign_sync.quotas WHERE account = $1 FOR UPDATE
), kept AS (
    SELECT coalesce(array_agg(k.at ORDER BY k.place), '{}') AS ats, coalesce(array_agg(k.count ORDER BY k.place), '{}') AS counts
    FROM (
        -- Of each batch what the newer ones leave of the number to be taken.
        SELECT u.at, u.place,
               (u.count - greatest(0, least(u.count, $2 - sum(u.count) OVER (ORDER BY u.place DESC) + u.count)))::integer
               AS count
        FROM row r, unnest(r.sent_at, r.sent_count) WITH ORDINALITY AS u (at, count, place)
    ) k
    WHERE k.count > 0
)
UPDATE campaign_sync.quotas q
SET sent_at = k.ats, sent_count = k.counts
FROM kept k
WHERE q.account = $1
