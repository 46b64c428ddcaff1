//! A delivery into the lake: files first, which no reader sees; then, once the database has committed the ledger row
//! that names them, one commit in Delta's log.
//!
//! The database decides. Killed before its commit, a delivery leaves files that nothing names, and the sweep deletes
//! them. Killed after it, it leaves a ledger row without a Delta commit, and [`complete`] does what is left: called by
//! the attempt itself, by the next one, by whoever settles the job, and by `jobs verify`. Each look at the log is fresh,
//! because a stale one would not know what another process did.

use std::time::Duration;

use arrow::record_batch::RecordBatch;
use deltalake_core::kernel::EagerSnapshot;
use tidemill_pipelines::{Retry, TableName};

use super::day::{Day, landed_day};
use super::files::Files;
use super::log::Log;
use super::{Lake, pending};
use crate::cells::{cells, refused, without};
use crate::{CommitKey, Error, RefusedRow, Result, TablePlan};

/// A pause before a commit is tried again: other writers are at it.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);

/// The files of one delivery into one table.
pub(crate) struct LakeFiles {
    lake: Lake,
    plan: TablePlan,
    key: CommitKey,
    day: Day,
    landed: i32,
    files: Files,
    rows: u64,
}

impl LakeFiles {
    /// Begins the files of a table that is there.
    pub(crate) fn begin(lake: &Lake, plan: &TablePlan, key: &CommitKey) -> Result<Self> {
        let log = lake.log(&plan.table)?;
        let day = Day::of(plan)?;
        let files = Files::new(log.objects(), day.schema.clone(), &day.name, lake.limits.clone());
        let landed = landed_day(&key.job_id);
        Ok(Self { lake: lake.clone(), plan: plan.clone(), key: key.clone(), day, landed, files, rows: 0 })
    }

    /// Writes rows; gives those that cannot be stored.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<Vec<RefusedRow>> {
        let out = refused(&self.plan, &cells(&self.plan, batch)?);
        let left = without(batch, &out)?;
        let batch = left.as_ref().map_or(batch, |(left, _)| left);
        self.rows += batch.num_rows() as u64;
        let (rows, days) = self.day.split(batch, self.landed)?;
        self.files.write(&rows, &days).await?;
        Ok(out)
    }

    /// Closes the files and lists them: after this the database may commit.
    pub(crate) async fn prepare(&mut self) -> Result<(TableName, u64)> {
        let added = self.files.finish().await?;
        pending::write(&self.lake, &self.plan.table, &self.key, &added).await?;
        Ok((self.plan.table.clone(), self.rows))
    }

    /// Gives up: nothing of it stays.
    pub(crate) async fn delete(self) -> Result<()> {
        self.files.delete().await?;
        pending::delete(&self.lake, &self.plan.table, &self.key).await;
        Ok(())
    }
}

/// Commits in Delta what the database has committed. Safe to repeat, and by several at once.
pub(crate) async fn complete(lake: &Lake, table: &TableName, key: &CommitKey) -> Result<()> {
    let log = lake.log(table)?;
    let mut last = None;
    for _ in 0..lake.limits.commit_tries_max {
        // Also after a commit that went well: a store that lets two writers make the same object has lost one of them.
        let Some(snapshot) = open(&log, table, key).await? else {
            crate::error::failpoint!("lake::completed");
            pending::delete(lake, table, key).await;
            return Ok(());
        };
        if last.is_some() {
            tokio::time::sleep(CONFLICT_PAUSE).await;
        }
        let committed = match pending::read(lake, table, key).await? {
            Some(files) => log.commit(&snapshot, key, files).await,
            None => Err(gone(table, key)),
        };
        // An error may hide a commit that was made: the log, looked at again, is the truth.
        last = committed.err().or_else(|| Some(lost(table)));
        if last.as_ref().is_some_and(|error| error.retry() != Retry::Now) {
            break;
        }
    }
    match (open(&log, table, key).await?, last) {
        (Some(_), Some(error)) => Err(error),
        _ => Ok(()),
    }
}

/// The table as it is now when the commit is not in its log yet.
async fn open(log: &Log, table: &TableName, key: &CommitKey) -> Result<Option<EagerSnapshot>> {
    let snapshot = log.snapshot().await?.ok_or_else(|| Error::Refused {
        action: "complete a commit",
        message: format!("there is no table `{table}` in the lake"),
    })?;
    let committed = log.has(&snapshot, key).await?;
    Ok((!committed).then_some(snapshot))
}

fn lost(table: &TableName) -> Error {
    Error::Unavailable {
        action: "complete a commit",
        message: format!(
            "a commit of `{table}` is not in its log: the store lets two writers make the same object"
        ),
        retry: Retry::Now,
    }
}

fn gone(table: &TableName, key: &CommitKey) -> Error {
    let CommitKey { job_id, chunk, .. } = key;
    Error::Refused {
        action: "complete a commit",
        message: format!(
            "the list of files of job {job_id}, chunk {chunk}, for `{table}` is gone from the lake"
        ),
    }
}
