-- Dead letters of the outbox, and notices as rows with a state of their own, for MySQL and MariaDB. Times are microseconds
-- since 1970 in UTC.

ALTER TABLE tidemill_outbox
    -- When the event log refused the event for good; such a row is due no more.
    ADD COLUMN dead_at BIGINT,
    -- Why, in words.
    ADD COLUMN error LONGTEXT;

-- One row for each notice of each end of a job.
CREATE TABLE tidemill_notices (
    notice_id  BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    job_id     VARCHAR(36) NOT NULL,
    -- Which end of the job: one that is retried by hand ends again.
    ended_at   BIGINT NOT NULL,
    -- 0-based place among the notices of the pipeline file.
    number     BIGINT NOT NULL,
    pipeline   VARCHAR(63) NOT NULL,
    -- `email` or `webhook`.
    kind       VARCHAR(16) NOT NULL,
    -- Who has to take it: `mail`, or scheme, host and port of a webhook.
    receiver   VARCHAR(300) NOT NULL,
    -- `waiting`, `sent`, `refused` or `given_up`.
    status     VARCHAR(16) NOT NULL,
    -- Raised by each claim; fences who had it before.
    tries      BIGINT NOT NULL,
    -- Not to be sent before: a pause, or the lease of the notifier that has it in hand.
    not_before BIGINT NOT NULL,
    -- The end of the job as it is told, JSON; null once the notice has ended.
    told       LONGTEXT,
    -- Which recipients have it already, JSON.
    progress   LONGTEXT,
    -- Why the last try failed, in words.
    error      LONGTEXT,
    -- When the notice itself ended.
    done_at    BIGINT,
    UNIQUE (job_id, ended_at, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX tidemill_notices_by_due ON tidemill_notices (status, not_before);
CREATE INDEX tidemill_notices_by_end ON tidemill_notices (done_at);
