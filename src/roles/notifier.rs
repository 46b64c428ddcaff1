//! The role `notifier`: hears of finished jobs and tells people and programs.
//!
//! Two tasks. [`intake`] turns each event into rows, one for each notice, and acks it: the log never waits for a
//! receiver. [`delivery`] claims rows that are due and sends them, with growing pauses, until they are taken, refused
//! for good, or too old. Several notifiers may run; the rows of one that died are due again when its lease has passed.

mod attempt;
mod delivery;
mod intake;
mod places;
#[cfg(test)]
mod tests;
mod told;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use object_store::ObjectStore;
use prometheus::{IntCounterVec, Opts, Registry};
use tidemill_jobs::{JobStore, NoticeEnd};
use tidemill_pipelines::PipelineSet;
use tidemill_sinks::notice::{KINDS, Notifiers};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::gateway::reach;
use super::{NOTIFIERS, Shared, Start, add_metrics};
use crate::crew::Crew;
use crate::parts::Parts;
use crate::settings::Settings;
use crate::telemetry::Readiness;

/// The group of all notifiers.
pub const GROUP: &str = "notifier";
/// How long what is in hand may take after a stop was asked for.
const GRACE: Duration = Duration::from_secs(20);
/// How long a notifier has a notice to itself without a sign of life.
const LEASE: Duration = Duration::from_secs(30);
/// How long a notice is kept after nobody may try it any more: an event that comes a second time meanwhile is known.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs until told to stop.
pub async fn run(settings: Settings) -> Result<()> {
    let Start { parts, mut crew, registry, shared } = Start::new(settings, vec![NOTIFIERS]).await?;
    add_metrics(&mut crew, &parts, &registry, readiness(&shared)).await?;
    add_notifier(&mut crew, &parts, &registry, shared)?;
    crew.work().await
}

fn readiness(shared: &Shared) -> Readiness {
    let Shared { jobs, log, objects, .. } = shared.clone();
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
}

/// Adds the notifier to a crew.
pub fn add_notifier(crew: &mut Crew, parts: &Parts, registry: &Registry, shared: Shared) -> Result<()> {
    let settings = &parts.settings().notifier;
    let counter = notices_counter()?;
    registry.register(Box::new(counter.clone()))?;
    let office = Arc::new(Office {
        pipelines: shared.pipelines,
        jobs: shared.jobs,
        objects: shared.objects,
        notifiers: parts.notifiers()?,
        places: settings.concurrency as usize,
        give_up_after: settings.give_up_after.get(),
        lease: LEASE,
        links: parts.public_url(),
        counter,
        written: Notify::new(),
    });
    crew.front("notifier", intake::serve(Arc::clone(&office), shared.log, crew.stop.clone()));
    crew.front("delivery of notices", deliver(office, crew.stop.clone()));
    Ok(())
}

async fn deliver(office: Arc<Office>, stop: CancellationToken) -> Result<()> {
    delivery::run(office, stop).await;
    Ok(())
}

/// What both tasks work with.
struct Office {
    pipelines: Arc<PipelineSet>,
    jobs: JobStore,
    objects: Arc<dyn ObjectStore>,
    notifiers: Notifiers,
    /// Notices that are sent at the same time.
    places: usize,
    /// Age of the end of a job from which on its notices are not tried again.
    give_up_after: Duration,
    lease: Duration,
    /// The gateway's public address.
    links: String,
    counter: IntCounterVec,
    /// Rows were written just now.
    written: Notify,
}

impl Office {
    fn count(&self, kind: &str, outcome: &str) {
        self.counter.with_label_values(&[kind, outcome]).inc();
    }
}

/// Counts notices; all kinds and outcomes are there from the start.
pub fn notices_counter() -> prometheus::Result<IntCounterVec> {
    let outcomes = NoticeEnd::ALL.map(NoticeEnd::as_str);
    let help = format!("Notices by outcome: {}, retried.", outcomes.join(", "));
    let notices = IntCounterVec::new(Opts::new("tidemill_notices_total", help), &["kind", "outcome"])?;
    for kind in KINDS {
        for outcome in outcomes.into_iter().chain(["retried"]) {
            notices.with_label_values(&[kind, outcome]);
        }
    }
    Ok(notices)
}
