-- What changed, when and in which run; views for people; and a comment on everything that they see.

CREATE TABLE campaign_sync.campaign_changes (
    account    text        NOT NULL,
    change_id  bigint      GENERATED ALWAYS AS IDENTITY,
    id         text        NOT NULL,
    changed_at timestamptz NOT NULL,
    run_id     bigint      NOT NULL,
    what       text        NOT NULL CHECK (what IN ('added', 'changed', 'removed', 'returned')),
    old        jsonb,
    new        jsonb,
    -- In the order of writing: an insertion is at the index's end, and the oldest are found without a search.
    PRIMARY KEY (account, change_id)
);
-- One campaign's history.
CREATE INDEX campaign_changes_of ON campaign_sync.campaign_changes (account, id, change_id);

-- No index: it would cost every change its update in place.
ALTER TABLE campaign_sync.campaigns ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE campaign_sync.sync_runs ADD COLUMN keeps_history boolean NOT NULL DEFAULT true;

CREATE VIEW campaign_sync.campaigns_current AS
SELECT account, id, name, status, budget, impressions, clicks, conversions, created_at, extra, first_synced_at, synced_at,
       changed_at, run_id
FROM campaign_sync.campaigns
WHERE removed_at IS NULL;

CREATE VIEW campaign_sync.account_freshness AS
SELECT f.account, f.last_success_at, now() - f.last_success_at AS success_age,
       f.last_finished_at, now() - f.last_finished_at AS finished_age
FROM (SELECT s.account, max(s.finished_at) FILTER (WHERE s.lists AND s.state = 'complete') AS last_success_at,
             max(s.finished_at) FILTER (WHERE s.lists AND s.state IN ('complete', 'partial')) AS last_finished_at
      FROM campaign_sync.sync_runs s
      GROUP BY s.account) f;

CREATE VIEW campaign_sync.run_history AS
SELECT s.account, s.run_id, s.state, s.lists, s.listing_done, s.started_at, s.finished_at,
       coalesce(s.finished_at, now()) - s.started_at AS elapsed,
       (SELECT count(*) FROM campaign_sync.workers w WHERE w.account = s.account AND w.run_id = s.run_id) AS workers,
       s.total, s.listed,
       (s.synced + coalesce(w.synced, 0))::bigint AS synced,
       (s.failed + coalesce(w.failed, 0))::bigint AS failed,
       s.removed, s.not_removed, s.not_removed_reason,
       (s.requests + coalesce(w.requests, 0))::bigint AS requests,
       (s.retries + coalesce(w.retries, 0))::bigint AS retries,
       (SELECT coalesce(jsonb_object_agg(c.cause, r.count) FILTER (WHERE r.count > 0), '{}')
        FROM unnest(ARRAY['connect', 'timeout', 'interrupted', 'unparsable', 'server_error', 'redirect', 'unauthorized',
                          'rate_limited', 'forbidden']) WITH ORDINALITY AS c (cause, place)
        JOIN (SELECT u.place, sum(u.count)::bigint AS count
              FROM (SELECT s.retried UNION ALL
                    SELECT v.retried FROM campaign_sync.workers v WHERE v.account = s.account AND v.run_id = s.run_id) AS d (counts),
                   unnest(d.counts) WITH ORDINALITY AS u (count, place)
              GROUP BY u.place) r ON r.place = c.place) AS retries_by_cause,
       (s.rate_limited + coalesce(w.rate_limited, 0))::bigint AS rate_limited,
       (s.token_refreshes + coalesce(w.token_refreshes, 0))::bigint AS token_refreshes,
       s.last_error, s.binary_version
FROM campaign_sync.sync_runs s
LEFT JOIN LATERAL (
    SELECT sum(w.synced) AS synced, sum(w.failed) AS failed, sum(w.requests) AS requests, sum(w.retries) AS retries,
           sum(w.rate_limited) AS rate_limited, sum(w.token_refreshes) AS token_refreshes
    FROM campaign_sync.workers w
    WHERE w.account = s.account AND w.run_id = s.run_id
) w ON true;

CREATE VIEW campaign_sync.dead_letters_by_cause AS
SELECT l.account, l.cause, count(*) AS count, count(*) FILTER (WHERE l.retryable) AS retryable,
       min(l.failed_at) AS oldest_at, max(l.failed_at) AS newest_at,
       (array_agg(l.id ORDER BY l.failed_at DESC, l.id))[1] AS example,
       (array_agg(l.reason ORDER BY l.failed_at DESC, l.id))[1] AS reason
FROM campaign_sync.dead_letters l
GROUP BY l.account, l.cause;

