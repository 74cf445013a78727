-- What joining a run needs to know.

ALTER TABLE sync_runs
    -- When one of its workers last gave a sign of life, as far as it has left: an open run ages from there.
    ADD COLUMN progress_at timestamptz NOT NULL DEFAULT now(),
    -- How often it was joined: what was put into it meanwhile is not overlooked when it is closed.
    ADD COLUMN joins bigint NOT NULL DEFAULT 0;

ALTER TABLE workers
    -- The boot, the namespaces and the user of a process, and its start in clock ticks since the boot: whoever shares the first can
    -- see whether the process still runs. Null where that cannot be told.
    ADD COLUMN machine       text,
    ADD COLUMN process_start bigint;
