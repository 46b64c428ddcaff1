//! The ledger as the job store needs it: who wants to end a job asks here first whether its rows are committed.
//!
//! The rows and their ledger row stand in the database of the sinks, which this crate does not know. The processor
//! implements [`Ledger`] over them; [`MemoryLedger`] is for tests and models of a job's life.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Counts, Error, JobId, Result};

/// What a commit says of its job: written with the rows, in one transaction, and never changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// What became of the records.
    #[serde(flatten)]
    pub counts: Counts,
    /// Key of the report object.
    pub report: String,
    /// Names of the files that were made.
    #[serde(default)]
    pub artifacts: Vec<String>,
}

/// What stands between an attempt and the end of its job.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Raises the fence of a job above `attempt`, so that neither it nor an older one can commit any more, waits for
    /// one that is committing just now, and gives what was committed. Safe to repeat.
    async fn seal(&self, job: JobId, attempt: u32) -> Result<Option<Committed>>;
}

/// A ledger in memory, with the fence of the real one.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<HashMap<JobId, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    fence: u32,
    committed: Option<Committed>,
}

impl MemoryLedger {
    /// Raises the fence to `attempt`, as an attempt does before it writes, and gives what an earlier one committed.
    pub fn open(&self, job: JobId, attempt: u32) -> Result<Option<Committed>> {
        let mut entries = self.lock();
        let entry = entries.entry(job).or_default();
        if entry.fence > attempt {
            return Err(fenced(attempt, entry.fence));
        }
        entry.fence = attempt;
        Ok(entry.committed.clone())
    }

    /// Commits, unless the fence is above `attempt`; the first commit stands.
    pub fn commit(&self, job: JobId, attempt: u32, committed: Committed) -> Result<Committed> {
        let mut entries = self.lock();
        let entry = entries.entry(job).or_default();
        if entry.fence > attempt {
            return Err(fenced(attempt, entry.fence));
        }
        Ok(entry.committed.get_or_insert(committed).clone())
    }

    /// What was committed, without touching the fence.
    pub fn committed(&self, job: JobId) -> Option<Committed> {
        self.lock().get(&job).and_then(|entry| entry.committed.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fenced(attempt: u32, newer: u32) -> Error {
    Error::Ledger {
        message: format!("attempt {attempt} was overtaken by attempt {newer}"),
        retry: tidemill_pipelines::Retry::Never,
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn seal(&self, job: JobId, attempt: u32) -> Result<Option<Committed>> {
        let mut entries = self.lock();
        let entry = entries.entry(job).or_default();
        entry.fence = entry.fence.max(attempt + 1);
        Ok(entry.committed.clone())
    }
}
