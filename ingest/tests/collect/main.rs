//! Collecting on a real job store (SQLite, MariaDB) and a real object store (a folder, an S3 server): each report
//! once, also when the collector dies half-way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/servers/bucket.rs"]
mod bucket;
mod faults;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use tempfile::TempDir;
use tidemill_ingest::{CollectMetrics, Collected, Collector};
use tidemill_jobs::{
    Committed, Counts, Job, JobId, JobStatus, JobStore, Landed, MemoryLedger, NewJob, Outcome, Settler,
    StoreLimits,
};
use tidemill_pipelines::{Duplicates, Pipeline, PipelineSet};

const SALES: &str = "
pipeline: sales
collect: { cron: ['0 0-21/3 * * *', '30 1-22/3 * * *'], to: reports/sales }
columns: [{ name: id, type: int64 }]
sinks: [{ table: { name: sales } }]
";

struct Place {
    objects: Arc<dyn ObjectStore>,
    jobs: JobStore,
    _folder: TempDir,
}

impl Place {
    async fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = folder.path().join("objects");
        std::fs::create_dir(&objects).unwrap();
        let objects = LocalFileSystem::new_with_prefix(objects).unwrap();
        Self::with(folder, Arc::new(objects)).await
    }

    async fn on_s3() -> Self {
        let objects = bucket::folder(format!("collect-{}", JobId::new()));
        Self::with(tempfile::tempdir().unwrap(), Arc::new(objects)).await
    }

    async fn with(folder: TempDir, objects: Arc<dyn ObjectStore>) -> Self {
        let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
        let jobs = JobStore::connect(&url, StoreLimits::default()).await.unwrap();
        jobs.migrate().await.unwrap();
        Self { objects, jobs, _folder: folder }
    }

    fn collector(&self) -> Collector {
        self.collector_of(&self.objects, &prometheus::Registry::new())
    }

    /// Of the pipelines `sales` and `stock`.
    fn collector_of(&self, objects: &Arc<dyn ObjectStore>, registry: &prometheus::Registry) -> Collector {
        let files = ["sales", "stock"].map(|name| (format!("{name}.yaml"), SALES.replace("sales", name)));
        let set = PipelineSet::from_files(files.to_vec()).unwrap();
        Collector::new(
            objects.clone(),
            self.jobs.clone(),
            Arc::new(set),
            CollectMetrics::new(registry).unwrap(),
        )
    }

    async fn succeeded(&self) -> Job {
        self.succeeded_in("sales").await
    }

    /// A job that succeeded, with a report, a file and refused records.
    async fn succeeded_in(&self, pipeline: &str) -> Job {
        let job_id = JobId::new();
        let new = NewJob {
            job_id,
            pipeline: pipeline.parse().unwrap(),
            files: vec!["x".to_owned()],
            file_name: None,
            size_bytes: 1,
            content_sha256: String::new(),
            parameters: Default::default(),
            pushed: Vec::new(),
            takes_turns: false,
            last_wins: false,
            sender: "ann".to_owned(),
            idempotency_key: None,
            duplicates: Duplicates::Accept,
        };
        assert!(matches!(self.jobs.land(new).await.unwrap(), Landed::New(_)));
        let claim = self.jobs.claim(job_id, "v1", "w", Utc::now()).await.unwrap().unwrap();
        let folder = format!("jobs/{job_id}/1");
        for name in ["report.json", "rejects.csv", "files/report.csv"] {
            self.put(&format!("{folder}/{name}"), &format!("{name} of {job_id}")).await;
        }
        let counts = Counts { records_in: 3, records_written: 2, records_rejected: 1, records_filtered: 0 };
        let report = format!("{folder}/report.json");
        let outcome =
            Outcome::Success(Committed { counts, report, artifacts: vec!["report.csv".to_owned()] });
        let settler = Settler::new(self.jobs.clone(), Arc::new(MemoryLedger::default()));
        assert!(settler.finish(&claim, outcome).await.unwrap());
        self.job(job_id).await
    }

    async fn put(&self, key: &str, text: &str) {
        self.objects.put(&Key::from(key), text.to_owned().into()).await.unwrap();
    }

    async fn job(&self, id: JobId) -> Job {
        self.jobs.get(id).await.unwrap().unwrap()
    }

    async fn keys(&self, folder: &str) -> Vec<String> {
        let listed = self.objects.list(Some(&Key::from(folder)));
        let mut keys: Vec<String> =
            listed.map_ok(|object| object.location.to_string()).try_collect().await.unwrap();
        keys.sort();
        keys
    }

    async fn text(&self, key: &str) -> String {
        let bytes = self.objects.get(&Key::from(key)).await.unwrap().bytes().await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    async fn manifest(&self, folder: &str) -> Value {
        serde_json::from_str(&self.text(&format!("{folder}/manifest.json")).await).unwrap()
    }
}

