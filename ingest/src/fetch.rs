//! Fetching: the pages of an API become objects, and one job over all of them.
//!
//! It promises: a page lands once, however often the run is cut off; the job is made only when every page has
//! landed, in one transaction with the end of the run; a run that cannot be completed fails in words, as a job without
//! objects that has failed. Called by the role `fetcher` and by `tidemill fetch`.

mod body;
mod client;
mod error;
mod hosts;
mod links;
mod metrics;
mod numbered;
mod page;
mod records;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tidemill_jobs::{Job, JobError, JobStore, LandedPage, Page, SlotClaim};
use tidemill_pipelines::{HttpSource, Pipeline, PipelineSet, Slot};
use tidemill_sinks::notice::Allow;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::Landing;
use client::Client;
pub use error::FetchError;
use hosts::Hosts;
pub use metrics::FetchMetrics;
use run::{Run, first_url, job_of};

/// The sender of the jobs that are made here.
pub const SENDER: &str = "fetcher";

/// How often a run is begun before it is given up: what kills its process would do so for ever.
pub(crate) const TAKES_MAX: u32 = 10;

/// What a fetcher is made of.
pub struct FetcherParts<'a> {
    /// Where pages land.
    pub landing: Landing,
    /// Slots and page ledger.
    pub jobs: JobStore,
    /// All pipelines, for the limits of their hosts.
    pub pipelines: &'a PipelineSet,
    /// Networks that may be reached beside the public ones.
    pub allow: Allow,
    /// Secrets by the names that pipelines use.
    pub secrets: BTreeMap<String, SecretString>,
    /// Longest run.
    pub run_limit: Duration,
    /// The instruments.
    pub metrics: FetchMetrics,
}

/// Fetches runs; cheap to clone.
#[derive(Clone)]
pub struct Fetcher(Arc<Inner>);

/// What all runs of a process share.
pub struct Inner {
    landing: Landing,
    jobs: JobStore,
    hosts: Hosts,
    client: Client,
    secrets: BTreeMap<String, SecretString>,
    run_limit: Duration,
    metrics: FetchMetrics,
}

impl std::ops::Deref for Fetcher {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum RunEnd {
    /// Its pages are a job now.
    Job(Box<Job>),
    /// There were no pages, and there may be none.
    Empty,
    /// It failed; its job says why.
    Failed(FetchError),
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pages that are known.
    pub pages: u64,
    /// Pages that landed.
    pub landed: u64,
    /// Bytes of these.
    pub size_bytes: u64,
}

impl Progress {
    fn begin(&mut self, known: &[Page]) {
        self.note(&known.iter().filter_map(|page| page.landed.clone()).collect::<Vec<_>>(), known);
    }

    fn note(&mut self, landed: &[LandedPage], found: &[Page]) {
        self.pages += found.len() as u64;
        self.landed += landed.len() as u64;
        self.size_bytes += landed.iter().map(|page| page.size_bytes).sum::<u64>();
    }
}

impl Fetcher {
    /// Connects to nothing yet.
    pub fn new(parts: FetcherParts<'_>) -> Result<Self, FetchError> {
        Ok(Self(Arc::new(Inner {
            hosts: Hosts::new(parts.pipelines),
            client: Client::new(parts.allow)?,
            landing: parts.landing,
            jobs: parts.jobs,
            secrets: parts.secrets,
            run_limit: parts.run_limit,
            metrics: parts.metrics,
        })))
    }

    /// The name of a pipeline's slots.
    pub fn schedule_name(pipeline: &Pipeline) -> String {
        format!("fetch:{}", pipeline.name)
    }

    /// Whether the settings let this source be fetched at all: its URL may name an address that is not allowed.
    pub fn check_address(&self, source: &HttpSource) -> Result<(), FetchError> {
        self.client.check(&first_url(source, &Slot::sample())?)
    }

    /// Fetches what is due at a slot, or goes on with it. The slot is ended, unless the error says that the fault
    /// lies on this side and passes: then the slot is left to be taken over.
    pub async fn run(
        &self,
        pipeline: &Arc<Pipeline>,
        source: &HttpSource,
        claim: &SlotClaim,
        progress: watch::Sender<Progress>,
    ) -> Result<RunEnd, FetchError> {
        let begin = Instant::now();
        let end = self.attempt(pipeline, source, claim, progress).await?;
        let (pipeline, run_id, slot) = (pipeline.name.as_str(), claim.run_id, claim.slot);
        let outcome = match &end {
            RunEnd::Job(job) => {
                info!(pipeline, %run_id, %slot, pages = job.files_to_process.len(), "fetched");
                "job"
            }
            RunEnd::Empty => {
                info!(pipeline, %run_id, %slot, "fetched nothing");
                "empty"
            }
            RunEnd::Failed(error) => {
                warn!(pipeline, %run_id, %slot, blame = error.blame().as_str(), %error, "failed to fetch");
                "failed"
            }
        };
        self.metrics.run(pipeline, outcome, begin.elapsed());
        Ok(end)
    }

    async fn attempt(
        &self,
        pipeline: &Arc<Pipeline>,
        source: &HttpSource,
        claim: &SlotClaim,
        progress: watch::Sender<Progress>,
    ) -> Result<RunEnd, FetchError> {
        let work = async {
            if claim.attempt > TAKES_MAX {
                return Err(FetchError::GivenUp);
            }
            Run::open(self.clone(), Arc::clone(pipeline), source.clone(), claim.clone(), progress)?
                .work()
                .await
        };
        let limit = self.run_limit;
        let done = tokio::time::timeout(limit, work).await.unwrap_or(Err(FetchError::Overdue { limit }));
        match done {
            Err(error) if !error.leaves_the_run() => {
                let (code, blame) = ("fetch_failed".to_owned(), error.blame());
                let cause = JobError { code, message: error.to_string(), blame };
                match self.jobs.fail_run(claim, job_of(pipeline, claim, &[]), cause).await? {
                    true => Ok(RunEnd::Failed(error)),
                    false => Err(FetchError::Overtaken),
                }
            }
            done => done,
        }
    }
}
