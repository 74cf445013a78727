-- Closes a run of which everything is done; exactly one process succeeds. Dead letters of this run make it partial. Old runs
-- go when a new one is done: no housekeeping job is needed.
WITH closed AS (
    UPDATE campaign_sync.sync_runs s
    SET state = e.state,
        -- A listing that was not whole, or is contradicted by its total, removes nothing.
        not_removed_reason = CASE WHEN NOT s.lists THEN NULL
                                  WHEN s.moved THEN 'moved'
                                  WHEN s.lowest_total < s.highest_total THEN 'total_changed'
                                  WHEN s.listed < s.total THEN 'below_total'
                                  WHEN s.listed > s.total THEN 'above_total' END,
        finished_at = e.now, lister = 0, last_error = NULL
    FROM (SELECT CASE WHEN EXISTS (SELECT FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.run_id = $2)
                      THEN 'partial' ELSE 'complete' END AS state, now() AS now) e
    WHERE s.account = $1 AND s.run_id = $2 AND s.state = 'running' AND s.listing_done
      AND NOT EXISTS (SELECT FROM campaign_sync.sync_tasks t WHERE t.account = $1 AND t.run_id = $2)
      -- The tasks are those of the statement's beginning, the run's row may be a newer one: then it was joined meanwhile, and
      -- tasks may have been put into it.
      AND s.joins = (SELECT j.joins FROM campaign_sync.sync_runs j WHERE j.account = $1 AND j.run_id = $2)
    RETURNING s.lists, s.unnamed, s.listed, s.total, s.lowest_total, s.highest_total, s.not_removed_reason
), old AS (
    DELETE FROM campaign_sync.sync_runs
    WHERE account = $1 AND finished_at < now() - interval '90 days' AND EXISTS (SELECT FROM closed)
)
SELECT lists, unnamed, listed, total, lowest_total, highest_total, not_removed_reason FROM closed
