-- Pages with the run's next page, in one statement: both are there after a crash, or neither. It is put together of these
-- parts, in this order, as src/store/queue.rs says: a statement is parsed and planned each time.
--   fence.sql                 only the run's lister may, and only from the page it thinks is next
--   tasks.sql | no_tasks.sql  what is still to be done becomes tasks, and what is no campaign a dead letter
--   campaigns.sql             what is finished by now is stored at once and never becomes a task
--   replace.sql | nothing     ... also where the account has campaigns already
--   ../history.sql            what changed
--   advance.sql               the run's next page
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
