//! Changes of one job as they are written: claim, heartbeat, end, requeue. Ends and requeues are called by
//! [`crate::Settler`] alone, once the ledger has been read.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use uuid::Uuid;

use super::connect::failed;
use super::land::dedupe_key;
use super::rows::{Stored, micros, to_json};
use super::write::{Write, values};
use super::{Claim, JobStore, Outcome, now};
use crate::{Committed, Error, Event, Job, JobId, JobStatus, Result, life};

const CLAIM: &str = "UPDATE tidemill_jobs SET status = 'processing', attempt = attempt + 1, started_at = ?, \
    deadline = ?, lease_until = ?, worker = ?, pipeline_version = COALESCE(pipeline_version, ?) \
    WHERE job_id = ? AND status = 'queued' AND attempt = ? AND not_before <= ?";
const HEARTBEAT: &str = "UPDATE tidemill_jobs SET lease_until = ? \
    WHERE job_id = ? AND status = 'processing' AND attempt = ?";
const FINISH: &str = "UPDATE tidemill_jobs SET status = ?, finished_at = ?, report = ?, artifacts = ?, \
    records_in = ?, records_written = ?, records_rejected = ?, records_filtered = ?, error = ?, \
    dedupe_key = CASE WHEN ? = 'failed' THEN NULL ELSE dedupe_key END, deadline = NULL, lease_until = NULL \
    WHERE job_id = ? AND status = ? AND attempt = ?";
const QUEUE: &str = "UPDATE tidemill_jobs SET status = 'queued', retries = retries + ?, put_backs = ?, \
    not_before = ?, wake_at = ?, wakes = 0, deadline = NULL, lease_until = NULL, worker = NULL \
    WHERE job_id = ? AND status = 'processing' AND attempt = ?";
const RETRY: &str = "UPDATE tidemill_jobs SET status = 'queued', retries = retries + 1, put_backs = 0, \
    not_before = ?, wake_at = ?, wakes = 0, started_at = NULL, finished_at = NULL, report = NULL, \
    artifacts = NULL, error = NULL, records_in = 0, records_written = 0, records_rejected = 0, \
    records_filtered = 0, pipeline_version = NULL, dedupe_key = ? WHERE job_id = ? AND status = 'failed' AND attempt = ?";

/// Characters of a worker's name that are kept; the column holds as many and the token of the claim.
const WORKER_CHARS_MAX: usize = 150;

impl JobStore {
    /// Takes a queued job for `worker`. `None` when there is nothing to take: it is not queued, its time or its turn
    /// has not come, or another was quicker. `pipeline_version` is stored by the first claim; the version to run is
    /// the one of the claim's job.
    pub async fn claim(
        &self,
        job: JobId,
        pipeline_version: &str,
        worker: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Claim>> {
        let now = now.trunc_subsecs(6);
        let Some(Stored { mut job, arrival, state, .. }) = self.stored(job).await? else {
            return Ok(None);
        };
        if !life::may_claim(&state, now) {
            return Ok(None);
        }
        if job.takes_turns && !self.is_next(&job, arrival).await? {
            return Ok(None);
        }
        // Unlike the worker's name it is of this claim alone, so that it is known again when the answer got lost.
        let token = Uuid::now_v7().simple();
        let worker = format!("{} {token}", worker.chars().take(WORKER_CHARS_MAX).collect::<String>());
        // It begins now that it is its turn: not before the one before it ended.
        let now = if job.takes_turns { now.max(super::now()) } else { now };
        let deadline = now + span(self.limits.job_limit);
        let values = values![
            micros(now),
            micros(deadline),
            micros(now + span(self.limits.lease)),
            worker.as_str(),
            pipeline_version,
            job.job_id.to_string(),
            state.attempt,
            micros(now),
        ];
        let claimed = match job.takes_turns {
            false => self.execute("claim a job", CLAIM, values).await.map(|found| found > 0),
            true => self.commit("claim a job", &Write::new(CLAIM, values).in_turn(&job, arrival)).await,
        };
        // A claim that was tried again finds no row, and an error may hide a claim that was made.
        if !matches!(claimed, Ok(true))
            && !self.was_claimed_by(job.job_id, state.attempt + 1, &worker).await?
        {
            return claimed.map(|_| None);
        }
        job.status = JobStatus::Processing;
        job.attempt = state.attempt + 1;
        job.started_at = Some(now);
        job.pipeline_version.get_or_insert_with(|| pipeline_version.to_owned());
        Ok(Some(Claim { attempt: job.attempt, job, deadline }))
    }

    /// Whether this very claim stands in the table.
    async fn was_claimed_by(&self, job: JobId, attempt: u32, worker: &str) -> Result<bool> {
        let statement = "SELECT 1 FROM tidemill_jobs WHERE job_id = ? AND status = 'processing' \
                         AND attempt = ? AND worker = ?";
        let values = values![job.to_string(), attempt, worker];
        Ok(!self.rows("look for a claim", statement, values).await?.is_empty())
    }

    /// Says that the worker lives; false when the job is no longer its own (put back, cancelled, ended).
    pub async fn heartbeat(&self, claim: &Claim) -> Result<bool> {
        let lease_until = micros(now() + span(self.limits.lease));
        let values = values![lease_until, claim.job.job_id.to_string(), claim.attempt];
        Ok(self.execute("extend a claim", HEARTBEAT, values).await? > 0)
    }

    /// Gives up a claim without a word on the job's end, so that the sweeper takes the job up at once.
    pub async fn abandon(&self, claim: &Claim) -> Result<bool> {
        let values = values![0_i64, claim.job.job_id.to_string(), claim.attempt];
        Ok(self.execute("abandon a claim", HEARTBEAT, values).await? > 0)
    }

    /// Writes the success of an attempt that has committed. False when the job is no longer the worker's own; true
    /// also when the same end stands there.
    pub(crate) async fn succeed(&self, claimed: &Job, committed: Committed) -> Result<bool> {
        let job = ended(claimed, Outcome::Success(committed));
        if self.write_end(&job, JobStatus::Processing).await? {
            return Ok(true);
        }
        let found = self.get(job.job_id).await?;
        Ok(found.is_some_and(|found| (found.status, found.attempt) == (job.status, job.attempt)))
    }

    /// Ends a job from the status and attempt in which it was read.
    pub(crate) async fn end(&self, stored: &Stored, outcome: Outcome) -> Result<bool> {
        self.write_end(&ended(&stored.job, outcome), stored.job.status).await
    }

    /// Queues a failed job again, for its pipeline as it is now.
    pub(crate) async fn queue_again(&self, stored: &Stored) -> Result<bool> {
        let key = dedupe_key(&stored.job, stored.duplicates);
        match self.try_commit(&self.again(stored, key)).await {
            // The same content came again meanwhile: that job answers for it.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                self.commit("retry a job", &self.again(stored, None)).await
            }
            done => done.map_err(failed("retry a job")),
        }
    }

