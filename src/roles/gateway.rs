//! The role `gateway`: HTTP, landing, and the relay that publishes what landed.

use std::sync::Arc;

use anyhow::{Context, Result};
use object_store::ObjectStore;
use object_store::path::Path;
use prometheus::Registry;
use tidemill_gateway::{Gateway, GatewayParts, ReadinessCheck, Users};
use tidemill_ingest::{Landing, LandingLimits};
use tidemill_jobs::{EventLog, JobStore, Settler};
use tidemill_query::Workers;
use tokio::net::TcpListener;

use super::postgres::{add_wire, listen_wire};
use super::{NOTIFIERS, PROCESSORS, Shared, Start, listen};
use crate::crew::Crew;
use crate::parts::Parts;
use crate::settings::Settings;
use crate::telemetry::with_causes;

/// Runs until told to stop.
pub async fn run(settings: Settings) -> Result<()> {
    let Start { parts, mut crew, registry, shared } =
        Start::new(settings, vec![PROCESSORS, NOTIFIERS]).await?;
    let listener = listen(parts.settings().gateway.listen).await?;
    let wire = listen_wire(parts.settings()).await?;
    let workers = parts.workers()?;
    workers.warm_up().await?;
    if let Some(listener) = wire {
        add_wire(&mut crew, &parts, listener, &shared, workers.clone())?;
    }
    let settler = parts.settler(&shared.jobs);
    add_gateway(&mut crew, &parts, &registry, listener, workers, settler, shared)?;
    crew.work().await
}

/// Adds the HTTP surface to a crew.
pub fn add_gateway(
    crew: &mut Crew,
    parts: &Parts,
    registry: &Registry,
    listener: TcpListener,
    workers: Workers,
    settler: Settler,
    shared: Shared,
) -> Result<()> {
    let Shared { pipelines, jobs, log, objects } = shared;
    let secret = parts.settings().gateway.jwt_secret.as_ref().context("`gateway.jwt_secret` is missing")?;
    let metrics = workers.metrics().collectors();
    metrics.into_iter().try_for_each(|collector| registry.register(collector))?;
    let gateway = Gateway::new(GatewayParts {
        pipelines,
        settler,
        query: workers,
        landing: Landing::new(Arc::clone(&objects), jobs.clone(), LandingLimits::default()),
        users: Users::new(&jobs),
        readiness: readiness(&jobs, &log, &objects),
        jobs,
        objects,
        signer: parts.signer()?,
        registry: registry.clone(),
        settings: parts.gateway_settings(secret),
    })?;
    tracing::info!(address = %listener.local_addr()?, "gateway listens");
    let stop = crew.stop.clone();
    crew.front("gateway", async move { gateway.serve(listener, stop).await });
    Ok(())
}

fn readiness(
    jobs: &JobStore,
    log: &Arc<dyn EventLog>,
    objects: &Arc<dyn ObjectStore>,
) -> Vec<ReadinessCheck> {
    let (jobs, log, objects) = (jobs.clone(), Arc::clone(log), Arc::clone(objects));
    vec![
        ReadinessCheck::new("database", move || {
            let jobs = jobs.clone();
            async move { jobs.ping().await.map_err(with_causes) }
        }),
        ReadinessCheck::new("broker", move || {
            let log = Arc::clone(&log);
            async move { log.ping().await.map_err(with_causes) }
        }),
        ReadinessCheck::new("objects", move || {
            let objects = Arc::clone(&objects);
            async move { reach(&objects).await.map_err(with_causes) }
        }),
    ]
}

/// Asks for an object that is not there: "not found" is an answer.
pub async fn reach(objects: &Arc<dyn ObjectStore>) -> object_store::Result<()> {
    use object_store::ObjectStoreExt;
    match objects.head(&Path::from("tidemill-readiness")).await {
        Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
