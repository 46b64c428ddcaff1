//! The role `notifier`: hears of finished jobs and tells people and programs.
//!
//! An event is acked once every message of it was taken, or refused for good. A message that is refused for
//! now is tried again with growing pauses until the limit of the settings; meanwhile others pass it by:
//! places are held while sending, not while waiting.

pub mod tell;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use prometheus::Registry;
use tidemill_jobs::{EventLog, Record, Subscription, Topic};
use tidemill_pipelines::{PipelineSet, Retry};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{NOTIFIERS, add_metrics, add_watch};
use crate::crew::Crew;
use crate::parts::Parts;
use crate::settings::Settings;
use crate::telemetry::Readiness;

pub use tell::Teller;

/// The group of all notifiers.
pub const GROUP: &str = "notifier";
/// Events in hand at once, sending or waiting for another try; more stay in the log.
const IN_HAND_MAX: usize = 1_000;
/// How long messages on their way may take after a stop was asked for.
const GRACE: Duration = Duration::from_secs(20);
/// Pause after an error of the log; it doubles up to the second figure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Runs until told to stop.
pub async fn run(settings: Settings) -> Result<()> {
    let parts = Parts::new(settings);
    let pipelines = parts.pipelines()?;
    let mut crew = Crew::new()?;
    let log = parts.log().await?;
    if parts.settings().migrate {
        log.create_topics().await?;
    }
    let registry = Registry::new();
    let asked = Arc::clone(&log);
    let readiness = Readiness::default().with("broker", move || {
        let log = Arc::clone(&asked);
        async move { log.ping().await }
    });
    add_metrics(&mut crew, &parts, &registry, readiness).await?;
    add_watch(&mut crew, &parts, &registry, None, &log, vec![NOTIFIERS])?;
    add_notifier(&mut crew, &parts, &registry, pipelines, log)?;
    crew.work().await
}

/// Adds the notifier to a crew.
pub fn add_notifier(
    crew: &mut Crew,
    parts: &Parts,
    registry: &Registry,
    pipelines: Arc<PipelineSet>,
    log: Arc<dyn EventLog>,
) -> Result<()> {
    let teller = Teller::new(parts, pipelines, registry)?;
    crew.front("notifier", serve(teller, log, crew.stop.clone()));
    Ok(())
}

/// Tells of finished jobs until `stop`.
async fn serve(teller: Teller, log: Arc<dyn EventLog>, stop: CancellationToken) -> Result<()> {
    let mut subscription = log.subscribe(Topic::Finished, GROUP).await?;
    let teller = Arc::new(teller);
    let mut running: JoinSet<Option<Record>> = JoinSet::new();
    info!("notifier listens for finished jobs");
    consume(&teller, subscription.as_mut(), &mut running, &stop).await;
    let finished = async {
        while let Some(done) = running.join_next().await {
            ack(subscription.as_mut(), done).await;
        }
    };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        warn!(events = running.len(), "messages not taken in time; they are sent after the next start");
        running.shutdown().await;
    }
    subscription.close().await?;
    Ok(())
}

async fn consume(
    teller: &Arc<Teller>,
    subscription: &mut dyn Subscription,
    running: &mut JoinSet<Option<Record>>,
    stop: &CancellationToken,
) {
    let mut pause = PAUSES.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = running.join_next(), if !running.is_empty() => ack(subscription, done).await,
            next = subscription.next(), if running.len() < IN_HAND_MAX => match next {
                Ok(record) => {
                    pause = PAUSES.0;
                    let (teller, stop) = (Arc::clone(teller), stop.clone());
                    running.spawn(async move { teller.tell(&record, &stop).await.then_some(record) });
                }
                Err(error) if error.retry() == Retry::Never => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the event log ended for good; this notifier ends too");
                    return;
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "the event log does not answer");
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                    pause = (pause * 2).min(PAUSES.1);
                }
            },
        }
    }
}

async fn ack(subscription: &mut dyn Subscription, done: Result<Option<Record>, tokio::task::JoinError>) {
    match done {
        Ok(Some(record)) => {
            if let Err(error) = subscription.ack(&record).await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "an event could not be acked; it is told again"
                );
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "a notice broke down; its event comes again after a restart"),
    }
}
