-- What a run was like while it lasted, for pictures of it. Small: at most some hundred numbers a row, whatever its length.

ALTER TABLE sync_runs
    -- Points of its course, some seconds apart: [milliseconds since its start, listed, synced, failed, requests under the
    -- limit, refused by it].
    ADD COLUMN samples         jsonb            NOT NULL DEFAULT '[]',
    ADD COLUMN sampled_at      timestamptz      NOT NULL DEFAULT '-infinity',
    ADD COLUMN sample_seconds  double precision NOT NULL DEFAULT 1.5,  -- between two of them; doubled when there are many
    ADD COLUMN limit_requests  integer,                                -- the rate limit it worked under, if it knew one
    ADD COLUMN limit_window_ms bigint,
    ADD COLUMN durations       bigint[]         NOT NULL DEFAULT '{}', -- requests by duration, shortest first …
    ADD COLUMN retried         bigint[]         NOT NULL DEFAULT '{}'; -- … and retries by cause: of workers that have left

ALTER TABLE workers
    ADD COLUMN durations bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN retried   bigint[] NOT NULL DEFAULT '{}';
