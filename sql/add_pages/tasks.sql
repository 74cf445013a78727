-- What this run has dealt with already is left out. That is looked up by scalar subqueries, each one probe of a primary key:
-- joins would be planned by statistics that a young table does not have.
-- Tasks that the lister's own process can take at once are inserted as held: no second write to claim them.
), page AS (
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
