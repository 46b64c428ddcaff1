//! The sweeper: settles overdue and orphaned jobs (success where the ledger has a commit; else they are requeued, and
//! fail once they were requeued often enough) and announces queued jobs again that nobody came for. Several may run
//! at once: each change is a compare-and-set, and a sweeper that loses does nothing. Run by every processor.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::life::{self, Settled, SweepVerdict};
use crate::store::Stored;
use crate::{Result, Settler};

/// Jobs that one sweep looks at, of each kind: it must end, the next one follows soon.
const BATCH: u32 = 100;

/// Looks after jobs that were left behind.
pub struct Sweeper {
    settler: Settler,
    interval: Duration,
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs queued again.
    pub put_back: u64,
    /// Jobs that have failed.
    pub failed: u64,
    /// Jobs that had committed: their success is written now.
    pub completed: u64,
    /// Jobs announced again.
    pub woken: u64,
}

impl Sweeper {
    /// How often it sweeps unless told otherwise: a small part of the lease.
    pub const INTERVAL: Duration = Duration::from_secs(5);

    /// A sweeper that sweeps every `interval`.
    pub fn new(settler: Settler, interval: Duration) -> Self {
        Self { settler, interval }
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
                        let Swept { put_back, failed, completed, woken } = swept;
                        info!(put_back, failed, completed, woken, "swept jobs");
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
        let store = self.settler.store();
        let mut found = store.left_behind(now, BATCH).await?;
        found.extend(store.stranded(now, BATCH).await?);
        let mut first_error = Ok(());
        for stored in found {
            // One job whose ledger does not answer must not keep the sweeper from the others.
            if let Err(error) = self.one(&stored, now, &mut swept).await {
                warn!(job_id = %stored.job.job_id, error = &error as &dyn std::error::Error, "failed to settle a job");
                first_error = first_error.and(Err(error));
            }
        }
        if swept == Swept::default() { first_error.map(|()| swept) } else { Ok(swept) }
    }

    async fn one(&self, stored: &Stored, now: DateTime<Utc>, swept: &mut Swept) -> Result<()> {
        let store = self.settler.store();
        crate::failpoint!("sweep::settle");
        let (left, settled) = match life::sweep(&stored.state, now, store.limits().retries_max) {
            SweepVerdict::Leave => return Ok(()),
            SweepVerdict::PutBack(left) => (left, self.settler.requeue(stored, now).await?),
            SweepVerdict::Fail(left) => (left, self.settler.fail_left(stored, left).await?),
            SweepVerdict::Wake => {
                swept.woken += u64::from(store.wake(stored, now).await?);
                return Ok(());
            }
        };
        let Some(settled) = settled else { return Ok(()) };
        let count = match settled {
            Settled::Success => &mut swept.completed,
            Settled::Failed => &mut swept.failed,
            Settled::Queued => &mut swept.put_back,
        };
        *count += 1;
        warn!(job_id = %stored.job.job_id, why = left.code(), ?settled, "settled a job that was left behind");
        Ok(())
    }
}
