//! Collecting: the reports of all jobs of a pipeline that succeeded since the last time are copied to one folder of
//! the object store, `{folder}/{slot}/{job}/…`, beside a `manifest.json`, and the jobs become `downloaded`.
//!
//! Each report is collected once: which jobs belong to a collection is fixed before anything is copied, copying may be
//! repeated, and the manifest and the end of the jobs come last. A file that was deleted is told in the manifest, the log
//! and the metrics; a collection that cannot be copied is tried again, and no other one waits for it. Run by the role
//! `fetcher` on the schedules of the pipelines, and by `tidemill collect`.

mod metrics;

use std::collections::{BTreeMap, BTreeSet, HashSet};
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

use crate::landing::failed;
use crate::{Error, Landing, LandingLimits, ObjectKey, Result};
pub use metrics::CollectMetrics;

/// How often schedules are looked at, and collections that someone left half-way.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Collections taken up at once; the others wait for the next look.
const TAKEN_UP_MAX: u32 = 10;
/// Jobs whose files are copied at once.
const COPIES_IN_FLIGHT: usize = 16;
/// Largest object that the store is asked to copy by itself: more than S3 copies in one request.
const COPIED_WHOLE_MAX: u64 = 5 << 30;

/// Collects the reports of pipelines.
pub struct Collector {
    objects: Arc<dyn ObjectStore>,
    jobs: JobStore,
    pipelines: Arc<PipelineSet>,
    metrics: CollectMetrics,
    copied_whole_max: u64,
}

/// A collection that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// The folder of the object store.
    pub folder: String,
    /// How many jobs' reports are in it.
    pub jobs: usize,
    /// How many files were deleted before they were collected; the manifest names them.
    pub missing: usize,
}

/// What stands in `manifest.json`; the same however often it is written.
#[derive(Serialize)]
struct Manifest<'a> {
    pipeline: &'a str,
    slot: DateTime<Utc>,
    jobs: Vec<Entry>,
}

/// Commands within one second that each find a slot of their own.
const SLOTS_AHEAD_MAX: i64 = 5;

/// A job in the manifest.
#[derive(Serialize)]
struct Entry {
    job_id: String,
    sender: String,
    finished_at: Option<DateTime<Utc>>,
    records_in: u64,
    records_written: u64,
    records_rejected: u64,
    /// Below the folder of the collection.
    files: Vec<String>,
    /// What the job made and what was deleted before it was collected.
    missing: Vec<String>,
}

impl Collector {
    /// Collects from this object store and this job store.
    pub fn new(
        objects: Arc<dyn ObjectStore>,
        jobs: JobStore,
        pipelines: Arc<PipelineSet>,
        metrics: CollectMetrics,
    ) -> Self {
        Self { objects, jobs, pipelines, metrics, copied_whole_max: COPIED_WHOLE_MAX }
    }

    /// Larger objects than this go through this process, part by part; for stores that copy less than S3 does.
    pub fn copying_whole(self, bytes: u64) -> Self {
        Self { copied_whole_max: bytes, ..self }
    }

