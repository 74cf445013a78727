-- Faults of the database, and a record of what took effect: both by triggers, in the database of one schedule.
-- The functions name their own search_path: no statement of the program depends on one.

-- The share of statements that fail, and the seed of the draws.
CREATE TABLE torture_faults (share float8 NOT NULL, seed bigint NOT NULL);
INSERT INTO torture_faults VALUES (0, 0);
-- Sequences keep what a failed transaction drew.
CREATE SEQUENCE torture_draws;
CREATE SEQUENCE torture_hits;

CREATE FUNCTION torture_fault() RETURNS trigger LANGUAGE plpgsql SET search_path = campaign_sync, public AS $$
DECLARE
    faults torture_faults;
    draw bigint;
    codes CONSTANT text[] := '{40001,40P01,57014,53100,55P03,53200,57P03,kill}';
    code text;
BEGIN
    SELECT * INTO faults FROM torture_faults;
    IF faults.share = 0 OR current_setting('torture.exempt', true) = 'on' THEN
        RETURN NULL;
    END IF;
    draw := nextval('torture_draws');
    IF (hashint8extended(draw, faults.seed) & 1048575)::float8 / 1048576 < faults.share THEN
        PERFORM nextval('torture_hits');
        code := codes[1 + (hashint8extended(draw, faults.seed + 1) & 1023) % cardinality(codes)];
        IF code = 'kill' THEN
            PERFORM pg_terminate_backend(pg_backend_pid());
        ELSE
            RAISE EXCEPTION 'a fault that the test has made' USING ERRCODE = code;
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER torture AFTER INSERT OR UPDATE OR DELETE ON campaigns EXECUTE FUNCTION torture_fault();
CREATE TRIGGER torture AFTER INSERT OR UPDATE OR DELETE ON sync_tasks EXECUTE FUNCTION torture_fault();
CREATE TRIGGER torture AFTER INSERT OR UPDATE OR DELETE ON dead_letters EXECUTE FUNCTION torture_fault();
CREATE TRIGGER torture AFTER INSERT OR UPDATE OR DELETE ON workers EXECUTE FUNCTION torture_fault();
CREATE TRIGGER torture AFTER INSERT OR UPDATE OR DELETE ON sync_runs EXECUTE FUNCTION torture_fault();
CREATE TRIGGER torture BEFORE INSERT OR UPDATE OR DELETE ON quotas EXECUTE FUNCTION torture_fault();
CREATE TRIGGER torture BEFORE INSERT OR UPDATE OR DELETE ON access_tokens EXECUTE FUNCTION torture_fault();
-- At the commit itself.
CREATE CONSTRAINT TRIGGER torture_commit AFTER INSERT OR UPDATE ON sync_runs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION torture_fault();
CREATE CONSTRAINT TRIGGER torture_commit AFTER UPDATE ON workers DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION torture_fault();

-- Rows that are refused, by table: those of every so manieth id, with an error of this code or (`drop`) without a word.
CREATE TABLE torture_refusals (tbl name NOT NULL, every int NOT NULL, how text NOT NULL);

CREATE FUNCTION torture_is_refused(id text, every int) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    'SELECT (hashtext(id) & 1048575) % every = 0';

CREATE FUNCTION torture_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = campaign_sync, public AS $$
DECLARE
    refusal torture_refusals;
BEGIN
    SELECT * INTO refusal FROM torture_refusals WHERE tbl = TG_TABLE_NAME;
    IF NOT FOUND OR NOT torture_is_refused(NEW.id, refusal.every) THEN
        RETURN NEW;
    ELSIF refusal.how = 'drop' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'a row that the test does not want' USING ERRCODE = refusal.how;
END $$;

CREATE TRIGGER torture_refuse BEFORE INSERT OR UPDATE ON campaigns FOR EACH ROW EXECUTE FUNCTION torture_refuse();
CREATE TRIGGER torture_refuse BEFORE INSERT ON sync_tasks FOR EACH ROW EXECUTE FUNCTION torture_refuse();
CREATE TRIGGER torture_refuse BEFORE INSERT OR UPDATE ON dead_letters FOR EACH ROW EXECUTE FUNCTION torture_refuse();

-- What took effect, and in which transaction: what was rolled back is not here.
CREATE TABLE torture_effects (tx bigint NOT NULL, what text NOT NULL, id text, run_id bigint, worker_id bigint);

CREATE FUNCTION torture_effect() RETURNS trigger LANGUAGE plpgsql SET search_path = campaign_sync, public AS $$
BEGIN
    INSERT INTO torture_effects
    SELECT txid_current(), TG_ARGV[0], r ->> 'id', (r ->> 'run_id')::bigint,
           coalesce(r ->> 'worker_id', r ->> 'lister')::bigint
    FROM (SELECT CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END AS r) x;
    RETURN NULL;
END $$;

CREATE TRIGGER torture_stored AFTER INSERT ON campaigns
    FOR EACH ROW EXECUTE FUNCTION torture_effect('stored');
CREATE TRIGGER torture_stored_again AFTER UPDATE ON campaigns
    FOR EACH ROW WHEN (OLD.synced_at <> NEW.synced_at OR OLD.run_id <> NEW.run_id)
    EXECUTE FUNCTION torture_effect('stored');
CREATE TRIGGER torture_ended AFTER DELETE ON sync_tasks
    FOR EACH ROW EXECUTE FUNCTION torture_effect('ended');
CREATE TRIGGER torture_listed AFTER UPDATE ON sync_runs
    FOR EACH ROW WHEN (NEW.listed > OLD.listed)
    EXECUTE FUNCTION torture_effect('listed');
CREATE TRIGGER torture_counted AFTER UPDATE ON workers
    FOR EACH ROW WHEN (NEW.synced > OLD.synced OR NEW.failed > OLD.failed)
    EXECUTE FUNCTION torture_effect('counted');
