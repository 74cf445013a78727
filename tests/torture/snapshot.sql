-- The latest run and everything that must add up with it, in one snapshot.
WITH run AS (
    SELECT * FROM sync_runs WHERE account = 'default' ORDER BY run_id DESC LIMIT 1
), hands AS (
    SELECT coalesce(sum(w.synced), 0)::bigint AS synced, coalesce(sum(w.failed), 0)::bigint AS failed
    FROM workers w JOIN run r ON w.run_id = r.run_id
)
SELECT r.state, r.listed, r.listing_done,
       r.synced + h.synced AS synced,
       r.failed + h.failed AS failed,
       (SELECT count(*) FROM campaigns c WHERE c.run_id = r.run_id) AS rows,
       (SELECT count(*) FROM dead_letters l WHERE l.run_id = r.run_id) AS letters,
       (SELECT count(*) FROM sync_tasks t WHERE t.account = 'default') AS tasks,
       -- Put back by `retry`, and counted when the listing has shown them or is over.
       (SELECT count(*) FROM sync_tasks t
        WHERE t.account = 'default' AND t.seq = 9223372036854775807 AND NOT r.listing_done) AS waiting,
       (SELECT count(*) FROM sync_tasks t WHERE t.account = 'default' AND t.run_id <> r.run_id) AS strays,
       (SELECT count(*) FROM sync_tasks t
        WHERE t.worker_id <> 0 AND NOT EXISTS (SELECT FROM workers w WHERE w.worker_id = t.worker_id)) AS orphans,
       ARRAY (SELECT c.id FROM campaigns c JOIN sync_tasks t ON c.id = t.id AND c.run_id = t.run_id)
           || ARRAY (SELECT c.id FROM campaigns c JOIN dead_letters l ON c.id = l.id AND c.run_id = l.run_id)
           || ARRAY (SELECT t.id FROM sync_tasks t JOIN dead_letters l ON t.id = l.id AND t.run_id = l.run_id) AS twofold
FROM run r CROSS JOIN hands h
