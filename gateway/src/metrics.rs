//! Metrics of the gateway, and the page on which Prometheus reads those of the whole process.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::gateway::Shared;
use crate::problem::Problem;

/// From a health check to a big upload, in seconds.
const DURATION_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

/// The gateway's own metrics. Labels take few values: routes are patterns, pipelines are names of files.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    upload_bytes: IntCounterVec,
    uploads: IntCounterVec,
    pub(crate) uploads_under_way: IntGauge,
    pub(crate) connections: IntGauge,
    ready: IntGaugeVec,
}

impl Metrics {
    /// Makes and registers them; fails when the registry already has metrics of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("tidemill_http_requests_total", "HTTP requests answered."),
                &["route", "method", "status"],
            )?,
            durations: HistogramVec::new(
                HistogramOpts::new(
                    "tidemill_http_request_duration_seconds",
                    "Time from the end of a request's headers until its answer begins.",
                )
                .buckets(DURATION_BUCKETS.to_vec()),
                &["route", "method"],
            )?,
            upload_bytes: IntCounterVec::new(
                Opts::new("tidemill_upload_bytes_total", "Bytes of accepted uploads, without duplicates."),
                &["pipeline"],
            )?,
            uploads: IntCounterVec::new(
                Opts::new("tidemill_uploads_total", "Uploads by outcome: landed, duplicate, refused."),
                &["pipeline", "outcome"],
            )?,
            uploads_under_way: IntGauge::new(
                "tidemill_uploads_under_way",
                "Uploads whose bytes are coming in.",
            )?,
            connections: IntGauge::new("tidemill_http_connections", "Open HTTP connections.")?,
            ready: IntGaugeVec::new(
                Opts::new("tidemill_ready", "1 when the part answers that `/readyz` asks, else 0."),
                &["part"],
            )?,
        };
        metrics.collectors().into_iter().try_for_each(|collector| registry.register(collector))?;
        Ok(metrics)
    }

    /// The instruments, as they are registered and told of in docs/metrics.md.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Self { requests, durations, upload_bytes, uploads, uploads_under_way, connections, ready } =
            self.clone();
        vec![
            Box::new(requests),
            Box::new(durations),
            Box::new(upload_bytes),
            Box::new(uploads),
            Box::new(uploads_under_way),
            Box::new(connections),
            Box::new(ready),
        ]
    }

    pub(crate) fn request_done(&self, route: &str, method: &str, status: u16, seconds: f64) {
        self.requests.with_label_values(&[route, method, &status.to_string()]).inc();
        self.durations.with_label_values(&[route, method]).observe(seconds);
    }

    pub(crate) fn upload_landed(&self, pipeline: &str, size_bytes: u64) {
        self.upload_bytes.with_label_values(&[pipeline]).inc_by(size_bytes);
        self.uploads.with_label_values(&[pipeline, "landed"]).inc();
    }

    pub(crate) fn upload_duplicate(&self, pipeline: &str) {
        self.uploads.with_label_values(&[pipeline, "duplicate"]).inc();
    }

    pub(crate) fn upload_refused(&self, pipeline: &str) {
        self.uploads.with_label_values(&[pipeline, "refused"]).inc();
    }
}

/// Counts something as long as it lives, however it ends.
pub(crate) struct Gauged(IntGauge);

impl Gauged {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The metrics of this process in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "Metrics in Prometheus' text format", content_type = "text/plain")))]
pub(crate) async fn metrics(State(shared): State<Shared>) -> Result<Response, Problem> {
    for (part, ready) in shared.readiness.parts().await {
        shared.metrics.ready.with_label_values(&[&part]).set(ready.into());
    }
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    encoder.encode(&shared.registry.gather(), &mut text).map_err(|error| Problem::internal(&error))?;
    Ok(([(CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response())
}
