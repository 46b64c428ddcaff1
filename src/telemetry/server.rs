//! The small HTTP server of processor and notifier: `/metrics`, `/healthz`, `/readyz`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Longest wait for one part; a probe of Kubernetes waits a few seconds at most.
const CHECK_MAX: Duration = Duration::from_secs(2);

type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// Which parts must answer before a role says that it is ready.
#[derive(Clone, Default)]
pub struct Readiness(Vec<(&'static str, Check)>);

impl Readiness {
    /// Adds a part.
    pub fn with<F, Fut, E>(mut self, part: &'static str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let run: Check = Arc::new(move || {
            let answer = check();
            Box::pin(async move { answer.await.map_err(with_causes) })
        });
        self.0.push((part, run));
        self
    }

    /// Asks all parts at once; gives each part's name and its fault.
    pub async fn ask(&self) -> Vec<(&'static str, Result<(), String>)> {
        let asked = self.0.iter().map(|(part, check)| async move {
            let answer = tokio::time::timeout(CHECK_MAX, check()).await;
            (*part, answer.unwrap_or_else(|_| Err("did not answer in time".to_owned())))
        });
        futures::future::join_all(asked).await
    }
}

/// An error with all its causes, as one line.
pub fn with_causes(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

struct Shown {
    registry: Registry,
    readiness: Readiness,
    ready: IntGaugeVec,
}

/// The gauge of readiness; a gateway's has the same name and label.
pub fn ready_gauge() -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(
        Opts::new("tidemill_ready", "1 when the part answers that `/readyz` asks, else 0."),
        &["part"],
    )
}

/// Serves until the token is cancelled.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let gauge = ready_gauge()?;
    registry.register(Box::new(gauge.clone()))?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(Arc::new(Shown { registry, readiness, ready: gauge }));
    let server = axum::serve(listener, router).into_future();
    match shutdown.run_until_cancelled(server).await {
        Some(ended) => Ok(ended?),
        None => Ok(()),
    }
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    for (part, answer) in shown.readiness.ask().await {
        shown.ready.with_label_values(&[part]).set(answer.is_ok().into());
    }
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&shown.registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Says which part does not answer, not what it said: the probe's port may be open to more than operators.
async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    let answers = shown.readiness.ask().await;
    let all = answers.iter().all(|(_, answer)| answer.is_ok());
    let parts: serde_json::Map<String, serde_json::Value> = answers
        .iter()
        .map(|(part, answer)| {
            ((*part).to_owned(), if answer.is_ok() { "ok".into() } else { "does not answer".into() })
        })
        .collect();
    let status = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(serde_json::json!({ "ready": all, "parts": parts }))).into_response()
}
