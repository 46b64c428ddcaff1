//! How much work waits and runs, in bytes and in seconds: what scaling of processors looks at.
//!
//! The rule: the seconds of a pipeline's jobs are their bytes × the pipeline's pace, and at least [`SECONDS_MIN`] each.
//! The pace is what the last [`RECENT`] jobs of the pipeline that ended took, in seconds per byte, from claim to end; while
//! none has succeeded it is [`PACE_UNKNOWN`]. A job that runs counts as a whole, as if it had just begun.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::any::AnyRow;

use super::connect::failed;
use super::write::values;
use super::{Dialect, JobStore};
use crate::{JobStatus, Result};

/// Ended jobs that tell the pace: enough to even out a slow one, few enough to follow a change of the pipeline.
const RECENT: u32 = 20;
/// Claim, plan and commit cost this much whatever the size.
const SECONDS_MIN: f64 = 0.1;
/// Seconds per byte of a pipeline that nobody has seen at work: 1 MiB each second, on the slow side.
const PACE_UNKNOWN: f64 = 1.0 / (1 << 20) as f64;
const ACTION: &str = "weigh jobs";

/// Some jobs of one pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Weight {
    /// How many.
    pub jobs: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// What they will take, or take, on one place of a processor.
    pub seconds: f64,
}

/// The work of one pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Queued.
    pub pending: Weight,
    /// Being processed.
    pub running: Weight,
}

impl Weight {
    fn of(jobs: u64, size_bytes: u64, pace: f64) -> Self {
        Self { jobs, size_bytes, seconds: (size_bytes as f64 * pace).max(jobs as f64 * SECONDS_MIN) }
    }
}

impl JobStore {
    /// The work of each pipeline that has any.
    pub async fn work(&self) -> Result<BTreeMap<String, Work>> {
        // SUM of integers is a DECIMAL in MySQL.
        let integer = match self.dialect {
            Dialect::MySql => "SIGNED",
            Dialect::Sqlite => "INTEGER",
        };
        let statement = format!(
            "SELECT pipeline, status, COUNT(*), CAST(SUM(size_bytes) AS {integer}) \
             FROM tidemill_jobs WHERE status IN ('queued', 'processing') GROUP BY pipeline, status"
        );
        let mut found: BTreeMap<String, Work> = BTreeMap::new();
        for row in self.rows(ACTION, &statement, values![]).await? {
            let (pipeline, status, jobs, size_bytes) = counted(&row).map_err(failed(ACTION))?;
            let pace = self.pace(&pipeline).await?;
            let work = found.entry(pipeline).or_default();
            let weight = Weight::of(jobs, size_bytes, pace);
            match JobStatus::parse(&status) {
                Some(JobStatus::Queued) => work.pending = weight,
                _ => work.running = weight,
            }
        }
        Ok(found)
    }

    /// Seconds per byte.
    async fn pace(&self, pipeline: &str) -> Result<f64> {
        // All that ended are looked at, not only those that succeeded, or thousands of failures would be read each time.
        let statement = format!(
            "SELECT status, size_bytes, finished_at - started_at FROM tidemill_jobs \
             WHERE pipeline = ? AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT {RECENT}"
        );
        let rows = self.rows(ACTION, &statement, values![pipeline]).await?;
        let ended: Vec<_> = rows.iter().map(took).collect::<sqlx::Result<_>>().map_err(failed(ACTION))?;
        Ok(pace_of(ended.into_iter().flatten()).unwrap_or(PACE_UNKNOWN))
    }
}

/// Bytes and seconds of jobs as seconds per byte; `None` when there are no bytes.
fn pace_of(ended: impl Iterator<Item = (u64, f64)>) -> Option<f64> {
    let (bytes, seconds) = ended.fold((0, 0.0), |sum, job| (sum.0 + job.0, sum.1 + job.1));
    (bytes > 0).then(|| seconds / bytes as f64)
}

fn counted(row: &AnyRow) -> sqlx::Result<(String, String, u64, u64)> {
    let (jobs, size_bytes): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    Ok((row.try_get(0)?, row.try_get(1)?, jobs.unsigned_abs(), size_bytes.unsigned_abs()))
}

/// Bytes and seconds of a job that succeeded; `None` for others, whose end says nothing about their size.
fn took(row: &AnyRow) -> sqlx::Result<Option<(u64, f64)>> {
    let status: String = row.try_get(0)?;
    let micros: Option<i64> = row.try_get(2)?;
    let size_bytes: i64 = row.try_get(1)?;
    let succeeded = matches!(JobStatus::parse(&status), Some(JobStatus::Success | JobStatus::Downloaded));
    let micros = micros.filter(|micros| succeeded && *micros >= 0);
    Ok(micros.map(|micros| (size_bytes.unsigned_abs(), micros as f64 / 1e6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_follow_the_bytes_and_small_jobs_cost_something_too() {
        let pace = pace_of([(1_000, 2.0), (3_000, 2.0)].into_iter());
        assert_eq!(pace, Some(0.001));
        assert_eq!(Weight::of(2, 5_000, 0.001).seconds, 5.0);
        assert_eq!(Weight::of(50, 50, 0.001).seconds, 5.0);
        assert_eq!(pace_of([(0, 1.0)].into_iter()), None, "empty files tell no pace");
        assert_eq!(Weight::of(1, 2 << 20, PACE_UNKNOWN).seconds, 2.0);
    }
}
