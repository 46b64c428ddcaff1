//! Metrics that no event tells: jobs by status, the age of the queue, the outbox, the lag of groups.
//!
//! Every role that knows the job store or the log looks at a steady pace and keeps the last figures.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry};
use tidemill_jobs::{EventLog, JobStore, QueueStats, Topic};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Longest look; a server that hangs must not stop the next look.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// A group of consumers whose lag is watched.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What it reads.
    pub topic: Topic,
    /// Its name.
    pub name: &'static str,
}

/// Looks at queue and log, and sets the gauges.
pub struct QueueWatch {
    jobs: Option<JobStore>,
    log: Arc<dyn EventLog>,
    groups: Vec<Group>,
    by_status: IntGaugeVec,
    oldest: Gauge,
    outbox: IntGauge,
    lag: IntGaugeVec,
}

impl QueueWatch {
    /// Registers the gauges.
    pub fn new(
        registry: &Registry,
        jobs: Option<JobStore>,
        log: Arc<dyn EventLog>,
        groups: Vec<Group>,
    ) -> prometheus::Result<Self> {
        let watch = Self {
            jobs,
            log,
            groups,
            by_status: IntGaugeVec::new(Opts::new("tidemill_jobs", "Jobs by status."), &["status"])?,
            oldest: Gauge::new("tidemill_queue_oldest_age_seconds", "Age of the oldest queued job.")?,
            outbox: IntGauge::new("tidemill_outbox_length", "Events that wait for the relay.")?,
            lag: IntGaugeVec::new(
                Opts::new("tidemill_log_lag_records", "Records that a group has not done yet."),
                &["topic", "partition"],
            )?,
        };
        if watch.jobs.is_some() {
            registry.register(Box::new(watch.by_status.clone()))?;
            registry.register(Box::new(watch.oldest.clone()))?;
            registry.register(Box::new(watch.outbox.clone()))?;
        }
        registry.register(Box::new(watch.lag.clone()))?;
        Ok(watch)
    }

    /// Looks at this pace until the token is cancelled.
    pub async fn run(self, pace: Duration, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(pace);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            match tokio::time::timeout(LOOK_MAX, self.look()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "metrics not refreshed"),
                Err(_) => warn!(seconds = LOOK_MAX.as_secs(), "metrics not refreshed in time"),
            }
        }
    }

    async fn look(&self) -> tidemill_jobs::Result<()> {
        if let Some(jobs) = &self.jobs {
            let stats = jobs.queue_stats().await?;
            self.set_stats(&stats);
        }
        for group in &self.groups {
            for part in self.log.lag(group.topic, group.name).await? {
                let labels = [group.topic.as_str(), &part.partition.to_string()];
                self.lag.with_label_values(&labels).set(part.lag);
            }
        }
        Ok(())
    }

    fn set_stats(&self, stats: &QueueStats) {
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for (status, count) in &stats.jobs {
            self.by_status.with_label_values(&[status.as_str()]).set(whole(*count));
        }
        self.oldest.set(stats.oldest_queued_age_seconds);
        self.outbox.set(whole(stats.outbox_length));
    }
}