COMMENT ON TABLE campaign_sync.campaigns IS 'Every campaign that a listing ever showed, as the platform had it at the last sync';
COMMENT ON COLUMN campaign_sync.campaigns.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.campaigns.id IS 'The platform''s id';
COMMENT ON COLUMN campaign_sync.campaigns.name IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns.status IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns.budget IS 'As the platform has it, digit by digit';
COMMENT ON COLUMN campaign_sync.campaigns.impressions IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns.clicks IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns.conversions IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns.created_at IS 'When the platform created it';
COMMENT ON COLUMN campaign_sync.campaigns.extra IS 'Fields of the record that this version does not know';
COMMENT ON COLUMN campaign_sync.campaigns.first_synced_at IS 'When it was stored first';
COMMENT ON COLUMN campaign_sync.campaigns.synced_at IS 'When it was stored last, changed or not';
COMMENT ON COLUMN campaign_sync.campaigns.removed_at IS 'Since when a complete listing no longer shows it; null while it is listed';
COMMENT ON COLUMN campaign_sync.campaigns.run_id IS 'The run that stored it last';
COMMENT ON COLUMN campaign_sync.campaigns.changed_at IS 'When anything but synced_at and run_id changed last, removal and return included; for rows older than this column, when it was added';

COMMENT ON TABLE campaign_sync.campaign_changes IS 'What changed in campaigns, written in the statement that stores the row; older than --keep-history is pruned';
COMMENT ON COLUMN campaign_sync.campaign_changes.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.campaign_changes.change_id IS 'Orders the changes of a campaign';
COMMENT ON COLUMN campaign_sync.campaign_changes.id IS 'The campaign''s id';
COMMENT ON COLUMN campaign_sync.campaign_changes.changed_at IS 'When, by the database''s clock';
COMMENT ON COLUMN campaign_sync.campaign_changes.run_id IS 'The run that found it';
COMMENT ON COLUMN campaign_sync.campaign_changes.what IS 'added, changed, removed (no longer listed) or returned (listed again)';
COMMENT ON COLUMN campaign_sync.campaign_changes.old IS 'The changed fields before; null for added and removed';
COMMENT ON COLUMN campaign_sync.campaign_changes.new IS 'The changed fields after, all of them for added; null for removed';

COMMENT ON TABLE campaign_sync.sync_runs IS 'One row a run; runs are kept for 90 days. Its counts lack those of workers still with it: see run_history';
COMMENT ON COLUMN campaign_sync.sync_runs.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.sync_runs.run_id IS 'The run''s number';
COMMENT ON COLUMN campaign_sync.sync_runs.run_key IS 'A random key that idempotency keys are made of';
COMMENT ON COLUMN campaign_sync.sync_runs.state IS 'running, complete (every campaign synced), partial (some are dead letters), stopped (to be resumed) or abandoned';
COMMENT ON COLUMN campaign_sync.sync_runs.lists IS 'False for a run of retry, which lists nothing';
COMMENT ON COLUMN campaign_sync.sync_runs.lister IS 'The worker that lists; 0: nobody';
COMMENT ON COLUMN campaign_sync.sync_runs.next_page IS 'The checkpoint: the page that is listed next';
COMMENT ON COLUMN campaign_sync.sync_runs.page_size IS 'Campaigns a page, the same for the whole run';
COMMENT ON COLUMN campaign_sync.sync_runs.listing_done IS 'Whether the last page is in';
COMMENT ON COLUMN campaign_sync.sync_runs.unnamed IS 'Listed records without a usable id';
COMMENT ON COLUMN campaign_sync.sync_runs.total IS 'The platform''s last word on the number of campaigns';
COMMENT ON COLUMN campaign_sync.sync_runs.listed IS 'Campaigns seen';
COMMENT ON COLUMN campaign_sync.sync_runs.removed IS 'Campaigns found gone and marked';
COMMENT ON COLUMN campaign_sync.sync_runs.started_at IS 'When it was opened';
COMMENT ON COLUMN campaign_sync.sync_runs.finished_at IS 'When it was closed';
COMMENT ON COLUMN campaign_sync.sync_runs.last_error IS 'Why it was stopped';
COMMENT ON COLUMN campaign_sync.sync_runs.binary_version IS 'The version that opened it';
COMMENT ON COLUMN campaign_sync.sync_runs.samples IS 'Points of its course, for report';
COMMENT ON COLUMN campaign_sync.sync_runs.sampled_at IS 'When the last point was taken';
COMMENT ON COLUMN campaign_sync.sync_runs.sample_seconds IS 'Seconds between two points';
COMMENT ON COLUMN campaign_sync.sync_runs.limit_requests IS 'The rate limit it worked under: requests ...';
COMMENT ON COLUMN campaign_sync.sync_runs.limit_window_ms IS '... in any so many milliseconds';
COMMENT ON COLUMN campaign_sync.sync_runs.progress_at IS 'When a worker that has left gave its last sign of life';
COMMENT ON COLUMN campaign_sync.sync_runs.joins IS 'How often it was joined';
COMMENT ON COLUMN campaign_sync.sync_runs.lowest_total IS 'The lowest total that the platform told while it listed';
COMMENT ON COLUMN campaign_sync.sync_runs.highest_total IS 'The highest one';
COMMENT ON COLUMN campaign_sync.sync_runs.moved IS 'A page that was promised is no longer there';
COMMENT ON COLUMN campaign_sync.sync_runs.not_removed IS 'Campaigns no longer listed that were not marked as removed';
COMMENT ON COLUMN campaign_sync.sync_runs.not_removed_reason IS 'Why: moved, total_changed, below_total, no_id or max_removed';
COMMENT ON COLUMN campaign_sync.sync_runs.keeps_history IS 'Whether its changes go to campaign_changes (--keep-history)';
COMMENT ON COLUMN campaign_sync.sync_runs.synced IS 'Campaigns stored';
COMMENT ON COLUMN campaign_sync.sync_runs.failed IS 'Campaigns that became dead letters';
COMMENT ON COLUMN campaign_sync.sync_runs.requests IS 'Requests sent';
COMMENT ON COLUMN campaign_sync.sync_runs.limited IS 'Requests that count towards the rate limit';
COMMENT ON COLUMN campaign_sync.sync_runs.retries IS 'Attempts made again, refusals by the rate limiter excepted';
COMMENT ON COLUMN campaign_sync.sync_runs.rate_limited IS 'Refusals by the rate limiter (429)';
COMMENT ON COLUMN campaign_sync.sync_runs.token_refreshes IS 'Access tokens fetched';
COMMENT ON COLUMN campaign_sync.sync_runs.durations IS 'Requests by duration, shortest first';
COMMENT ON COLUMN campaign_sync.sync_runs.retried IS 'Retries by cause, in the order that run_history names them in';

