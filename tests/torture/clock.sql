-- Moves every moment that statements compare with the present, in one transaction.
UPDATE quotas SET gate_until = gate_until - $by, gate_set_at = gate_set_at - $by, learned_at = learned_at - $by,
    sent_at = ARRAY (SELECT at - $by FROM unnest(sent_at) WITH ORDINALITY AS u (at, place) ORDER BY place);
UPDATE access_tokens SET expires_at = expires_at - $by, refresh_until = refresh_until - $by;
UPDATE sync_runs SET started_at = started_at - $by, finished_at = finished_at - $by, sampled_at = sampled_at - $by;
UPDATE workers SET started_at = started_at - $by, heartbeat_at = heartbeat_at - $by;
