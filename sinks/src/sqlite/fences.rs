//! The fences of this process. A delivery holds SQLite's only write lock, so a newer attempt could not
//! raise the stored fence before the older one ends: it raises it here first, and the older one stops at
//! its next batch. Across processes the write lock itself keeps attempts apart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

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
    job_id: String,
    attempt: u32,
}

impl Fences {
    /// Raises a job's fence; refuses when it is higher already.
    pub(crate) fn raise(self: &Arc<Self>, job_id: &str, attempt: u32) -> Result<Fence> {
        let mut raised = self.lock();
        let entry = raised.entry(job_id.to_owned()).or_insert(Raised { attempt, holders: 0 });
        if entry.attempt > attempt {
            return Err(overtaken(job_id, attempt, entry.attempt));
        }
        entry.attempt = attempt;
        entry.holders += 1;
        Ok(Fence { fences: Arc::clone(self), job_id: job_id.to_owned(), attempt })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Raised>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fence {
    /// Refuses when a newer attempt raised the fence since.
    pub(crate) fn check(&self) -> Result<()> {
        match self.fences.lock().get(&self.job_id) {
            Some(raised) if raised.attempt > self.attempt => {
                Err(overtaken(&self.job_id, self.attempt, raised.attempt))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        let mut raised = self.fences.lock();
        if let Some(entry) = raised.get_mut(&self.job_id) {
            entry.holders -= 1;
            if entry.holders == 0 {
                raised.remove(&self.job_id);
            }
        }
    }
}

/// The error of an attempt that a newer one overtook.
pub(crate) fn overtaken(job_id: &str, attempt: u32, newer: u32) -> Error {
    Error::Fenced { job_id: job_id.to_owned(), attempt, newer }
}
