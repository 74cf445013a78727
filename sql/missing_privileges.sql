-- What this role lacks for all that needs no migration, as the statements that would give it. The README names the same.
SELECT format('GRANT %s ON %s TO %I', string_agg(privilege, ', ' ORDER BY place), name, current_user)
FROM (
    VALUES
        ('schema_migrations', 'SELECT'),
        ('sync_runs', 'SELECT INSERT UPDATE DELETE'),
        ('workers', 'SELECT INSERT UPDATE DELETE'),
        ('sync_tasks', 'SELECT INSERT UPDATE DELETE'),
        ('dead_letters', 'SELECT INSERT UPDATE DELETE'),
        ('campaigns', 'SELECT INSERT UPDATE'),
        ('quotas', 'SELECT INSERT UPDATE'),
        ('access_tokens', 'SELECT INSERT UPDATE')
) AS needed (name, privileges)
CROSS JOIN LATERAL unnest(string_to_array(privileges, ' ')) WITH ORDINALITY AS each (privilege, place)
WHERE NOT has_table_privilege(name, privilege)
GROUP BY name
ORDER BY name
