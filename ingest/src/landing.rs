//! Landing: bytes stream to the object store, then one transaction writes the job and its outbox row.
//!
//! It promises: no job without its whole object; SHA-256 and size are of the bytes that were stored; never
//! more than `parts_in_flight + 1` parts in memory. An object without a job can stay behind only when this
//! process or the database dies in between: [`crate::sweep_orphans`] finds it. Called by the gateway.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};
use tidemill_jobs::{JobId, JobStore, Landed, NewJob, failpoint};
use tidemill_pipelines::Pipeline;
use tokio::task::JoinSet;

use crate::{Error, ObjectKey, Result, upload_source};

/// Smallest part of a multipart upload that S3 takes, except for the last.
const PART_BYTES_MIN: usize = 5 * 1024 * 1024;

/// S3 takes 10,000 parts; a little below, so that the largest file allowed always fits.
const PARTS_MAX: u64 = 9_900;

/// Bounds on the memory of one landing.
#[derive(Debug, Clone, Copy)]
pub struct LandingLimits {
    /// Bytes of one part; default and least 5 MiB, more when the pipeline's largest file needs it.
    pub part_bytes: usize,
    /// Parts on their way to the store at once; default 2: the next is filled while two are written.
    pub parts_in_flight: usize,
}

impl Default for LandingLimits {
    fn default() -> Self {
        Self { part_bytes: PART_BYTES_MIN, parts_in_flight: 2 }
    }
}

/// What is known of an upload before its bytes.
#[derive(Debug, Clone, Default)]
pub struct Upload {
    /// The user who sends it.
    pub sender: String,
    /// The sender's name for the file.
    pub file_name: Option<String>,
    /// The `Idempotency-Key` of the request.
    pub idempotency_key: Option<String>,
    /// The values of the pipeline's parameters.
    pub parameters: BTreeMap<String, serde_json::Value>,
}

/// Makes objects and their jobs; the only place that does.
#[derive(Clone)]
pub struct Landing {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) jobs: JobStore,
    limits: LandingLimits,
}

impl Landing {
    /// Lands in this object store and this job store.
    pub fn new(objects: Arc<dyn ObjectStore>, jobs: JobStore, limits: LandingLimits) -> Self {
        Self { objects, jobs, limits }
    }

    /// Stores the body and makes its job, or answers with the job of the same upload that came before.
    /// On an error nothing is left: no job, and no object but one that the sweeper will find.
    pub async fn land<S, E>(&self, pipeline: &Pipeline, upload: Upload, body: S) -> Result<Landed>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Display + Send,
    {
        let source = upload_source(pipeline)?;
        let job_id = JobId::new();
        let key = ObjectKey::landing(&pipeline.name, job_id, upload.file_name.as_deref());
        let stored = self.store(&key, source.max_size_bytes, body).await?;
        let job = NewJob {
            job_id,
            pipeline: pipeline.name.clone(),
            files: vec![key.as_str().to_owned()],
            file_name: upload.file_name,
            size_bytes: stored.size_bytes,
            content_sha256: stored.sha256,
            parameters: upload.parameters,
            pushed: Vec::new(),
            takes_turns: pipeline.takes_turns(false),
            last_wins: pipeline.last_wins(),
            sender: upload.sender,
            idempotency_key: upload.idempotency_key,
            duplicates: source.duplicates,
        };
        self.register(&key, job).await
    }

