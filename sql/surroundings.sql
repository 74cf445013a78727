-- The database as this role finds it, whatever schema our tables are in ($1). Names are qualified: what other roles have made
-- must not stand in for what is asked here.
SELECT current_user::text AS role,
       pg_catalog.current_database()::text AS database,
       pg_catalog.current_setting('server_encoding') AS encoding,
       pg_catalog.pg_is_in_recovery() AS standby,
       pg_catalog.current_setting('transaction_read_only') = 'on' AS read_only,
       p.setting AS search_path,
       p.source = 'client' AS path_is_asked_for,
       pg_catalog.current_schemas(false)::text[] AS path,
       n.oid IS NOT NULL AS there,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false) AS may_use,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'CREATE'), false) AS may_create_tables,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS may_create_schemas
FROM pg_catalog.pg_settings p
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = $1
WHERE p.name = 'search_path'
