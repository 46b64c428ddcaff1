-- Jobs, their outbox, pipeline versions and users, for SQLite. Times are microseconds since 1970 in UTC.

CREATE TABLE tidemill_jobs (
    -- The number of arrival: what pages of jobs are cut by.
    arrival          INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id           TEXT NOT NULL UNIQUE,
    pipeline         TEXT NOT NULL,
    -- Set by the first claim.
    pipeline_version TEXT,
    status           TEXT NOT NULL,
    attempt          INTEGER NOT NULL,
    -- Shown: how often the job was put back, by the sweeper or by hand.
    retries          INTEGER NOT NULL,
    -- Counted: by the sweeper only, since the job landed or was retried by hand.
    put_backs        INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    finished_at      INTEGER,
    not_before       INTEGER NOT NULL,
    deadline         INTEGER,
    lease_until      INTEGER,
    worker           TEXT,
    wake_at          INTEGER NOT NULL,
    wakes            INTEGER NOT NULL,
    -- A JSON list of keys.
    files            TEXT NOT NULL,
    file_name        TEXT,
    size_bytes       INTEGER NOT NULL,
    content_sha256   TEXT NOT NULL,
    sender           TEXT NOT NULL,
    idempotency_key  TEXT,
    -- `first` or `accept`: what an upload with the same content gets.
    duplicates       TEXT NOT NULL,
    -- `pipeline:sha256` while an upload with the same content shall get this job, else null.
    dedupe_key       TEXT UNIQUE,
    report           TEXT,
    records_in       INTEGER NOT NULL,
    records_written  INTEGER NOT NULL,
    records_rejected INTEGER NOT NULL,
    records_filtered INTEGER NOT NULL,
    -- JSON: code, message, blame.
    error            TEXT,
    UNIQUE (sender, pipeline, idempotency_key)
);
CREATE INDEX tidemill_jobs_by_status ON tidemill_jobs (status, created_at, size_bytes);
CREATE INDEX tidemill_jobs_by_pipeline ON tidemill_jobs (pipeline, arrival);
CREATE INDEX tidemill_jobs_by_sender ON tidemill_jobs (sender, arrival);

-- Events that were committed together with a job and not yet published. Published rows are deleted.
CREATE TABLE tidemill_outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id   TEXT NOT NULL UNIQUE,
    topic      TEXT NOT NULL,
    job_id     TEXT NOT NULL,
    payload    TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- Not to be published before: a delay, or the lease of the relay that has the row in hand.
    due_at     INTEGER NOT NULL,
    -- The relay that has the row in hand.
    relay      TEXT
);
CREATE INDEX tidemill_outbox_by_due ON tidemill_outbox (due_at, id);

-- The text of each version of a pipeline file that a job began with.
CREATE TABLE tidemill_pipelines (
    name     TEXT NOT NULL,
    version  TEXT NOT NULL,
    text     TEXT NOT NULL,
    saved_at INTEGER NOT NULL,
    PRIMARY KEY (name, version)
);

-- Who may come in; the gateway's own.
CREATE TABLE tidemill_users (
    name          TEXT NOT NULL PRIMARY KEY,
    password_hash TEXT NOT NULL,
    is_admin      INTEGER NOT NULL,
    created_at    INTEGER NOT NULL
);

-- What they may do, on a pipeline or on all (`*`).
CREATE TABLE tidemill_grants (
    user_name  TEXT NOT NULL,
    pipeline   TEXT NOT NULL,
    permission TEXT NOT NULL,
    PRIMARY KEY (user_name, pipeline, permission),
    FOREIGN KEY (user_name) REFERENCES tidemill_users (name) ON DELETE CASCADE
);
