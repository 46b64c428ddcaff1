//! Extractors whose refusals are problems: the query string, names and ids in the path, bodies of JSON.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tidemill_jobs::JobId;
use tidemill_pipelines::Pipeline;

use crate::gateway::State;
use crate::problem::Problem;

/// The query string as a struct.
pub(crate) struct QueryString<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(error) => {
                let detail = format!("the query string was not understood: {}", error.body_text());
                Err(Problem::bad_request("bad_query", detail))
            }
        }
    }
}

/// The parameters of the path as texts.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(error) => {
                let detail = format!("the path was not understood: {}", error.body_text());
                Err(Problem::bad_request("bad_path", detail))
            }
        }
    }
}

/// A body of JSON as a struct; its largest size is that of axum, 2 MiB.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than 2 MiB")
            }
            _ => Problem::bad_request("broken_off", error.body_text().to_lowercase()),
        })?;
        // A list would be taken for the fields of a struct in their order.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::bad_request("bad_body", "the body is not a JSON object"));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Problem::bad_request("bad_body", format!("the body is not the JSON that is asked for: {error}"))
        })
    }
}

/// The pipeline of this name.
pub(crate) fn pipeline<'a>(state: &'a State, name: &str) -> Result<&'a Pipeline, Problem> {
    let found = name.parse().ok().and_then(|name| state.pipelines.get(&name));
    found.ok_or_else(|| {
        let name: String = name.chars().take(80).collect();
        let detail = format!("there is no pipeline `{name}`; /v1/pipelines lists those that you may use");
        Problem::not_found("unknown_pipeline", detail)
    })
}

/// What is no job id is the id of no job.
pub(crate) fn job_id(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|_| unknown_job(text))
}

/// The answer also for a job that the user may not see.
pub(crate) fn unknown_job(id: &str) -> Problem {
    let id: String = id.chars().take(80).collect();
    Problem::not_found("unknown_job", format!("there is no job `{id}`"))
}
