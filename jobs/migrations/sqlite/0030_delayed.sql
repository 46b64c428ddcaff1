-- Delayed jobs: their parameters, their turn, the pushed objects they take, and the collecting of their reports.

-- 1: runs in the order of arrival, after all earlier jobs of its pipeline that take turns.
ALTER TABLE tidemill_jobs ADD COLUMN takes_turns INTEGER NOT NULL DEFAULT 0;
-- A JSON object; null is none.
ALTER TABLE tidemill_jobs ADD COLUMN parameters TEXT;
-- The collection that its report belongs to.
ALTER TABLE tidemill_jobs ADD COLUMN collection_id TEXT;
CREATE INDEX tidemill_jobs_by_turn ON tidemill_jobs (pipeline, status, takes_turns, arrival);
CREATE INDEX tidemill_jobs_by_collection ON tidemill_jobs (collection_id);

-- Pushed objects that a job took; those without a row are swept.
CREATE TABLE tidemill_pushed (
    object_id TEXT NOT NULL PRIMARY KEY,
    job_id    TEXT NOT NULL
);

-- Collections of reports. What belongs to one is fixed when its row is written.
CREATE TABLE tidemill_collections (
    collection_id TEXT NOT NULL PRIMARY KEY,
    pipeline      TEXT NOT NULL,
    -- The time of the schedule, or when it was asked for by hand.
    slot          INTEGER NOT NULL,
    -- The folder of the object store that it goes to.
    folder        TEXT NOT NULL,
    -- Until then whoever took it up has it to itself.
    lease_until   INTEGER NOT NULL,
    finished_at   INTEGER,
    UNIQUE (pipeline, slot)
);
CREATE INDEX tidemill_collections_unfinished ON tidemill_collections (finished_at, lease_until);
