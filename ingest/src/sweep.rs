//! Sweep: deletes objects that have no job: landed ones, left by a process that died between object and job, and
//! pushed ones that no job took.
//!
//! It promises never to touch an object that a job names, nor one of a run under way, nor one younger than the bound.
//! Called on a schedule.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tidemill_jobs::{JobId, JobStore};

use crate::push::TAKEN_WITHIN;
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

/// Deletes objects below `landing/` and `pushed/` that are older than the bound and have no job. The bound is at least
/// [`OLDER_THAN_MIN`], and for pushed ones so long that no job can take them any more.
/// Lists as a stream; stops at [`SWEPT_MAX`] deletions, the next run goes on.
pub async fn sweep_orphans(
    objects: &Arc<dyn ObjectStore>,
    jobs: &JobStore,
    older_than: Duration,
) -> Result<Swept> {
    let mut swept = Swept::default();
    for (folder, least) in [(LANDING, OLDER_THAN_MIN), (PUSHED, TAKEN_WITHIN + OLDER_THAN_MIN)] {
        let bound = Utc::now() - older_than.max(least);
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

/// Those that belong to nobody. A key that is not one of ours is not ours to delete.
///
/// The objects were listed before their owners are looked for, so an owner that is not found then comes no more: an
/// upload makes its job right after its object, long within the bound; a run is there before its pages, stays under way
/// until it is a job, in one transaction, and is looked for as both in one statement. A run that fails never has objects.
async fn orphans(jobs: &JobStore, old: Vec<ObjectMeta>) -> Result<Vec<ObjectMeta>> {
    let old: Vec<_> = old.into_iter().filter_map(|object| Some((job_of(&object)?, object))).collect();
    let ids: Vec<JobId> = old.iter().map(|(job, _)| *job).collect();
    let owners = jobs.owners_of_objects(&ids).await?;
    let mut named = HashMap::new();
    for run in jobs.runs_taken_over(&ids).await? {
        let job = jobs.get(run).await?;
        named.insert(run, job.map(|job| job.files_to_process.into_iter().collect()).unwrap_or_default());
    }
    // Of a run that was taken over, its job names each page once, as one of the attempts landed it.
    let is_named = |job: &JobId, object: &ObjectMeta| {
        named.get(job).is_none_or(|keys: &HashSet<String>| keys.contains(object.location.as_ref()))
    };
    let belongs = |job: &JobId, object: &ObjectMeta| owners.contains(job) && is_named(job, object);
    Ok(old.into_iter().filter(|(job, object)| !belongs(job, object)).map(|(_, object)| object).collect())
}

/// Those that were pushed and that no job took. They are older than [`TAKEN_WITHIN`], so no job will.
async fn untaken(jobs: &JobStore, old: Vec<ObjectMeta>) -> Result<Vec<ObjectMeta>> {
    let id = |object: &ObjectMeta| PushedKey::parse(object.location.as_ref()).map(|key| key.id());
    let old: Vec<_> = old.into_iter().filter_map(|object| Some((id(&object)?, object))).collect();
    let ids: Vec<String> = old.iter().map(|(id, _)| id.clone()).collect();
    let taken: HashSet<String> = jobs.pushed(&ids).await?.into_iter().map(|(id, _)| id).collect();
    Ok(old.into_iter().filter(|(id, _)| !taken.contains(id)).map(|(_, object)| object).collect())
}

/// `landing/{pipeline}/{job}/{file}`, or `landing/{pipeline}/{run}/{attempt}/{page}`.
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
