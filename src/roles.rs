//! The roles: each builds its parts, brings schemas up to date, and works until it is told to stop.

pub mod dev;
pub mod fetcher;
pub mod gateway;
pub mod notifier;
pub mod postgres;
pub mod processor;

use std::sync::Arc;

use anyhow::{Context, Result};
use object_store::ObjectStore;
use prometheus::Registry;
use tidemill_jobs::{EventLog, JobStore, Relay, Topic};
use tidemill_pipelines::PipelineSet;
use tidemill_sinks::Sink;
use tokio::net::TcpListener;

use crate::crew::Crew;
use crate::parts::Parts;
use crate::settings::Settings;
use crate::telemetry::{Group, QueueWatch, Readiness, serve};

/// The group of processors, as lag is told of it.
const PROCESSORS: Group = Group { topic: Topic::Landed, name: tidemill_processor::GROUP };
/// The group of notifiers.
const NOTIFIERS: Group = Group { topic: Topic::Finished, name: notifier::GROUP };

/// What several roles of one process share.
#[derive(Clone)]
pub struct Shared {
    /// The pipelines of the folder.
    pub pipelines: Arc<PipelineSet>,
    /// The job store.
    pub jobs: JobStore,
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// The object store.
    pub objects: Arc<dyn ObjectStore>,
}

/// What every role begins with, and `dev`.
struct Start {
    parts: Parts,
    crew: Crew,
    registry: Registry,
    shared: Shared,
}

impl Start {
    /// Reaches the servers, makes what they lack when the settings say so, and begins to publish and to look at the queue.
    async fn new(settings: Settings, groups: Vec<Group>) -> Result<Self> {
        let parts = Parts::new(settings);
        let pipelines = parts.pipelines()?;
        let (mut crew, registry) = (Crew::new()?, Registry::new());
        let (jobs, log, objects) = (parts.jobs().await?, parts.log().await?, parts.objects()?);
        if parts.settings().migrate {
            parts.migrate_jobs(&jobs).await?;
            log.create_topics().await?;
        }
        // Whoever commits jobs publishes their events.
        let relay = Relay::new(jobs.clone(), Arc::clone(&log)).run(crew.stop_back.clone());
        crew.back("relay", endless(relay));
        add_watch(&mut crew, &parts, &registry, &jobs, &log, groups)?;
        Ok(Self { parts, crew, registry, shared: Shared { pipelines, jobs, log, objects } })
    }

    /// The sink of the tables, with what it lacks.
    async fn sink(&self) -> Result<Arc<dyn Sink>> {
        let sink = self.parts.sink().await?;
        if self.parts.settings().migrate {
            self.parts.migrate_tables(&sink).await?;
        }
        Ok(sink)
    }
}

/// Opens the address of a role.
async fn listen(address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))
}

/// Names this process in the job table: host and process id.
pub fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "unknown",
        host => host,
    };
    format!("{host}:{}", std::process::id())
}

/// Adds the server of metrics and probes to a role without HTTP of its own.
async fn add_metrics(
    crew: &mut Crew,
    parts: &Parts,
    registry: &Registry,
    readiness: Readiness,
) -> Result<()> {
    let listener = listen(parts.settings().telemetry.listen).await?;
    crew.back("metrics", serve(listener, registry.clone(), readiness, crew.stop_back.clone()));
    Ok(())
}

/// Adds the look at queue and lag.
fn add_watch(
    crew: &mut Crew,
    parts: &Parts,
    registry: &Registry,
    jobs: &JobStore,
    log: &Arc<dyn EventLog>,
    groups: Vec<Group>,
) -> Result<()> {
    let watch = QueueWatch::new(registry, jobs.clone(), Arc::clone(log), groups, &*parts.pipelines()?)?;
    let watch = watch.run(parts.settings().telemetry.poll.get(), crew.stop_back.clone());
    crew.back("metrics of the queue", endless(watch));
    Ok(())
}

/// A task that goes on until it is told to stop, and has no error of its own.
async fn endless(task: impl Future<Output = ()>) -> Result<()> {
    task.await;
    Ok(())
}