fn sales() -> Pipeline {
    Pipeline::parse("sales.yaml", SALES).unwrap()
}

/// What stands in a collected folder when all went well.
fn whole(folder: &str, jobs: &[&Job]) -> Vec<String> {
    let files =
        |job: &&Job| ["report.csv", "report.json"].map(|name| format!("{folder}/{}/{name}", job.job_id));
    let mut keys: Vec<String> = jobs.iter().flat_map(files).collect();
    keys.push(format!("{folder}/manifest.json"));
    keys.sort();
    keys
}

async fn reports_and_files_are_copied_beside_a_manifest(place: Place) {
    let (first, second) = (place.succeeded().await, place.succeeded().await);
    let slot = Utc::now() + TimeDelta::seconds(1);
    let collected = place.collector().collect(&sales(), slot).await.unwrap().unwrap();
    let folder = format!("reports/sales/{}", slot.format("%Y%m%dT%H%M%SZ"));
    assert_eq!(collected, Collected { folder: folder.clone(), jobs: 2, missing: 0 });
    assert_eq!(place.keys("reports").await, whole(&folder, &[&first, &second]));
    let report = place.text(&format!("{folder}/{}/report.json", first.job_id)).await;
    assert_eq!(report, format!("report.json of {}", first.job_id));
    let manifest = place.manifest(&folder).await;
    assert_eq!((&manifest["pipeline"], manifest["jobs"].as_array().unwrap().len()), (&"sales".into(), 2));
    let entry = &manifest["jobs"][1];
    assert_eq!(
        (entry["job_id"].as_str().unwrap(), &entry["records_written"]),
        (&*second.job_id.to_string(), &2.into())
    );
    assert_eq!(entry["files"].as_array().unwrap().len(), 2);
    for job in [first, second] {
        assert_eq!(place.job(job.job_id).await.status, JobStatus::Downloaded);
    }
    let later = slot + TimeDelta::hours(1);
    assert_eq!(place.collector().collect(&sales(), later).await.unwrap(), None, "nothing is left");
    assert_eq!(place.keys("reports").await.len(), 5);
}

#[tokio::test]
async fn reports_are_collected_in_a_folder() {
    reports_and_files_are_copied_beside_a_manifest(Place::local().await).await;
}

#[tokio::test]
async fn reports_are_collected_on_s3() {
    reports_and_files_are_copied_beside_a_manifest(Place::on_s3().await).await;
}