COMMENT ON TABLE campaign_sync.workers IS 'One row a process at work on a run; it goes when the process leaves';
COMMENT ON COLUMN campaign_sync.workers.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.workers.worker_id IS 'The worker''s number';
COMMENT ON COLUMN campaign_sync.workers.run_id IS 'The run it works on';
COMMENT ON COLUMN campaign_sync.workers.host IS 'Its machine';
COMMENT ON COLUMN campaign_sync.workers.pid IS 'Its process id there';
COMMENT ON COLUMN campaign_sync.workers.started_at IS 'When it began';
COMMENT ON COLUMN campaign_sync.workers.heartbeat_at IS 'Its last sign of life; after 10 s without one its tasks are free';
COMMENT ON COLUMN campaign_sync.workers.machine IS 'Its boot, namespaces and user: who shares them can see whether it runs';
COMMENT ON COLUMN campaign_sync.workers.process_start IS 'Its start, in clock ticks since the boot';
COMMENT ON COLUMN campaign_sync.workers.synced IS 'Campaigns stored';
COMMENT ON COLUMN campaign_sync.workers.failed IS 'Campaigns that became dead letters';
COMMENT ON COLUMN campaign_sync.workers.requests IS 'Requests sent';
COMMENT ON COLUMN campaign_sync.workers.limited IS 'Requests that count towards the rate limit';
COMMENT ON COLUMN campaign_sync.workers.retries IS 'Attempts made again, refusals by the rate limiter excepted';
COMMENT ON COLUMN campaign_sync.workers.rate_limited IS 'Refusals by the rate limiter (429)';
COMMENT ON COLUMN campaign_sync.workers.token_refreshes IS 'Access tokens fetched';
COMMENT ON COLUMN campaign_sync.workers.durations IS 'Requests by duration, shortest first';
COMMENT ON COLUMN campaign_sync.workers.retried IS 'Retries by cause, in the order that run_history names them in';

