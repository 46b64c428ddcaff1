//! Every route on one screen, and the layers around them.

use std::any::Any;

use axum::extract::{DefaultBodyLimit, OriginalUri, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Router, handler::Handler};
use tower_http::catch_panic::CatchPanicLayer;

use crate::gateway::Shared;
use crate::problem::Problem;
use crate::{
    artifacts, delayed, health, jobs, login, me, metrics, observe, openapi, pipelines, query, uploads,
};

pub(crate) fn router(shared: Shared) -> Router {
    let upload = post(uploads::upload.layer(DefaultBodyLimit::disable()));
    let push = put(delayed::push.layer(DefaultBodyLimit::disable()));
    let timed = Router::new()
        .route("/v1/login", post(login::login))
        .route("/v1/me", get(me::me))
        .route("/v1/pipelines", get(pipelines::list))
        .route("/v1/pipelines/{name}", get(pipelines::show))
        .route("/v1/pipelines/{name}/objects", post(delayed::places))
        .route("/v1/jobs", get(jobs::list).post(delayed::submit))
        .route("/v1/jobs/{id}", get(jobs::show))
        .route("/v1/jobs/{id}/retry", post(jobs::retry))
        .route("/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{id}/rejects", get(artifacts::rejects))
        .route("/v1/jobs/{id}/files/{name}", get(artifacts::file))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .layer(middleware::from_fn_with_state(shared.clone(), time_out));
    // A statement has a time of its own.
    let query = post(query::query.layer(DefaultBodyLimit::max(query::BODY_BYTES_MAX)));
    Router::new()
        .route("/v1/pipelines/{name}/uploads", upload)
        .route("/v1/query", query)
        .route("/v1/objects/{*key}", push)
        .merge(timed)
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(shared.clone(), observe::observe))
        .with_state(shared)
}

/// An answer must begin within the time of the settings; what streams afterwards has its own limits.
async fn time_out(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let limit = shared.settings.request_timeout;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request was not answered within {} seconds", limit.as_secs());
            Problem::try_later(StatusCode::SERVICE_UNAVAILABLE, "timed_out", &detail, 5).into_response()
        }
    }
}

async fn unknown_route(OriginalUri(uri): OriginalUri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::not_found("unknown_route", format!("there is nothing at `{path}`; see /openapi.json"))
}

async fn wrong_method(method: Method, OriginalUri(uri): OriginalUri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    let detail = format!("`{path}` does not take {method}; the header `allow` tells what it takes");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", detail)
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    tracing::error!(panic = text, "a handler panicked");
    Problem::failed_inside().into_response()
}
