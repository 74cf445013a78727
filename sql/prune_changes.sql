-- Deletes changes that are older than $2 seconds, the oldest $3 at most.
DELETE FROM campaign_sync.campaign_changes c
WHERE c.account = $1
  -- Of one row, as a rule: nothing is old enough.
  AND (SELECT o.changed_at FROM campaign_sync.campaign_changes o WHERE o.account = $1 ORDER BY o.change_id LIMIT 1)
      < now() - make_interval(secs => $2)
  AND c.change_id = ANY (ARRAY (
      SELECT o.change_id
      FROM (SELECT b.change_id, b.changed_at
            FROM campaign_sync.campaign_changes b
            WHERE b.account = $1
            ORDER BY b.change_id
            LIMIT $3) o
      WHERE o.changed_at < now() - make_interval(secs => $2)))
