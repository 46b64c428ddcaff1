//! Collecting: the reports of all jobs of a pipeline that succeeded since the last time are copied to one folder of
//! the object store, `{folder}/{slot}/{job}/…`, beside a `manifest.json`, and the jobs become `downloaded`.
//!
//! Each report is collected once: which jobs belong to a collection is fixed before anything is copied, copying may be
//! repeated, and the manifest and the end of the jobs come last. Run by the role `fetcher` on the schedules of the
//! pipelines, and by `tidemill collect`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::Serialize;
use tidemill_jobs::{Collection, Job, JobStore, failpoint};
use tidemill_pipelines::{Pipeline, PipelineSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Error, Result};

/// How often schedules are looked at, and collections that someone left half-way.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Collections taken up at once; the others wait for the next look.
const TAKEN_UP_MAX: u32 = 10;
/// Jobs whose files are copied at once.
const COPIES_IN_FLIGHT: usize = 16;

/// Collects the reports of pipelines.
pub struct Collector {
    objects: Arc<dyn ObjectStore>,
    jobs: JobStore,
    pipelines: Arc<PipelineSet>,
}

/// A collection that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// The folder of the object store.
    pub folder: String,
    /// How many jobs' reports are in it.
    pub jobs: usize,
}

/// What stands in `manifest.json`; the same however often it is written.
#[derive(Serialize)]
struct Manifest<'a> {
    pipeline: &'a str,
    slot: DateTime<Utc>,
    jobs: Vec<Entry>,
}

/// A job in the manifest.
#[derive(Serialize)]
struct Entry {
    job_id: String,
    sender: String,
    finished_at: Option<DateTime<Utc>>,
    records_in: u64,
    records_written: u64,
    records_rejected: u64,
    /// Below the folder of the collection; without `report.json` when that was deleted before.
    files: Vec<String>,
}

impl Collector {
    /// Collects from this object store and this job store.
    pub fn new(objects: Arc<dyn ObjectStore>, jobs: JobStore, pipelines: Arc<PipelineSet>) -> Self {
        Self { objects, jobs, pipelines }
    }

    /// Collects on the schedules of the pipelines until `shutdown`. Several may run.
    pub async fn run(self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            match shutdown.run_until_cancelled(self.collect_due(Utc::now())).await {
                Some(Err(error)) => {
                    warn!(error = &error as &dyn std::error::Error, "failed to collect; trying again");
                }
                Some(Ok(_)) => {}
                None => return,
            }
        }
    }

    /// Ends what was left half-way and collects for each pipeline whose slot has come.
    pub async fn collect_due(&self, now: DateTime<Utc>) -> Result<Vec<Collected>> {
        let mut done = self.take_up(now).await?;
        for pipeline in self.pipelines.iter() {
            let Some(collect) = &pipeline.collect else { continue };
            // A second later, so that a slot at this very instant is found.
            let Some(slot) = collect.schedule.last_before(now + TimeDelta::seconds(1)) else { continue };
            done.extend(self.collect(pipeline, slot).await?);
        }
        Ok(done)
    }

    /// Ends what was left half-way by a collector that died.
    pub async fn take_up(&self, now: DateTime<Utc>) -> Result<Vec<Collected>> {
        let mut done = Vec::new();
        for collection in self.jobs.take_up_collections(now, TAKEN_UP_MAX).await? {
            done.push(self.copy_and_end(&collection).await?);
        }
        Ok(done)
    }

    /// Collects what succeeded until `slot`; `None` when there is nothing, or it was done before.
    pub async fn collect(&self, pipeline: &Pipeline, slot: DateTime<Utc>) -> Result<Option<Collected>> {
        let slot = slot.trunc_subsecs(0);
        let folder = format!("{}/{}", pipeline.collect_folder(), slot.format("%Y%m%dT%H%M%SZ"));
        match self.jobs.begin_collection(&pipeline.name, slot, &folder).await? {
            Some(collection) => self.copy_and_end(&collection).await.map(Some),
            None => Ok(None),
        }
    }

    /// Copies and ends; a collection that cannot be copied is given up, so that the next look takes it up.
    async fn copy_and_end(&self, collection: &Collection) -> Result<Collected> {
        match self.copy(collection).await {
            Ok(jobs) => {
                failpoint!("collect::end");
                self.jobs.end_collection(collection).await?;
                info!(pipeline = %collection.pipeline, folder = collection.folder, jobs, "collected reports");
                Ok(Collected { folder: collection.folder.clone(), jobs })
            }
            Err(error) => {
                self.jobs.release_collection(collection).await?;
                Err(error)
            }
        }
    }

    async fn copy(&self, collection: &Collection) -> Result<usize> {
        let jobs = self.jobs.jobs_of_collection(collection).await?;
        let there = self.list(&collection.folder).await?;
        let there: HashSet<Path> = there.into_iter().map(|object| object.location).collect();
        let mut copies = Vec::with_capacity(jobs.len());
        for job in &jobs {
            copies.push(self.copy_job(collection, job, &there));
        }
        let entries = stream::iter(copies).buffered(COPIES_IN_FLIGHT).try_collect().await?;
        let manifest =
            Manifest { pipeline: collection.pipeline.as_str(), slot: collection.slot, jobs: entries };
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        let key = Path::from(format!("{}/manifest.json", collection.folder));
        let put = self.objects.put(&key, text.into()).await;
        put.map_err(|source| failed("write", &key, source))?;
        Ok(jobs.len())
    }

    /// Copies the report and the files of a job. What was copied before is left: a copy is whole or not there.
    async fn copy_job(&self, collection: &Collection, job: &Job, there: &HashSet<Path>) -> Result<Entry> {
        let folder = job.report_file_path.as_deref().and_then(|report| report.rsplit_once('/'));
        let folder = folder.map_or("", |(folder, _)| folder);
        let mut found = if folder.is_empty() { Vec::new() } else { self.list(folder).await? };
        found.retain(|object| is_wanted(object, folder));
        let mut files = Vec::new();
        for ObjectMeta { location: from, .. } in &found {
            let file = format!("{}/{}", job.job_id, from.filename().unwrap_or_default());
            let to = Path::from(format!("{}/{file}", collection.folder));
            if !there.contains(&to) {
                failpoint!("collect::copy");
                self.objects.copy(from, &to).await.map_err(|source| failed("copy", from, source))?;
            }
            files.push(file);
        }
        files.sort();
        if !files.iter().any(|file| file.ends_with("/report.json")) {
            warn!(job_id = %job.job_id, "the report of a job was deleted before it was collected");
        }
        Ok(Entry {
            job_id: job.job_id.to_string(),
            sender: job.sender.clone(),
            finished_at: job.finished_at,
            records_in: job.counts.records_in,
            records_written: job.counts.records_written,
            records_rejected: job.counts.records_rejected,
            files,
        })
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>> {
        let folder = Path::from(folder);
        let listed = self.objects.list(Some(&folder)).try_collect().await;
        listed.map_err(|source| failed("list", &folder, source))
    }
}

/// The report, and what the pipeline made as files; refused records stay with the job.
fn is_wanted(object: &ObjectMeta, folder: &str) -> bool {
    let name = object.location.as_ref().strip_prefix(folder).and_then(|name| name.strip_prefix('/'));
    name.is_some_and(|name| name == "report.json" || name.starts_with("files/"))
}

fn failed(action: &'static str, key: &Path, source: object_store::Error) -> Error {
    Error::Objects { action, key: key.to_string(), source }
}
