-- Everything with the name of a table of ours ($2), in the schemas where ours may be ($1): whose it is, and whether it can be
-- trusted. A table's owner has his triggers, rules, defaults and checks run as whoever writes to it.
WITH me AS (
    SELECT r.oid, r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
), trusted AS (
    -- A superuser is a member of every role, as pg_has_role() has it: for him only superusers are beyond doubt.
    SELECT r.oid
    FROM pg_catalog.pg_roles r, me
    WHERE r.oid = me.oid OR r.rolsuper OR (NOT me.rolsuper AND pg_catalog.pg_has_role(me.oid, r.oid, 'MEMBER'))
)
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind IN ('r', 'p') AS is_table, o.rolname::text AS owner,
       -- Or of the schema's owner; that of schema public may be "the database's owner".
       o.oid IN (SELECT t.oid FROM trusted t) OR o.oid = n.nspowner OR o.oid = d.datdba
           OR pg_catalog.pg_has_role(o.oid, n.nspowner, 'MEMBER') AS trusted,
       pg_catalog.row_security_active(c.oid) AS row_security,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AS may_read,
       (SELECT count(*) = 4
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND NOT a.attisdropped
          AND (a.attname::text, a.atttypid) IN (('version', 'pg_catalog.int4'::regtype), ('name', 'pg_catalog.text'::regtype),
                                                ('checksum', 'pg_catalog.text'::regtype),
                                                ('applied_at', 'pg_catalog.timestamptz'::regtype))) AS is_history,
       -- Nothing of ours has a trigger or a rule. On the other tables a user may have them, if he is to be trusted.
       coalesce(
           (SELECT 'trigger ' || t.tgname
            FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
              AND (c.relname = 'schema_migrations'
                   OR (f.proowner <> c.relowner OR (SELECT me.rolsuper FROM me))
                       AND f.proowner NOT IN (SELECT t.oid FROM trusted t))
            LIMIT 1),
           (SELECT 'rule ' || r.rulename
            FROM pg_catalog.pg_rewrite r
            WHERE r.ev_class = c.oid AND c.relkind IN ('r', 'p')
              AND (c.relname = 'schema_migrations' OR o.oid NOT IN (SELECT t.oid FROM trusted t))
            LIMIT 1),
           (SELECT 'check ' || k.conname
            FROM pg_catalog.pg_constraint k
            WHERE k.conrelid = c.oid AND k.contype = 'c' AND c.relname = 'schema_migrations'
            LIMIT 1),
           (SELECT 'default ' || pg_catalog.pg_get_expr(v.adbin, v.adrelid)
            FROM pg_catalog.pg_attrdef v
            WHERE v.adrelid = c.oid AND c.relname = 'schema_migrations'
              AND pg_catalog.pg_get_expr(v.adbin, v.adrelid) <> 'now()'
            LIMIT 1)
       ) AS attached
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
WHERE n.nspname = ANY ($1) AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY n.nspname, c.relname