#[tokio::test]
async fn a_collector_that_dies_anywhere_leaves_what_the_next_one_ends() {
    let place = Place::local().await;
    let mut expected = Vec::new();
    let mut folders = Vec::new();
    // Dropped after so many turns: right after the jobs are fixed, in the midst of copying, before the end.
    for turns in [1, 2, 3, 5, 8, 13, 21, 34, 55] {
        let jobs = [place.succeeded().await, place.succeeded().await, place.succeeded().await];
        let slot = Utc::now() + TimeDelta::seconds(i64::from(turns) * 10);
        let (collector, pipeline) = (place.collector(), sales());
        let dying = collector.collect(&pipeline, slot);
        let mut dying = Box::pin(dying);
        let mut ended = false;
        for _ in 0..turns {
            let waited = tokio::time::timeout(std::time::Duration::from_millis(1), &mut dying).await;
            if waited.is_ok() {
                ended = true;
                break;
            }
        }
        drop(dying);
        let late = place.succeeded().await;
        let later = Utc::now() + TimeDelta::minutes(5);
        assert!(place.collector().take_up(later).await.iter().all(Result::is_ok));
        if !ended {
            // Dropped before the jobs were fixed, or taken up: either way the slot ends once.
            place.collector().collect(&pipeline, slot).await.unwrap();
        }
        folders.push(slot);
        expected.extend(jobs.iter().map(|job| job.job_id));
        expected.push(late.job_id);
    }
    let end = Utc::now() + TimeDelta::hours(1);
    place.collector().collect(&sales(), end).await.unwrap();
    let mut found = Vec::new();
    for key in place.keys("reports").await {
        if let Some(folder) = key.strip_suffix("/manifest.json") {
            let manifest = place.manifest(folder).await;
            for entry in manifest["jobs"].as_array().unwrap() {
                let id = entry["job_id"].as_str().unwrap();
                place.text(&format!("{folder}/{id}/report.json")).await;
                found.push(id.parse::<JobId>().unwrap());
            }
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "each once");
    for id in expected {
        assert_eq!(place.job(id).await.status, JobStatus::Downloaded);
    }
    assert_eq!(
        place.keys("reports").await.iter().filter(|key| key.ends_with("report.json")).count(),
        found.len()
    );
}

#[tokio::test]
async fn a_report_that_was_deleted_stops_nobody() {
    let place = Place::local().await;
    let (gone, there) = (place.succeeded().await, place.succeeded().await);
    place.objects.delete(&Key::from(gone.report_file_path.as_deref().unwrap())).await.unwrap();
    let slot = Utc::now() + TimeDelta::seconds(1);
    let collected = place.collector().collect(&sales(), slot).await.unwrap().unwrap();
    let manifest = place.manifest(&collected.folder).await;
    let files = |nth: usize| manifest["jobs"][nth]["files"].clone();
    assert_eq!(files(0), serde_json::json!([format!("{}/report.csv", gone.job_id)]));
    assert_eq!(manifest["jobs"][0]["missing"], serde_json::json!([format!("{}/report.json", gone.job_id)]));
    assert_eq!(files(1).as_array().unwrap().len(), 2);
    assert_eq!(place.job(there.job_id).await.status, JobStatus::Downloaded);
}

#[tokio::test]
async fn each_slot_of_the_two_cron_lines_collects_once() {
    let place = Place::local().await;
    let collector = place.collector();
    let midnight = (Utc::now() + TimeDelta::days(2)).date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
    let mut collected: Vec<(i64, usize)> = Vec::new();
    for minute in (0..24 * 60).step_by(15) {
        if minute % 45 == 0 {
            place.succeeded().await;
        }
        let now: DateTime<Utc> = midnight + TimeDelta::minutes(minute) + TimeDelta::seconds(7);
        for done in collector.collect_due(now).await {
            collected.push((minute, done.unwrap().jobs));
        }
    }
    // A job each 45 minutes, a collection each 90. The very first finds one job, all others two.
    assert_eq!(collected.iter().map(|(minute, _)| minute % 90).max(), Some(0), "{collected:?}");
    assert_eq!(collected.len(), 16, "{collected:?}");
    let jobs: Vec<usize> = collected.into_iter().map(|(_, jobs)| jobs).collect();
    assert_eq!((jobs[0], &jobs[1..]), (1, &[2; 15][..]));
}

#[tokio::test]
async fn two_commands_within_a_second_each_collect_what_there_is() {
    let place = Place::local().await;
    let (pipeline, now) = (sales(), Utc::now() + TimeDelta::seconds(5));
    for _ in 0..3 {
        place.succeeded().await;
        let collected = place.collector().collect_now(&pipeline, now).await.unwrap();
        assert_eq!(collected.map(|collected| collected.jobs), Some(1));
    }
    assert!(place.collector().collect_now(&pipeline, now).await.unwrap().is_none());
}
