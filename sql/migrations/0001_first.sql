-- The whole schema. Every table that grows has a primary key that begins with `account`: statements stay within one
-- account, and the database can be sharded by it.

CREATE TABLE campaigns (
    account         text        NOT NULL,
    id              text        NOT NULL,
    name            text        NOT NULL,
    status          text        NOT NULL,
    budget          numeric     NOT NULL,
    impressions     bigint      NOT NULL,
    clicks          bigint      NOT NULL,
    conversions     bigint      NOT NULL,
    created_at      timestamptz NOT NULL,
    extra           jsonb       NOT NULL DEFAULT '{}',  -- the fields this version does not know
    first_synced_at timestamptz NOT NULL,
    synced_at       timestamptz NOT NULL,
    removed_at      timestamptz,                        -- when a complete listing first no longer showed it
    run_id          bigint      NOT NULL,               -- the run that synced it last
    PRIMARY KEY (account, id)
);

CREATE TABLE sync_runs (
    account         text        NOT NULL,
    run_id          bigint      GENERATED ALWAYS AS IDENTITY,
    run_key         uuid        NOT NULL DEFAULT gen_random_uuid(),  -- what idempotency keys are made of
    state           text        NOT NULL DEFAULT 'running'
                    CHECK (state IN ('running', 'complete', 'partial', 'stopped', 'abandoned')),
    lists           boolean     NOT NULL,               -- false: a run of `retry`, which lists nothing
    lister          bigint      NOT NULL DEFAULT 0,     -- the worker that lists; 0: nobody
    next_page       bigint      NOT NULL DEFAULT 1,     -- the checkpoint
    page_size       integer     NOT NULL,               -- pages are numbered by it: kept for the whole run
    listing_done    boolean     NOT NULL,
    unnamed         bigint      NOT NULL DEFAULT 0,     -- listed records without a usable id
    total           bigint,                             -- what the platform says there is
    listed          bigint      NOT NULL DEFAULT 0,
    synced          bigint      NOT NULL DEFAULT 0,     -- of workers that have left; the others keep their own counts
    failed          bigint      NOT NULL DEFAULT 0,
    removed         bigint      NOT NULL DEFAULT 0,
    requests        bigint      NOT NULL DEFAULT 0,
    limited         bigint      NOT NULL DEFAULT 0,     -- requests that count towards the rate limit
    retries         bigint      NOT NULL DEFAULT 0,
    rate_limited    bigint      NOT NULL DEFAULT 0,
    token_refreshes bigint      NOT NULL DEFAULT 0,
    started_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    last_error      text,
    binary_version  text        NOT NULL,
    PRIMARY KEY (account, run_id)
);
-- At most one open run an account: who comes second joins it.
CREATE UNIQUE INDEX sync_runs_open ON sync_runs (account) WHERE state IN ('running', 'stopped');

CREATE TABLE workers (
    account         text        NOT NULL,
    worker_id       bigint      GENERATED ALWAYS AS IDENTITY,
    run_id          bigint      NOT NULL,
    host            text        NOT NULL,
    pid             integer     NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT now(),
    heartbeat_at    timestamptz NOT NULL DEFAULT now(),
    synced          bigint      NOT NULL DEFAULT 0,     -- added to its run when it leaves: no row that all must lock
    failed          bigint      NOT NULL DEFAULT 0,
    requests        bigint      NOT NULL DEFAULT 0,
    limited         bigint      NOT NULL DEFAULT 0,
    retries         bigint      NOT NULL DEFAULT 0,
    rate_limited    bigint      NOT NULL DEFAULT 0,
    token_refreshes bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (account, worker_id)
) WITH (fillfactor = 50);

CREATE TABLE sync_tasks (
    account         text        NOT NULL,
    id              text        NOT NULL,
    run_id          bigint      NOT NULL,
    seq             bigint      NOT NULL,               -- the order of the listing
    worker_id       bigint      NOT NULL DEFAULT 0,     -- who holds it; 0: nobody
    attempt         integer     NOT NULL DEFAULT 0,     -- counts the times it was held: the fencing token
    payload         text        NOT NULL,               -- the record as it was listed
    PRIMARY KEY (account, id)
) WITH (
    -- A queue: rows live for seconds. Vacuum by count, never by share, and without pauses.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
-- For claims. Tasks that are held, as most are from their insertion to their end, cost nothing here; freeing what a dead
-- worker held is rare, and reads the account's tasks.
CREATE INDEX sync_tasks_free ON sync_tasks (account, seq) WHERE worker_id = 0;

CREATE TABLE dead_letters (
    account         text        NOT NULL,
    id              text        NOT NULL,               -- the campaign's, or `sha256:…` of the record if it has none
    run_id          bigint      NOT NULL,
    cause           text        NOT NULL,               -- a word for grouping
    reason          text        NOT NULL,               -- a line for people
    attempts        integer     NOT NULL,
    payload         text        NOT NULL,               -- the record as it was listed
    retryable       boolean     NOT NULL,               -- false: there is no id, or no way to store the record
    failed_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);

CREATE TABLE quotas (
    account         text          NOT NULL PRIMARY KEY,
    sent_at         timestamptz[] NOT NULL DEFAULT '{}', -- the window's sends, oldest first, in batches …
    sent_count      integer[]     NOT NULL DEFAULT '{}', -- … of so many
    gate_until      timestamptz,                         -- nobody sends before: a 429 said so
    limit_requests  integer,                             -- the limit as earlier responses showed it …
    limit_window_ms bigint,
    learned_at      timestamptz                          -- … and when; forgotten after a day
) WITH (fillfactor = 50);

CREATE TABLE access_tokens (
    account         text        NOT NULL PRIMARY KEY,
    generation      bigint      NOT NULL DEFAULT 0,
    sealed          bytea,                               -- encrypted with a key derived from the account's password
    expires_at      timestamptz,
    refresher       bigint      NOT NULL DEFAULT 0,      -- the worker that fetches the next one …
    refresh_until   timestamptz NOT NULL DEFAULT '-infinity'  -- … and when another may, if it does not come back
);
