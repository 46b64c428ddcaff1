-- 1: a file of this pipeline undoes an earlier one (replace, upsert), so only what equals the newest is a duplicate.
ALTER TABLE tidemill_jobs ADD COLUMN last_wins INTEGER NOT NULL DEFAULT 0;
