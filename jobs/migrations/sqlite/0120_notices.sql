-- Dead letters of the outbox, and notices as rows with a state of their own, for SQLite. Times are microseconds since 1970 in UTC.

-- When the event log refused the event for good; such a row is due no more.
ALTER TABLE tidemill_outbox ADD COLUMN dead_at INTEGER;
-- Why, in words.
ALTER TABLE tidemill_outbox ADD COLUMN error TEXT;

-- One row for each notice of each end of a job.
CREATE TABLE tidemill_notices (
    notice_id  INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id     TEXT NOT NULL,
    -- Which end of the job: one that is retried by hand ends again.
    ended_at   INTEGER NOT NULL,
    -- 0-based place among the notices of the pipeline file.
    number     INTEGER NOT NULL,
    pipeline   TEXT NOT NULL,
    -- `email` or `webhook`.
    kind       TEXT NOT NULL,
    -- Who has to take it: `mail`, or scheme, host and port of a webhook.
    receiver   TEXT NOT NULL,
    -- `waiting`, `sent`, `refused` or `given_up`.
    status     TEXT NOT NULL,
    -- Raised by each claim; fences who had it before.
    tries      INTEGER NOT NULL,
    -- Not to be sent before: a pause, or the lease of the notifier that has it in hand.
    not_before INTEGER NOT NULL,
    -- The end of the job as it is told, JSON; null once the notice has ended.
    told       TEXT,
    -- Which recipients have it already, JSON.
    progress   TEXT,
    -- Why the last try failed, in words.
    error      TEXT,
    -- When the notice itself ended.
    done_at    INTEGER,
    UNIQUE (job_id, ended_at, number)
);
CREATE INDEX tidemill_notices_by_due ON tidemill_notices (status, not_before);
CREATE INDEX tidemill_notices_by_end ON tidemill_notices (done_at);
