-- Locks the workers whose heartbeat is older than $2 seconds by the database's own clock, and worker $3, which leaves by
-- itself. Those that are taking tasks at this moment are passed over: they are alive.
SELECT worker_id
FROM workers
WHERE account = $1 AND (worker_id = $3 OR heartbeat_at < now() - make_interval(secs => $2))
FOR UPDATE SKIP LOCKED
