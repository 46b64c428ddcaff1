//! Jobs that were left behind, for the sweeper: found by index, changed by compare-and-set.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::change::span;
use super::rows::{COLUMNS, Stored, micros};
use super::write::{Write, values};
use super::{JobStore, now};
use crate::life;
use crate::{Event, JobId, JobStatus, Result};

/// `wakes` is in the condition: of two sweepers only one announces.
const WAKE: &str = "UPDATE tidemill_jobs SET wakes = wakes + 1, wake_at = ? \
    WHERE job_id = ? AND status = 'queued' AND attempt = ? AND wakes = ?";

const END_LEASES_OF: &str =
    "UPDATE tidemill_jobs SET lease_until = 0 WHERE status = 'processing' AND worker LIKE ?";

impl JobStore {
    /// Ends the leases of the jobs that a dead process of this name had claimed, so that they are taken over at once.
    pub async fn end_leases_of(&self, worker: &str) -> Result<()> {
        let escaped = worker.replace('_', "!_").replace('%', "!%");
        let values = values![format!("{escaped} %")];
        let statement = format!("{END_LEASES_OF} ESCAPE '!'");
        self.execute("end the leases of a dead process", &statement, values).await.map(drop)
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

    /// Announces a queued job again after `pause`, because it waits for others; false when that was done `times_max` times
    /// since it was queued, or the job is not queued any more.
    pub async fn put_off(&self, job: JobId, pause: Duration, times_max: u32) -> Result<bool> {
        let Some(stored) = self.stored(job).await? else { return Ok(false) };
        let state = &stored.state;
        if stored.job.status != JobStatus::Queued || state.wakes >= times_max {
            return Ok(false);
        }
        let due = now() + span(pause);
        let wake_at = micros(due) + self.wake_after_micros();
        let values = values![wake_at, job.to_string(), state.attempt, state.wakes];
        let mut write = Write::new(WAKE, values).telling(Event::landed(&stored.job, now()));
        write.due_at = Some(micros(due));
        // Whoever was quicker has announced it.
        self.commit("put a job off", &write).await?;
        Ok(true)
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
