-- The tables that a cluster of Citus has distributed ($1: names of ours), and how: h by the hash of a column, n on every node.
SELECT c.relname::text AS name, p.partmethod::text AS method
FROM pg_catalog.pg_dist_partition p
JOIN pg_catalog.pg_class c ON c.oid = p.logicalrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1
