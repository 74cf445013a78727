-- Whether the server still works on the statement of one of our connections, and who holds what it waits for. $1 is the
-- server's process for the connection; a pooler may have given another one, then it is the longest of our own statements.
WITH ours AS (
    SELECT pid, wait_event_type, wait_event
    FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
      AND application_name = current_setting('application_name')
      -- Between two statements it is idle for a moment.
      AND (state IN ('active', 'idle in transaction') OR state_change > clock_timestamp() - interval '1 second')
      AND (pid = $1 OR query_start < clock_timestamp() - interval '1 second')
    ORDER BY pid = $1 DESC, wait_event_type = 'Lock' DESC NULLS LAST, query_start
    LIMIT 1
)
SELECT ours.wait_event_type = 'Lock' AS locked, ours.wait_event = 'SyncRep' AS standby, blocker.pid,
       coalesce(blocker.application_name, '') AS application_name, coalesce(blocker.state, '') AS state,
       extract(epoch FROM clock_timestamp() - coalesce(blocker.xact_start, blocker.state_change))::float8 AS seconds
FROM ours
LEFT JOIN LATERAL (
    SELECT * FROM pg_stat_activity
    WHERE ours.wait_event_type = 'Lock' AND pid = ANY (pg_blocking_pids(ours.pid))
    ORDER BY xact_start NULLS LAST
    LIMIT 1
) blocker ON true
