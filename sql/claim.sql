-- Takes free tasks in the order of the listing; rows that another process is claiming are passed over, not waited for.
WITH free AS (
    SELECT id
    FROM sync_tasks
    WHERE account = $1 AND worker_id = 0
    ORDER BY seq
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE sync_tasks t
SET worker_id = $2, attempt = t.attempt + 1
FROM free f
WHERE t.account = $1 AND t.id = f.id
  AND EXISTS (SELECT FROM workers w WHERE w.account = $1 AND w.worker_id = $2)
RETURNING t.id, t.attempt, t.payload
