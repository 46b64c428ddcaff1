//! What every request gets, whatever its route: an id, a span, a line in the log, metrics, security headers.
//!
//! It promises never to log headers, bodies or query strings: tokens and data live there.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use tracing::field::Empty;
use uuid::Uuid;

use crate::gateway::Shared;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken over from the client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request that this task answers.
pub(crate) fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// The outermost layer.
pub(crate) async fn observe(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = method_label(request.method());
    let route = route_label(&request);
    let id = take_request_id(request.headers());
    let span = tracing::info_span!(
        "request", request_id = %id, method, route = %route, user = Empty, pipeline = Empty, job_id = Empty
    );
    let answer = REQUEST_ID.scope(id.clone(), next.run(request)).instrument(span.clone());
    let mut response = answer.await;
    let seconds = began.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    shared.metrics.request_done(&route, method, status, seconds);
    span.in_scope(|| log_request(&route, status, seconds));
    add_headers(response.headers_mut(), &id);
    response
}

/// Probes and scrapes come every few seconds; they are told only in debug logs.
fn log_request(route: &str, status: u16, seconds: f64) {
    let duration_ms = (seconds * 1e6).round() / 1e3;
    if matches!(route, "/healthz" | "/readyz" | "/metrics") && status < 400 {
        tracing::debug!(status, duration_ms, "request answered");
    } else {
        tracing::info!(status, duration_ms, "request answered");
    }
}

/// The route's pattern, never the path: a path would make a time series of each job.
fn route_label(request: &Request) -> String {
    let matched = request.extensions().get::<MatchedPath>();
    matched.map_or("unmatched", MatchedPath::as_str).to_owned()
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// An id from the client is kept when it is safe to write into logs.
fn take_request_id(headers: &HeaderMap) -> String {
    let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    given.filter(|id| is_safe_id(id)).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

fn is_safe_id(id: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(safe)
}

/// Answers are data, never pages: nothing in them may run, be framed, be sniffed or be kept by a cache.
fn add_headers(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, value);
    }
    let fixed = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fixed {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_replaced() {
        for (given, kept) in [
            ("abc-1.2_Z", true),
            ("", false),
            ("a b", false),
            ("a\tb", false),
            ("\"}{", false),
            (&"x".repeat(65), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(given).unwrap());
            assert_eq!(take_request_id(&headers) == given, kept, "{given}");
        }
    }
}
