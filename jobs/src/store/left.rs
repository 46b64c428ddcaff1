//! Jobs that were left behind, for the sweeper: found by index, changed by compare-and-set.

use chrono::{DateTime, Utc};
use tidemill_pipelines::Blame;

use super::JobStore;
use super::change::span;
use super::rows::{COLUMNS, Stored, micros};
use super::write::{Write, values};
use crate::life::{self, Left};
use crate::{Event, JobError, Result};

/// `wakes` is in the condition: of two sweepers only one announces.
const WAKE: &str = "UPDATE tidemill_jobs SET wakes = wakes + 1, wake_at = ? \
    WHERE job_id = ? AND status = 'queued' AND attempt = ? AND wakes = ?";

const END_LEASES: &str = "UPDATE tidemill_jobs SET lease_until = 0 WHERE status = 'processing'";

impl JobStore {
    /// Ends the leases of all running jobs, so that they are taken over at once. For a start that knows that no other
    /// processor is at work on this store.
    pub async fn end_leases(&self) -> Result<()> {
        self.execute("end the leases of a dead process", END_LEASES, Vec::new()).await.map(drop)
    }

    /// Processing jobs whose deadline or lease has passed, at most `limit`, the oldest first.
    pub(crate) async fn left_behind(&self, now: DateTime<Utc>, limit: u32) -> Result<Vec<Stored>> {
        let statement = format!(
            "SELECT {COLUMNS} FROM tidemill_jobs WHERE status = 'processing' \
             AND (deadline <= ? OR lease_until <= ?) ORDER BY arrival LIMIT ?"
        );
        self.find("look for jobs left behind", &statement, values![micros(now), micros(now), limit]).await
    }

    /// Queued jobs that nobody came for, at most `limit`, the oldest first.
    pub(crate) async fn stranded(&self, now: DateTime<Utc>, limit: u32) -> Result<Vec<Stored>> {
        let statement = format!(
            "SELECT {COLUMNS} FROM tidemill_jobs WHERE status = 'queued' \
             AND not_before <= ? AND wake_at <= ? ORDER BY arrival LIMIT ?"
        );
        self.find("look for stranded jobs", &statement, values![micros(now), micros(now), limit]).await
    }

    /// Queues a job again that was left behind.
    pub(crate) async fn put_back_left(&self, stored: &Stored, now: DateTime<Utc>) -> Result<bool> {
        self.put_back(stored, now, 1, stored.state.put_backs + 1).await
    }

    /// Fails a job that was left behind too often.
    pub(crate) async fn fail_left(&self, stored: &Stored, left: Left) -> Result<bool> {
        let error = JobError {
            code: left.code().to_owned(),
            message: left.message().to_owned(),
            blame: Blame::Operator,
        };
        self.fail(stored, error).await
    }

    /// Announces a queued job again.
    pub(crate) async fn wake(&self, stored: &Stored, now: DateTime<Utc>) -> Result<bool> {
        let state = &stored.state;
        let wake_at = life::next_wake(now, span(self.limits.wake_after), state.wakes + 1);
        let values = values![micros(wake_at), stored.job.job_id.to_string(), state.attempt, state.wakes];
        let write = Write::new(WAKE, values).telling(Event::landed(&stored.job, now));
        self.commit("announce a job again", &write).await
    }
}
