-- So many ($2) of the newest sends on record do not count.
UPDATE campaign_sync.quotas q
SET (sent_at, sent_count) = (
    SELECT coalesce(array_agg(k.at ORDER BY k.place), '{}'), coalesce(array_agg(k.count ORDER BY k.place), '{}')
    FROM (
        -- Of each batch what the newer ones leave of the number to be taken.
        SELECT u.at, u.place,
               (u.count - greatest(0, least(u.count, $2 - sum(u.count) OVER (ORDER BY u.place DESC) + u.count)))::integer
               AS count
        FROM unnest(q.sent_at, q.sent_count) WITH ORDINALITY AS u (at, count, place)
    ) k
    WHERE k.count > 0
)
WHERE q.account = $1
