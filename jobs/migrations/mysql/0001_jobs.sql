-- Jobs, their outbox, pipeline versions and users, for MySQL and MariaDB. Times are microseconds since 1970 in UTC.

CREATE TABLE tidemill_jobs (
    -- The number of arrival: what pages of jobs are cut by.
    arrival          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    job_id           VARCHAR(36) NOT NULL UNIQUE,
    pipeline         VARCHAR(63) NOT NULL,
    -- Set by the first claim.
    pipeline_version VARCHAR(64),
    status           VARCHAR(16) NOT NULL,
    attempt          BIGINT NOT NULL,
    -- Shown: how often the job was put back, by the sweeper or by hand.
    retries          BIGINT NOT NULL,
    -- Counted: by the sweeper only, since the job landed or was retried by hand.
    put_backs        BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    started_at       BIGINT,
    finished_at      BIGINT,
    not_before       BIGINT NOT NULL,
    deadline         BIGINT,
    lease_until      BIGINT,
    worker           VARCHAR(190),
    wake_at          BIGINT NOT NULL,
    wakes            BIGINT NOT NULL,
    -- A JSON list of keys.
    files            LONGTEXT NOT NULL,
    file_name        LONGTEXT,
    size_bytes       BIGINT NOT NULL,
    content_sha256   VARCHAR(64) NOT NULL,
    sender           VARCHAR(190) NOT NULL,
    idempotency_key  VARCHAR(190),
    -- `first` or `accept`: what an upload with the same content gets.
    duplicates       VARCHAR(16) NOT NULL,
    -- `pipeline:sha256` while an upload with the same content shall get this job, else null.
    dedupe_key       VARCHAR(190) UNIQUE,
    report           LONGTEXT,
    records_in       BIGINT NOT NULL,
    records_written  BIGINT NOT NULL,
    records_rejected BIGINT NOT NULL,
    records_filtered BIGINT NOT NULL,
    -- JSON: code, message, blame.
    error            LONGTEXT,
    UNIQUE (sender, pipeline, idempotency_key)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX tidemill_jobs_by_status ON tidemill_jobs (status, created_at, size_bytes);
CREATE INDEX tidemill_jobs_by_pipeline ON tidemill_jobs (pipeline, arrival);
CREATE INDEX tidemill_jobs_by_sender ON tidemill_jobs (sender, arrival);

-- Events that were committed together with a job and not yet published. Published rows are deleted.
CREATE TABLE tidemill_outbox (
    id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event_id   VARCHAR(36) NOT NULL UNIQUE,
    topic      VARCHAR(16) NOT NULL,
    job_id     VARCHAR(36) NOT NULL,
    payload    LONGTEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- Not to be published before: a delay, or the lease of the relay that has the row in hand.
    due_at     BIGINT NOT NULL,
    -- The relay that has the row in hand.
    relay      VARCHAR(64)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX tidemill_outbox_by_due ON tidemill_outbox (due_at, id);

-- The text of each version of a pipeline file that a job began with.
CREATE TABLE tidemill_pipelines (
    name     VARCHAR(63) NOT NULL,
    version  VARCHAR(64) NOT NULL,
    text     LONGTEXT NOT NULL,
    saved_at BIGINT NOT NULL,
    PRIMARY KEY (name, version)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Who may come in; the gateway's own.
CREATE TABLE tidemill_users (
    name          VARCHAR(190) NOT NULL PRIMARY KEY,
    password_hash LONGTEXT NOT NULL,
    is_admin      BIGINT NOT NULL,
    created_at    BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What they may do, on a pipeline or on all (`*`).
CREATE TABLE tidemill_grants (
    user_name  VARCHAR(190) NOT NULL,
    pipeline   VARCHAR(63) NOT NULL,
    permission VARCHAR(16) NOT NULL,
    PRIMARY KEY (user_name, pipeline, permission),
    FOREIGN KEY (user_name) REFERENCES tidemill_users (name) ON DELETE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
