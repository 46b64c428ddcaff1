//! Read: the bytes of a job's objects, one object after the other, each told before its bytes.

use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tidemill_jobs::{Fingerprint, Job};

use crate::error::{Error, Result};
use crate::refuse::FileOf;

/// A piece of what a job reads.
pub(crate) enum Piece {
    /// An object begins.
    Object(FileOf),
    /// Bytes of it.
    Bytes(Bytes),
}

/// The objects of a job; at most one is open. Pushed objects that are not those of the job end in an error before their
/// last one, or the one that makes them too large, is read.
pub(crate) fn read_objects(objects: Arc<dyn ObjectStore>, job: &Job) -> BoxStream<'static, Result<Piece>> {
    let many = job.files_to_process.len() > 1;
    let file_name = job.file_name.clone().filter(|_| !many);
    let seen = job.is_of_pushed().then(|| Arc::new(Mutex::new(Seen::new(job))));
    let pieces = move |key: String| {
        // The sender's name for the file says more than the key that it landed under.
        let name = file_name.as_deref().unwrap_or(&key).into();
        let file = FileOf { name, key: Some(Arc::from(key.as_str())), is_one_of_many: many };
        let seen = seen.clone();
        let check = move |key: &str, meta: &ObjectMeta| {
            let Some(seen) = seen else { return Ok(()) };
            seen.lock().unwrap_or_else(PoisonError::into_inner).check(key, meta)
        };
        one(file, open(Arc::clone(&objects), key, check))
    };
    futures::stream::iter(job.files_to_process.clone()).flat_map(pieces).boxed()
}

/// What was seen of pushed objects, against what the job was posted with.
struct Seen {
    print: Fingerprint,
    /// Objects and bytes that may still come.
    objects: usize,
    size_bytes: u64,
    expected: String,
}

impl Seen {
    fn new(job: &Job) -> Self {
        Self {
            print: Fingerprint::default(),
            objects: job.files_to_process.len(),
            size_bytes: job.size_bytes,
            expected: job.content_sha256.clone(),
        }
    }

    fn check(&mut self, key: &str, meta: &ObjectMeta) -> Result<()> {
        self.print.add(key, meta.size, meta.e_tag.as_deref());
        self.size_bytes = self.size_bytes.checked_sub(meta.size).ok_or(Error::ObjectChanged)?;
        self.objects = self.objects.saturating_sub(1);
        let same = self.objects > 0 || self.print.clone().finish() == self.expected;
        if same { Ok(()) } else { Err(Error::ObjectChanged) }
    }
}

/// The bytes of all objects of a job.
pub(crate) fn read_bytes(objects: Arc<dyn ObjectStore>, job: &Job) -> BoxStream<'static, Result<Bytes>> {
    let bytes = |piece| {
        ready(Ok(match piece {
            Piece::Object(_) => None,
            Piece::Bytes(bytes) => Some(bytes),
        }))
    };
    read_objects(objects, job).try_filter_map(bytes).boxed()
}

/// One file, after what it is called.
pub(crate) fn one(
    file: FileOf,
    bytes: BoxStream<'static, Result<Bytes>>,
) -> BoxStream<'static, Result<Piece>> {
    let begin = futures::stream::once(async { Ok(Piece::Object(file)) });
    begin.chain(bytes.map_ok(Piece::Bytes)).boxed()
}

/// The bytes of an object.
pub(crate) fn read_object(objects: Arc<dyn ObjectStore>, key: String) -> BoxStream<'static, Result<Bytes>> {
    open(objects, key, |_, _| Ok(()))
}

fn open(
    objects: Arc<dyn ObjectStore>,
    key: String,
    check: impl FnOnce(&str, &ObjectMeta) -> Result<()> + Send + 'static,
) -> BoxStream<'static, Result<Bytes>> {
    let open = async move {
        let path = Path::parse(&key).map_err(|error| Error::Objects {
            action: "read",
            key: key.clone(),
            source: error.into(),
        })?;
        let told = key.clone();
        let failed = move |source| Error::Objects { action: "read", key: told.clone(), source };
        let object = objects.get(&path).await.map_err(&failed)?;
        check(&key, &object.meta)?;
        Ok::<_, Error>(object.into_stream().map_err(failed))
    };
    futures::stream::once(open).try_flatten().boxed()
}
