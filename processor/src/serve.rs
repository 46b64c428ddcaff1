//! The processor role: takes `landed` events from the log and works on a bounded number of jobs at once.
//!
//! An event is acked once its job is done with; a processor that dies leaves its events unacked and its jobs
//! to the sweeper. When asked to stop it claims nothing new, lets jobs finish within the grace period, and
//! hands the others back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use object_store::ObjectStore;
use tidemill_jobs::{EventLog, JobStore, Record, Settler, Subscription, Topic};
use tidemill_pipelines::{Pipeline, PipelineName, PipelineSet, Retry};
use tidemill_sinks::Sink;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attempt::attempt;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::ledger::SinkLedger;
use crate::limits::{ProcessorLimits, RETRY_PAUSE};
use crate::metrics::Metrics;
use crate::plan::tables_read;

/// The consumer group of all processors.
pub const GROUP: &str = "processor";

/// Events held beyond those worked on: their jobs wait for a slot, or for earlier jobs whose events lie behind
/// theirs in the log.
const WAITING_EVENTS_MAX: usize = 256;

/// Jobs that wait here for earlier ones, each with a question to the job table now and then; more wait in the outbox.
const WAITERS_MAX: usize = 32;

/// What a processor works with.
pub struct ProcessorParts {
    /// The pipelines it knows.
    pub pipelines: Arc<PipelineSet>,
    /// The jobs.
    pub jobs: JobStore,
    /// Where events come from.
    pub log: Arc<dyn EventLog>,
    /// Where objects are.
    pub objects: Arc<dyn ObjectStore>,
    /// Where results go.
    pub sink: Arc<dyn Sink>,
    /// Its bounds.
    pub limits: ProcessorLimits,
    /// Its instruments.
    pub metrics: Metrics,
    /// Names this process in the job table and in logs.
    pub worker: String,
}

/// What all attempts of a process share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub parts: Arc<ProcessorParts>,
    pub engine: Engine,
    /// One permit for each job that is worked on; jobs that wait for earlier ones hold none.
    pub slots: Arc<Semaphore>,
    /// Ends jobs by what the ledger says.
    pub settler: Settler,
    /// One permit for each job that waits in this process for earlier ones.
    pub waiters: Arc<Semaphore>,
    /// Nothing new is begun.
    pub stopping: CancellationToken,
    /// What runs is handed back.
    pub aborting: CancellationToken,
}

impl Shared {
    pub(crate) fn stage(&self, pipeline: &Pipeline, stage: &str, since: Instant) {
        self.parts.metrics.stage(pipeline.name.as_str(), stage, since.elapsed());
    }

    /// The pipelines that write the tables this one looks into.
    pub(crate) fn writers_of_lookups(&self, pipeline: &Pipeline) -> Vec<PipelineName> {
        let mut writers: Vec<PipelineName> = tables_read(&self.engine, pipeline)
            .iter()
            .filter_map(|table| self.parts.pipelines.writer_of(table))
            .map(|writer| writer.name.clone())
            .filter(|writer| *writer != pipeline.name)
            .collect();
        writers.sort();
        writers.dedup();
        writers
    }
}

/// Serves until `shutdown`; then drains.
pub async fn serve(parts: ProcessorParts, shutdown: CancellationToken) -> Result<()> {
    sweep_workplaces(&parts.limits).await;
    if shutdown.run_until_cancelled(prepare(&parts)).await.transpose()?.is_none() {
        return Ok(());
    }
    let engine = Engine::new(&parts.limits)?;
    let mut subscription = parts.log.subscribe(Topic::Landed, GROUP).await?;
    let ledger = SinkLedger::new(Arc::clone(&parts.sink), Arc::clone(&parts.objects));
    let shared = Shared {
        settler: Settler::new(parts.jobs.clone(), Arc::new(ledger)),
        waiters: Arc::new(Semaphore::new(WAITERS_MAX)),
        slots: Arc::new(Semaphore::new(parts.limits.concurrency)),
        parts: Arc::new(parts),
        engine,
        stopping: shutdown.clone(),
        aborting: CancellationToken::new(),
    };
    info!(concurrency = shared.parts.limits.concurrency, "processor takes jobs");
    let mut running = JoinSet::new();
    consume(&shared, subscription.as_mut(), &mut running, &shutdown).await;
    drain(&shared, subscription.as_mut(), &mut running).await;
    subscription.close().await?;
    Ok(())
}

