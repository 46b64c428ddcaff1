//! What a fetch needs: a job store, a folder of objects, a pipeline, a claimed slot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;
use tidemill_ingest::{
    FetchError, FetchMetrics, Fetcher, FetcherParts, Landing, LandingLimits, Progress, RunEnd,
};
use tidemill_jobs::{Job, JobStatus, JobStore, SlotAnswer, SlotClaim, StoreLimits};
use tidemill_pipelines::{Pipeline, PipelineSet, Source};
use tidemill_sinks::notice::Allow;
use tokio::sync::watch;

pub struct Place {
    pub jobs: JobStore,
    pub objects: Arc<dyn ObjectStore>,
    pub allow: Vec<&'static str>,
    _folder: TempDir,
}

impl Place {
    /// This machine may be asked.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
        let jobs = JobStore::connect(&url, StoreLimits::default()).await.unwrap();
        jobs.migrate().await.unwrap();
        let store = folder.path().join("objects");
        std::fs::create_dir(&store).unwrap();
        let objects = Arc::new(LocalFileSystem::new_with_prefix(store).unwrap());
        Self { jobs, objects, allow: vec!["127.0.0.0/8", "::1/128"], _folder: folder }
    }

    pub fn fetcher(&self, pipelines: &[&Pipeline]) -> Fetcher {
        let file = |pipeline: &&Pipeline| (format!("{}.yaml", pipeline.name), pipeline.text.clone());
        let secrets = [("token", "s3cret"), ("other", "0ther")];
        Fetcher::new(FetcherParts {
            landing: Landing::new(Arc::clone(&self.objects), self.jobs.clone(), LandingLimits::default()),
            jobs: self.jobs.clone(),
            pipelines: &PipelineSet::from_files(pipelines.iter().map(file).collect()).unwrap(),
            allow: Allow { cidrs: self.allow.iter().map(|block| block.parse().unwrap()).collect() },
            secrets: secrets
                .map(|(name, secret)| (name.to_owned(), secret.into()))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            run_limit: Duration::from_secs(120),
            metrics: FetchMetrics::new(&prometheus::Registry::new()).unwrap(),
        })
        .unwrap()
    }

    pub async fn claim(&self) -> SlotClaim {
        let lease = Duration::from_secs(60);
        match self.jobs.claim_slot("fetch:readings", slot(), "test", lease, true).await.unwrap() {
            SlotAnswer::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    /// One run from its begin to its end.
    pub async fn fetch(&self, pipeline: &Arc<Pipeline>) -> RunEnd {
        let claim = self.claim().await;
        self.run(pipeline, &claim, watch::Sender::new(Progress::default())).await.unwrap()
    }

    pub async fn run(
        &self,
        pipeline: &Arc<Pipeline>,
        claim: &SlotClaim,
        progress: watch::Sender<Progress>,
    ) -> Result<RunEnd, FetchError> {
        let Source::Http(source) = &pipeline.source else { panic!() };
        self.fetcher(&[pipeline]).run(pipeline, source, claim, progress).await
    }

    /// A run that ends with a job.
    pub async fn job(&self, pipeline: &Arc<Pipeline>) -> Job {
        match self.fetch(pipeline).await {
            RunEnd::Job(job) => *job,
            other => panic!("{other:?}"),
        }
    }

    /// The words of a run that fails. The slot says the same, and a job that has failed.
    pub async fn failure(&self, pipeline: &Arc<Pipeline>) -> String {
        let claim = self.claim().await;
        let end = self.run(pipeline, &claim, watch::Sender::new(Progress::default())).await.unwrap();
        let RunEnd::Failed(error) = end else { panic!("{end:?}") };
        let asked =
            self.jobs.claim_slot("fetch:readings", slot(), "test", Duration::ZERO, false).await.unwrap();
        assert_eq!(asked, SlotAnswer::Failed(error.to_string()));
        let job = self.jobs.get(claim.run_id).await.unwrap().unwrap();
        assert_eq!((job.status, job.files_to_process.len()), (JobStatus::Failed, 0));
        assert_eq!(job.error.unwrap().message, error.to_string());
        error.to_string()
    }

    /// The objects of a job, one after the other.
    pub async fn contents(&self, job: &Job) -> Vec<String> {
        let mut texts = Vec::new();
        for key in &job.files_to_process {
            let object = self.objects.get(&key.as_str().into()).await.unwrap();
            texts.push(String::from_utf8(object.bytes().await.unwrap().to_vec()).unwrap());
        }
        texts
    }
}

pub fn slot() -> DateTime<Utc> {
    "2026-11-21T10:15:00Z".parse().unwrap()
}

/// A pipeline with this source; `BASE` is where the API is.
pub fn pipeline(base: &str, source: &str) -> Arc<Pipeline> {
    let text = format!(
        "pipeline: readings\nsource:\n  http: {source}\ncolumns: [{{ name: id, type: int64 }}]\n\
         sinks: [{{ table: {{ name: readings, mode: upsert, key: [id] }} }}]\n"
    );
    let text = text.replace("BASE", base);
    Arc::new(Pipeline::parse("readings.yaml", &text).unwrap_or_else(|problems| panic!("{problems:?}")))
}
