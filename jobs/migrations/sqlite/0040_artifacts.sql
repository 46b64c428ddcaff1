-- Names of the files that a job made: a JSON list, null when there is none.
ALTER TABLE tidemill_jobs ADD COLUMN artifacts TEXT;
