//! Read: the bytes of a job's objects, one object after the other, each told before its bytes.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::{Error, Result};

/// A piece of what a job reads.
pub(crate) enum Piece {
    /// An object begins; it has a name only where the job has several.
    Object(Option<Arc<str>>),
    /// Bytes of it.
    Bytes(Bytes),
}

/// The objects of a job; at most one is open.
pub(crate) fn read_objects(
    objects: Arc<dyn ObjectStore>,
    keys: Vec<String>,
) -> BoxStream<'static, Result<Piece>> {
    let many = keys.len() > 1;
    let pieces = move |key: String| {
        let name = many.then(|| Arc::from(key.as_str()));
        one(name, read_object(Arc::clone(&objects), key))
    };
    futures::stream::iter(keys).flat_map(pieces).boxed()
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
    let open = async move {
        let path = Path::parse(&key).map_err(|error| Error::Objects {
            action: "read",
            key: key.clone(),
            source: error.into(),
        })?;
        let failed = move |source| Error::Objects { action: "read", key: key.clone(), source };
        let object = objects.get(&path).await.map_err(&failed)?;
        Ok::<_, Error>(object.into_stream().map_err(failed))
    };
    futures::stream::once(open).try_flatten().boxed()
}
