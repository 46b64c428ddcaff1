//! The job store: jobs and outbox in one database, MySQL or SQLite, through sqlx.
//!
//! Every change of a job is one compare-and-set on `status` and `attempt`, in one transaction with the event
//! that tells of it; whoever loses sees it and lets go. What may follow on what is said by [`crate::life`].

mod before;
mod change;
mod collections;
mod connect;
mod land;
mod left;
mod notices;
mod outbox;
mod pages;
mod pipelines;
mod read;
mod rows;
mod slots;
mod turns;
mod work;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::AnyPool;
use tidemill_pipelines::{Duplicates, PipelineName};
use tokio::sync::Semaphore;

use crate::{Committed, Counts, Job, JobError, JobId, JobStatus};
pub(crate) use change::not_allowed;
pub use collections::Collection;
pub use notices::{DueNotice, NewNotice, NoticeClaim, NoticeEnd, NoticeStats};
pub use outbox::DeadLetter;
pub(crate) use outbox::{Handover, OutboxRow};
pub use pages::{FailedPage, LandedPage, Page};
pub(crate) use rows::Stored;
pub use slots::{SlotAnswer, SlotClaim};
pub use work::{Weight, Work};

/// Jobs and the outbox. Cheap to clone; all clones share one pool of connections.
#[derive(Clone)]
pub struct JobStore {
    pool: AnyPool,
    dialect: Dialect,
    limits: StoreLimits,
    /// One writer at a time on SQLite: waiting here is fair, its own busy handler sleeps.
    writers: Arc<Semaphore>,
    handover: Handover,
}

/// The database behind the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    MySql,
    Sqlite,
}

/// The limits of a [`JobStore`].
#[derive(Debug, Clone)]
pub struct StoreLimits {
    /// Connections of this process; default 16, of the 151 that MySQL allows to all.
    pub connections: u32,
    /// How long to wait for a free connection; default 10 s.
    pub acquire_timeout: Duration,
    /// How long a transaction may take; default 30 s.
    pub transaction_timeout: Duration,
    /// How long one attempt may take; default 15 minutes.
    pub job_limit: Duration,
    /// How long a claim holds without a heartbeat; default 60 s. Clocks may differ by a part of it.
    pub lease: Duration,
    /// How often the sweeper puts a job back before it fails it; default 1.
    pub retries_max: u32,
    /// After which time a queued job that nobody claimed is announced again; default 60 s.
    pub wake_after: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            connections: 16,
            acquire_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(30),
            job_limit: Duration::from_secs(15 * 60),
            lease: Duration::from_secs(60),
            retries_max: 1,
            wake_after: Duration::from_secs(60),
        }
    }
}

impl JobStore {
    /// The pool, for tables that other rooms keep in this database (users, grants).
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &StoreLimits {
        &self.limits
    }
}

/// The present, in the precision that the store keeps.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

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
    /// SHA-256 of the bytes, 64 hex digits; of a delayed job, the [`crate::Fingerprint`] of its objects.
    pub content_sha256: String,
    /// What its SQL sees as `$name`.
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// Ids of the pushed objects among its objects; each is taken by one job only.
    pub pushed: Vec<String>,
    /// Whether it runs in the order of arrival: after all earlier jobs of its pipeline that do.
    pub takes_turns: bool,
    /// Whether a file of this pipeline undoes an earlier one (replace, upsert): then a duplicate is only what equals
    /// the newest.
    pub last_wins: bool,
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
    /// All is committed: this is what the ledger says.
    Success(Committed),
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
    /// Also jobs of these pipelines that `sender` sent: what a user sees who may read some pipelines and only
    /// send to others. Without `pipelines` it changes nothing.
    pub own: Option<OwnJobs>,
    /// Only jobs of this sender.
    pub sender: Option<String>,
    /// At most this many, 1 to 1,000.
    pub limit: u32,
    /// Continue after the page that gave this cursor.
    pub cursor: Option<String>,
}

/// Jobs that one sender sent to some pipelines.
#[derive(Debug, Clone)]
pub struct OwnJobs {
    /// The sender.
    pub sender: String,
    /// The pipelines, all when `None`.
    pub pipelines: Option<Vec<PipelineName>>,
}

/// One page of jobs.
#[derive(Debug, Clone)]
pub struct JobPage {
    /// The jobs, newest first.
    pub jobs: Vec<Job>,
    /// Where the next page begins, `None` at the end.
    pub next_cursor: Option<String>,
}

/// What waits, for metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueStats {
    /// Jobs by status; every status is there.
    pub jobs: Vec<(JobStatus, u64)>,
    /// Age of the oldest queued job in seconds, 0 when none waits.
    pub oldest_queued_age_seconds: f64,
    /// Events that are committed and not yet published, with those that wait for their time.
    pub outbox_length: u64,
    /// Events that the log refused for good.
    pub dead_letters: u64,
}
