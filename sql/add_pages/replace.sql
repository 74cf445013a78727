    ON CONFLICT (account, id) DO UPDATE
    SET name = excluded.name, status = excluded.status, budget = excluded.budget, impressions = excluded.impressions,
        clicks = excluded.clicks, conversions = excluded.conversions, created_at = excluded.created_at,
        extra = excluded.extra,
        changed_at = CASE WHEN c.removed_at IS NOT NULL
                            OR (c.name, c.status, c.budget, c.impressions, c.clicks, c.conversions, c.created_at, c.extra)
                               IS DISTINCT FROM (excluded.name, excluded.status, excluded.budget, excluded.impressions,
                                                 excluded.clicks, excluded.conversions, excluded.created_at, excluded.extra)
                          THEN excluded.changed_at ELSE c.changed_at END,
        synced_at = excluded.synced_at, run_id = excluded.run_id, removed_at = NULL
        WHERE c.run_id <> excluded.run_id
