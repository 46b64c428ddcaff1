//! The fences of this process. A delivery holds SQLite's only write lock, so a newer attempt could not
//! raise the stored fence before the older one ends: it raises it here first, and the older one stops at
//! its next batch. Across processes the write lock itself keeps attempts apart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{CommitKey, Error, Result};

/// The highest attempt of each job that has a delivery open or waiting.
#[derive(Default)]
pub(crate) struct Fences {
    raised: Mutex<HashMap<String, Raised>>,
}

struct Raised {
    attempt: u32,
    holders: usize,
}

/// Keeps a fence up until it is dropped.
pub(crate) struct Fence {
    fences: Arc<Fences>,
    key: CommitKey,
}

impl Fences {
    /// Raises a job's fence; refuses when it is higher already.
    pub(crate) fn raise(self: &Arc<Self>, key: &CommitKey) -> Result<Fence> {
        let mut raised = self.lock();
        let entry = raised.entry(key.job_id.clone()).or_insert(Raised { attempt: key.attempt, holders: 0 });
        if entry.attempt > key.attempt {
            return Err(overtaken(key, entry.attempt));
        }
        entry.attempt = key.attempt;
        entry.holders += 1;
        Ok(Fence { fences: Arc::clone(self), key: key.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Raised>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fence {
    /// Refuses when a newer attempt raised the fence since.
    pub(crate) fn check(&self) -> Result<()> {
        match self.fences.lock().get(&self.key.job_id) {
            Some(raised) if raised.attempt > self.key.attempt => Err(overtaken(&self.key, raised.attempt)),
            _ => Ok(()),
        }
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        let mut raised = self.fences.lock();
        if let Some(entry) = raised.get_mut(&self.key.job_id) {
            entry.holders -= 1;
            if entry.holders == 0 {
                raised.remove(&self.key.job_id);
            }
        }
    }
}

/// The error of an attempt that a newer one overtook.
pub(crate) fn overtaken(key: &CommitKey, newer: u32) -> Error {
    Error::Fenced { job_id: key.job_id.clone(), attempt: key.attempt, newer }
}
