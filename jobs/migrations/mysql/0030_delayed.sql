-- Delayed jobs: their parameters, their turn, the pushed objects they take, and the collecting of their reports.

ALTER TABLE tidemill_jobs
    -- 1: runs in the order of arrival, after all earlier jobs of its pipeline that take turns.
    ADD COLUMN takes_turns BIGINT NOT NULL DEFAULT 0,
    -- A JSON object; null is none.
    ADD COLUMN parameters LONGTEXT,
    -- The collection that its report belongs to.
    ADD COLUMN collection_id VARCHAR(36);
CREATE INDEX tidemill_jobs_by_turn ON tidemill_jobs (pipeline, status, takes_turns, arrival);
CREATE INDEX tidemill_jobs_by_collection ON tidemill_jobs (collection_id);

-- One row a pipeline, locked by every change of whose turn it is: so a job's arrival is the order of the commits.
CREATE TABLE tidemill_turns (
    pipeline VARCHAR(63) NOT NULL PRIMARY KEY
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Pushed objects that a job took; those without a row are swept.
CREATE TABLE tidemill_pushed (
    object_id VARCHAR(36) NOT NULL PRIMARY KEY,
    job_id    VARCHAR(36) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Collections of reports. What belongs to one is fixed when its row is written.
CREATE TABLE tidemill_collections (
    collection_id VARCHAR(36) NOT NULL PRIMARY KEY,
    pipeline      VARCHAR(63) NOT NULL,
    -- The time of the schedule, or when it was asked for by hand.
    slot          BIGINT NOT NULL,
    -- The folder of the object store that it goes to.
    folder        VARCHAR(1024) NOT NULL,
    -- Until then whoever took it up has it to itself.
    lease_until   BIGINT NOT NULL,
    finished_at   BIGINT,
    UNIQUE (pipeline, slot)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX tidemill_collections_unfinished ON tidemill_collections (finished_at, lease_until);
