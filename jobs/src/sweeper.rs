//! The sweeper: puts overdue and orphaned jobs back, fails those that were put back often enough, and
//! announces queued jobs again that nobody came for. Several may run at once: each change is a
//! compare-and-set, and who loses does nothing. Run by every processor.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::life::{self, SweepVerdict};
use crate::store::Stored;
use crate::{JobStore, Result};

/// Jobs that one sweep looks at, of each kind: it must end, the next one follows soon.
const BATCH: u32 = 100;

/// Looks after jobs that were left behind.
pub struct Sweeper {
    store: JobStore,
    interval: Duration,
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs queued again.
    pub put_back: u64,
    /// Jobs that have failed.
    pub failed: u64,
    /// Jobs announced again.
    pub woken: u64,
}

impl Sweeper {
    /// How often it sweeps unless told otherwise: a small part of the lease.
    pub const INTERVAL: Duration = Duration::from_secs(5);

    /// A sweeper that sweeps every `interval`.
    pub fn new(store: JobStore, interval: Duration) -> Self {
        Self { store, interval }
    }

    /// Sweeps until `shutdown`, and gives each sweep to `seen`. A database that is away is waited for.
    pub async fn run(self, shutdown: CancellationToken, seen: impl Fn(Swept)) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.interval) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                swept = self.sweep(Utc::now()) => match swept {
                    Ok(swept) if swept == Swept::default() => {}
                    Ok(swept) => {
                        let Swept { put_back, failed, woken } = swept;
                        info!(put_back, failed, woken, "swept jobs");
                        seen(swept);
                    }
                    Err(error) => warn!(error = &error as &dyn std::error::Error, "failed to sweep jobs"),
                },
            }
        }
    }

    /// One sweep, as if it were `now`.
    pub async fn sweep(&self, now: DateTime<Utc>) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut found = self.store.left_behind(now, BATCH).await?;
        found.extend(self.store.stranded(now, BATCH).await?);
        for stored in found {
            self.settle(&stored, now, &mut swept).await?;
        }
        Ok(swept)
    }

    async fn settle(&self, stored: &Stored, now: DateTime<Utc>, swept: &mut Swept) -> Result<()> {
        let job_id = stored.job.job_id;
        match life::sweep(&stored.state, now, self.store.limits().retries_max) {
            SweepVerdict::Leave => {}
            SweepVerdict::PutBack(left) => {
                if self.store.put_back_left(stored, now).await? {
                    warn!(%job_id, why = left.code(), "put a job back");
                    swept.put_back += 1;
                }
            }
            SweepVerdict::Fail(left) => {
                if self.store.fail_left(stored, left).await? {
                    warn!(%job_id, why = left.code(), "failed a job that was left behind again");
                    swept.failed += 1;
                }
            }
            SweepVerdict::Wake => {
                if self.store.wake(stored, now).await? {
                    swept.woken += 1;
                }
            }
        }
        Ok(())
    }
}
