-- As tasks.sql, where every campaign of the pages is finished and valid.
), news AS (
    SELECT 0::bigint AS records, 0::bigint AS buried, 0::bigint AS unnamed, 0::bigint AS waiting,
           '{}'::text[] AS taken, '{}'::integer[] AS attempts, '{}'::text[] AS left_out, NULL::text AS unkept
