    ON CONFLICT (account, id) DO UPDATE
    SET name = excluded.name, status = excluded.status, budget = excluded.budget, impressions = excluded.impressions,
        clicks = excluded.clicks, conversions = excluded.conversions, created_at = excluded.created_at,
        extra = excluded.extra, synced_at = excluded.synced_at, run_id = excluded.run_id, removed_at = NULL
        WHERE c.run_id <> excluded.run_id
