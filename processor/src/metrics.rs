//! Metrics of the processor: rows by outcome, jobs by end, durations by stage.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};
use tidemill_jobs::Counts;

/// The processor's instruments; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    rows: IntCounterVec,
    jobs: IntCounterVec,
    stages: HistogramVec,
    running: IntGauge,
}

impl Metrics {
    /// Registers the instruments.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let rows = IntCounterVec::new(
            Opts::new(
                "tidemill_rows_total",
                "Records by pipeline and outcome: in, written, rejected, filtered.",
            ),
            &["pipeline", "outcome"],
        )?;
        let jobs = IntCounterVec::new(
            Opts::new(
                "tidemill_job_attempts_total",
                "Attempts by pipeline and outcome: success, failed, timed_out, overtaken.",
            ),
            &["pipeline", "outcome"],
        )?;
        let stages = HistogramVec::new(
            HistogramOpts::new(
                "tidemill_stage_duration_seconds",
                "Wall time of the stages of a job: open, stream, commit.",
            )
            .buckets(exponential_buckets(0.001, 2.0, 20)?),
            &["pipeline", "stage"],
        )?;
        let running = IntGauge::new("tidemill_processor_running_jobs", "Jobs that this processor works on.")?;
        let metrics = Self { rows, jobs, stages, running };
        metrics.collectors().into_iter().try_for_each(|collector| registry.register(collector))?;
        Ok(metrics)
    }

    /// The instruments, as they are registered and told of in docs/metrics.md.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Self { rows, jobs, stages, running } = self.clone();
        vec![Box::new(rows), Box::new(jobs), Box::new(stages), Box::new(running)]
    }

    pub(crate) fn count(&self, pipeline: &str, counts: Counts) {
        for (outcome, rows) in [
            ("in", counts.records_in),
            ("written", counts.records_written),
            ("rejected", counts.records_rejected),
            ("filtered", counts.records_filtered),
        ] {
            self.rows.with_label_values(&[pipeline, outcome]).inc_by(rows);
        }
    }

    pub(crate) fn ended(&self, pipeline: &str, outcome: &str) {
        self.jobs.with_label_values(&[pipeline, outcome]).inc();
    }

    pub(crate) fn stage(&self, pipeline: &str, stage: &str, took: Duration) {
        self.stages.with_label_values(&[pipeline, stage]).observe(took.as_secs_f64());
    }

    pub(crate) fn running(&self) -> &IntGauge {
        &self.running
    }
}