    /// Stores a body as an object, whole or not at all.
    pub(crate) async fn store<S, E>(&self, key: &ObjectKey, limit_bytes: u64, body: S) -> Result<Stored>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Display + Send,
    {
        let mut writer = ObjectWriter::new(&*self.objects, key, self.limits, limit_bytes);
        match copy(&mut writer, limit_bytes, body).await {
            Ok(stored) => Ok(stored),
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    async fn register(&self, key: &ObjectKey, job: NewJob) -> Result<Landed> {
        let job_id = job.job_id;
        failpoint!("landing::object");
        let landed = self.jobs.land(job).await;
        failpoint!("landing::commit");
        match landed {
            Ok(Landed::New(job)) => Ok(Landed::New(job)),
            Ok(Landed::Duplicate(job)) => {
                self.delete(key).await;
                Ok(Landed::Duplicate(job))
            }
            Err(error @ tidemill_jobs::Error::Database { .. }) => self.settle(job_id, error).await,
            Err(error) => {
                self.delete(key).await;
                Err(error.into())
            }
        }
    }

    /// The answer to COMMIT may be lost while the commit stands, so the object is not deleted here:
    /// either its job is found, or the sweeper takes the object once no commit can be under way.
    pub(crate) async fn settle(&self, job_id: JobId, error: tidemill_jobs::Error) -> Result<Landed> {
        match self.jobs.get(job_id).await {
            Ok(Some(job)) => Ok(Landed::New(job)),
            _ => Err(error.into()),
        }
    }

    async fn delete(&self, key: &ObjectKey) {
        if let Err(error) = self.objects.delete(&key.path()).await {
            tracing::warn!(%key, %error, "failed to delete an object without a job; the sweeper will");
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes.
    pub size_bytes: u64,
    /// SHA-256 of them, 64 hex digits.
    pub sha256: String,
}

async fn copy<S, E>(writer: &mut ObjectWriter<'_>, limit_bytes: u64, body: S) -> Result<Stored>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Display + Send,
{
    let mut body = pin!(body);
    let mut size_bytes = 0_u64;
    let mut hash = Sha256::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk
            .map_err(|error| Error::BrokenOff { received_bytes: size_bytes, message: error.to_string() })?;
        size_bytes += chunk.len() as u64;
        if size_bytes > limit_bytes {
            return Err(Error::TooLarge { limit_bytes });
        }
        hash.update(&chunk);
        writer.write(chunk).await?;
    }
    writer.finish().await?;
    Ok(Stored { size_bytes, sha256: hex::encode(hash.finalize()) })
}

/// One put for a body below a part, else a multipart upload with a bounded number of parts under way.
struct ObjectWriter<'a> {
    objects: &'a dyn ObjectStore,
    key: &'a ObjectKey,
    part_bytes: usize,
    parts_in_flight: usize,
    buffer: BytesMut,
    multipart: Option<Multipart>,
}

struct Multipart {
    upload: Box<dyn MultipartUpload>,
    running: JoinSet<object_store::Result<()>>,
}

impl<'a> ObjectWriter<'a> {
    fn new(
        objects: &'a dyn ObjectStore,
        key: &'a ObjectKey,
        limits: LandingLimits,
        limit_bytes: u64,
    ) -> Self {
        let least = usize::try_from(limit_bytes.div_ceil(PARTS_MAX)).unwrap_or(usize::MAX);
        Self {
            objects,
            key,
            part_bytes: limits.part_bytes.max(PART_BYTES_MIN).max(least),
            parts_in_flight: limits.parts_in_flight.max(1),
            buffer: BytesMut::new(),
            multipart: None,
        }
    }

    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            let room = self.part_bytes - self.buffer.len();
            let taken = chunk.split_to(room.min(chunk.len()));
            self.buffer.extend_from_slice(&taken);
            if self.buffer.len() == self.part_bytes {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<()> {
        let part = PutPayload::from(self.buffer.split().freeze());
        let key = self.key;
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => {
                let upload = self.objects.put_multipart(&key.path()).await;
                let upload = upload.map_err(|source| failed("write", key, source))?;
                none.insert(Multipart { upload, running: JoinSet::new() })
            }
        };
        while multipart.running.len() >= self.parts_in_flight {
            part_written(key, multipart.running.join_next().await)?;
        }
        multipart.running.spawn(multipart.upload.put_part(part));
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        if self.multipart.is_none() {
            let payload = PutPayload::from(self.buffer.split().freeze());
            let put = self.objects.put(&self.key.path(), payload).await;
            return put.map(drop).map_err(|source| failed("write", self.key, source));
        }
        if !self.buffer.is_empty() {
            self.send_part().await?;
        }
        let Some(multipart) = &mut self.multipart else {
            return Ok(());
        };
        while let Some(joined) = multipart.running.join_next().await {
            part_written(self.key, Some(joined))?;
        }
        let completed = multipart.upload.complete().await;
        completed.map(drop).map_err(|source| failed("write", self.key, source))
    }

    /// Takes back the parts that were written. What cannot be taken back is for the store's own rule
    /// on incomplete uploads.
    async fn abort(&mut self) {
        let Some(mut multipart) = self.multipart.take() else {
            return;
        };
        multipart.running.shutdown().await;
        if let Err(error) = multipart.upload.abort().await {
            tracing::warn!(key = %self.key, %error, "failed to abort a multipart upload");
        }
    }
}

type PartJoined = Option<std::result::Result<object_store::Result<()>, tokio::task::JoinError>>;

fn part_written(key: &ObjectKey, joined: PartJoined) -> Result<()> {
    match joined {
        Some(Ok(written)) => written.map_err(|source| failed("write", key, source)),
        Some(Err(error)) => {
            let source = object_store::Error::Generic { store: "multipart", source: Box::new(error) };
            Err(failed("write", key, source))
        }
        None => Ok(()),
    }
}

pub(crate) fn failed(action: &'static str, key: &impl Display, source: object_store::Error) -> Error {
    Error::Objects { action, key: key.to_string(), source }
}
