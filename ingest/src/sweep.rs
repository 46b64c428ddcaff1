//! Sweep: deletes objects that have no job: landed ones, left by a process that died between object and job, and
//! pushed ones that no job took.
//!
//! It promises never to touch an object with a job, nor one younger than the bound. Called on a schedule.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tidemill_jobs::{JobId, JobStore};

use crate::{Error, PushedKey, Result};

/// Objects deleted in one run at most, so that a run that goes wrong can be seen before all is gone.
pub const SWEPT_MAX: u64 = 1_000;

/// The youngest bound that is taken: a commit whose answer was lost is settled long before.
pub const OLDER_THAN_MIN: Duration = Duration::from_secs(3600);

/// Objects whose jobs are looked for with one question.
const CHUNK: usize = 500;

/// Where uploads land.
const LANDING: &str = "landing";
/// Where senders push.
const PUSHED: &str = "pushed";

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects looked at.
    pub seen: u64,
    /// Objects deleted.
    pub deleted: u64,
}

/// Deletes objects below `landing/` and `pushed/` that are older than the bound (at least [`OLDER_THAN_MIN`]) and have no job.
/// Lists as a stream; stops at [`SWEPT_MAX`] deletions, the next run goes on.
pub async fn sweep_orphans(
    objects: &Arc<dyn ObjectStore>,
    jobs: &JobStore,
    older_than: Duration,
) -> Result<Swept> {
    let bound = Utc::now() - older_than.max(OLDER_THAN_MIN);
    let mut swept = Swept::default();
    for folder in [LANDING, PUSHED] {
        let mut listed = objects.list(Some(&Path::from(folder))).try_chunks(CHUNK);
        while let Some(chunk) = listed.next().await {
            let chunk = chunk.map_err(|error| failed("list", folder, error.1))?;
            swept.seen += chunk.len() as u64;
            let old = chunk.into_iter().filter(|object| object.last_modified < bound).collect();
            let orphans =
                if folder == LANDING { orphans(jobs, old).await? } else { untaken(jobs, old).await? };
            for orphan in orphans {
                if swept.deleted == SWEPT_MAX {
                    return Ok(swept);
                }
                delete(objects, &orphan).await?;
                swept.deleted += 1;
            }
        }
    }
    Ok(swept)
}

/// Those whose job is not there, or failed before it had objects. A key that is not one of ours is not ours to delete.
async fn orphans(jobs: &JobStore, old: Vec<ObjectMeta>) -> Result<Vec<ObjectMeta>> {
    let old: Vec<_> = old.into_iter().filter_map(|object| Some((job_of(&object)?, object))).collect();
    let ids: Vec<JobId> = old.iter().map(|(job, _)| *job).collect();
    let mut known = jobs.jobs_with_objects(&ids).await?;
    // The pages of a run are there before its job, which will have the run's id.
    known.extend(jobs.runs_under_way(&ids).await?);
    Ok(old.into_iter().filter(|(job, _)| !known.contains(job)).map(|(_, object)| object).collect())
}

/// Those that were pushed and that no job took.
async fn untaken(jobs: &JobStore, old: Vec<ObjectMeta>) -> Result<Vec<ObjectMeta>> {
    let id = |object: &ObjectMeta| PushedKey::parse(object.location.as_ref()).map(|key| key.id());
    let old: Vec<_> = old.into_iter().filter_map(|object| Some((id(&object)?, object))).collect();
    let ids: Vec<String> = old.iter().map(|(id, _)| id.clone()).collect();
    let taken: HashSet<String> = jobs.pushed(&ids).await?.into_iter().map(|(id, _)| id).collect();
    Ok(old.into_iter().filter(|(id, _)| !taken.contains(id)).map(|(_, object)| object).collect())
}

/// `landing/{pipeline}/{job}/{file}`.
fn job_of(object: &ObjectMeta) -> Option<JobId> {
    object.location.as_ref().split('/').nth(2)?.parse().ok()
}

async fn delete(objects: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> Result<()> {
    tracing::warn!(key = %object.location, size_bytes = object.size, "deleting an object without a job");
    match objects.delete(&object.location).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(failed("delete", object.location.as_ref(), error)),
    }
}

fn failed(action: &'static str, key: &str, source: object_store::Error) -> Error {
    Error::Objects { action, key: key.to_owned(), source }
}
