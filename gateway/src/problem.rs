//! Problems: every refusal and failure as `application/problem+json` (RFC 9457).
//!
//! It promises: lowercase words that say what failed on what; nothing of the inside of a server error but
//! the request's id, by which the log tells the rest. Handlers return `Result<_, Problem>`.

use std::error::Error;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::observe::request_id;

/// What a client reads when something was refused or failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// `urn:tidemill:problem:` and the code.
    #[serde(rename = "type")]
    pub type_: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub status: u16,
    /// What failed, on what.
    #[schema(example = "there is no pipeline `sales`")]
    pub detail: String,
    /// A stable word for programs.
    #[schema(example = "unknown_pipeline")]
    pub code: String,
    /// The keys of the objects that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// This very request: `urn:tidemill:request:` and the id that is also in `x-request-id` and in the logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// A refusal or failure on its way to the client.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    keys: Vec<String>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Problem {
    /// A problem with this status and stable code; the detail is lowercase, what failed on what.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), keys: Vec::new(), header: None }
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401 for a missing or refused token.
    pub fn bad_token(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with_header(WWW_AUTHENTICATE, "Bearer realm=\"tidemill\"")
    }

    /// 401 for missing or wrong credentials at login.
    pub fn bad_credentials(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "bad_credentials", detail)
            .with_header(WWW_AUTHENTICATE, "Basic realm=\"tidemill\", charset=\"UTF-8\"")
    }

    /// 403: known, but not permitted.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404: not there, or not for this user to see.
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 429 or 503 with the seconds after which to try again.
    pub fn try_later(status: StatusCode, code: &'static str, detail: &str, seconds: u64) -> Self {
        Self::new(status, code, detail).with_header(RETRY_AFTER, &seconds.to_string())
    }

    /// 503 for a part that did not answer; logged here, the client hears no more than which part it was.
    pub fn unavailable(part: &str, error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "a part of the gateway did not answer");
        let detail = format!("{part} did not answer; nothing was changed, try again");
        Self::try_later(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &detail, 5)
    }

    /// 500 for an object that the job table knows of and the object store does not; logged here.
    pub fn lost(name: &str, job: &str) -> Self {
        tracing::error!(job_id = job, name, "an artifact is missing in the object store");
        let detail = format!("`{name}` of job `{job}` is missing in the object store; tell the operator");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "lost_file", detail)
    }

    /// 500; logged here, the client hears only the request's id.
    pub fn internal(error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "a request failed inside");
        Self::failed_inside()
    }

    /// 500 for what is already logged.
    pub fn failed_inside() -> Self {
        let detail = "the request failed inside; the logs have its cause under this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Adds a header to the answer.
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.header = HeaderValue::from_str(value).ok().map(|value| Box::new((name, value)));
        self
    }

    /// Lists the objects that it is about.
    pub fn with_keys(mut self, keys: Vec<String>) -> Self {
        self.keys = keys;
        self
    }

    fn body(&self) -> ProblemBody {
        ProblemBody {
            type_: format!("urn:tidemill:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            code: self.code.to_owned(),
            keys: self.keys.clone(),
            instance: request_id().map(|id| format!("urn:tidemill:request:{id}")),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(header) = self.header {
            let (name, value) = *header;
            headers.insert(name, value);
        }
        response
    }
}

impl From<tidemill_jobs::Error> for Problem {
    fn from(error: tidemill_jobs::Error) -> Self {
        use tidemill_jobs::Error as Jobs;
        match &error {
            Jobs::Database { .. } | Jobs::Log { .. } => Self::unavailable("the job database", &error),
            Jobs::Ledger { .. } => Self::unavailable("the ledger", &error),
            Jobs::IdempotencyConflict { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_conflict", error.to_string())
            }
            Jobs::ObjectTaken { .. } => Self::new(StatusCode::CONFLICT, "object_taken", error.to_string()),
            Jobs::TooLong { .. } => Self::bad_request("too_long", error.to_string()),
            Jobs::NotAllowed { .. } | Jobs::NothingFetched { .. } => {
                Self::new(StatusCode::CONFLICT, "not_allowed", error.to_string())
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<tidemill_ingest::Error> for Problem {
    fn from(error: tidemill_ingest::Error) -> Self {
        use tidemill_ingest::Error as Ingest;
        let detail = error.to_string();
        match error {
            Ingest::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail),
            Ingest::PushedTooLarge { keys, .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail).with_keys(keys)
            }
            Ingest::NoUploads { .. } => Self::new(StatusCode::CONFLICT, "no_uploads", detail),
            Ingest::Missing { keys } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "missing_objects", detail).with_keys(keys)
            }
            Ingest::BrokenOff { .. } => Self::bad_request("broken_off", detail),
            Ingest::Objects { .. } => Self::unavailable("the object store", &error),
            Ingest::Jobs(error) => error.into(),
        }
    }
}

/// An error and its causes, on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
