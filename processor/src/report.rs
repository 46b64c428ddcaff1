//! The report of an attempt: an object beside its rejects, `jobs/{job}/{attempt}/report.json`.
//!
//! It is written before the commit: an attempt that finds the commit of an earlier one takes the counts from
//! that one's report, instead of doing the work again.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tidemill_jobs::{Counts, Job, JobError, JobId, RejectSample};

use crate::artifacts::Artifact;
use crate::error::{Error, Result};

/// What became of a job, for programs and people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The job.
    pub job_id: JobId,
    /// Its pipeline.
    pub pipeline: String,
    /// The version of the pipeline file that ran.
    pub pipeline_version: String,
    /// The attempt that wrote this.
    pub attempt: u32,
    /// The sender's name for the file.
    pub file_name: Option<String>,
    /// Bytes read.
    pub size_bytes: u64,
    /// SHA-256 of the bytes, 64 hex digits.
    pub content_sha256: String,
    /// What became of the records.
    #[serde(flatten)]
    pub counts: Counts,
    /// Rows written: joins and `unnest` make several of one record, aggregates fewer.
    #[serde(default)]
    pub rows_out: u64,
    /// Refused records by code.
    pub rejects_by_code: BTreeMap<String, u64>,
    /// Whether more was refused than the pipeline tolerates (and the pipeline continues all the same).
    pub over_error_budget: bool,
    /// The first rejects.
    pub rejects: Vec<RejectSample>,
    /// Key of the CSV of all rejects, when there are any.
    pub rejects_file_path: Option<String>,
    /// Rows for each table.
    pub tables: Vec<TableRows>,
    /// The files that were made.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    /// When the attempt began.
    pub started_at: DateTime<Utc>,
    /// When the report was written, just before the commit.
    pub reported_at: DateTime<Utc>,
    /// Why the job failed, when it did.
    pub error: Option<JobError>,
}

/// Rows for one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// Rows delivered to it.
    pub rows: u64,
}

impl Report {
    /// A report without records, for an attempt that failed before it read any.
    pub(crate) fn new(job: &Job, attempt: u32, version: &str) -> Self {
        Self {
            job_id: job.job_id,
            pipeline: job.pipeline.to_string(),
            pipeline_version: version.to_owned(),
            attempt,
            file_name: job.file_name.clone(),
            size_bytes: job.size_bytes,
            content_sha256: job.content_sha256.clone(),
            counts: Counts::default(),
            rows_out: 0,
            rejects_by_code: BTreeMap::new(),
            over_error_budget: false,
            rejects: Vec::new(),
            rejects_file_path: None,
            tables: Vec::new(),
            artifacts: Vec::new(),
            started_at: Utc::now(),
            reported_at: Utc::now(),
            error: None,
        }
    }

    /// Writes it and gives its key.
    pub(crate) async fn write(&mut self, objects: &Arc<dyn ObjectStore>) -> Result<String> {
        self.reported_at = Utc::now();
        let key = report_key(self.job_id, self.attempt);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::Sql(error.to_string()))?;
        objects.put(&Path::from(key.as_str()), bytes.into()).await.map_err(|source| Error::Objects {
            action: "write",
            key: key.clone(),
            source,
        })?;
        Ok(key)
    }

    /// Reads the report of an attempt.
    pub async fn read(objects: &Arc<dyn ObjectStore>, job: JobId, attempt: u32) -> Result<Self> {
        Self::read_from(objects, report_key(job, attempt)).await
    }

    /// Reads the report of this key.
    pub async fn read_from(objects: &Arc<dyn ObjectStore>, key: String) -> Result<Self> {
        let failed = |source| Error::Objects { action: "read", key: key.clone(), source };
        let bytes =
            objects.get(&Path::from(key.as_str())).await.map_err(failed)?.bytes().await.map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Objects {
            action: "understand",
            key,
            source: object_store::Error::Generic { store: "report", source: error.into() },
        })
    }
}

/// Key of the report of an attempt.
pub(crate) fn report_key(job: JobId, attempt: u32) -> String {
    format!("jobs/{job}/{attempt}/report.json")
}

/// Key of the rejects of an attempt.
pub(crate) fn rejects_key(job: JobId, attempt: u32) -> String {
    format!("jobs/{job}/{attempt}/rejects.csv")
}
