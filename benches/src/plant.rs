//! A processor in this process, made of the parts of the role: jobs and tables in MySQL, objects in S3 or a folder,
//! events in the embedded log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use tidemill_ingest::{Landing, LandingLimits, Upload};
use tidemill_jobs::{EmbeddedLog, EventLog, Job, JobId, JobStatus, JobStore, Landed, Relay, StoreLimits};
use tidemill_pipelines::{Duplicates, Pipeline, PipelineSet, Source};
use tidemill_processor::{Metrics, ProcessorLimits, ProcessorParts};
use tidemill_sinks::{Sink, SinkLimits};
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{ROOT, variable};

/// Bytes of one piece of a body, as a connection gives them.
const PIECE_BYTES: usize = 64 * 1024;
/// How often an ended job is looked for. Its own times are the measurement.
const LOOK: Duration = Duration::from_millis(20);
/// Longest wait for a job.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// The parts.
pub struct Plant {
    /// The jobs.
    pub jobs: JobStore,
    /// The tables.
    pub sink: Arc<dyn Sink>,
    objects: Arc<dyn ObjectStore>,
    pipelines: Arc<PipelineSet>,
    folder: PathBuf,
}

impl Plant {
    /// Opens the parts on a database; the folder holds the events and, without an S3 server, the objects.
    pub async fn open(database_url: &str, folder: &Path) -> Result<Self> {
        let jobs = JobStore::connect(database_url, StoreLimits::default()).await?;
        jobs.migrate().await?;
        let sink = tidemill_sinks::connect(database_url, SinkLimits::default()).await?;
        sink.migrate().await?;
        Ok(Self {
            jobs,
            sink,
            objects: objects(folder)?,
            pipelines: Arc::new(pipelines()?),
            folder: folder.to_owned(),
        })
    }

    /// A pipeline of the shipped ones.
    pub fn pipeline(&self, name: &str) -> Result<&Pipeline> {
        let name = name.parse().map_err(|_| anyhow!("`{name}` is no name"))?;
        self.pipelines.get(&name).context("no such pipeline")
    }

    /// Starts the processor and the relay.
    pub async fn start(&self) -> Result<Running> {
        let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(&self.folder.join("events.db"), 1).await?);
        log.create_topics().await?;
        let shutdown = CancellationToken::new();
        let relay = Relay::new(self.jobs.clone(), Arc::clone(&log)).run(shutdown.clone());
        let parts = ProcessorParts {
            pipelines: Arc::clone(&self.pipelines),
            jobs: self.jobs.clone(),
            log,
            objects: Arc::clone(&self.objects),
            sink: Arc::clone(&self.sink),
            limits: ProcessorLimits::default(),
            metrics: Metrics::new(&prometheus::Registry::new())?,
            worker: "bench".to_owned(),
        };
        let processor = tidemill_processor::serve(parts, shutdown.clone());
        Ok(Running { shutdown, relay: tokio::spawn(relay), processor: tokio::spawn(processor) })
    }

    /// Lands a file for a pipeline, as a new job also when it landed before.
    pub async fn land(&self, pipeline: &str, file: &Path) -> Result<JobId> {
        let mut pipeline = self.pipeline(pipeline)?.clone();
        if let Source::Upload(source) = &mut pipeline.source {
            source.duplicates = Duplicates::Accept;
        }
        let landing = Landing::new(Arc::clone(&self.objects), self.jobs.clone(), LandingLimits::default());
        let upload = Upload { sender: "bench".to_owned(), ..Upload::default() };
        let file = tokio::fs::File::open(file).await?;
        let body = futures::stream::try_unfold(file, |mut file| async move {
            let mut piece = vec![0; PIECE_BYTES];
            let length = file.read(&mut piece).await?;
            piece.truncate(length);
            Ok::<_, std::io::Error>((length > 0).then(|| (Bytes::from(piece), file)))
        });
        match landing.land(&pipeline, upload, body).await? {
            Landed::New(job) => Ok(job.job_id),
            Landed::Duplicate(job) => Err(anyhow!("landed before as job {}", job.job_id)),
        }
    }

    /// Waits until a job has ended well.
    pub async fn ended(&self, id: JobId) -> Result<Job> {
        let look = async {
            loop {
                match self.jobs.get(id).await? {
                    Some(job) if job.status.has_ended() => return Ok(job),
                    Some(_) => tokio::time::sleep(LOOK).await,
                    None => return Err(anyhow!("job {id} is lost")),
                }
            }
        };
        let job: Job = tokio::time::timeout(WAIT_MAX, look).await.context("the job did not end")??;
        ensure!(job.status == JobStatus::Success, "job {id} failed: {:?}", job.error);
        Ok(job)
    }

    /// Deletes the objects of a job, so that the store does not grow with the rounds.
    pub async fn forget(&self, job: &Job) -> Result<()> {
        let report = job.report_file_path.iter();
        for key in job.files_to_process.iter().chain(report) {
            self.objects.delete(&key.as_str().into()).await?;
        }
        Ok(())
    }
}

/// A running processor.
pub struct Running {
    shutdown: CancellationToken,
    relay: JoinHandle<()>,
    processor: JoinHandle<tidemill_processor::Result<()>>,
}

impl Running {
    /// Stops it and waits until it has stopped.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.processor.await??;
        Ok(self.relay.await?)
    }
}

fn pipelines() -> Result<PipelineSet> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(Path::new(ROOT).join("pipelines"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "yaml") {
            files.push((path.display().to_string(), std::fs::read_to_string(&path)?));
        }
    }
    PipelineSet::from_files(files).map_err(|problems| anyhow!("wrong pipelines: {problems:?}"))
}

/// The S3 server of the environment, a prefix of this run's own in it; else a folder.
fn objects(folder: &Path) -> Result<Arc<dyn ObjectStore>> {
    let Ok(url) = std::env::var("TIDEMILL_TEST_S3_URL") else {
        let folder = folder.join("objects");
        std::fs::create_dir_all(&folder)?;
        return Ok(Arc::new(LocalFileSystem::new_with_prefix(folder)?));
    };
    let store = AmazonS3Builder::new()
        .with_endpoint(url)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(variable("TIDEMILL_TEST_S3_BUCKET")?)
        .with_access_key_id(variable("TIDEMILL_TEST_S3_KEY")?)
        .with_secret_access_key(variable("TIDEMILL_TEST_S3_SECRET")?)
        .build()?;
    let prefix = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Arc::new(PrefixStore::new(store, prefix.unwrap_or_default())))
}
