//! The job store: jobs and outbox in one database, MySQL or SQLite, through sqlx.
//!
//! Every change of a job is one compare-and-set on `status` and `attempt`; whoever loses sees it and lets go.

use chrono::{DateTime, Utc};
use tidemill_pipelines::{Duplicates, PipelineName};

use crate::{Counts, Job, JobError, JobId, JobStatus};

/// A job to be made by landing.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id; also part of its object's key.
    pub job_id: JobId,
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Keys of its objects.
    pub files: Vec<String>,
    /// The sender's name for the file.
    pub file_name: Option<String>,
    /// Bytes of all objects.
    pub size_bytes: u64,
    /// SHA-256 of the bytes, 64 hex digits.
    pub content_sha256: String,
    /// The user.
    pub sender: String,
    /// The `Idempotency-Key` of the request; unique for a sender and pipeline.
    pub idempotency_key: Option<String>,
    /// What is done when the content came before.
    pub duplicates: Duplicates,
}

/// What landing found.
#[derive(Debug, Clone)]
pub enum Landed {
    /// A new job; its `landed` event is in the outbox.
    New(Job),
    /// The same upload came before; this is its job, nothing was written.
    Duplicate(Job),
}

/// The right to work on a job: valid as long as the job's `attempt` is the claim's.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job as claimed.
    pub job: Job,
    /// The attempt that this claim made.
    pub attempt: u32,
    /// When the attempt is overdue.
    pub deadline: DateTime<Utc>,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// All is written.
    Success {
        /// What became of the records.
        counts: Counts,
        /// Key of the report object.
        report: String,
    },
    /// Nothing is written.
    Failed {
        /// What became of the records, as far as they were read.
        counts: Counts,
        /// Key of the report object, when one could be written.
        report: Option<String>,
        /// Why.
        error: JobError,
    },
}

/// Which jobs to list; the newest first.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only these statuses, all when empty.
    pub statuses: Vec<JobStatus>,
    /// Only these pipelines, all when `None`.
    pub pipelines: Option<Vec<PipelineName>>,
    /// Only jobs of this sender.
    pub sender: Option<String>,
    /// At most this many, 1 to 1,000.
    pub limit: u32,
    /// Continue after the page that gave this cursor.
    pub cursor: Option<String>,
}

/// One page of jobs.
#[derive(Debug, Clone)]
pub struct JobPage {
    /// The jobs, newest first.
    pub jobs: Vec<Job>,
    /// Where the next page begins, `None` at the end.
    pub next_cursor: Option<String>,
}
