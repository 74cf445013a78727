-- Sends, under a limit that all processes of the account share: the given one ($3 in $6 seconds), else the one
-- that was learned less than a day ago, else none: then every send is granted and recorded. Where the given one was learned too ($5),
-- the one on record goes first. The row is locked for this statement
-- only; its clock is the database's. Where many small batches would make the row long, a send is joined to one that is at most
-- a five-hundredth of the window older, and counts as of now.
--
-- They are on record as of the latest moment at which they may be made, $4 seconds from now and never more than five. Sends that
-- lie farther in the future are there because the database's clock was turned back: they count as made now, and a gate closed in
-- the future opens as much earlier. So nobody waits for the clock to catch up.
--
-- What became of earlier ones is corrected first: of those on record as of $8 (microseconds since 1970), $9 were not made, and the others
-- $10 microseconds later than that, or earlier. Where others were joined to them, or two batches are of that moment, the record stays as it is.
--
-- A gate that is doubted (gate_asked_s) lets one send through when it opens, and closes again for 5 seconds: within these its
-- answer says whether the gate is to be opened for all.
WITH row AS (
    SELECT sent_at, sent_count, gate_until, gate_set_at, gate_asked_s IS NOT NULL AS doubted,
           CASE WHEN keeps THEN limit_requests ELSE $3::integer END AS most,
           CASE WHEN keeps THEN limit_window_ms / 1000.0::float8 ELSE $6::float8 END AS seconds
    FROM (SELECT *, ($3::integer IS NULL OR $5) AND coalesce(learned_at > now() - interval '1 day', false) AS keeps
          FROM campaign_sync.quotas
          WHERE account = $1
          FOR UPDATE) q
), clock AS MATERIALIZED (
    -- Read only when the row is ours: waiting for its lock takes time.
    SELECT sent_at, sent_count, most, seconds, now, doubted, gate_set_at,
           (SELECT CASE WHEN count(*) = 1 THEN min(u.at) END FROM unnest(sent_at) AS u (at)
            WHERE u.at = timestamptz 'epoch' + $8 * interval '1 microsecond') AS mark,
           make_interval(secs => coalesce(seconds, 120) + $7) AS span, now + make_interval(secs => $4) AS by,
           gate_until - greatest(gate_set_at - now, interval '0') AS gate_until
    FROM (SELECT *, clock_timestamp() AS now FROM row) r
), sends AS MATERIALIZED (
    SELECT s.at, s.count, sum(s.count) OVER (ORDER BY s.at, s.place) AS up_to_here
    FROM (SELECT CASE WHEN u.at > c.now + interval '5 seconds' THEN c.now
                      WHEN u.at = c.mark THEN u.at + $10 * interval '1 microsecond'
                      ELSE u.at END AS at,
                 CASE WHEN u.at = c.mark THEN greatest(u.count, 0) - $9 ELSE u.count END AS count, u.place, c.now - c.span AS gone
          FROM clock c, unnest(c.sent_at, c.sent_count) WITH ORDINALITY AS u (at, count, place)) s
    WHERE s.at > s.gone AND s.count > 0
), used AS (
    SELECT coalesce(sum(count), 0)::bigint AS sends FROM sends
), turn AS MATERIALIZED (
    SELECT c.*, u.sends, coalesce(c.gate_until > c.now, false) AS closed, g.granted,
           CASE WHEN c.gate_until > c.now THEN c.gate_until
                WHEN c.most IS NULL OR u.sends + g.granted < c.most THEN c.now
                -- Those that leave just after the next one go with it: a burst stays one.
                ELSE (SELECT max(l.at) + c.span
                      FROM (SELECT l.at, min(l.at) OVER () AS next
                            FROM (SELECT s.at FROM sends s WHERE u.sends + g.granted - s.up_to_here < c.most
                                  UNION ALL SELECT c.by WHERE g.granted > 0 OR u.sends = 0) l) l
                      WHERE l.at <= l.next + least(c.span / 50, interval '200 milliseconds')) END AS free_at
    FROM clock c CROSS JOIN used u CROSS JOIN LATERAL (
        SELECT CASE WHEN c.gate_until > c.now THEN 0
                    WHEN c.most IS NULL THEN CASE WHEN c.doubted THEN least($2, 1) ELSE $2 END
                    ELSE greatest(0, least(CASE WHEN c.doubted THEN least($2, 1) ELSE $2::bigint END, c.most - u.sends))
               END AS granted
    ) g
), kept AS (
    SELECT coalesce(array_agg(s.at ORDER BY s.up_to_here), '{}') AS ats,
           coalesce(array_agg(s.count ORDER BY s.up_to_here), '{}') AS counts
    FROM sends s
), written AS (
    UPDATE campaign_sync.quotas q
    SET sent_at = CASE WHEN t.granted = 0 THEN k.ats
                       WHEN x.joins THEN k.ats[:cardinality(k.ats) - 1] || greatest(x.by, x.after_them)
                       ELSE k.ats || x.by END,
        sent_count = CASE WHEN t.granted = 0 THEN k.counts
                          WHEN x.joins THEN k.counts[:cardinality(k.counts) - 1]
                                            || (k.counts[cardinality(k.counts)] + t.granted)::integer
                          ELSE k.counts || t.granted::integer END,
        gate_until = CASE WHEN x.probes THEN x.probed_until ELSE t.gate_until END,
        gate_set_at = CASE WHEN x.probes THEN t.now ELSE least(t.gate_set_at, t.now) END
    FROM turn t, kept k,
         LATERAL (SELECT t.doubted AND t.granted > 0 AS probes, t.now + interval '5 seconds' AS probed_until) p,
         -- What is to find out has longer to be sent.
         LATERAL (SELECT p.*, k.ats[cardinality(k.ats)] + interval '1 microsecond' AS after_them, CASE WHEN p.probes THEN p.probed_until ELSE t.by END AS by,
                         cardinality(k.ats) > 500 AND k.ats[cardinality(k.ats)] + t.span / 500 > t.now AS joins) x
    WHERE q.account = $1
    RETURNING q.account, x.joins
)
-- An error when the row was dropped: see NOT_KEPT_SIGN in src/store/error.rs. Nobody may send what is not on record.
SELECT granted::bigint
       + CASE WHEN EXISTS (SELECT FROM written) THEN 0
              ELSE (SELECT 'campaign-sync: no row kept in quotas' FROM row LIMIT 1)::bigint END AS granted,
       doubted, closed,
       most::integer AS most, seconds,
       coalesce(extract(epoch FROM free_at - now), 0)::float8 AS wait_s,
       CASE WHEN NOT (SELECT joins FROM written) THEN (extract(epoch FROM by) * 1000000)::bigint END AS mark
FROM turn
