//! A delivery into the lake: files first, then one commit that names them and marks the job as delivered.
//!
//! Killed before the commit, it leaves files that no commit names: readers do not see them, the sweep deletes
//! them. Each look at the log is fresh, because a stale one would not know what another attempt did.

use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use deltalake_core::kernel::{Add, EagerSnapshot};
use tidemill_pipelines::Retry;

use super::Lake;
use super::day::{Day, landed_day};
use super::files::Files;
use super::ledger;
use super::log::{Log, Mark};
use crate::cells::{cells, check};
use crate::{CommitKey, Delivery, Error, LedgerRow, Opened, Result, TablePlan};

/// A pause before a commit is tried again: other writers are at it.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);

struct LakeDelivery {
    lake: Lake,
    log: Log,
    plan: TablePlan,
    key: CommitKey,
    day: Day,
    landed: i32,
    files: Files,
    rows: u64,
}

/// What the log says of a commit.
enum Fate {
    /// It was made, by this attempt.
    Done(u32),
    /// It may be made, on this snapshot.
    Open(Box<EagerSnapshot>, Option<Mark>),
}

/// Looks at the log afresh; refuses when a newer attempt has begun.
async fn look(log: &Log, key: &CommitKey) -> Result<Fate> {
    let snapshot = log.snapshot().await?.ok_or_else(|| Error::Refused {
        action: "open the table",
        message: format!("there is no table `{}` in the lake", log.name()),
    })?;
    match log.mark(&snapshot, key).await? {
        Some(Mark::Fence(newer) | Mark::Committed(newer)) if newer > key.attempt => {
            Err(Error::Fenced { job_id: key.job_id.clone(), attempt: key.attempt, newer })
        }
        Some(Mark::Committed(attempt)) => Ok(Fate::Done(attempt)),
        mark => Ok(Fate::Open(Box::new(snapshot), mark)),
    }
}

/// Raises the fence, looks into the ledger, begins the files. A first attempt has none before it to fence off,
/// so its delivery is one commit in all.
pub(crate) async fn open(lake: &Lake, plan: &TablePlan, key: &CommitKey) -> Result<Opened> {
    let log = lake.log(&plan.table)?;
    let fence = Mark::Fence(key.attempt);
    for tries_left in (0..lake.limits.commit_tries_max).rev() {
        let (snapshot, mark) = match look(&log, key).await? {
            Fate::Done(attempt) => return Ok(Opened::Committed(ledger::read(lake, key, attempt).await?)),
            Fate::Open(snapshot, mark) => (snapshot, mark),
        };
        if key.attempt <= 1 || mark == Some(fence) {
            break;
        }
        match log.commit(&snapshot, key, fence, Vec::new()).await {
            Ok(()) => break,
            Err(error) => again(error, tries_left).await?,
        }
    }
    let day = Day::of(plan)?;
    let files = Files::new(log.objects(), day.schema.clone(), &day.name, lake.limits.clone());
    let landed = landed_day(&key.job_id);
    let (lake, plan, key) = (lake.clone(), plan.clone(), key.clone());
    Ok(Opened::Delivery(Box::new(LakeDelivery { lake, log, plan, key, day, landed, files, rows: 0 })))
}

/// A pause after what passes at once; the error itself when it does not, or when enough was tried.
async fn again(error: Error, tries_left: u32) -> Result<()> {
    if error.retry() != Retry::Now || tries_left == 0 {
        return Err(error);
    }
    tokio::time::sleep(CONFLICT_PAUSE).await;
    Ok(())
}

/// Commits the files; `None` when another delivery was there first. An error may hide a commit that was made:
/// the log, looked at again, is the truth.
async fn commit(
    lake: &Lake,
    log: &Log,
    key: &CommitKey,
    rows: u64,
    files: &[Add],
) -> Result<Option<LedgerRow>> {
    let Fate::Open(mut snapshot, _) = look(log, key).await? else { return Ok(None) };
    let row = ledger::write(lake, key, rows).await?;
    for tries_left in (0..lake.limits.commit_tries_max).rev() {
        let mark = Mark::Committed(key.attempt);
        let Err(error) = log.commit(&snapshot, key, mark, files.to_vec()).await else {
            return Ok(Some(row));
        };
        snapshot = match look(log, key).await? {
            Fate::Done(attempt) if attempt == key.attempt => return Ok(Some(row)),
            Fate::Done(_) => return Ok(None),
            Fate::Open(snapshot, _) => snapshot,
        };
        again(error, tries_left).await?;
    }
    Ok(None)
}

#[async_trait]
impl Delivery for LakeDelivery {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let columns = cells(&self.plan, &batch)?;
        check(&self.plan, &columns, self.rows)?;
        drop(columns);
        self.rows += batch.num_rows() as u64;
        let (rows, days) = self.day.split(&batch, self.landed)?;
        self.files.write(&rows, &days).await
    }

    async fn commit(mut self: Box<Self>) -> Result<LedgerRow> {
        let added = self.files.finish().await?;
        let LakeDelivery { lake, log, key, files, rows, .. } = *self;
        match commit(&lake, &log, &key, rows, &added).await {
            Ok(Some(row)) => Ok(row),
            Ok(None) => {
                files.delete().await?;
                match look(&log, &key).await? {
                    Fate::Done(attempt) => ledger::read(&lake, &key, attempt).await,
                    Fate::Open(..) => Err(Error::Unavailable {
                        action: "commit",
                        message: "the commit of another delivery is gone".to_owned(),
                        retry: Retry::Later,
                    }),
                }
            }
            Err(error @ Error::Fenced { .. }) => {
                files.delete().await?;
                Err(error)
            }
            // Whether it was committed is not known: the files stay, the next attempt looks.
            Err(error) => Err(error),
        }
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.files.delete().await
    }
}