    /// Collects on the schedules of the pipelines until `shutdown`. Several may run.
    pub async fn run(self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let Some(collected) = shutdown.run_until_cancelled(self.collect_due(Utc::now())).await else {
                return;
            };
            for error in collected.into_iter().filter_map(Result::err) {
                warn!(error = &error as &dyn std::error::Error, "failed to collect; trying again");
            }
        }
    }

    /// Ends what was left half-way and collects for each pipeline whose slot has come, whatever becomes of the others.
    pub async fn collect_due(&self, now: DateTime<Utc>) -> Vec<Result<Collected>> {
        let mut done = self.take_up(now).await;
        for pipeline in self.pipelines.iter() {
            let Some(collect) = &pipeline.collect else { continue };
            // A second later, so that a slot at this very instant is found.
            let Some(slot) = collect.schedule.last_before(now + TimeDelta::seconds(1)) else { continue };
            done.extend(self.collect(pipeline, slot).await.transpose());
        }
        done
    }

    /// Ends what was left half-way by a collector that died, or could not be copied.
    pub async fn take_up(&self, now: DateTime<Utc>) -> Vec<Result<Collected>> {
        let left = match self.jobs.take_up_collections(now, TAKEN_UP_MAX).await {
            Ok(left) => left,
            Err(error) => return vec![Err(error.into())],
        };
        let mut done = Vec::with_capacity(left.len());
        for collection in left {
            done.push(self.copy_and_end(&collection).await);
        }
        done
    }

    /// Collects what succeeded until now, for a person. Slots are whole seconds: the next one, so that what succeeded in this
    /// one is not left out, or one of those behind it when another command was there in the same second.
    pub async fn collect_now(&self, pipeline: &Pipeline, now: DateTime<Utc>) -> Result<Option<Collected>> {
        for ahead in 1..=SLOTS_AHEAD_MAX {
            let collected = self.collect(pipeline, now + TimeDelta::seconds(ahead)).await?;
            if collected.is_some() {
                return Ok(collected);
            }
        }
        Ok(None)
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

    /// Copies and ends; a collection that cannot be copied is put off, so that a later look takes it up.
    async fn copy_and_end(&self, collection: &Collection) -> Result<Collected> {
        match self.copy(collection).await {
            Ok(collected) => {
                failpoint!("collect::end");
                self.jobs.end_collection(collection).await?;
                let Collected { folder, jobs, missing } = &collected;
                info!(pipeline = %collection.pipeline, folder, jobs, missing, "collected reports");
                self.metrics.collection(collection.pipeline.as_str(), "done");
                Ok(collected)
            }
            Err(error) => {
                self.metrics.collection(collection.pipeline.as_str(), "failed");
                if let Err(held) = self.jobs.release_collection(collection).await {
                    warn!(
                        error = &held as &dyn std::error::Error,
                        "failed to put a collection off; its lease will pass"
                    );
                }
                Err(error)
            }
        }
    }

    async fn copy(&self, collection: &Collection) -> Result<Collected> {
        let jobs = self.jobs.jobs_of_collection(collection).await?;
        let there = self.list(&collection.folder).await?;
        let there: HashSet<Path> = there.into_iter().map(|object| object.location).collect();
        let mut copies = Vec::with_capacity(jobs.len());
        for job in &jobs {
            copies.push(self.copy_job(collection, job, &there));
        }
        let entries: Vec<Entry> = stream::iter(copies).buffered(COPIES_IN_FLIGHT).try_collect().await?;
        let missing = entries.iter().map(|entry| entry.missing.len()).sum();
        let manifest =
            Manifest { pipeline: collection.pipeline.as_str(), slot: collection.slot, jobs: entries };
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        let key = Path::from(format!("{}/manifest.json", collection.folder));
        let put = self.objects.put(&key, text.into()).await;
        put.map_err(|source| failed("write", &key, source))?;
        Ok(Collected { folder: collection.folder.clone(), jobs: jobs.len(), missing })
    }

    /// Copies the report and the files of a job. What was copied before is left: a copy is whole or not there.
    async fn copy_job(&self, collection: &Collection, job: &Job, there: &HashSet<Path>) -> Result<Entry> {
        let folder = job.report_file_path.as_deref().and_then(|report| report.rsplit_once('/'));
        let folder = folder.map_or("", |(folder, _)| folder);
        let mut found = if folder.is_empty() { Vec::new() } else { self.list(folder).await? };
        found.retain(|object| is_wanted(object, folder));
        let found: BTreeMap<&str, &ObjectMeta> =
            found.iter().map(|object| (object.location.filename().unwrap_or_default(), object)).collect();
        let made = std::iter::once("report.json").chain(job.artifacts.iter().map(String::as_str));
        let names: BTreeSet<&str> = made.chain(found.keys().copied()).collect();
        let (mut files, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            let to = ObjectKey::collected(&collection.folder, job.job_id, name);
            let copied = match found.get(name) {
                _ if there.contains(&to.path()) => true,
                Some(from) => {
                    failpoint!("collect::copy");
                    self.copy_file(from, &to).await?
                }
                None => false,
            };
            let list = if copied { &mut files } else { &mut missing };
            list.push(format!("{}/{name}", job.job_id));
        }
        self.metrics.files(collection.pipeline.as_str(), files.len(), missing.len());
        if !missing.is_empty() {
            warn!(job_id = %job.job_id, ?missing, "files of a job were deleted before they were collected");
        }
        Ok(Entry {
            job_id: job.job_id.to_string(),
            sender: job.sender.clone(),
            finished_at: job.finished_at,
            records_in: job.counts.records_in,
            records_written: job.counts.records_written,
            records_rejected: job.counts.records_rejected,
            files,
            missing,
        })
    }

    /// False when the object is gone: it was deleted since it was listed.
    async fn copy_file(&self, from: &ObjectMeta, to: &ObjectKey) -> Result<bool> {
        let copied = match from.size > self.copied_whole_max {
            true => self.copy_by_parts(from, to).await,
            false => {
                let copied = self.objects.copy(&from.location, &to.path()).await;
                copied.map_err(|source| failed("copy", &from.location, source))
            }
        };
        match copied {
            Err(Error::Objects { source: object_store::Error::NotFound { .. }, .. }) => Ok(false),
            copied => copied.map(|()| true),
        }
    }

    /// Through this process, a few parts at a time: the store does not copy so much at once.
    async fn copy_by_parts(&self, from: &ObjectMeta, to: &ObjectKey) -> Result<()> {
        let read = |source| failed("read", &from.location, source);
        let body = self.objects.get(&from.location).await.map_err(read)?.into_stream();
        let landing = Landing::new(Arc::clone(&self.objects), self.jobs.clone(), LandingLimits::default());
        landing.store(to, from.size, body).await.map(drop)
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
