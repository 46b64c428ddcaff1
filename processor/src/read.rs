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

/// A piece of what a job reads.
pub(crate) enum Piece {
    /// An object begins; it has a name only where the job has several.
    Object(Option<Arc<str>>),
    /// Bytes of it.
    Bytes(Bytes),
}

/// The objects of a job; at most one is open. Bytes of pushed objects that are not those of the job end in an error.
pub(crate) fn read_objects(objects: Arc<dyn ObjectStore>, job: &Job) -> BoxStream<'static, Result<Piece>> {
    let many = job.files_to_process.len() > 1;
    let seen = Arc::new(Mutex::new(Fingerprint::default()));
    let expected = job.is_of_pushed().then(|| job.content_sha256.clone());
    let all_seen = Arc::clone(&seen);
    let pieces = move |key: String| {
        let name = many.then(|| Arc::from(key.as_str()));
        let seen = Arc::clone(&seen);
        let see = move |key: &str, meta: &ObjectMeta| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.add(key, meta.size, meta.e_tag.as_deref());
        };
        one(name, open(Arc::clone(&objects), key, see))
    };
    let check = async move {
        let found = all_seen.lock().unwrap_or_else(PoisonError::into_inner).clone().finish();
        expected.filter(|expected| *expected != found).map(|_| Err(Error::ObjectChanged))
    };
    let pieces = futures::stream::iter(job.files_to_process.clone()).flat_map(pieces);
    pieces.chain(futures::stream::once(check).filter_map(ready)).boxed()
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

/// One file, after its name.
pub(crate) fn one(
    name: Option<Arc<str>>,
    bytes: BoxStream<'static, Result<Bytes>>,
) -> BoxStream<'static, Result<Piece>> {
    let begin = futures::stream::once(async { Ok(Piece::Object(name)) });
    begin.chain(bytes.map_ok(Piece::Bytes)).boxed()
}

/// The bytes of an object.
pub(crate) fn read_object(objects: Arc<dyn ObjectStore>, key: String) -> BoxStream<'static, Result<Bytes>> {
    open(objects, key, |_, _| ())
}

fn open(
    objects: Arc<dyn ObjectStore>,
    key: String,
    see: impl FnOnce(&str, &ObjectMeta) + Send + 'static,
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
        see(&key, &object.meta);
        Ok::<_, Error>(object.into_stream().map_err(failed))
    };
    futures::stream::once(open).try_flatten().boxed()
}
