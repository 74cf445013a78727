-- How many campaigns a complete listing did not show, of how many that were there.
SELECT count(*) FILTER (WHERE c.run_id <> $2
                          AND (SELECT l.run_id FROM campaign_sync.dead_letters l WHERE l.account = $1 AND l.id = c.id) IS DISTINCT FROM $2) AS unlisted,
       count(*) AS present
FROM campaign_sync.campaigns c
WHERE c.account = $1 AND c.removed_at IS NULL
