//! Landing on a real job store (SQLite), a folder of objects, and an S3 server:
//! an object and its job, or nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../tests/servers/bucket.rs"]
mod bucket;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tidemill_ingest::{Error, Landing, LandingLimits, Upload};
use tidemill_jobs::{Job, JobFilter, JobId, JobStore, Landed, StoreLimits};
use tidemill_pipelines::Pipeline;

const MIB: usize = 1024 * 1024;

struct Place {
    folder: TempDir,
    objects: Arc<dyn ObjectStore>,
    jobs: JobStore,
}

impl Place {
    async fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("objects");
        std::fs::create_dir(&store).unwrap();
        Self::with(folder, Arc::new(LocalFileSystem::new_with_prefix(store).unwrap())).await
    }

    async fn with(folder: TempDir, objects: Arc<dyn ObjectStore>) -> Self {
        let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
        let jobs = JobStore::connect(&url, StoreLimits::default()).await.unwrap();
        jobs.migrate().await.unwrap();
        Self { folder, objects, jobs }
    }

    fn landing(&self) -> Landing {
        Landing::new(self.objects.clone(), self.jobs.clone(), LandingLimits::default())
    }

    async fn land(&self, pipeline: &Pipeline, key: Option<&str>, chunks: Chunks) -> Result<Landed, Error> {
        let upload = Upload {
            sender: "ann".to_owned(),
            file_name: Some("a.csv".to_owned()),
            idempotency_key: key.map(str::to_owned),
            ..Upload::default()
        };
        self.landing().land(pipeline, upload, stream::iter(chunks)).await
    }

    /// All files of the folder, parts of broken uploads included.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.folder.path().join("objects"), &mut found);
        found
    }

    async fn job_count(&self) -> usize {
        let filter = JobFilter { limit: 100, ..JobFilter::default() };
        self.jobs.list(&filter).await.unwrap().jobs.len()
    }
}

type Chunks = Vec<Result<Bytes, &'static str>>;

fn pipeline(duplicates: &str) -> Pipeline {
    let text = format!(
        "pipeline: sales\nsource: {{ upload: {{ max_size: 40MiB, duplicates: {duplicates} }} }}\n\
         columns:\n  - {{ name: id, type: int64 }}\nsinks:\n  - table: {{ name: sales }}\n"
    );
    Pipeline::parse("sales.yaml", &text).unwrap()
}

/// A body whose bytes differ from place to place, in chunks as a connection gives them.
fn body(size_bytes: usize) -> (Vec<u8>, Chunks) {
    let whole: Vec<u8> = (0..size_bytes).map(|at| (at / 7 + at % 251) as u8).collect();
    let chunks = whole.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    (whole, chunks)
}

fn new_job(landed: Result<Landed, Error>) -> Job {
    match landed.unwrap() {
        Landed::New(job) => job,
        Landed::Duplicate(job) => panic!("a duplicate of {}", job.job_id),
    }
}

async fn assert_lands(place: &Place, size_bytes: usize) {
    let (whole, chunks) = body(size_bytes);
    let job = new_job(place.land(&pipeline("accept"), None, chunks).await);
    assert_eq!(job.size_bytes, size_bytes as u64);
    assert_eq!(job.content_sha256, hex::encode(Sha256::digest(&whole)));
    let key = Key::from(job.files_to_process[0].as_str());
    let stored = place.objects.get(&key).await.unwrap().bytes().await.unwrap();
    assert!(stored == whole, "{size_bytes} bytes came out otherwise");
    place.objects.delete(&key).await.unwrap();
}

#[tokio::test]
async fn a_file_of_any_size_is_stored_as_it_came() {
    let place = Place::local().await;
    for size_bytes in [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 17 * MIB] {
        assert_lands(&place, size_bytes).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_too_large_leaves_nothing() {
    let place = Place::local().await;
    for size_bytes in [10, 12 * MIB] {
        let (_, mut chunks) = body(size_bytes);
        chunks.push(Err("the connection was reset"));
        let error = place.land(&pipeline("first"), None, chunks).await.unwrap_err();
        assert!(
            matches!(&error, Error::BrokenOff { received_bytes, message }
                if *received_bytes == size_bytes as u64 && message == "the connection was reset"),
            "{error}"
        );
    }
    let error = place.land(&pipeline("first"), None, body(40 * MIB + 1).1).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit_bytes } if limit_bytes == 40 * MIB as u64), "{error}");
    assert_eq!((place.files().len(), place.job_count().await), (0, 0));
}

#[tokio::test]
async fn the_object_of_a_duplicate_or_a_refused_key_is_deleted() {
    let place = Place::local().await;
    let first = new_job(place.land(&pipeline("first"), Some("k"), body(10).1).await);
    for key in [None, Some("k"), Some("other")] {
        let again = place.land(&pipeline("first"), key, body(10).1).await.unwrap();
        assert!(matches!(&again, Landed::Duplicate(job) if job.job_id == first.job_id), "{again:?}");
    }
    let conflict = place.land(&pipeline("first"), Some("k"), body(11).1).await.unwrap_err();
    assert!(matches!(conflict, Error::Jobs(tidemill_jobs::Error::IdempotencyConflict { .. })), "{conflict}");
    assert_eq!((place.files().len(), place.job_count().await), (1, 1));
}

#[tokio::test]
async fn two_uploads_of_one_file_at_once_make_one_job_and_one_object() {
    let place = Place::local().await;
    let pipeline = pipeline("first");
    let uploads = (0..8).map(|_| place.land(&pipeline, None, body(1000).1));
    let landed = futures::future::join_all(uploads).await;
    let new = landed.iter().filter(|landed| matches!(landed, Ok(Landed::New(_)))).count();
    let duplicates = landed.iter().filter(|landed| matches!(landed, Ok(Landed::Duplicate(_)))).count();
    assert_eq!((new, duplicates), (1, 7));
    assert_eq!((place.files().len(), place.job_count().await), (1, 1));
}

#[tokio::test]
async fn an_object_stays_when_nobody_knows_whether_its_job_was_made() {
    let place = Place::local().await;
    place.jobs.close().await;
    let error = place.land(&pipeline("first"), None, body(10).1).await.unwrap_err();
    assert!(matches!(error, Error::Jobs(tidemill_jobs::Error::Database { .. })), "{error}");
    assert_eq!(place.files().len(), 1);
}

/// A folder of its own in the bucket of the S3 server that `tests/servers` starts.
async fn s3() -> (Place, Arc<dyn ObjectStore>) {
    let objects: Arc<dyn ObjectStore> = Arc::new(bucket::folder(format!("landing-test-{}", JobId::new())));
    (Place::with(tempfile::tempdir().unwrap(), objects.clone()).await, objects)
}

#[tokio::test]
async fn files_land_on_an_s3_server_and_broken_ones_leave_no_object() {
    let (place, objects) = s3().await;
    for size_bytes in [0, 1000, 12 * MIB] {
        assert_lands(&place, size_bytes).await;
    }
    let (_, mut chunks) = body(12 * MIB);
    chunks.push(Err("the connection was reset"));
    place.land(&pipeline("accept"), None, chunks).await.unwrap_err();
    let left: Vec<_> =
        objects.list(None).map(|object| object.map(|object| object.location)).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
