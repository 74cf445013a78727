-- Whether a listing was whole: what the platform said while it was read, and what became of campaigns that it did not show.

ALTER TABLE sync_runs
    ADD COLUMN lowest_total       bigint,                          -- of all that its pages said; total is the last one
    ADD COLUMN highest_total      bigint,
    ADD COLUMN moved              boolean NOT NULL DEFAULT false,  -- a page that was promised is no longer there
    ADD COLUMN not_removed        bigint  NOT NULL DEFAULT 0,      -- no longer listed, but not marked as removed …
    ADD COLUMN not_removed_reason text;                            -- … for this reason, a word for grouping
