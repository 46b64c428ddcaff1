//! Stores that cannot copy: each object only up to a size, one that is gone when it is copied, none for a while.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use prometheus::Registry;
use tidemill_jobs::JobStatus;

use crate::{Place, sales, whole};

const MIB: usize = 1024 * 1024;

/// What the store does when it is asked to copy.
#[derive(Debug)]
enum Fault {
    /// It refuses objects that are larger, as S3 does from 5 GiB on.
    LargerThan(usize),
    /// Somebody deletes what has this in its key right before.
    Deleted(String),
    /// It refuses what has this in its key, while the flag stands.
    Refused(String, AtomicBool),
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        let refused = |why: &str| Err(Error::Generic { store: "faulty", source: why.into() });
        let size = self.inner.head(from).await?.size;
        match &self.fault {
            Fault::LargerThan(most) if size > *most as u64 => {
                return refused("the copy source is larger than the maximum allowable size");
            }
            Fault::Deleted(part) if from.as_ref().contains(part) => self.inner.delete(from).await?,
            Fault::Refused(part, on) if from.as_ref().contains(part) && on.load(Ordering::SeqCst) => {
                return refused("access denied");
            }
            _ => {}
        }
        self.inner.copy_opts(from, to, options).await
    }

    async fn put_opts(&self, at: &Key, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Key,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Key, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, options).await
    }

    async fn get_ranges(&self, at: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(at, ranges).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Key>, offset: &Key) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn rename_opts(&self, from: &Key, to: &Key, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

impl Faulty {
    fn over(place: &Place, fault: Fault) -> (Arc<Self>, Arc<dyn ObjectStore>) {
        let store = Arc::new(Self { inner: place.objects.clone(), fault });
        (Arc::clone(&store), store)
    }
}

async fn what_is_too_large_for_one_copy_goes_by_parts(place: Place) {
    let job = place.succeeded().await;
    let film: Vec<u8> = (0..13 * MIB).map(|at| (at / 7 + at % 251) as u8).collect();
    let key = format!("jobs/{}/1/files/film.mp4", job.job_id);
    place.objects.put(&Key::from(key), film.clone().into()).await.unwrap();
    let (_, objects) = Faulty::over(&place, Fault::LargerThan(6 * MIB));
    let collector = place.collector_of(&objects, &Registry::new()).copying_whole(6 * MIB as u64);
    let collected = collector.collect(&sales(), Utc::now() + TimeDelta::seconds(1)).await.unwrap().unwrap();
    assert_eq!((collected.jobs, collected.missing), (1, 0));
    let copy = Key::from(format!("{}/{}/film.mp4", collected.folder, job.job_id));
    let copied = place.objects.get(&copy).await.unwrap().bytes().await.unwrap();
    assert!(copied == film, "{} bytes came out otherwise", copied.len());
    assert_eq!(place.job(job.job_id).await.status, JobStatus::Downloaded);
}

#[tokio::test]
async fn what_is_too_large_for_one_copy_goes_by_parts_in_a_folder() {
    what_is_too_large_for_one_copy_goes_by_parts(Place::local().await).await;
}

#[tokio::test]
async fn what_is_too_large_for_one_copy_goes_by_parts_on_s3() {
    what_is_too_large_for_one_copy_goes_by_parts(Place::on_s3().await).await;
}

async fn what_is_gone_when_it_is_copied_is_told_and_stops_nobody(place: Place) {
    let (gone, there) = (place.succeeded().await, place.succeeded().await);
    let part = format!("{}/1/files/report.csv", gone.job_id);
    let (_, objects) = Faulty::over(&place, Fault::Deleted(part));
    let registry = Registry::new();
    let collector = place.collector_of(&objects, &registry);
    let collected = collector.collect(&sales(), Utc::now() + TimeDelta::seconds(1)).await.unwrap().unwrap();
    assert_eq!((collected.jobs, collected.missing), (2, 1));
    let manifest = place.manifest(&collected.folder).await;
    let told = |job: &tidemill_jobs::Job, name: &str| serde_json::json!([format!("{}/{name}", job.job_id)]);
    assert_eq!(manifest["jobs"][0]["missing"], told(&gone, "report.csv"));
    assert_eq!(manifest["jobs"][0]["files"], told(&gone, "report.json"));
    assert_eq!(
        (&manifest["jobs"][1]["missing"], manifest["jobs"][1]["files"].as_array().unwrap().len()),
        (&serde_json::json!([]), 2)
    );
    for job in [&gone, &there] {
        assert_eq!(place.job(job.job_id).await.status, JobStatus::Downloaded);
    }
    let metrics = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let line = "tidemill_collected_files_total{outcome=\"missing\",pipeline=\"sales\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    place.succeeded().await;
    let next = collector.collect(&sales(), Utc::now() + TimeDelta::hours(1)).await.unwrap().unwrap();
    assert_eq!((next.jobs, next.missing), (1, 0));
}

#[tokio::test]
async fn what_is_gone_when_it_is_copied_is_told_and_stops_nobody_in_a_folder() {
    what_is_gone_when_it_is_copied_is_told_and_stops_nobody(Place::local().await).await;
}

#[tokio::test]
async fn what_is_gone_when_it_is_copied_is_told_and_stops_nobody_on_s3() {
    what_is_gone_when_it_is_copied_is_told_and_stops_nobody(Place::on_s3().await).await;
}

#[tokio::test]
async fn a_collection_that_cannot_be_copied_holds_up_no_other_and_is_tried_again() {
    let place = Place::local().await;
    let (refused, other) = (place.succeeded_in("sales").await, place.succeeded_in("stock").await);
    let fault = Fault::Refused(refused.job_id.to_string(), AtomicBool::new(true));
    let (store, objects) = Faulty::over(&place, fault);
    let registry = Registry::new();
    let collector = place.collector_of(&objects, &registry);
    let now = Utc::now() + TimeDelta::days(1);
    let all = collector.collect_due(now).await;
    assert_eq!(all.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true], "{all:?}");
    assert_eq!(place.job(other.job_id).await.status, JobStatus::Downloaded);
    assert_eq!(place.job(refused.job_id).await.status, JobStatus::Success);
    // Later ones of the same pipeline do not wait for it either.
    let later = place.succeeded_in("sales").await;
    let collected = collector.collect(&sales(), now + TimeDelta::hours(3)).await.unwrap().unwrap();
    assert_eq!((collected.jobs, place.job(later.job_id).await.status), (1, JobStatus::Downloaded));
    let Fault::Refused(_, on) = &store.fault else { panic!() };
    on.store(false, Ordering::SeqCst);
    let taken_up = collector.take_up(Utc::now() + TimeDelta::seconds(31)).await;
    let [Ok(done)] = &taken_up[..] else { panic!("{taken_up:?}") };
    assert_eq!(place.keys(&done.folder).await, whole(&done.folder, &[&refused]));
    assert_eq!(place.job(refused.job_id).await.status, JobStatus::Downloaded);
    let metrics = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let line = "tidemill_collections_total{outcome=\"failed\",pipeline=\"sales\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}
