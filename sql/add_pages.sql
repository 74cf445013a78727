-- Pages with the run's next page, in one statement: both are there after a crash, or neither. Only the run's lister may, and
-- only from the page that the run stands at. What is finished by now is stored at once and never becomes a task; what is
-- still to be done becomes a task, and what is no campaign a dead letter.
WITH alive AS (
    -- Locked before the run, as by a heartbeat and by the end of a lease, which would otherwise leave the held tasks with
    -- nobody; and as strongly as it is written to below.
    SELECT worker_id FROM campaign_sync.workers WHERE account = $1 AND worker_id = $3 FOR NO KEY UPDATE
), run AS (
    SELECT s.account, s.run_id
    FROM campaign_sync.sync_runs s
    WHERE s.account = $1 AND s.run_id = $2 AND s.lister = $3 AND s.next_page = $4 AND s.state = 'running'
      AND NOT s.listing_done AND EXISTS (SELECT FROM alive)
      -- Everything else is as it was when the statement began, the run's row may be a newer one: then it was joined meanwhile,
      -- and `retry` may have put back what is stored here.
      AND s.joins = (SELECT j.joins FROM campaign_sync.sync_runs j WHERE j.account = $1 AND j.run_id = $2)
    FOR UPDATE
), page AS (
    -- What this run has dealt with already is left out. That is looked up by scalar subqueries, each one probe of a primary
    -- key: joins would be planned by statistics that a young table does not have.
    -- Tasks that the lister's own process can take at once are inserted as held: no second write to claim them.
    SELECT p.*, CASE WHEN p.held THEN $3 ELSE 0 END AS holder, CASE WHEN p.held THEN 1 ELSE 0 END AS taken
    FROM unnest($5::text[], $6::bigint[], $7::text[], $8::boolean[]) AS p (id, seq, payload, held)
), added AS (
    INSERT INTO campaign_sync.sync_tasks (account, id, run_id, seq, worker_id, attempt, payload)
    SELECT r.account, p.id, r.run_id, p.seq, p.holder, p.taken, p.payload
    FROM page p CROSS JOIN run r
    WHERE (SELECT c.run_id FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = p.id) IS DISTINCT FROM $2
      -- Most accounts have no dead letter: then there is nothing to look up.
      AND (NOT EXISTS (SELECT FROM campaign_sync.dead_letters WHERE account = $1)
           OR (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = p.id) IS DISTINCT FROM $2)
    ON CONFLICT (account, id) DO NOTHING
    RETURNING id
), known AS (
    -- Those for which none was added. As a rule there are none.
    SELECT CASE WHEN (SELECT count(*) FROM added) = (SELECT count(*) FROM page) THEN '{}'
                ELSE ARRAY (SELECT p.id FROM page p EXCEPT SELECT a.id FROM added a) END AS ids
), waiting AS (
    -- Put back by `retry`, and shown by this listing only now.
    SELECT count(*) AS count
    FROM campaign_sync.sync_tasks t
    WHERE t.account = $1 AND t.id = ANY ((SELECT k.ids FROM known k)::text[]) AND t.seq = 9223372036854775807
), shown_again AS (
    -- A task takes the record of the listing. One that waited for it is held by the lister's process, if it would be as a new
    -- one; whoever holds one with another record holds it no more.
    UPDATE campaign_sync.sync_tasks t
    SET payload = p.payload, run_id = r.run_id,
        seq = CASE WHEN t.seq = 9223372036854775807 THEN p.seq ELSE t.seq END,
        worker_id = CASE WHEN t.seq = 9223372036854775807 THEN p.holder ELSE 0 END,
        attempt = t.attempt + CASE WHEN t.worker_id <> 0 OR t.seq = 9223372036854775807 AND p.held THEN 1 ELSE 0 END
    FROM page p CROSS JOIN run r
    WHERE t.account = $1 AND t.id = ANY ((SELECT k.ids FROM known k)::text[]) AND t.id = p.id
      AND (t.seq = 9223372036854775807 OR t.payload <> p.payload)
    RETURNING t.id, t.attempt, t.worker_id
), invalid AS (
    SELECT *
    FROM unnest($9::text[], $10::text[], $11::text[], $12::boolean[], $26::text[], $27::boolean[], $31::integer[])
         AS i (id, reason, payload, named, cause, retryable, attempts)
), overruled AS (
    -- What `retry` put back, and the listing now shows to be no campaign.
    DELETE FROM campaign_sync.sync_tasks t
    WHERE t.account = $1 AND EXISTS (SELECT FROM run) AND t.id = ANY ($9::text[]) AND t.seq = 9223372036854775807
    RETURNING t.id
), buried AS (
    INSERT INTO campaign_sync.dead_letters AS l (account, id, run_id, cause, reason, attempts, payload, retryable)
    SELECT r.account, i.id, r.run_id, i.cause, i.reason, i.attempts, i.payload, i.retryable
    FROM invalid i CROSS JOIN run r
    WHERE (SELECT c.run_id FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = i.id) IS DISTINCT FROM $2
      AND ((SELECT t.run_id FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = i.id) IS NULL
           OR i.id = ANY (ARRAY (SELECT o.id FROM overruled o)))
    ON CONFLICT (account, id) DO UPDATE
    SET run_id = excluded.run_id, cause = excluded.cause, reason = excluded.reason, attempts = excluded.attempts,
        payload = excluded.payload, retryable = excluded.retryable, failed_at = excluded.failed_at
        WHERE l.run_id <> excluded.run_id
    RETURNING id
), news AS (
    SELECT (SELECT count(*) FROM added) + (SELECT w.count FROM waiting w) + b.count AS records, b.count AS buried,
           (SELECT count(*) FROM invalid WHERE NOT named) AS unnamed,
           (SELECT w.count FROM waiting w) + (SELECT count(*) FROM overruled) AS waiting,
           -- Of those that were to be held: what is held now, under which attempt number, and what is not.
           ARRAY (SELECT s.id FROM shown_again s WHERE s.worker_id = $3 ORDER BY s.id) AS taken,
           ARRAY (SELECT s.attempt FROM shown_again s WHERE s.worker_id = $3 ORDER BY s.id) AS attempts,
           ARRAY (SELECT p.id FROM page p
                  WHERE p.held AND p.id = ANY ((SELECT k.ids FROM known k)::text[])
                  EXCEPT SELECT s.id FROM shown_again s WHERE s.worker_id = $3) AS left_out,
           -- What this run has not dealt with and is not there either was dropped by a trigger, rule or policy.
           CASE WHEN (SELECT count(*) FROM added) < (SELECT count(*) FROM page) AND EXISTS (
                    SELECT FROM page p CROSS JOIN run r
                    WHERE p.id NOT IN (SELECT a.id FROM added a)
                      AND (SELECT t.run_id FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = p.id) IS NULL
                      AND (SELECT c.run_id FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = p.id) IS DISTINCT FROM $2
                      AND (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = p.id) IS DISTINCT FROM $2)
                THEN 'sync_tasks'
                WHEN b.count < (SELECT count(*) FROM invalid) AND EXISTS (
                    SELECT FROM invalid i CROSS JOIN run r
                    WHERE i.id NOT IN (SELECT u.id FROM buried u)
                      AND ((SELECT t.run_id FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = i.id) IS NULL
                           OR i.id IN (SELECT o.id FROM overruled o))
                      AND (SELECT c.run_id FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = i.id) IS DISTINCT FROM $2
                      AND (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = i.id) IS DISTINCT FROM $2)
                THEN 'dead_letters' END AS unkept
    FROM (SELECT count(*) FROM buried) b
), finished AS (
    -- Side by side, row by row: a single unnest() of them all would first write each down on its own. $25 is empty when no
    -- campaign has anything extra.
    SELECT unnest($17::text[]) AS id, unnest($18::text[]) AS name, unnest($19::text[]) AS status,
           unnest($20::text[]) AS budget, unnest($21::bigint[]) AS impressions, unnest($22::bigint[]) AS clicks,
           unnest($23::bigint[]) AS conversions, unnest($24::timestamptz[]) AS created_at, unnest($25::text[]) AS extra
), done AS (
    -- Put back by `retry`, as a rule, and finished before anybody held it.
    DELETE FROM campaign_sync.sync_tasks t
    WHERE t.account = $1 AND EXISTS (SELECT FROM campaign_sync.sync_tasks WHERE account = $1) AND EXISTS (SELECT FROM run)
      AND t.id = ANY (ARRAY (SELECT f.id FROM finished f)) AND t.worker_id = 0
    RETURNING t.id, t.seq
), stored AS (
    INSERT INTO campaign_sync.campaigns AS c (account, id, name, status, budget, impressions, clicks, conversions, created_at, extra,
                                first_synced_at, synced_at, changed_at, run_id)
    SELECT r.account, f.id, f.name, f.status, f.budget::numeric, f.impressions, f.clicks, f.conversions, f.created_at,
           coalesce(f.extra::jsonb, '{}'), now(), now(), now(), r.run_id
    FROM finished f CROSS JOIN run r
    -- Nor is there a task, as a rule, where campaigns are finished before their page is committed.
    WHERE (NOT EXISTS (SELECT FROM campaign_sync.sync_tasks WHERE account = $1)
           OR (SELECT t.run_id FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = f.id) IS NULL
           OR f.id = ANY (ARRAY (SELECT d.id FROM done d)))
      AND (NOT EXISTS (SELECT FROM campaign_sync.dead_letters WHERE account = $1)
           OR (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = f.id) IS DISTINCT FROM $2)
    ON CONFLICT (account, id) DO UPDATE
    SET name = excluded.name, status = excluded.status, budget = excluded.budget, impressions = excluded.impressions,
        clicks = excluded.clicks, conversions = excluded.conversions, created_at = excluded.created_at,
        extra = excluded.extra,
        changed_at = CASE WHEN c.removed_at IS NOT NULL
                            OR (c.name, c.status, c.budget, c.impressions, c.clicks, c.conversions, c.created_at, c.extra)
                               IS DISTINCT FROM (excluded.name, excluded.status, excluded.budget, excluded.impressions,
                                                 excluded.clicks, excluded.conversions, excluded.created_at, excluded.extra)
                          THEN excluded.changed_at ELSE c.changed_at END,
        synced_at = excluded.synced_at, run_id = excluded.run_id, removed_at = NULL
        WHERE c.run_id <> excluded.run_id
    RETURNING c.account, c.id, c.run_id, c.changed_at, c.synced_at, c.name, c.status, c.budget, c.impressions, c.clicks, c.conversions,
              c.created_at, c.extra
), history AS (
    -- As in sql/complete.sql. Only where something changed: its time is then that of this storing. The
    -- row before it is read as it was when the statement began, by one probe of the primary key.
    INSERT INTO campaign_sync.campaign_changes (account, id, changed_at, run_id, what, old, new)
    SELECT s.account, s.id, s.changed_at, s.run_id,
           CASE WHEN o.id IS NULL THEN 'added' WHEN o.removed_at IS NOT NULL THEN 'returned' ELSE 'changed' END,
           CASE WHEN o.id IS NOT NULL THEN
               jsonb_strip_nulls(jsonb_build_object(
                   'name', CASE WHEN o.name <> s.name THEN o.name END,
                   'status', CASE WHEN o.status <> s.status THEN o.status END,
                   'budget', CASE WHEN o.budget <> s.budget THEN o.budget END,
                   'impressions', CASE WHEN o.impressions <> s.impressions THEN o.impressions END,
                   'clicks', CASE WHEN o.clicks <> s.clicks THEN o.clicks END,
                   'conversions', CASE WHEN o.conversions <> s.conversions THEN o.conversions END,
                   'created_at', CASE WHEN o.created_at <> s.created_at THEN o.created_at END))
               -- Nulls in it are the platform's.
               || CASE WHEN o.extra <> s.extra THEN jsonb_build_object('extra', o.extra) ELSE '{}' END END,
           jsonb_strip_nulls(jsonb_build_object(
               'name', CASE WHEN o.name = s.name THEN NULL ELSE s.name END,
               'status', CASE WHEN o.status = s.status THEN NULL ELSE s.status END,
               'budget', CASE WHEN o.budget = s.budget THEN NULL ELSE s.budget END,
               'impressions', CASE WHEN o.impressions = s.impressions THEN NULL ELSE s.impressions END,
               'clicks', CASE WHEN o.clicks = s.clicks THEN NULL ELSE s.clicks END,
               'conversions', CASE WHEN o.conversions = s.conversions THEN NULL ELSE s.conversions END,
               'created_at', CASE WHEN o.created_at = s.created_at THEN NULL ELSE s.created_at END))
           || CASE WHEN o.extra = s.extra THEN '{}' ELSE jsonb_build_object('extra', s.extra) END
    FROM stored s
    LEFT JOIN LATERAL (SELECT c.* FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = s.id LIMIT 1) o ON true
    WHERE s.changed_at = s.synced_at
      AND (SELECT r.keeps_history FROM campaign_sync.sync_runs r WHERE r.account = $1 AND r.run_id = s.run_id)
    ORDER BY s.id
), cleared AS (
    DELETE FROM campaign_sync.dead_letters l
    WHERE l.account = $1 AND EXISTS (SELECT FROM campaign_sync.dead_letters WHERE account = $1)
      AND l.id = ANY (ARRAY (SELECT s.id FROM stored s))
), counted AS (
    UPDATE campaign_sync.workers w
    SET synced = w.synced + n.synced, heartbeat_at = n.now
    FROM (SELECT (SELECT count(*) FROM stored) AS synced, now() AS now) n
    WHERE w.account = $1 AND w.worker_id = $3 AND EXISTS (SELECT FROM stored)
    RETURNING w.worker_id
), advanced AS (
    UPDATE campaign_sync.sync_runs s
    SET next_page = a.next_page, listing_done = a.listing_done, total = coalesce(a.total, s.total),
        -- Rows that are written on their own, ahead of their page, leave the run where it is.
        page_size = CASE WHEN s.next_page = a.next_page THEN s.page_size ELSE a.page_size END,
        listed = s.listed + a.listed, failed = s.failed + n.buried, unnamed = s.unnamed + n.unnamed,
        -- What is null counts for nothing here.
        lowest_total = least(s.lowest_total, a.lowest_total), highest_total = greatest(s.highest_total, a.highest_total),
        moved = s.moved OR a.moved
    FROM run r CROSS JOIN news n CROSS JOIN LATERAL (
        SELECT $13::bigint AS next_page, $14::boolean AS listing_done, $15::bigint AS total, $16::integer AS page_size,
               $28::bigint AS lowest_total, $29::bigint AS highest_total, $30::boolean AS moved,
               n.records + (SELECT count(*) FROM stored) - (SELECT count(*) FROM done WHERE seq < 9223372036854775807)
               -- What the whole listing has not shown is worked all the same.
               + CASE WHEN $14 THEN (SELECT count(*) FROM campaign_sync.sync_tasks t
                                     WHERE t.account = $1 AND t.run_id = $2 AND t.seq = 9223372036854775807)
                                    - n.waiting - (SELECT count(*) FROM done WHERE seq = 9223372036854775807)
                      ELSE 0 END AS listed
    ) a
    WHERE s.account = $1 AND s.run_id = r.run_id
    RETURNING n.records, n.left_out, n.taken, n.attempts
), unkept AS (
    -- The table that did not keep a row, if one did not; of the finished campaigns, as above.
    SELECT CASE WHEN n.unkept IS NOT NULL THEN n.unkept
                WHEN (SELECT count(*) FROM stored) < (SELECT count(*) FROM finished) AND EXISTS (
                    SELECT FROM finished f CROSS JOIN run r
                    WHERE f.id NOT IN (SELECT s.id FROM stored s)
                      AND ((SELECT t.run_id FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.id = f.id) IS NULL
                           OR f.id IN (SELECT d.id FROM done d))
                      AND (SELECT c.run_id FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = f.id) IS DISTINCT FROM $2
                      AND (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = f.id) IS DISTINCT FROM $2)
                THEN 'campaigns'
                WHEN EXISTS (SELECT FROM stored) AND NOT EXISTS (SELECT FROM counted) THEN 'workers'
                WHEN EXISTS (SELECT FROM run) AND NOT EXISTS (SELECT FROM advanced) THEN 'sync_runs' END AS name
    FROM news n
)
-- Null when this process no longer lists; else how many records were new, and the ids that were left out. An error, which
-- undoes all of it, when a row is nowhere: see NOT_KEPT_SIGN in src/store/error.rs.
SELECT (SELECT a.records + (SELECT count(*) FROM stored) FROM advanced a)
       + coalesce(('campaign-sync: no row kept in ' || (SELECT u.name FROM unkept u))::bigint, 0) AS added,
       (SELECT a.left_out FROM advanced a) AS left_out,
       (SELECT a.taken FROM advanced a) AS taken, (SELECT a.attempts FROM advanced a) AS attempts,
       EXISTS (SELECT FROM campaign_sync.workers o WHERE o.account = $1 AND o.run_id = $2 AND o.worker_id <> $3) AS others,
       -- It lists, and the run was joined meanwhile: nothing is written, and the statement is to be run once more.
       NOT EXISTS (SELECT FROM run) AND EXISTS (
           SELECT FROM campaign_sync.sync_runs j
           WHERE j.account = $1 AND j.run_id = $2 AND j.lister = $3 AND j.next_page = $4 AND j.state = 'running'
             AND NOT j.listing_done AND EXISTS (SELECT FROM alive)) AS joined