/// Makes the ledger and notes the pipelines; waits as long as a database is away or takes no writes.
async fn prepare(parts: &ProcessorParts) -> Result<()> {
    let mut pause = RETRY_PAUSE.0;
    loop {
        match try_prepare(parts).await {
            Err(error) if error.retry() != Retry::Never => {
                warn!(error = &error as &dyn std::error::Error, "waiting for the databases");
            }
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE.1);
    }
}

async fn try_prepare(parts: &ProcessorParts) -> Result<()> {
    parts.sink.migrate().await?;
    for pipeline in parts.pipelines.iter() {
        parts.jobs.save_pipeline(&pipeline.name, &pipeline.version, &pipeline.text).await?;
    }
    Ok(())
}

/// Removes what programs of a killed processor left behind; what can't be removed is told and left.
async fn sweep_workplaces(limits: &ProcessorLimits) {
    let base = limits.spill_dir.clone();
    match tokio::task::spawn_blocking(move || crate::files::sweep(base.as_deref())).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(folders)) => info!(folders, "removed temporary folders of a processor that is gone"),
        Ok(Err(error)) => {
            warn!(error = %error, "failed to remove temporary folders of a processor that is gone")
        }
    }
}

async fn consume(
    shared: &Shared,
    subscription: &mut dyn Subscription,
    running: &mut JoinSet<Option<Record>>,
    shutdown: &CancellationToken,
) {
    let mut pause = RETRY_PAUSE.0;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(done) = running.join_next(), if !running.is_empty() => ack(subscription, done).await,
            next = subscription.next(), if running.len() < shared.parts.limits.concurrency + WAITING_EVENTS_MAX => match next {
                Ok(record) => {
                    pause = RETRY_PAUSE.0;
                    running.spawn(guarded(shared.clone(), record));
                }
                Err(error) if error.retry() == Retry::Never => {
                    tracing::error!(error = %error, "the event log ended for good; this processor ends too");
                    return;
                }
                Err(error) => {
                    warn!(error = %error, "the event log does not answer");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_PAUSE.1),
                        () = shutdown.cancelled() => return,
                    }
                }
            },
        }
    }
}

/// Works on one event; one that panics is done with, too: the sweeper requeues its job.
async fn guarded(shared: Shared, record: Record) -> Option<Record> {
    let kept = record.clone();
    match AssertUnwindSafe(one(shared, record)).catch_unwind().await {
        Ok(done) => done,
        Err(_) => {
            tracing::error!(key = %kept.key, "an attempt broke down; the sweeper requeues its job");
            Some(kept)
        }
    }
}

/// Works on one event; gives it back when it may be acked.
async fn one(shared: Shared, record: Record) -> Option<Record> {
    let mut pause = RETRY_PAUSE.0;
    loop {
        match attempt(&shared, &record).await {
            Ok(()) => {
                tidemill_jobs::failpoints::fail::fail_point!("job::ack", |_| {
                    tidemill_jobs::failpoints::failed("job::ack");
                    None
                });
                return Some(record);
            }
            Err(Error::Stopping) => return None,
            Err(error) => {
                warn!(error = %error.to_job_error().message, key = %record.key, "the job could not be taken on or ended");
                if shared.stopping.is_cancelled() || error.retry() == Retry::Never {
                    // Left to the sweeper, which finds the job queued or orphaned.
                    return (!shared.stopping.is_cancelled()).then_some(record);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE.1);
            }
        }
    }
}

async fn ack(subscription: &mut dyn Subscription, done: Result<Option<Record>, tokio::task::JoinError>) {
    match done {
        Ok(Some(record)) => {
            if let Err(error) = subscription.ack(&record).await {
                warn!(error = %error, "an event could not be acked; it comes again and finds its job done");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(error = %error, "an attempt broke down; the sweeper requeues its job"),
    }
}

async fn drain(shared: &Shared, subscription: &mut dyn Subscription, running: &mut JoinSet<Option<Record>>) {
    if running.is_empty() {
        return;
    }
    info!(jobs = running.len(), "finishing what runs");
    let grace = tokio::time::sleep(shared.parts.limits.drain_grace);
    tokio::pin!(grace);
    loop {
        tokio::select! {
            done = running.join_next() => match done {
                Some(done) => ack(subscription, done).await,
                None => return,
            },
            () = &mut grace => break,
        }
    }
    shared.aborting.cancel();
    const HAND_BACK: Duration = Duration::from_secs(5);
    let handed_back = async {
        while let Some(done) = running.join_next().await {
            ack(subscription, done).await;
        }
    };
    if tokio::time::timeout(HAND_BACK, handed_back).await.is_err() {
        warn!(jobs = running.len(), "not released in time; the sweeper requeues these jobs");
        running.abort_all();
    }
}