COMMENT ON TABLE campaign_sync.sync_tasks IS 'The queue: campaigns listed and not yet synced; empty between runs';
COMMENT ON COLUMN campaign_sync.sync_tasks.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.sync_tasks.id IS 'The campaign''s id';
COMMENT ON COLUMN campaign_sync.sync_tasks.run_id IS 'Its run';
COMMENT ON COLUMN campaign_sync.sync_tasks.seq IS 'Its place in the listing';
COMMENT ON COLUMN campaign_sync.sync_tasks.worker_id IS 'The worker that holds it; 0: nobody';
COMMENT ON COLUMN campaign_sync.sync_tasks.attempt IS 'How often it was held: the fencing token';
COMMENT ON COLUMN campaign_sync.sync_tasks.payload IS 'The record as it was listed';

COMMENT ON TABLE campaign_sync.dead_letters IS 'Campaigns that failed permanently, until a later sync of them succeeds';
COMMENT ON COLUMN campaign_sync.dead_letters.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.dead_letters.id IS 'The campaign''s id, or a name made for a record without one';
COMMENT ON COLUMN campaign_sync.dead_letters.run_id IS 'The run in which it failed';
COMMENT ON COLUMN campaign_sync.dead_letters.cause IS 'A word for grouping';
COMMENT ON COLUMN campaign_sync.dead_letters.reason IS 'A line for people';
COMMENT ON COLUMN campaign_sync.dead_letters.attempts IS 'How often it was tried';
COMMENT ON COLUMN campaign_sync.dead_letters.payload IS 'The record as it was listed';
COMMENT ON COLUMN campaign_sync.dead_letters.retryable IS 'Whether campaign-sync retry puts it back';
COMMENT ON COLUMN campaign_sync.dead_letters.failed_at IS 'When it failed';

COMMENT ON TABLE campaign_sync.quotas IS 'The use of each account''s rate limit, shared by all its processes';
COMMENT ON COLUMN campaign_sync.quotas.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.quotas.sent_at IS 'The window''s sends, oldest first, in batches ...';
COMMENT ON COLUMN campaign_sync.quotas.sent_count IS '... of so many';
COMMENT ON COLUMN campaign_sync.quotas.gate_until IS 'Nobody sends before: a 429 said so';
COMMENT ON COLUMN campaign_sync.quotas.limit_requests IS 'The limit as the platform showed it: requests ...';
COMMENT ON COLUMN campaign_sync.quotas.limit_window_ms IS '... in any so many milliseconds';
COMMENT ON COLUMN campaign_sync.quotas.learned_at IS 'When it was learned';
COMMENT ON COLUMN campaign_sync.quotas.gate_set_at IS 'When the gate was closed';
COMMENT ON COLUMN campaign_sync.quotas.gate_asked_s IS 'Seconds that the platform asked for, where that is more than --max-wait';

COMMENT ON TABLE campaign_sync.access_tokens IS 'The token that an account''s processes share';
COMMENT ON COLUMN campaign_sync.access_tokens.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.access_tokens.generation IS 'Counts the tokens';
COMMENT ON COLUMN campaign_sync.access_tokens.sealed IS 'The token, encrypted with a key derived from the account''s password';
COMMENT ON COLUMN campaign_sync.access_tokens.expires_at IS 'When it expires';
COMMENT ON COLUMN campaign_sync.access_tokens.refresher IS 'The worker that fetches the next one';
COMMENT ON COLUMN campaign_sync.access_tokens.refresh_until IS 'When another worker may, if it does not come back';

COMMENT ON TABLE campaign_sync.schema_migrations IS 'The migrations that made this schema';
COMMENT ON COLUMN campaign_sync.schema_migrations.version IS 'Its number';
COMMENT ON COLUMN campaign_sync.schema_migrations.name IS 'Its name';
COMMENT ON COLUMN campaign_sync.schema_migrations.checksum IS 'SHA-256 of its text';
COMMENT ON COLUMN campaign_sync.schema_migrations.applied_at IS 'When it was applied';

COMMENT ON VIEW campaign_sync.campaigns_current IS 'The campaigns that the last complete listing showed or that were synced since: not removed';
COMMENT ON COLUMN campaign_sync.campaigns_current.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.campaigns_current.id IS 'The platform''s id';
COMMENT ON COLUMN campaign_sync.campaigns_current.name IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns_current.status IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns_current.budget IS 'As the platform has it, digit by digit';
COMMENT ON COLUMN campaign_sync.campaigns_current.impressions IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns_current.clicks IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns_current.conversions IS 'As the platform has it';
COMMENT ON COLUMN campaign_sync.campaigns_current.created_at IS 'When the platform created it';
COMMENT ON COLUMN campaign_sync.campaigns_current.extra IS 'Fields of the record that this version does not know';
COMMENT ON COLUMN campaign_sync.campaigns_current.first_synced_at IS 'When it was stored first';
COMMENT ON COLUMN campaign_sync.campaigns_current.synced_at IS 'When it was stored last, changed or not';
COMMENT ON COLUMN campaign_sync.campaigns_current.run_id IS 'The run that stored it last';
COMMENT ON COLUMN campaign_sync.campaigns_current.changed_at IS 'When anything but synced_at and run_id changed last, removal and return included; for rows older than this column, when it was added';

