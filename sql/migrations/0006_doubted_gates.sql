-- What the platform asked for, where that is more than --max-wait and the gate therefore opens sooner, for one request alone.
-- Gates of before may be closed for up to a year: they open now, and a limit that still holds closes them again.

ALTER TABLE quotas ADD COLUMN gate_asked_s double precision;

UPDATE quotas SET gate_until = NULL, gate_set_at = NULL;
