-- When a gate was closed: after the database's clock was turned back, it tells how long the gate is to stay closed.

ALTER TABLE quotas ADD COLUMN gate_set_at timestamptz;
