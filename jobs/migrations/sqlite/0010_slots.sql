-- Slots of schedules and the pages that were fetched for them, for SQLite. Times are microseconds since 1970 in UTC.

-- What was due when, and who does it. A slot is done once: whoever makes its row has it.
CREATE TABLE tidemill_slots (
    -- What is due, such as `fetch:sensor_readings`.
    schedule    TEXT NOT NULL,
    slot        INTEGER NOT NULL,
    -- The run that does it; for a fetch also the id of the job over its pages.
    run_id      TEXT NOT NULL UNIQUE,
    -- `running`, `done` or `failed`.
    status      TEXT NOT NULL,
    -- How often it was taken; the number fences who had it before.
    attempt     INTEGER NOT NULL,
    worker      TEXT NOT NULL,
    -- While it is running: who lets this pass has left it behind.
    lease_until INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    -- In words, when it failed.
    error       TEXT,
    PRIMARY KEY (schedule, slot)
);
CREATE INDEX tidemill_slots_by_status ON tidemill_slots (status, lease_until);

-- The page ledger: each page of a run lands once.
CREATE TABLE tidemill_pages (
    run_id         TEXT NOT NULL,
    -- From 0, the order of the job's objects.
    number         INTEGER NOT NULL,
    url            TEXT NOT NULL,
    -- Of the URL: one that came twice is fetched once.
    url_sha256     TEXT NOT NULL,
    -- `waiting`, `landed` or `failed`.
    status         TEXT NOT NULL,
    -- The key of its object, when it has records.
    object         TEXT,
    content_sha256 TEXT,
    size_bytes     INTEGER NOT NULL,
    http_status    INTEGER,
    attempts       INTEGER NOT NULL,
    error          TEXT,
    landed_at      INTEGER,
    PRIMARY KEY (run_id, number),
    UNIQUE (run_id, url_sha256)
);
