//! Settle: the one way a job ends or is queued again.
//!
//! *Only the ledger ends a job.* Whoever wants to end one (its worker after bad data, the sweeper, a cancel) or to have
//! it done again (a release, the sweeper, a retry) comes here. First the fence is raised above the last attempt, so
//! that none can commit any more; then the ledger is read. A commit there means success, with the counts of that
//! commit; none means that the wish is granted. So "failed" never stands over rows that are in a table.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tidemill_pipelines::Blame;

use crate::life::{self, Left, Settled, Wish};
use crate::store::{Stored, not_allowed};
use crate::{Claim, Committed, Counts, Error, Job, JobError, JobId, JobStore, Ledger, Outcome, Result};

/// The job store and the ledger together: what is needed to end a job. Cheap to clone.
#[derive(Clone)]
pub struct Settler {
    store: JobStore,
    ledger: Arc<dyn Ledger>,
}

/// What is wanted of a job.
enum Change {
    Fail { counts: Counts, report: Option<String>, error: JobError },
    Requeue { not_before: DateTime<Utc>, retries: u32, put_backs: u32 },
    Retry,
}

impl Change {
    fn wish(&self) -> Wish {
        match self {
            Change::Fail { .. } => Wish::Fail,
            Change::Requeue { .. } | Change::Retry => Wish::Queue,
        }
    }

    fn fail(error: JobError) -> Self {
        Change::Fail { counts: Counts::default(), report: None, error }
    }
}

impl Settler {
    /// Ends jobs of `store` by what `ledger` says.
    pub fn new(store: JobStore, ledger: Arc<dyn Ledger>) -> Self {
        Self { store, ledger }
    }

    /// The store.
    pub fn store(&self) -> &JobStore {
        &self.store
    }

    /// Ends an attempt and tells of it, in one transaction. False when the job is no longer the worker's own.
    /// True also when this very end was written before, so it may be repeated when the answer was lost. An attempt
    /// that failed after an earlier one had committed ends as the success of that one.
    pub async fn finish(&self, claim: &Claim, outcome: Outcome) -> Result<bool> {
        let (counts, report, error) = match outcome {
            // The worker holds the ledger's word in its hand.
            Outcome::Success(committed) => return self.store.succeed(&claim.job, committed).await,
            Outcome::Failed { counts, report, error } => (counts, report, error),
        };
        let expected = error.clone();
        let fail = Change::Fail { counts, report, error };
        if self.of_claim(claim, fail).await?.is_some() {
            return Ok(true);
        }
        let found = self.store.get(claim.job.job_id).await?;
        Ok(found.is_some_and(|found| (found.attempt, found.error) == (claim.attempt, Some(expected))))
    }

    /// Gives a claimed job back to the queue, not to be claimed before `not_before`; false when it is no longer
    /// the worker's own. `count_retry` says whether it shows as a retry. How often a job may be released
    /// is for the caller to bound, by the job's `retries`.
    pub async fn release(&self, claim: &Claim, not_before: DateTime<Utc>, count_retry: bool) -> Result<bool> {
        let Some(stored) = self.store.stored(claim.job.job_id).await? else {
            return Ok(false);
        };
        let put_backs = stored.state.put_backs;
        let requeue = Change::Requeue { not_before, retries: u32::from(count_retry), put_backs };
        Ok(self.of_claim(claim, requeue).await?.is_some())
    }

    /// Has a failed job done again, with the pipeline as it is now. `None` when there is no such job.
    pub async fn retry(&self, job: JobId) -> Result<Option<Job>> {
        let Some(stored) = self.store.stored(job).await? else {
            return Ok(None);
        };
        if life::may_retry(stored.job.status) && stored.job.files_to_process.is_empty() {
            let slot = stored.job.file_name.map(|slot| format!(" --slot {slot}")).unwrap_or_default();
            return Err(Error::NothingFetched { pipeline: stored.job.pipeline, slot });
        }
        let settled = self.settle(&stored, Change::Retry).await?;
        self.changed(&stored, settled.is_some(), "retried").await
    }

    /// Ends a job that has not ended; its worker learns of it by its next heartbeat. A job that had committed
    /// has succeeded. `None` when there is no such job.
    pub async fn cancel(&self, job: JobId) -> Result<Option<Job>> {
        let Some(stored) = self.store.stored(job).await? else {
            return Ok(None);
        };
        let error = JobError {
            code: "cancelled".to_owned(),
            message: "the job was cancelled".to_owned(),
            blame: Blame::Sender,
        };
        let settled = self.settle(&stored, Change::fail(error)).await?;
        self.changed(&stored, settled == Some(Settled::Failed), "cancelled").await
    }

    /// Queues an orphaned job again; what became of it, or `None` when another was quicker.
    pub(crate) async fn requeue(&self, stored: &Stored, now: DateTime<Utc>) -> Result<Option<Settled>> {
        let put_backs = stored.state.put_backs + 1;
        self.settle(stored, Change::Requeue { not_before: now, retries: 1, put_backs }).await
    }

    /// Fails a job that was orphaned too often; what became of it, or `None` when another was quicker.
    pub(crate) async fn fail_left(&self, stored: &Stored, left: Left) -> Result<Option<Settled>> {
        let error = JobError {
            code: left.code().to_owned(),
            message: left.message().to_owned(),
            blame: Blame::Operator,
        };
        self.settle(stored, Change::fail(error)).await
    }

    async fn of_claim(&self, claim: &Claim, change: Change) -> Result<Option<Settled>> {
        match self.store.stored(claim.job.job_id).await? {
            Some(stored) if life::holds(&stored.state, claim.attempt) => self.settle(&stored, change).await,
            _ => Ok(None),
        }
    }

    /// Raises the fence, reads the ledger, writes what follows. `None` when the wish does not fit the job or another
    /// change came in between; then nothing is written but the fence.
    async fn settle(&self, stored: &Stored, change: Change) -> Result<Option<Settled>> {
        let wish = change.wish();
        if life::settle(stored.job.status, wish, false).is_none() {
            return Ok(None);
        }
        let committed = match stored.state.attempt {
            0 => None, // nobody has claimed it; a claim in between changes the attempt
            attempt => self.ledger.seal(stored.job.job_id, attempt).await?,
        };
        crate::failpoint!("settle::sealed");
        let Some(settled) = life::settle(stored.job.status, wish, committed.is_some()) else {
            return Ok(None);
        };
        let written = self.write(stored, change, committed).await?;
        Ok(written.then_some(settled))
    }

    async fn write(&self, stored: &Stored, change: Change, committed: Option<Committed>) -> Result<bool> {
        if let Some(committed) = committed {
            return self.store.end(stored, Outcome::Success(committed)).await;
        }
        match change {
            Change::Fail { counts, report, error } => {
                self.store.end(stored, Outcome::Failed { counts, report, error }).await
            }
            Change::Requeue { not_before, retries, put_backs } => {
                self.store.put_back(stored, not_before, retries, put_backs).await
            }
            Change::Retry => self.store.queue_again(stored).await,
        }
    }

    /// The job after a change, or why it could not be made.
    async fn changed(&self, stored: &Stored, changed: bool, change: &'static str) -> Result<Option<Job>> {
        match self.store.get(stored.job.job_id).await? {
            Some(job) if !changed => Err(not_allowed(&job, change)),
            found => Ok(found),
        }
    }
}
