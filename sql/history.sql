    RETURNING c.account, c.id, c.run_id, c.changed_at, c.synced_at, c.name, c.status, c.budget, c.impressions, c.clicks, c.conversions,
              c.created_at, c.extra
), history AS (
    -- Part of sql/complete/ and sql/add_pages/. Only where something changed: its time is then that of this storing. The
    -- row before it is read as it was when the statement began, by one probe of the primary key.
    INSERT INTO campaign_sync.campaign_changes (account, id, changed_at, run_id, what, old, new)
    SELECT s.account, s.id, s.changed_at, s.run_id,
           CASE WHEN o.id IS NULL THEN 'added' WHEN o.removed_at IS NOT NULL THEN 'returned' ELSE 'changed' END,
           CASE WHEN o.id IS NOT NULL THEN
               jsonb_strip_nulls(jsonb_build_object(
                   'name', CASE WHEN o.name <> s.name THEN o.name END,
                   'status', CASE WHEN o.status <> s.status THEN o.status END,
                   'budget', CASE WHEN o.budget <> s.budget THEN o.budget END,
                   'impressions', CASE WHEN o.impressions <> s.impressions THEN o.impressions END,
                   'clicks', CASE WHEN o.clicks <> s.clicks THEN o.clicks END,
                   'conversions', CASE WHEN o.conversions <> s.conversions THEN o.conversions END,
                   'created_at', CASE WHEN o.created_at <> s.created_at THEN o.created_at END))
               -- Nulls in it are the platform's.
               || CASE WHEN o.extra <> s.extra THEN jsonb_build_object('extra', o.extra) ELSE '{}' END END,
           jsonb_strip_nulls(jsonb_build_object(
               'name', CASE WHEN o.name = s.name THEN NULL ELSE s.name END,
               'status', CASE WHEN o.status = s.status THEN NULL ELSE s.status END,
               'budget', CASE WHEN o.budget = s.budget THEN NULL ELSE s.budget END,
               'impressions', CASE WHEN o.impressions = s.impressions THEN NULL ELSE s.impressions END,
               'clicks', CASE WHEN o.clicks = s.clicks THEN NULL ELSE s.clicks END,
               'conversions', CASE WHEN o.conversions = s.conversions THEN NULL ELSE s.conversions END,
               'created_at', CASE WHEN o.created_at = s.created_at THEN NULL ELSE s.created_at END))
           || CASE WHEN o.extra = s.extra THEN '{}' ELSE jsonb_build_object('extra', s.extra) END
    FROM stored s
    LEFT JOIN LATERAL (SELECT c.* FROM campaign_sync.campaigns c WHERE c.account = $1 AND c.id = s.id LIMIT 1) o ON true
    WHERE s.changed_at = s.synced_at
      AND (SELECT r.keeps_history FROM campaign_sync.sync_runs r WHERE r.account = $1 AND r.run_id = s.run_id)
    ORDER BY s.id
