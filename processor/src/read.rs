//! Read: the bytes of a job's objects as one stream.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::{Error, Result};

/// Streams the objects one after the other; at most one is open.
pub(crate) fn read_objects(
    objects: Arc<dyn ObjectStore>,
    keys: Vec<String>,
) -> BoxStream<'static, Result<Bytes>> {
    futures::stream::iter(keys)
        .then(move |key| {
            let objects = Arc::clone(&objects);
            async move {
                let path = Path::parse(&key).map_err(|error| Error::Objects {
                    action: "read",
                    key: key.clone(),
                    source: error.into(),
                })?;
                let failed = move |source| Error::Objects { action: "read", key: key.clone(), source };
                let object = objects.get(&path).await.map_err(&failed)?;
                Ok::<_, Error>(object.into_stream().map_err(failed))
            }
        })
        .try_flatten()
        .boxed()
}