COMMENT ON VIEW campaign_sync.account_freshness IS 'How fresh each account''s campaigns are; runs of retry do not count';
COMMENT ON COLUMN campaign_sync.account_freshness.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.account_freshness.last_success_at IS 'The end of the last run that listed and synced every campaign (complete); null: never';
COMMENT ON COLUMN campaign_sync.account_freshness.success_age IS 'How long ago';
COMMENT ON COLUMN campaign_sync.account_freshness.last_finished_at IS 'The end of the last run that listed every campaign, with dead letters (partial) or without; null: never';
COMMENT ON COLUMN campaign_sync.account_freshness.finished_age IS 'How long ago';

COMMENT ON VIEW campaign_sync.run_history IS 'Runs with the counts of the workers still with them';
COMMENT ON COLUMN campaign_sync.run_history.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.run_history.run_id IS 'The run''s number';
COMMENT ON COLUMN campaign_sync.run_history.state IS 'running, complete (every campaign synced), partial (some are dead letters), stopped (to be resumed) or abandoned';
COMMENT ON COLUMN campaign_sync.run_history.lists IS 'False for a run of retry, which lists nothing';
COMMENT ON COLUMN campaign_sync.run_history.listing_done IS 'Whether the last page is in';
COMMENT ON COLUMN campaign_sync.run_history.started_at IS 'When it was opened';
COMMENT ON COLUMN campaign_sync.run_history.finished_at IS 'When it was closed';
COMMENT ON COLUMN campaign_sync.run_history.total IS 'The platform''s last word on the number of campaigns';
COMMENT ON COLUMN campaign_sync.run_history.listed IS 'Campaigns seen';
COMMENT ON COLUMN campaign_sync.run_history.synced IS 'Campaigns stored';
COMMENT ON COLUMN campaign_sync.run_history.failed IS 'Campaigns that became dead letters';
COMMENT ON COLUMN campaign_sync.run_history.removed IS 'Campaigns found gone and marked';
COMMENT ON COLUMN campaign_sync.run_history.not_removed IS 'Campaigns no longer listed that were not marked as removed';
COMMENT ON COLUMN campaign_sync.run_history.not_removed_reason IS 'Why: moved, total_changed, below_total, no_id or max_removed';
COMMENT ON COLUMN campaign_sync.run_history.requests IS 'Requests sent';
COMMENT ON COLUMN campaign_sync.run_history.retries IS 'Attempts made again, refusals by the rate limiter excepted';
COMMENT ON COLUMN campaign_sync.run_history.rate_limited IS 'Refusals by the rate limiter (429)';
COMMENT ON COLUMN campaign_sync.run_history.token_refreshes IS 'Access tokens fetched';
COMMENT ON COLUMN campaign_sync.run_history.last_error IS 'Why it was stopped';
COMMENT ON COLUMN campaign_sync.run_history.binary_version IS 'The version that opened it';
COMMENT ON COLUMN campaign_sync.run_history.elapsed IS 'From its start to its end, or to now';
COMMENT ON COLUMN campaign_sync.run_history.workers IS 'Processes at work on it';
COMMENT ON COLUMN campaign_sync.run_history.retries_by_cause IS 'Retries by cause, as an object of causes and counts';

COMMENT ON VIEW campaign_sync.dead_letters_by_cause IS 'Dead letters of each account and cause';
COMMENT ON COLUMN campaign_sync.dead_letters_by_cause.account IS 'The account''s name; default without an accounts file';
COMMENT ON COLUMN campaign_sync.dead_letters_by_cause.cause IS 'The word for grouping';
COMMENT ON COLUMN campaign_sync.dead_letters_by_cause.count IS 'How many there are';
COMMENT ON COLUMN campaign_sync.dead_letters_by_cause.retryable IS 'How many of them campaign-sync retry puts back';
COMMENT ON COLUMN campaign_sync.dead_letters_by_cause.oldest_at IS 'When the oldest failed';
COMMENT ON COLUMN campaign_sync.dead_letters_by_cause.newest_at IS 'When the newest failed';
COMMENT ON COLUMN campaign_sync.dead_letters_by_cause.example IS 'The newest one''s campaign';
COMMENT ON COLUMN campaign_sync.dead_letters_by_cause.reason IS 'The newest one''s reason';
