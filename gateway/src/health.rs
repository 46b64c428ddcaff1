//! Health: `/healthz` says that this process answers, `/readyz` that every part it needs does.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::future::{BoxFuture, join_all};
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::gateway::Shared;

/// A part that has not answered by then is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes of many load balancers together ask each part once in this time.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// Asks one part of the installation whether it answers.
#[derive(Clone)]
pub struct ReadinessCheck {
    name: String,
    ask: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

impl ReadinessCheck {
    /// A check under the name that `/readyz` shows. The message of a failure goes into the log only.
    pub fn new<F, R>(name: impl Into<String>, ask: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name: name.into(), ask: Arc::new(move || Box::pin(ask())) }
    }

    async fn answer(&self) -> (String, PartState) {
        let began = Instant::now();
        let asked = tokio::time::timeout(CHECK_TIMEOUT, (self.ask)()).await;
        let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {CHECK_TIMEOUT:?}")));
        if let Err(error) = &asked {
            tracing::warn!(part = self.name, error, "a part is not ready");
        }
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (self.name.clone(), PartState { ready: asked.is_ok(), answered_in_ms: millis })
    }
}

/// Whether this process can do its work.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Ready {
    /// Whether every part answers.
    ready: bool,
    /// Each part by its name.
    parts: BTreeMap<String, PartState>,
}

/// One part.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PartState {
    /// Whether it answers.
    ready: bool,
    /// How long it took, in milliseconds.
    answered_in_ms: u64,
}

/// The checks and their last answer.
pub(crate) struct Readiness {
    checks: Vec<ReadinessCheck>,
    last: Mutex<Option<(Instant, Ready)>>,
    /// One round of checks at a time; who waited finds its answer in `last`.
    round: Semaphore,
}

impl Readiness {
    pub(crate) fn new(checks: Vec<ReadinessCheck>) -> Self {
        Self { checks, last: Mutex::new(None), round: Semaphore::new(1) }
    }

    /// Each part, and whether it answers.
    pub(crate) async fn parts(&self) -> impl Iterator<Item = (String, bool)> {
        self.ask().await.parts.into_iter().map(|(part, state)| (part, state.ready))
    }

    async fn ask(&self) -> Ready {
        if let Some(ready) = self.recent() {
            return ready;
        }
        let _round = self.round.acquire().await;
        if let Some(ready) = self.recent() {
            return ready;
        }
        let parts: BTreeMap<_, _> =
            join_all(self.checks.iter().map(ReadinessCheck::answer)).await.into_iter().collect();
        let ready = Ready { ready: parts.values().all(|part| part.ready), parts };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), ready.clone()));
        ready
    }

    fn recent(&self) -> Option<Ready> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| at.elapsed() < ANSWER_AGE_MAX).map(|(_, ready)| ready.clone())
    }
}

/// This process answers.
#[utoipa::path(get, path = "/healthz", tag = "operation",
    responses((status = 200, description = "This process answers", content_type = "text/plain")))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether every part answers.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "Every part answers", body = Ready),
    (status = 503, description = "A part does not answer", body = Ready),
))]
pub(crate) async fn readyz(State(shared): State<Shared>) -> Response {
    let ready = shared.readiness.ask().await;
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}
