//! The object with all rejects of an attempt: CSV, written while the decoder works, in bounded memory.

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::decode::{Reject, RejectWriter};
use crate::error::{Error, Result};
use crate::intake::TakeReject;

/// Chunks between the decoder and the upload.
const CHUNKS_MAX: usize = 8;
/// Bytes held before the upload becomes a multipart one: S3 wants parts of at least 5 MiB.
const PART_BYTES: usize = 5 << 20;

/// A running upload of rejects. Nothing is uploaded when there are none, and nothing becomes an object unless
/// [`RejectFile::finish`] is called: a try that broke off must not leave half of a file that looks whole.
pub(crate) struct RejectFile {
    upload: AbortOnDropHandle<Result<bool>>,
    complete: oneshot::Sender<()>,
}

impl RejectFile {
    /// Starts the upload, of rejects of one object or of many; rejects go into the closure, which ends the file when it is dropped.
    pub(crate) fn start(objects: Arc<dyn ObjectStore>, key: String, many: bool) -> (Self, TakeReject) {
        let (send, receive) = mpsc::channel(CHUNKS_MAX);
        let (complete, completed) = oneshot::channel();
        let (send_rest, rest) = oneshot::channel();
        let chunks = Chunks { full: receive, rest: Some(rest) };
        let upload = AbortOnDropHandle::new(tokio::spawn(upload(objects, key, chunks, completed)));
        let writer = if many { RejectWriter::of_files() } else { RejectWriter::new() };
        let mut buffer = Buffer { writer, send, rest: Some(send_rest) };
        let take = Box::new(move |reject: &Reject| {
            buffer.writer.write(reject)?;
            match buffer.writer.take_chunk() {
                Some(chunk) => {
                    buffer.send.blocking_send(chunk).map_err(|_| Error::Broken("the upload of rejects"))
                }
                None => Ok(()),
            }
        });
        (Self { upload, complete }, take)
    }

    /// Waits until the object is there; false when there was no reject and so no object.
    pub(crate) async fn finish(self) -> Result<bool> {
        let _ = self.complete.send(()); // fails only when the upload has failed, which is told next
        self.upload.await.map_err(|_| Error::Broken("the upload of rejects"))?
    }
}

struct Buffer {
    writer: RejectWriter,
    send: mpsc::Sender<Bytes>,
    rest: Option<oneshot::Sender<Bytes>>,
}

impl Drop for Buffer {
    /// Never waits: it may be dropped on a thread of the runtime.
    fn drop(&mut self) {
        if self.writer.count() > 0
            && let Some(rest) = self.rest.take()
        {
            // Fails only when the upload has failed, and that error is told by `RejectFile::finish`.
            let _ = rest.send(std::mem::take(&mut self.writer).finish());
        }
    }
}

/// What comes of a buffer: full chunks, then the rest.
struct Chunks {
    full: mpsc::Receiver<Bytes>,
    rest: Option<oneshot::Receiver<Bytes>>,
}

impl Chunks {
    async fn recv(&mut self) -> Option<Bytes> {
        match self.full.recv().await {
            Some(chunk) => Some(chunk),
            None => self.rest.take()?.await.ok(),
        }
    }
}

async fn upload(
    objects: Arc<dyn ObjectStore>,
    key: String,
    mut chunks: Chunks,
    completed: oneshot::Receiver<()>,
) -> Result<bool> {
    let failed = |error: std::io::Error| Error::Objects {
        action: "write",
        key: key.clone(),
        source: object_store::Error::Generic { store: "rejects", source: error.into() },
    };
    let Some(first) = chunks.recv().await else {
        return Ok(false);
    };
    let mut writer = BufWriter::with_capacity(objects, Path::from(key.as_str()), PART_BYTES);
    writer.write_all(&first).await.map_err(failed)?;
    while let Some(chunk) = chunks.recv().await {
        writer.write_all(&chunk).await.map_err(failed)?;
    }
    if completed.await.is_err() {
        let _ = writer.abort().await; // what stays of an upload in parts is for the store's own rule
        return Ok(false);
    }
    writer.shutdown().await.map_err(failed)?;
    Ok(true)
}
