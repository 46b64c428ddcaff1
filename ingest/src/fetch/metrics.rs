//! Metrics of fetching: pages and runs by outcome, durations.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, exponential_buckets};

/// The instruments of fetching; cheap to clone.
#[derive(Clone)]
pub struct FetchMetrics {
    pages: IntCounterVec,
    runs: IntCounterVec,
    durations: HistogramVec,
}

impl FetchMetrics {
    /// Registers the instruments.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let pages = IntCounterVec::new(
            Opts::new(
                "tidemill_fetch_pages_total",
                "Requests for pages by pipeline and outcome: landed, retried, refused.",
            ),
            &["pipeline", "outcome"],
        )?;
        let runs = IntCounterVec::new(
            Opts::new("tidemill_fetch_runs_total", "Fetches by pipeline and outcome: job, empty, failed."),
            &["pipeline", "outcome"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new("tidemill_fetch_duration_seconds", "Wall time of fetches that ended.")
                .buckets(exponential_buckets(0.1, 2.0, 16)?),
            &["pipeline"],
        )?;
        let metrics = Self { pages, runs, durations };
        metrics.collectors().into_iter().try_for_each(|collector| registry.register(collector))?;
        Ok(metrics)
    }

    /// The instruments, as they are registered and told of in docs/metrics.md.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Self { pages, runs, durations } = self.clone();
        vec![Box::new(pages), Box::new(runs), Box::new(durations)]
    }

    pub(super) fn page(&self, pipeline: &str, outcome: &str) {
        self.pages.with_label_values(&[pipeline, outcome]).inc();
    }

    pub(super) fn run(&self, pipeline: &str, outcome: &str, took: Duration) {
        self.runs.with_label_values(&[pipeline, outcome]).inc();
        self.durations.with_label_values(&[pipeline]).observe(took.as_secs_f64());
    }
}
