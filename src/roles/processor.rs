//! The role `processor`: runs pipelines, sweeps what others left behind, publishes what it finished.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use object_store::ObjectStore;
use prometheus::{IntCounterVec, Opts, Registry};
use tidemill_jobs::{JobStore, Settler, Sweeper, Swept};
use tidemill_processor::{Metrics, ProcessorParts, SinkLedger};
use tidemill_sinks::{Lake, Sink};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::gateway::reach;
use super::{PROCESSORS, Shared, Start, add_metrics, endless, worker_name};
use crate::crew::Crew;
use crate::parts::Parts;
use crate::settings::Settings;
use crate::telemetry::Readiness;

/// How often objects without a job are looked for: they are rare, and listing a bucket costs.
const ORPHANS_EVERY: Duration = Duration::from_secs(3600);
/// How old such an object must be: longer than the longest upload.
const ORPHANS_OLDER_THAN: Duration = Duration::from_secs(24 * 3600);

/// Runs until told to stop.
pub async fn run(settings: Settings) -> Result<()> {
    let start = Start::new(settings, vec![PROCESSORS]).await?;
    let sink = start.sink().await?;
    let Start { parts, mut crew, registry, shared } = start;
    add_metrics(&mut crew, &parts, &registry, readiness(&shared, &sink)).await?;
    add_processor(&mut crew, &parts, &registry, shared, sink, worker_name())?;
    crew.work().await
}

/// Adds processor and sweepers to a crew.
pub fn add_processor(
    crew: &mut Crew,
    parts: &Parts,
    registry: &Registry,
    shared: Shared,
    sink: Arc<dyn Sink>,
    worker: String,
) -> Result<()> {
    let Shared { pipelines, jobs, log, objects } = shared;
    let ledger = SinkLedger::new(Arc::clone(&sink), Arc::clone(&objects));
    let settler = Settler::new(jobs.clone(), Arc::new(ledger));
    let often = Sweeper::INTERVAL.min(parts.settings().processor.lease.get() / 3);
    let sweeper = Sweeper::new(settler, often);
    let swept = swept_counter()?;
    registry.register(Box::new(swept.clone()))?;
    crew.back(
        "sweeper",
        endless(sweeper.run(crew.stop_back.clone(), move |found| count_swept(&swept, found))),
    );
    let orphans = sweep_orphans(Arc::clone(&objects), jobs.clone(), crew.stop_back.clone());
    crew.back("sweeper of objects", endless(orphans));
    let processor = ProcessorParts {
        pipelines,
        jobs,
        log,
        objects,
        sink,
        limits: parts.processor_limits(),
        metrics: Metrics::new(registry)?,
        worker,
    };
    crew.front("processor", tidemill_processor::serve(processor, crew.stop.clone()));
    Ok(())
}

/// Counts what sweepers did; all outcomes are there from the start.
pub fn swept_counter() -> prometheus::Result<IntCounterVec> {
    let help = "Jobs that were left behind, by outcome: put_back, failed, completed, woken.";
    let swept = IntCounterVec::new(Opts::new("tidemill_swept_jobs_total", help), &["outcome"])?;
    count_swept(&swept, Swept::default());
    Ok(swept)
}

fn count_swept(counter: &IntCounterVec, swept: Swept) {
    let Swept { put_back, failed, completed, woken } = swept;
    let outcomes = [("put_back", put_back), ("failed", failed), ("completed", completed), ("woken", woken)];
    for (outcome, jobs) in outcomes {
        counter.with_label_values(&[outcome]).inc_by(jobs);
    }
}

async fn sweep_orphans(objects: Arc<dyn ObjectStore>, jobs: JobStore, stop: CancellationToken) {
    let lake = Lake::new(Arc::clone(&objects));
    while stop.run_until_cancelled(tokio::time::sleep(ORPHANS_EVERY)).await.is_some() {
        let sweep = tidemill_ingest::sweep_orphans(&objects, &jobs, ORPHANS_OLDER_THAN);
        match stop.run_until_cancelled(sweep).await {
            Some(Ok(swept)) => info!(deleted = swept.deleted, "looked for objects without a job"),
            Some(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "failed to look for objects without a job");
            }
            None => {}
        }
        match stop.run_until_cancelled(lake.sweep()).await {
            Some(Ok(deleted)) => info!(deleted, "looked for files that no lake table names"),
            Some(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "failed to look for files of the lake");
            }
            None => {}
        }
    }
}

fn readiness(shared: &Shared, sink: &Arc<dyn Sink>) -> Readiness {
    let (Shared { jobs, log, objects, .. }, sink) = (shared.clone(), Arc::clone(sink));
    Readiness::default()
        .with("database", move || {
            let jobs = jobs.clone();
            async move { jobs.ping().await }
        })
        .with("broker", move || {
            let log = Arc::clone(&log);
            async move { log.ping().await }
        })
        .with("objects", move || {
            let objects = Arc::clone(&objects);
            async move { reach(&objects).await }
        })
        .with("tables", move || {
            let sink = Arc::clone(&sink);
            async move { sink.ping().await }
        })
}