    /// Queues a processing job again and announces it when its time has come.
    pub(crate) async fn put_back(
        &self,
        stored: &Stored,
        not_before: DateTime<Utc>,
        retries: u32,
        put_backs: u32,
    ) -> Result<bool> {
        let now = now();
        let not_before = not_before.max(now);
        let job = &stored.job;
        let values = values![
            retries,
            put_backs,
            micros(not_before),
            micros(not_before) + self.wake_after_micros(),
            job.job_id.to_string(),
            job.attempt,
        ];
        let mut write = Write::new(QUEUE, values).telling(Event::landed(job, now));
        write.due_at = (not_before > now).then(|| micros(not_before));
        self.commit("put a job back", &write).await
    }

    async fn write_end(&self, job: &Job, from: JobStatus) -> Result<bool> {
        self.commit("finish a job", &finishing(job, from)?.calling_next(job)).await
    }

    fn again(&self, stored: &Stored, dedupe_key: Option<String>) -> Write {
        let now = now();
        let wake_at = micros(now) + self.wake_after_micros();
        let job = &stored.job;
        let values = values![micros(now), wake_at, dedupe_key, job.job_id.to_string(), job.attempt];
        let write = Write::new(RETRY, values).telling(Event::landed(job, now)).taking_turns(job);
        if stored.last_wins { write.superseding(job) } else { write }
    }
}

/// The end of a job as one change.
pub(super) fn finishing(job: &Job, from: JobStatus) -> Result<Write> {
    let error = job.error.as_ref().map(to_json).transpose().map_err(failed("finish a job"))?;
    let artifacts = (!job.artifacts.is_empty()).then(|| to_json(&job.artifacts)).transpose();
    let artifacts = artifacts.map_err(failed("finish a job"))?;
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let finished_at = job.finished_at.unwrap_or_else(now);
    let values = values![
        job.status.as_str(),
        micros(finished_at),
        job.report_file_path.clone(),
        artifacts,
        count(job.counts.records_in),
        count(job.counts.records_written),
        count(job.counts.records_rejected),
        count(job.counts.records_filtered),
        error,
        job.status.as_str(),
        job.job_id.to_string(),
        from.as_str(),
        job.attempt,
    ];
    Ok(Write::new(FINISH, values).telling(Event::finished(job, finished_at)))
}

pub(super) fn ended(job: &Job, outcome: Outcome) -> Job {
    let mut job = Job { finished_at: Some(now()), ..job.clone() };
    match outcome {
        Outcome::Success(Committed { counts, report, artifacts }) => {
            (job.status, job.artifacts) = (JobStatus::Success, artifacts);
            (job.counts, job.report_file_path, job.error) = (counts, Some(report), None);
        }
        Outcome::Failed { counts, report, error } => {
            job.status = JobStatus::Failed;
            (job.counts, job.report_file_path, job.error) = (counts, report, Some(error));
        }
    }
    job
}

pub(crate) fn not_allowed(job: &Job, change: &'static str) -> Error {
    Error::NotAllowed { status: job.status.as_str(), change }
}

/// A limit of the settings as a span of time; limits beyond a century are cut.
pub(super) fn span(limit: std::time::Duration) -> TimeDelta {
    const CENTURY: TimeDelta = TimeDelta::days(36_525);
    TimeDelta::from_std(limit).unwrap_or(CENTURY).min(CENTURY)
}
