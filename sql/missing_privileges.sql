-- What this role lacks for all that needs no migration, as the statements that would give it. The README names the same. $1 is
-- the schema.
SELECT pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I', $1, current_user) AS grant_statement
WHERE NOT pg_catalog.has_schema_privilege($1, 'USAGE')
UNION ALL
(
    SELECT pg_catalog.format('GRANT %s ON %I.%I TO %I', pg_catalog.string_agg(privilege, ', ' ORDER BY place), $1, c.relname,
                             current_user)
    FROM (
        VALUES
            ('schema_migrations', 'SELECT'),
            ('sync_runs', 'SELECT INSERT UPDATE DELETE'),
            ('workers', 'SELECT INSERT UPDATE DELETE'),
            ('sync_tasks', 'SELECT INSERT UPDATE DELETE'),
            ('dead_letters', 'SELECT INSERT UPDATE DELETE'),
            ('campaigns', 'SELECT INSERT UPDATE'),
            ('campaign_changes', 'SELECT INSERT DELETE'),
            ('account_freshness', 'SELECT'),
            ('quotas', 'SELECT INSERT UPDATE'),
            ('access_tokens', 'SELECT INSERT UPDATE')
    ) AS needed (name, privileges)
    JOIN pg_catalog.pg_namespace n ON n.nspname = $1
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = needed.name
    CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.string_to_array(privileges, ' '))
                       WITH ORDINALITY AS each (privilege, place)
    WHERE NOT pg_catalog.has_table_privilege(c.oid, privilege)
    GROUP BY c.relname
    ORDER BY c.relname
)
