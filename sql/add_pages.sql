-- The tasks of some pages and the run's next page, in one statement: both are there after a crash, or neither. Only the
-- run's lister may, and only from the page it thinks is next. What this run has dealt with already is left out. What is
-- finished by now is stored at once and never becomes a task: its row in `campaigns` is what covers it.
-- What was dealt with is looked up by scalar subqueries, each one probe of a primary key: joins would be planned by
-- statistics that a young table does not have.
-- Tasks that the lister's own process can take at once are inserted as held: no second write to claim them.
WITH alive AS (
    -- Locked before the run, as by a heartbeat and by the end of a lease, which would otherwise leave the held tasks with
    -- nobody; and as strongly as it is written to below.
    SELECT worker_id FROM workers WHERE account = $1 AND worker_id = $3 FOR NO KEY UPDATE
), run AS (
    SELECT s.run_id
    FROM alive a JOIN sync_runs s ON s.lister = a.worker_id
    WHERE s.account = $1 AND s.run_id = $2 AND s.lister = $3 AND s.next_page = $4 AND s.state = 'running'
      AND NOT s.listing_done
    FOR UPDATE OF s
), page AS (
    SELECT * FROM unnest($5::text[], $6::bigint[], $7::text[], $8::boolean[]) AS p (id, seq, payload, held)
), added AS (
    INSERT INTO sync_tasks (account, id, run_id, seq, worker_id, attempt, payload)
    SELECT $1, p.id, r.run_id, p.seq, CASE WHEN p.held THEN $3 ELSE 0 END, CASE WHEN p.held THEN 1 ELSE 0 END, p.payload
    FROM page p CROSS JOIN run r
    WHERE (SELECT c.run_id FROM campaigns c WHERE c.account = $1 AND c.id = p.id) IS DISTINCT FROM $2
      -- Most accounts have no dead letter: then there is nothing to look up.
      AND (NOT EXISTS (SELECT FROM dead_letters WHERE account = $1)
           OR (SELECT l.run_id FROM dead_letters l WHERE l.account = $1 AND l.id = p.id) IS DISTINCT FROM $2)
    ON CONFLICT (account, id) DO NOTHING
    RETURNING id
), invalid AS (
    SELECT * FROM unnest($9::text[], $10::text[], $11::text[], $12::boolean[]) AS i (id, reason, payload, named)
), buried AS (
    INSERT INTO dead_letters AS l (account, id, run_id, cause, reason, attempts, payload, retryable)
    SELECT $1, i.id, r.run_id, 'invalid', i.reason, 0, i.payload, false
    FROM invalid i CROSS JOIN run r
    WHERE (SELECT c.run_id FROM campaigns c WHERE c.account = $1 AND c.id = i.id) IS DISTINCT FROM $2
      AND (SELECT t.run_id FROM sync_tasks t WHERE t.account = $1 AND t.id = i.id) IS NULL
    ON CONFLICT (account, id) DO UPDATE
    SET run_id = excluded.run_id, cause = excluded.cause, reason = excluded.reason, attempts = excluded.attempts,
        payload = excluded.payload, retryable = excluded.retryable, failed_at = excluded.failed_at
        WHERE l.run_id <> excluded.run_id
    RETURNING id
), finished AS (
    SELECT *
    FROM unnest($17::text[], $18::text[], $19::text[], $20::text[], $21::bigint[], $22::bigint[], $23::bigint[],
                $24::timestamptz[], $25::text[])
         AS f (id, name, status, budget, impressions, clicks, conversions, created_at, extra)
), stored AS (
    INSERT INTO campaigns AS c (account, id, name, status, budget, impressions, clicks, conversions, created_at, extra,
                                first_synced_at, synced_at, run_id)
    SELECT $1, f.id, f.name, f.status, f.budget::numeric, f.impressions, f.clicks, f.conversions, f.created_at,
           f.extra::jsonb, now(), now(), r.run_id
    FROM finished f CROSS JOIN run r
    -- Nor is there a task, as a rule, where campaigns are finished before their page is committed.
    WHERE (NOT EXISTS (SELECT FROM sync_tasks WHERE account = $1)
           OR (SELECT t.run_id FROM sync_tasks t WHERE t.account = $1 AND t.id = f.id) IS NULL)
      AND (NOT EXISTS (SELECT FROM dead_letters WHERE account = $1)
           OR (SELECT l.run_id FROM dead_letters l WHERE l.account = $1 AND l.id = f.id) IS DISTINCT FROM $2)
    ON CONFLICT (account, id) DO UPDATE
    SET name = excluded.name, status = excluded.status, budget = excluded.budget, impressions = excluded.impressions,
        clicks = excluded.clicks, conversions = excluded.conversions, created_at = excluded.created_at,
        extra = excluded.extra, synced_at = excluded.synced_at, run_id = excluded.run_id, removed_at = NULL
        WHERE c.run_id <> excluded.run_id
    RETURNING id
), cleared AS (
    DELETE FROM dead_letters l
    WHERE l.account = $1 AND EXISTS (SELECT FROM dead_letters WHERE account = $1)
      AND l.id = ANY (ARRAY (SELECT s.id FROM stored s))
), counted AS (
    UPDATE workers
    SET synced = synced + (SELECT count(*) FROM stored), heartbeat_at = now()
    WHERE account = $1 AND worker_id = $3 AND EXISTS (SELECT FROM stored)
), advanced AS (
    UPDATE sync_runs s
    SET next_page = $13, listing_done = $14, total = coalesce($15, s.total), page_size = $16,
        listed = s.listed + (SELECT count(*) FROM added) + (SELECT count(*) FROM stored) + (SELECT count(*) FROM buried),
        failed = s.failed + (SELECT count(*) FROM buried),
        unnamed = s.unnamed + (SELECT count(*) FROM invalid WHERE NOT named)
    FROM run r
    WHERE s.account = $1 AND s.run_id = r.run_id
    RETURNING 1
)
-- Null when this process no longer lists; else how many records were new, and the ids that were left out, of those that
-- were to be held.
SELECT (SELECT (SELECT count(*) FROM added) + (SELECT count(*) FROM stored) + (SELECT count(*) FROM buried)
        FROM advanced) AS added,
       CASE WHEN (SELECT count(*) FROM added) = (SELECT count(*) FROM page) THEN '{}'
            ELSE ARRAY (SELECT p.id FROM page p WHERE p.held EXCEPT SELECT a.id FROM added a) END AS left_out
