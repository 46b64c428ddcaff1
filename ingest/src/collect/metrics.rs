//! Metrics of collecting: collections and files by outcome.

use prometheus::core::Collector;
use prometheus::{IntCounterVec, Opts, Registry};

/// The instruments of collecting; cheap to clone.
#[derive(Clone)]
pub struct CollectMetrics {
    collections: IntCounterVec,
    files: IntCounterVec,
}

impl CollectMetrics {
    /// Registers the instruments.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| IntCounterVec::new(Opts::new(name, help), &["pipeline", "outcome"]);
        let collections = counter(
            "tidemill_collections_total",
            "Collections of reports by pipeline and outcome: done, failed (and tried again).",
        )?;
        let files = counter(
            "tidemill_collected_files_total",
            "Files of jobs by pipeline and outcome: copied, missing (deleted before they were collected).",
        )?;
        let metrics = Self { collections, files };
        metrics.collectors().into_iter().try_for_each(|collector| registry.register(collector))?;
        Ok(metrics)
    }

    /// The instruments, as they are registered and told of in docs/metrics.md.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![Box::new(self.collections.clone()), Box::new(self.files.clone())]
    }

    pub(super) fn collection(&self, pipeline: &str, outcome: &str) {
        self.collections.with_label_values(&[pipeline, outcome]).inc();
    }

    pub(super) fn files(&self, pipeline: &str, copied: usize, missing: usize) {
        for (outcome, files) in [("copied", copied), ("missing", missing)] {
            self.files.with_label_values(&[pipeline, outcome]).inc_by(files as u64);
        }
    }
}
