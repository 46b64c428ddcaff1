-- Slots of schedules and the pages that were fetched for them, for MySQL and MariaDB. Times are microseconds since 1970
-- in UTC.

-- What was due when, and who does it. A slot is done once: whoever makes its row has it.
CREATE TABLE tidemill_slots (
    -- What is due, such as `fetch:sensor_readings`.
    schedule    VARCHAR(190) NOT NULL,
    slot        BIGINT NOT NULL,
    -- The run that does it; for a fetch also the id of the job over its pages.
    run_id      VARCHAR(36) NOT NULL UNIQUE,
    -- `running`, `done` or `failed`.
    status      VARCHAR(16) NOT NULL,
    -- How often it was taken; the number fences who had it before.
    attempt     BIGINT NOT NULL,
    worker      VARCHAR(190) NOT NULL,
    -- While it is running: who lets this pass has left it behind.
    lease_until BIGINT NOT NULL,
    started_at  BIGINT NOT NULL,
    finished_at BIGINT,
    -- In words, when it failed.
    error       LONGTEXT,
    PRIMARY KEY (schedule, slot)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX tidemill_slots_by_status ON tidemill_slots (status, lease_until);

-- The page ledger: each page of a run lands once.
CREATE TABLE tidemill_pages (
    run_id         VARCHAR(36) NOT NULL,
    -- From 0, the order of the job's objects.
    number         BIGINT NOT NULL,
    url            LONGTEXT NOT NULL,
    -- Of the URL: one that came twice is fetched once.
    url_sha256     VARCHAR(64) NOT NULL,
    -- `waiting`, `landed` or `failed`.
    status         VARCHAR(16) NOT NULL,
    -- The key of its object, when it has records.
    object         LONGTEXT,
    content_sha256 VARCHAR(64),
    size_bytes     BIGINT NOT NULL,
    http_status    BIGINT,
    attempts       BIGINT NOT NULL,
    error          LONGTEXT,
    landed_at      BIGINT,
    PRIMARY KEY (run_id, number),
    UNIQUE (run_id, url_sha256)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
