//! Changes of one job by its worker and by people: claim, heartbeat, finish, hand back, retry, cancel.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tidemill_pipelines::Blame;

use super::connect::failed;
use super::land::dedupe_key;
use super::rows::{Stored, micros, to_json};
use super::write::{Write, values};
use super::{Claim, JobStore, Outcome, now};
use crate::{Error, Event, Job, JobError, JobId, JobStatus, RejectSample, Result, life};

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
        // It begins now that it is its turn: not before the one before it ended.
        let now = if job.takes_turns { now.max(super::now()) } else { now };
        let deadline = now + span(self.limits.job_limit);
        let values = values![
            micros(now),
            micros(deadline),
            micros(now + span(self.limits.lease)),
            worker.chars().take(190).collect::<String>(),
            pipeline_version,
            job.job_id.to_string(),
            state.attempt,
            micros(now),
        ];
        let claimed = match job.takes_turns {
            false => self.execute("claim a job", CLAIM, values).await? > 0,
            true => self.commit("claim a job", &Write::new(CLAIM, values).in_turn(&job, arrival)).await?,
        };
        if !claimed {
            return Ok(None);
        }
        job.status = JobStatus::Processing;
        job.attempt = state.attempt + 1;
        job.started_at = Some(now);
        job.pipeline_version.get_or_insert_with(|| pipeline_version.to_owned());
        Ok(Some(Claim { attempt: job.attempt, job, deadline }))
    }

    /// Says that the worker lives; false when the job is no longer its own (put back, cancelled, ended).
    pub async fn heartbeat(&self, claim: &Claim) -> Result<bool> {
        let lease_until = micros(now() + span(self.limits.lease));
        let values = values![lease_until, claim.job.job_id.to_string(), claim.attempt];
        Ok(self.execute("extend a claim", HEARTBEAT, values).await? > 0)
    }

    /// Ends an attempt and tells of it, in one transaction. False when the job is no longer the worker's own.
    /// True also when this very end was written before, so it may be repeated when the answer was lost.
    pub async fn finish(&self, claim: &Claim, outcome: Outcome, rejects: Vec<RejectSample>) -> Result<bool> {
        let job = ended(&claim.job, outcome);
        if self.end(&job, JobStatus::Processing, rejects).await? {
            return Ok(true);
        }
        let found = self.get(job.job_id).await?;
        Ok(found.is_some_and(|found| {
            (found.status, found.attempt, &found.error) == (job.status, job.attempt, &job.error)
        }))
    }

    /// Puts a claimed job back into the queue, not to be claimed before `not_before`; false when it is no longer
    /// the worker's own. `count_retry` says whether it shows as a retry. How often a job may be handed back
    /// is for the caller to bound, by the job's `retries`.
    pub async fn hand_back(
        &self,
        claim: &Claim,
        not_before: DateTime<Utc>,
        count_retry: bool,
    ) -> Result<bool> {
        let Some(stored) = self.stored(claim.job.job_id).await? else {
            return Ok(false);
        };
        if !life::holds(&stored.state, claim.attempt) {
            return Ok(false);
        }
        self.put_back(&stored, not_before, u32::from(count_retry), stored.state.put_backs).await
    }

    /// Has a failed job done again, with the pipeline as it is now. `None` when there is no such job.
    pub async fn retry(&self, job: JobId) -> Result<Option<Job>> {
        let Some(stored) = self.stored(job).await? else {
            return Ok(None);
        };
        if !life::may_retry(stored.job.status) {
            return Err(not_allowed(&stored.job, "retried"));
        }
        if stored.job.files_to_process.is_empty() {
            let slot = stored.job.file_name.map(|slot| format!(" --slot {slot}")).unwrap_or_default();
            return Err(Error::NothingFetched { pipeline: stored.job.pipeline, slot });
        }
        let key = dedupe_key(&stored.job, stored.duplicates);
        let changed = match self.try_commit(&self.again(&stored, key)).await {
            // The same content came again meanwhile: that job answers for it.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                self.commit("retry a job", &self.again(&stored, None)).await?
            }
            done => done.map_err(failed("retry a job"))?,
        };
        self.changed(job, changed, "retried").await
    }

    /// Ends a job that has not ended; its worker learns of it by its next heartbeat. `None` when there is no such job.
    pub async fn cancel(&self, job: JobId) -> Result<Option<Job>> {
        let Some(stored) = self.stored(job).await? else {
            return Ok(None);
        };
        if !life::may_cancel(stored.job.status) {
            return Err(not_allowed(&stored.job, "cancelled"));
        }
        let error = JobError {
            code: "cancelled".to_owned(),
            message: "the job was cancelled".to_owned(),
            blame: Blame::Sender,
        };
        let changed = self.fail(&stored, error).await?;
        self.changed(job, changed, "cancelled").await
    }

    /// Queues a processing job again and announces it when its time has come.
    pub(super) async fn put_back(
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

    /// Ends a job that has not ended as failed, from outside of its worker.
    pub(super) async fn fail(&self, stored: &Stored, error: JobError) -> Result<bool> {
        let counts = stored.job.counts;
        let job = ended(&stored.job, Outcome::Failed { counts, report: None, error });
        self.end(&job, stored.job.status, Vec::new()).await
    }

    async fn end(&self, job: &Job, from: JobStatus, rejects: Vec<RejectSample>) -> Result<bool> {
        self.commit("finish a job", &finishing(job, from, rejects)?.calling_next(job)).await
    }

    fn again(&self, stored: &Stored, dedupe_key: Option<String>) -> Write {
        let now = now();
        let wake_at = micros(now) + self.wake_after_micros();
        let job = &stored.job;
        let values = values![micros(now), wake_at, dedupe_key, job.job_id.to_string(), job.attempt];
        Write::new(RETRY, values).telling(Event::landed(job, now)).taking_turns(job)
    }

    /// The job after a change, or why it could not be made: another change came in between.
    async fn changed(&self, job: JobId, changed: bool, change: &'static str) -> Result<Option<Job>> {
        match self.get(job).await? {
            Some(job) if !changed => Err(not_allowed(&job, change)),
            found => Ok(found),
        }
    }
}

/// The end of a job as one change.
pub(super) fn finishing(job: &Job, from: JobStatus, _rejects: Vec<RejectSample>) -> Result<Write> {
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
        Outcome::Success { counts, report, artifacts } => {
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

fn not_allowed(job: &Job, change: &'static str) -> Error {
    Error::NotAllowed { status: job.status.as_str(), change }
}

/// A limit of the settings as a span of time; limits beyond a century are cut.
pub(super) fn span(limit: std::time::Duration) -> TimeDelta {
    const CENTURY: TimeDelta = TimeDelta::days(36_525);
    TimeDelta::from_std(limit).unwrap_or(CENTURY).min(CENTURY)
}
