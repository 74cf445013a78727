-- A good token that is newer than the refused one ($2), or the turn to fetch the next: at most one process ($3) has it,
-- for at most $4 seconds. The row's lock is held for this statement only, never while a token is fetched. A turn that lasts
-- longer was given before the database's clock was turned back, and is over.
WITH row AS (
    INSERT INTO campaign_sync.access_tokens AS t (account, refresher, refresh_until)
    VALUES ($1, $3, now() + make_interval(secs => $4))
    ON CONFLICT (account) DO UPDATE
    SET (refresher, refresh_until) = (
        SELECT CASE WHEN free THEN $3 ELSE t.refresher END,
               CASE WHEN free THEN now() + make_interval(secs => $4) ELSE t.refresh_until END
        FROM (
            SELECT (t.sealed IS NULL OR t.generation <= $2 OR t.expires_at < now() + interval '2 seconds')
               AND (t.refresh_until < now() OR t.refresh_until > now() + 2 * make_interval(secs => $4)) AS free
        ) f
    )
    RETURNING generation, sealed, expires_at, refresher
)
SELECT generation,
       CASE WHEN generation > $2 AND (expires_at IS NULL OR expires_at >= now() + interval '2 seconds')
            THEN sealed END AS usable,
       extract(epoch FROM expires_at - now())::float8 AS remaining_s,
       refresher = $3 AS mine
FROM row
