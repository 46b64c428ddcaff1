//! A job: one unit of work over one or more objects, as the job table and the API show it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidemill_pipelines::{Blame, PipelineName};
use uuid::Uuid;

use crate::PUSHED_PREFIX;

/// Identifies a job everywhere: API, logs, events, object keys, ledger. A UUID of version 7 (sorts by time).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// A new id, later than all made before by this process.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for JobId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// Where a job is in its life: `queued → processing → success or failed → downloaded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Waits for a processor.
    Queued,
    /// A processor works on it.
    Processing,
    /// All is written.
    Success,
    /// Nothing is written, `error` says why.
    Failed,
    /// Its report was collected.
    Downloaded,
}

impl JobStatus {
    /// Every status, in the order of a job's life.
    pub const ALL: [JobStatus; 5] = [
        JobStatus::Queued,
        JobStatus::Processing,
        JobStatus::Success,
        JobStatus::Failed,
        JobStatus::Downloaded,
    ];

    /// The word that stands in the API and in the job table.
    pub fn as_str(self) -> &'static str {
        match self {
            JobStatus::Queued => "queued",
            JobStatus::Processing => "processing",
            JobStatus::Success => "success",
            JobStatus::Failed => "failed",
            JobStatus::Downloaded => "downloaded",
        }
    }

    /// The reverse of [`JobStatus::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether the job has ended.
    pub fn has_ended(self) -> bool {
        !matches!(self, JobStatus::Queued | JobStatus::Processing)
    }
}

/// What became of the records of a job: `records_in = used + rejected + filtered`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records found in the objects, without header records.
    pub records_in: u64,
    /// Rows in the sink's commit (what the steps made of the used records).
    pub records_written: u64,
    /// Records refused, each with a reject.
    pub records_rejected: u64,
    /// Records that the steps dropped or merged: those that came in, were not refused, and have no row of their own.
    pub records_filtered: u64,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// A stable word, such as `over_error_budget`, `no_records`, `timed_out`.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whose fault it is.
    pub blame: Blame,
}

/// A job as stored and as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub job_id: JobId,
    /// The pipeline that it runs.
    pub pipeline: PipelineName,
    /// The version of the pipeline file at its first claim.
    pub pipeline_version: Option<String>,
    /// Where it is in its life.
    pub status: JobStatus,
    /// How often it was put back after a first attempt.
    pub retries: u32,
    /// When it landed.
    pub created_at: DateTime<Utc>,
    /// When its last attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Keys of its objects.
    pub files_to_process: Vec<String>,
    /// The sender's name for the file.
    pub file_name: Option<String>,
    /// Bytes of all its objects.
    pub size_bytes: u64,
    /// SHA-256 of the bytes, 64 hex digits; of a delayed job, the [`crate::Fingerprint`] of its objects.
    pub content_sha256: String,
    /// What its SQL sees as `$name`, as it was given or by default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// Key of the report object, once it ended.
    pub report_file_path: Option<String>,
    /// Names of the files that were made, each at `/v1/jobs/{id}/files/{name}`.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// The user who sent it.
    pub sender: String,
    /// What became of its records.
    #[serde(flatten)]
    pub counts: Counts,
    /// Why it failed.
    pub error: Option<JobError>,
    /// Raised by each claim; fences older attempts.
    #[serde(skip_serializing, default)]
    pub attempt: u32,
    /// Whether it runs in the order of arrival: after all earlier jobs of its pipeline that do.
    #[serde(skip_serializing, default)]
    pub takes_turns: bool,
}

impl Job {
    /// Whether its objects were pushed to the store past the gateway.
    pub fn is_of_pushed(&self) -> bool {
        self.files_to_process.first().is_some_and(|key| key.starts_with(PUSHED_PREFIX))
    }
}
