//! Metrics that no event tells: jobs by status, the age of the queue, work that waits and runs, the outbox, notices that wait,
//! the lag of groups.
//!
//! Every role looks at a steady pace and keeps the last figures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry};
use tidemill_jobs::{EventLog, JobStore, NoticeStats, QueueStats, Topic, Work};
use tidemill_pipelines::PipelineSet;
use tidemill_sinks::notice::KINDS;
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
    jobs: JobStore,
    log: Arc<dyn EventLog>,
    groups: Vec<Group>,
    /// Pipelines whose work is told, also when they have none.
    known: BTreeMap<String, Work>,
    gauges: QueueGauges,
}

/// What the watch sets.
pub struct QueueGauges {
    by_status: IntGaugeVec,
    oldest: Gauge,
    outbox: IntGauge,
    dead_letters: IntGauge,
    notices: IntGaugeVec,
    oldest_notice: Gauge,
    pending: WorkGauges,
    running: WorkGauges,
    lag: IntGaugeVec,
}

/// Work that waits, or that runs.
struct WorkGauges {
    seconds: GaugeVec,
    size_bytes: IntGaugeVec,
}

impl WorkGauges {
    fn new(name: &str, what: &str) -> prometheus::Result<Self> {
        let opts = |unit: &str, help: String| Opts::new(format!("tidemill_work_{name}_{unit}"), help);
        let seconds =
            format!("What the jobs {what} take in all: their bytes by the recent pace of the pipeline.");
        Ok(Self {
            seconds: GaugeVec::new(opts("seconds", seconds), &["pipeline"])?,
            size_bytes: IntGaugeVec::new(opts("bytes", format!("Bytes of the jobs {what}.")), &["pipeline"])?,
        })
    }
}

impl QueueGauges {
    /// Makes them; nothing is registered yet.
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self {
            by_status: IntGaugeVec::new(Opts::new("tidemill_jobs", "Jobs by status."), &["status"])?,
            oldest: Gauge::new("tidemill_queue_oldest_age_seconds", "Age of the oldest queued job.")?,
            outbox: IntGauge::new("tidemill_outbox_length", "Events that wait for the relay.")?,
            dead_letters: IntGauge::new(
                "tidemill_outbox_dead_letters",
                "Events that the log refused for good; a person has to look.",
            )?,
            notices: IntGaugeVec::new(
                Opts::new("tidemill_notices_waiting", "Notices that nobody has taken yet."),
                &["kind"],
            )?,
            oldest_notice: Gauge::new(
                "tidemill_notices_oldest_age_seconds",
                "Time since the end of the job that the oldest waiting notice tells of.",
            )?,
            pending: WorkGauges::new("pending", "that wait")?,
            running: WorkGauges::new("running", "in hand")?,
            lag: IntGaugeVec::new(
                Opts::new("tidemill_log_lag_records", "Records that a group has not done yet."),
                &["topic", "partition"],
            )?,
        })
    }

    /// Those of a role, which may watch groups, too.
    pub fn collectors(&self, of_groups: bool) -> Vec<Box<dyn Collector>> {
        let mut collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(self.by_status.clone()),
            Box::new(self.oldest.clone()),
            Box::new(self.outbox.clone()),
            Box::new(self.dead_letters.clone()),
            Box::new(self.notices.clone()),
            Box::new(self.oldest_notice.clone()),
        ];
        for work in [&self.pending, &self.running] {
            collectors.push(Box::new(work.seconds.clone()));
            collectors.push(Box::new(work.size_bytes.clone()));
        }
        if of_groups {
            collectors.push(Box::new(self.lag.clone()));
        }
        collectors
    }
}

impl QueueWatch {
    /// Registers the gauges. The work of these pipelines is told from the start, as none.
    pub fn new(
        registry: &Registry,
        jobs: JobStore,
        log: Arc<dyn EventLog>,
        groups: Vec<Group>,
        pipelines: &PipelineSet,
    ) -> prometheus::Result<Self> {
        let gauges = QueueGauges::new()?;
        gauges
            .collectors(!groups.is_empty())
            .into_iter()
            .try_for_each(|collector| registry.register(collector))?;
        let known = pipelines.iter().map(|pipeline| (pipeline.name.to_string(), Work::default())).collect();
        Ok(Self { jobs, log, groups, known, gauges })
    }

    /// Looks at this pace until the token is cancelled.
    pub async fn run(mut self, pace: Duration, shutdown: CancellationToken) {
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

    async fn look(&mut self) -> tidemill_jobs::Result<()> {
        let stats = self.jobs.queue_stats().await?;
        let work = self.jobs.work().await?;
        let notices = self.jobs.notice_stats().await?;
        self.set_stats(&stats);
        self.set_work(work);
        self.set_notices(&notices);
        for group in &self.groups {
            for part in self.log.lag(group.topic, group.name).await? {
                let labels = [group.topic.as_str(), &part.partition.to_string()];
                self.gauges.lag.with_label_values(&labels).set(part.lag);
            }
        }
        Ok(())
    }

    fn set_stats(&self, stats: &QueueStats) {
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for (status, count) in &stats.jobs {
            self.gauges.by_status.with_label_values(&[status.as_str()]).set(whole(*count));
        }
        self.gauges.oldest.set(stats.oldest_queued_age_seconds);
        self.gauges.outbox.set(whole(stats.outbox_length));
        self.gauges.dead_letters.set(whole(stats.dead_letters));
    }

    fn set_notices(&self, stats: &NoticeStats) {
        for kind in KINDS {
            let waiting =
                stats.waiting.iter().find(|(found, _)| found == kind).map_or(0, |(_, count)| *count);
            self.gauges.notices.with_label_values(&[kind]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
        }
        self.gauges.oldest_notice.set(stats.oldest_age_seconds);
    }

    fn set_work(&mut self, found: BTreeMap<String, Work>) {
        self.known.values_mut().for_each(|work| *work = Work::default());
        self.known.extend(found);
        for (pipeline, work) in &self.known {
            for (gauges, weight) in
                [(&self.gauges.pending, work.pending), (&self.gauges.running, work.running)]
            {
                gauges.seconds.with_label_values(&[pipeline]).set(weight.seconds);
                let size_bytes = i64::try_from(weight.size_bytes).unwrap_or(i64::MAX);
                gauges.size_bytes.with_label_values(&[pipeline]).set(size_bytes);
            }
        }
    }
}
