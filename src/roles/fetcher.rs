//! The role `fetcher`: does what schedules make due, such as fetching the pages of an API.
//!
//! Any number of fetchers may run: each slot is claimed in the job database, and what a dead one left behind is
//! taken over by another.

mod timetable;

use std::sync::Arc;

use anyhow::Result;
use prometheus::Registry;
use tokio::sync::Semaphore;
use tracing::info;

use super::{Shared, add_relay, add_watch, listen, worker_name};
use crate::crew::Crew;
use crate::parts::Parts;
use crate::settings::Settings;
use crate::telemetry::{Readiness, serve};

use timetable::{Clockwork, Timetable};

/// Runs until told to stop.
pub async fn run(settings: Settings) -> Result<()> {
    let parts = Parts::new(settings);
    let pipelines = parts.pipelines()?;
    let mut crew = Crew::new()?;
    let (jobs, log, objects) = (parts.jobs().await?, parts.log().await?, parts.objects()?);
    if parts.settings().migrate {
        jobs.migrate().await?;
        log.create_topics().await?;
    }
    let registry = Registry::new();
    let listener = listen(parts.settings().telemetry.listen).await?;
    let asked = jobs.clone();
    let readiness = Readiness::default().with("database", move || {
        let jobs = asked.clone();
        async move { jobs.ping().await }
    });
    crew.back("metrics", serve(listener, registry.clone(), readiness, crew.stop_back.clone()));
    add_relay(&mut crew, &jobs, &log);
    add_watch(&mut crew, &parts, &registry, Some(&jobs), &log, Vec::new())?;
    add_fetcher(&mut crew, &parts, &registry, Shared { pipelines, jobs, log, objects })?;
    crew.work().await
}

/// Adds what is due to a crew: a task for each timetable.
pub fn add_fetcher(crew: &mut Crew, parts: &Parts, registry: &Registry, shared: Shared) -> Result<()> {
    let timetables = timetables(parts, registry, &shared)?;
    let fetcher = &parts.settings().fetcher;
    let clockwork = Clockwork {
        jobs: shared.jobs,
        worker: worker_name(),
        lease: fetcher.lease.get(),
        places: Arc::new(Semaphore::new(fetcher.runs as usize)),
    };
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
fn timetables(_parts: &Parts, _registry: &Registry, _shared: &Shared) -> Result<Vec<Timetable>> {
    Ok(Vec::new())
}
