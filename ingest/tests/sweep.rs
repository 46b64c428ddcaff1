//! The sweep of objects on a real job store and a folder: it deletes what is old and belongs to nobody, and never what
//! somebody owns or comes to own while it looks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;
use tidemill_ingest::{
    Delayed, Error, Landing, LandingLimits, OLDER_THAN_MIN, PushedKey, Swept, sweep_orphans,
};
use tidemill_jobs::{JobError, JobId, JobStore, Landed, NewJob, SlotAnswer, SlotClaim, StoreLimits};
use tidemill_pipelines::{Blame, Duplicates, Pipeline};

struct Place {
    folder: TempDir,
    objects: Arc<dyn ObjectStore>,
    jobs: JobStore,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("objects");
        std::fs::create_dir(&store).unwrap();
        let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
        let jobs = JobStore::connect(&url, StoreLimits::default()).await.unwrap();
        jobs.migrate().await.unwrap();
        Self { folder, objects: Arc::new(LocalFileSystem::new_with_prefix(store).unwrap()), jobs }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("objects").join(key)
    }

    fn has(&self, key: &str) -> bool {
        self.path(key).exists()
    }

    /// An object of this age.
    async fn put(&self, key: &str, age: Duration) {
        self.objects.put(&Key::from(key), "x".into()).await.unwrap();
        let file = std::fs::File::options().write(true).open(self.path(key)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    async fn sweep(&self) -> Swept {
        sweep_orphans(&self.objects, &self.jobs, Duration::ZERO).await.unwrap()
    }

    async fn run(&self, slot: DateTime<Utc>) -> SlotClaim {
        let lease = Duration::from_secs(60);
        match self.jobs.claim_slot("fetch:sales", slot, "ann", lease, false).await.unwrap() {
            SlotAnswer::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    async fn land(&self, job: NewJob) {
        assert!(matches!(self.jobs.land(job).await.unwrap(), Landed::New(_)));
    }
}

const OLD: Duration = OLDER_THAN_MIN.saturating_add(Duration::from_secs(60));
const YOUNG: Duration = Duration::ZERO;

fn new_job(job_id: JobId, files: &[&str]) -> NewJob {
    NewJob {
        job_id,
        pipeline: "sales".parse().unwrap(),
        files: files.iter().map(|key| (*key).to_owned()).collect(),
        file_name: None,
        size_bytes: 1,
        content_sha256: String::new(),
        parameters: Default::default(),
        pushed: Vec::new(),
        takes_turns: false,
        last_wins: false,
        sender: "fetcher".to_owned(),
        idempotency_key: None,
        duplicates: Duplicates::Accept,
    }
}

fn page_of(run: &SlotClaim, attempt: u32, number: u32) -> String {
    format!("landing/sales/{}/{attempt}/page-{number:06}.csv", run.run_id)
}

#[tokio::test]
async fn old_objects_without_a_job_are_deleted_and_nothing_else() {
    let place = Place::new().await;
    let job = JobId::new();
    let uploaded = format!("landing/sales/{job}/a.csv");
    place.land(new_job(job, &[&uploaded])).await;
    let run = place.run(Utc::now()).await;
    let page = page_of(&run, 1, 0);
    let [orphan, young] = [(); 2].map(|()| format!("landing/sales/{}/a.csv", JobId::new()));
    let kept = ["landing/notes/read/me.txt", "jobs/x/report.json", &uploaded, &page];
    for key in kept {
        place.put(key, OLD).await;
    }
    place.put(&orphan, OLD).await;
    place.put(&young, YOUNG).await;
    assert_eq!(place.sweep().await, Swept { seen: 5, deleted: 1 });
    assert!(!place.has(&orphan) && place.has(&young));
    assert!(kept.iter().all(|key| place.has(key)));
    assert_eq!(place.sweep().await, Swept { seen: 4, deleted: 0 });
    // The job of a failed run has no objects and will have none.
    let error = JobError { code: "x".to_owned(), message: "away".to_owned(), blame: Blame::World };
    assert!(place.jobs.fail_run(&run, new_job(run.run_id, &[]), error).await.unwrap());
    assert_eq!(place.sweep().await, Swept { seen: 4, deleted: 1 });
    assert!(!place.has(&page));
}

/// A run is found as under way or as a job, at whichever instant it completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_completes_while_the_sweep_looks_keeps_its_pages() {
    const RUNS: i64 = 300;
    let place = Arc::new(Place::new().await);
    let completed = Arc::new(AtomicBool::new(false));
    let sweeps = tokio::spawn({
        let (place, completed) = (Arc::clone(&place), Arc::clone(&completed));
        async move {
            let mut sweeps = 0;
            while !completed.load(Ordering::Relaxed) {
                place.sweep().await;
                sweeps += 1;
            }
            sweeps
        }
    });
    let first = Utc::now();
    let mut lost = Vec::new();
    for number in 0..RUNS {
        let run = place.run(first + TimeDelta::seconds(number)).await;
        let page = page_of(&run, 1, 0);
        place.put(&page, OLD).await;
        // Not in step with the sweep.
        tokio::time::sleep(Duration::from_micros(number.unsigned_abs() * 7 % 2_000)).await;
        assert!(place.jobs.complete_run(&run, new_job(run.run_id, &[&page])).await.unwrap().is_some());
        tokio::time::sleep(Duration::from_millis(1)).await;
        if place.has(&page) { std::fs::remove_file(place.path(&page)).unwrap() } else { lost.push(number) }
    }
    completed.store(true, Ordering::Relaxed);
    let sweeps = sweeps.await.unwrap();
    assert!(lost.is_empty(), "the pages of runs {lost:?} of {RUNS} were deleted by {sweeps} sweeps");
}

#[tokio::test]
async fn pages_of_a_fetcher_that_was_overtaken_are_deleted_when_the_job_names_others() {
    let place = Place::new().await;
    let slot = Utc::now();
    let former = place.run(slot).await;
    assert!(place.jobs.release_slot(&former).await.unwrap());
    let run = place.run(slot).await;
    assert_eq!((run.run_id, run.attempt), (former.run_id, 2));
    let (first, late, second) = (page_of(&run, 1, 0), page_of(&run, 1, 1), page_of(&run, 2, 1));
    for key in [&first, &late, &second] {
        place.put(key, OLD).await;
    }
    assert_eq!(place.sweep().await, Swept { seen: 3, deleted: 0 }, "the run is under way");
    let job = new_job(run.run_id, &[&first, &second]);
    assert!(place.jobs.complete_run(&run, job).await.unwrap().is_some());
    assert_eq!(place.sweep().await, Swept { seen: 3, deleted: 1 });
    assert!(place.has(&first) && place.has(&second) && !place.has(&late));
}

fn pushed() -> PushedKey {
    PushedKey::new(&"sales".parse().unwrap(), "ann", Some("a.csv"))
}

#[tokio::test]
async fn what_the_sweep_may_be_deleting_is_taken_by_no_job() {
    const HOUR: Duration = Duration::from_secs(3600);
    let place = Place::new().await;
    let text = "pipeline: sales\ncolumns: [{ name: id, type: int64 }]\nsinks: [{ table: { name: sales } }]\n";
    let pipeline = Pipeline::parse("sales.yaml", text).unwrap();
    let landing = Landing::new(place.objects.clone(), place.jobs.clone(), LandingLimits::default());
    let post = |key: &PushedKey| {
        let delayed = Delayed {
            sender: "ann".to_owned(),
            files: vec![key.clone()],
            parameters: Default::default(),
            idempotency_key: Some("k".to_owned()),
        };
        landing.land_pushed(&pipeline, delayed)
    };
    let (taken, late, gone) = (pushed(), pushed(), pushed());
    place.put(taken.key().as_str(), HOUR * 22).await;
    place.put(late.key().as_str(), HOUR * 23 + HOUR / 2).await;
    place.put(gone.key().as_str(), HOUR * 25).await;
    assert!(matches!(post(&late).await.unwrap_err(), Error::Missing { .. }));
    assert!(matches!(post(&taken).await.unwrap(), Landed::New(_)));
    place.put(taken.key().as_str(), HOUR * 48).await;
    let again = post(&taken).await.unwrap_err();
    assert!(matches!(again, Error::Jobs(_)), "it is not gone, though it is other bytes by now: {again}");
    assert_eq!(place.sweep().await, Swept { seen: 3, deleted: 1 });
    assert!(!place.has(gone.key().as_str()));
    assert!(place.has(taken.key().as_str()) && place.has(late.key().as_str()));
}
