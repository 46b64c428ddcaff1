//! The role `fetcher`: does what schedules make due, such as fetching the pages of an API.
//!
//! Any number of fetchers may run: each slot is claimed in the job database, and what a dead one left behind is
//! taken over by another.

mod timetable;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use chrono::Utc;
use prometheus::Registry;
use tidemill_ingest::{CollectMetrics, Collector, FetchError, FetchMetrics, Fetcher, Progress};
use tidemill_jobs::{JobStore, SlotClaim};
use tidemill_pipelines::{HttpSource, Pipeline, Source};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Shared, Start, add_metrics, endless, worker_name};
use crate::crew::Crew;
use crate::parts::Parts;
use crate::settings::Settings;
use crate::telemetry::Readiness;

use timetable::{Clockwork, Due, Timetable};

/// How often the page ledger is tidied.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Runs until told to stop.
pub async fn run(settings: Settings) -> Result<()> {
    let Start { parts, mut crew, registry, shared } = Start::new(settings, Vec::new()).await?;
    let asked = shared.jobs.clone();
    let readiness = Readiness::default().with("database", move || {
        let jobs = asked.clone();
        async move { jobs.ping().await }
    });
    add_metrics(&mut crew, &parts, &registry, readiness).await?;
    add_fetcher(&mut crew, &parts, &registry, shared)?;
    crew.work().await
}

/// Adds what is due to a crew: a task for each timetable.
pub fn add_fetcher(crew: &mut Crew, parts: &Parts, registry: &Registry, shared: Shared) -> Result<()> {
    let timetables = timetables(parts, registry, &shared)?;
    let collector = Collector::new(
        Arc::clone(&shared.objects),
        shared.jobs.clone(),
        Arc::clone(&shared.pipelines),
        CollectMetrics::new(registry)?,
    );
    crew.back("collector", endless(collector.run(crew.stop_back.clone())));
    let fetcher = &parts.settings().fetcher;
    let clockwork = Clockwork {
        jobs: shared.jobs,
        worker: worker_name(),
        lease: fetcher.lease.get(),
        places: Arc::new(Semaphore::new(fetcher.runs as usize)),
    };
    let forget = forget_pages(clockwork.jobs.clone(), fetcher.keep_pages.get(), crew.stop_back.clone());
    crew.back("page ledger", endless(forget));
    info!(timetables = timetables.len(), "fetcher looks at the clock");
    for timetable in timetables {
        crew.front("timetable", timetable.run(clockwork.clone(), crew.stop.clone()));
    }
    // Without a schedule there is nothing to do, which is no failure.
    let stop = crew.stop.clone();
    crew.front("fetcher", async move {
        stop.cancelled().await;
        anyhow::Ok(())
    });
    Ok(())
}

/// Everything that is due at times.
fn timetables(parts: &Parts, registry: &Registry, shared: &Shared) -> Result<Vec<Timetable>> {
    let fetcher =
        parts.fetcher(&shared.pipelines, &shared.jobs, &shared.objects, FetchMetrics::new(registry)?)?;
    let mut timetables = Vec::new();
    for pipeline in shared.pipelines.iter() {
        let Source::Http(source) = &pipeline.source else { continue };
        for name in source.secrets().filter(|name| !parts.settings().fetcher.secrets.contains_key(*name)) {
            warn!(pipeline = %pipeline.name, secret = name, "the settings have no such secret under fetcher.secrets");
        }
        let Some(schedule) = source.schedule.clone() else { continue };
        if let Err(error @ FetchError::NotAllowed { .. }) = fetcher.check_address(source) {
            // Each slot would fail, and tell everybody so.
            warn!(pipeline = %pipeline.name, error = %error, "the schedule is off: set fetcher.allow and start again");
            continue;
        }
        let work =
            Fetch { fetcher: fetcher.clone(), pipeline: Arc::new(pipeline.clone()), source: source.clone() };
        let name = Fetcher::schedule_name(pipeline);
        timetables.push(Timetable { name, schedule, work: Arc::new(work) });
    }
    Ok(timetables)
}

/// A fetch is due.
struct Fetch {
    fetcher: Fetcher,
    pipeline: Arc<Pipeline>,
    source: Box<HttpSource>,
}

#[async_trait]
impl Due for Fetch {
    async fn work(&self, claim: &SlotClaim) -> Result<()> {
        let progress = watch::Sender::new(Progress::default());
        self.fetcher.run(&self.pipeline, &self.source, claim, progress).await?;
        Ok(())
    }
}

/// Forgets pages of runs that ended long ago.
async fn forget_pages(jobs: JobStore, keep: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(FORGET_EVERY)).await.is_some() {
        match jobs.forget_pages(Utc::now() - keep).await {
            Ok(0) => {}
            Ok(pages) => info!(pages, "forgot pages of old runs"),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "failed to forget pages of old runs")
            }
        }
    }
}
