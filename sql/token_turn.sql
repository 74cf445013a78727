-- A good token that is newer than the refused one ($2), or the turn to fetch the next: at most one process ($3) has it,
-- for at most $4 seconds. The row's lock is held for this statement only, never while a token is fetched. A turn that lasts
-- longer was given before the database's clock was turned back, and is over. No row where there is none yet, or where the turn
-- is not kept.
WITH row AS (
    SELECT generation, sealed, expires_at, refresher, refresh_until
    FROM campaign_sync.access_tokens
    WHERE account = $1
    FOR UPDATE
), turn AS (
    SELECT r.*, $3::bigint AS myself, now() + make_interval(secs => $4) AS until,
           (r.sealed IS NULL OR r.generation <= $2 OR r.expires_at < now() + interval '2 seconds')
           AND (r.refresh_until < now() OR r.refresh_until > now() + 2 * make_interval(secs => $4)) AS free
    FROM row r
), given AS (
    UPDATE campaign_sync.access_tokens t
    SET refresher = u.myself, refresh_until = u.until
    FROM turn u
    WHERE t.account = $1 AND u.free
    RETURNING t.account
)
SELECT generation,
       CASE WHEN generation > $2 AND (expires_at IS NULL OR expires_at >= now() + interval '2 seconds')
            THEN sealed END AS usable,
       extract(epoch FROM expires_at - now())::float8 AS remaining_s,
       coalesce(free, false) OR refresher = $3 AS mine
FROM turn
WHERE free IS NOT TRUE OR EXISTS (SELECT FROM given)
