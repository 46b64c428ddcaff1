//! Artifacts: files that an attempt makes for people, objects at `jobs/{job}/{attempt}/files/{name}`.
//!
//! They are kept by attempt, beside its report, so that an attempt which was overtaken cannot overwrite what
//! the job shows. One becomes an object only when [`ArtifactWriter::finish`] is called.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidemill_jobs::JobId;
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};

/// Bytes held before an upload becomes a multipart one: S3 wants parts of at least 5 MiB.
const PART_BYTES: usize = 5 << 20;

/// A file that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its name below `/v1/jobs/{id}/files/`.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of its bytes, 64 hex digits.
    pub content_sha256: String,
}

/// The names alone, as the job shows them.
pub(crate) fn names(artifacts: &[Artifact]) -> Vec<String> {
    artifacts.iter().map(|artifact| artifact.name.clone()).collect()
}

/// Key of an artifact.
pub(crate) fn artifact_key(job: JobId, attempt: u32, name: &str) -> String {
    format!("jobs/{job}/{attempt}/files/{name}")
}

/// A running upload of an artifact, in bounded memory.
pub(crate) struct ArtifactWriter {
    key: String,
    name: String,
    writer: BufWriter,
    hash: Sha256,
    size_bytes: u64,
}

impl ArtifactWriter {
    /// Starts the upload.
    pub(crate) fn start(objects: Arc<dyn ObjectStore>, job: JobId, attempt: u32, name: &str) -> Self {
        let key = artifact_key(job, attempt, name);
        let writer = BufWriter::with_capacity(objects, Path::from(key.as_str()), PART_BYTES);
        Self { key, name: name.to_owned(), writer, hash: Sha256::new(), size_bytes: 0 }
    }

    /// Appends bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.size_bytes += bytes.len() as u64;
        self.writer.write_all(bytes).await.map_err(|error| failed(&self.key, error))
    }

    /// Makes the object.
    pub(crate) async fn finish(mut self) -> Result<Artifact> {
        self.writer.shutdown().await.map_err(|error| failed(&self.key, error))?;
        let content_sha256 = hex::encode(self.hash.finalize());
        Ok(Artifact { name: self.name, size_bytes: self.size_bytes, content_sha256 })
    }

    /// Gives it up; what stays of an upload in parts is for the store's own rule.
    pub(crate) async fn abort(mut self) {
        let _ = self.writer.abort().await;
    }
}

fn failed(key: &str, error: std::io::Error) -> Error {
    let source = object_store::Error::Generic { store: "artifacts", source: error.into() };
    Error::Objects { action: "write", key: key.to_owned(), source }
}
