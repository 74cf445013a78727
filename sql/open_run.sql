-- The open run of an account. Locked: whoever closes or joins it at the same moment waits.
SELECT run_id, run_key::text AS run_key, page_size, listing_done, lists,
       -- Since any of its workers gave a sign of life.
       extract(epoch FROM now() - greatest(progress_at, (
           SELECT max(w.heartbeat_at) FROM campaign_sync.workers w WHERE w.account = $1 AND w.run_id = s.run_id)))::float8 AS idle_s
FROM campaign_sync.sync_runs s
WHERE account = $1 AND state IN ('running', 'stopped')
FOR UPDATE
