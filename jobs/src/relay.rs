//! The relay: publishes the outbox to the event log, in the order of commits, and forgets what is published.
//!
//! Events of its own process are handed over by the store at the commit; a poll finds all others. An event is
//! deleted only after the log has it, so it may be published twice and is never lost. Several relays may
//! run at once, in as many processes. An event that the log refuses for good is parked as a dead letter and holds up no
//! other. Run by every role that knows the job store.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::store::OutboxRow;
use crate::{Error, EventLog, JobStore, Result};

/// Events in one round, and events that wait in memory; more wait in the table.
const BATCH: usize = 256;
/// Events on their way to the log at once.
const IN_FLIGHT: usize = 64;
/// How often it looks for events that were not handed over.
const POLL: Duration = Duration::from_secs(1);
/// The pause after the first failure; it doubles up to [`PAUSE_MAX`], and up to a half is added by chance.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long the last round may take at shutdown; another relay finds what is left.
const LAST_ROUND: Duration = Duration::from_secs(3);

/// Publishes the outbox.
pub struct Relay {
    store: JobStore,
    log: Arc<dyn EventLog>,
    name: String,
    handed: mpsc::Receiver<OutboxRow>,
}

impl Relay {
    /// A relay to which `store` and its clones hand their events from now on. One for each store.
    pub fn new(store: JobStore, log: Arc<dyn EventLog>) -> Self {
        let name = Uuid::now_v7().to_string();
        let handed = store.handover().attach(&name, BATCH);
        Self { store, log, name, handed }
    }

    /// Publishes until `shutdown`, and then what was handed over before it.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        while !shutdown.is_cancelled() {
            let done = tokio::select! {
                () = shutdown.cancelled() => break,
                batch = next_batch(&mut self.handed) => bounded(&shutdown, self.publish(batch)).await,
                _ = poll.tick() => bounded(&shutdown, self.publish_due()).await,
            };
            failures = match done {
                Ok(()) => 0,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, failures, "failed to publish events");
                    self.pause(failures, &shutdown).await;
                    failures + 1
                }
            };
        }
        self.last_round().await;
    }

    /// Publishes everything that is due.
    async fn publish_due(&self) -> Result<()> {
        loop {
            let batch = self.store.take_due(&self.name, BATCH).await?;
            let full = batch.len() == BATCH;
            self.publish(batch).await?;
            if !full {
                return Ok(());
            }
        }
    }

    /// Publishes a batch and deletes what the log took, also when it did not take all.
    async fn publish(&self, batch: Vec<OutboxRow>) -> Result<()> {
        let mut sent = Vec::with_capacity(batch.len());
        let (mut refused, mut failed) = (Vec::new(), Ok(()));
        let mut outcomes = stream::iter(batch).map(|row| self.send(row)).buffered(IN_FLIGHT);
        while let Some((row, outcome)) = outcomes.next().await {
            match outcome {
                Ok(()) => sent.push(row.event_id),
                Err(Error::Record { .. }) => refused.push(row),
                Err(error) => failed = Err(error),
            }
        }
        // Once more, each alone: on the wire it may have been refused because of one that travelled with it.
        for row in refused {
            match self.send(row).await {
                (row, Ok(())) => sent.push(row.event_id),
                (row, Err(error @ Error::Record { .. })) => self.store.park_event(&row, &error).await?,
                (_, Err(error)) => failed = Err(error),
            }
        }
        crate::failpoint!("outbox::mark");
        self.store.events_sent(&sent).await?;
        failed
    }

    async fn send(&self, row: OutboxRow) -> (OutboxRow, Result<()>) {
        let sent: Result<()> = async {
            crate::failpoint!("outbox::publish");
            self.log.publish(row.topic, &row.job_id, row.payload.as_bytes()).await
        }
        .await;
        (row, sent)
    }

    /// Waits before the next try and gives the events up, so that whoever reaches the log takes them.
    async fn pause(&self, failures: u32, shutdown: &CancellationToken) {
        let pause = (PAUSE_MIN * (1 << failures.min(10))).min(PAUSE_MAX);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pause + jitter(pause / 2)) => {}
        }
        if let Err(error) = self.store.release_events(&self.name).await {
            // Their leases end by themselves.
            warn!(error = &error as &dyn std::error::Error, "failed to release events");
        }
    }

    async fn last_round(mut self) {
        self.store.handover().detach(&self.name);
        self.handed.close();
        let last = async {
            loop {
                let batch = next_batch(&mut self.handed).await;
                if batch.is_empty() {
                    return self.store.release_events(&self.name).await;
                }
                self.publish(batch).await?;
            }
        };
        match tokio::time::timeout(LAST_ROUND, last).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "left events to other relays"),
            Err(_) => warn!("left events to other relays: the log did not answer"),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.store.handover().detach(&self.name);
    }
}

/// Lets work go on after `shutdown` for as long as the last round may take, then leaves it to other relays.
async fn bounded(shutdown: &CancellationToken, work: impl Future<Output = Result<()>>) -> Result<()> {
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LAST_ROUND).await;
    };
    tokio::select! {
        done = work => done,
        () = too_late => Ok(()),
    }
}

/// What was handed over, at least one event, unless the queue is closed.
async fn next_batch(handed: &mut mpsc::Receiver<OutboxRow>) -> Vec<OutboxRow> {
    let mut batch = Vec::new();
    handed.recv_many(&mut batch, BATCH).await;
    batch
}

/// Up to `most`, by the clock's last digits: enough that two relays do not knock in step.
fn jitter(most: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    most.mul_f64(f64::from(nanos % 1_000) / 1_000.0)
}
