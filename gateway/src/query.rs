//! SQL over the results: one statement in, rows out, streamed.
//!
//! Until the first byte, what goes wrong is a problem; after it, the body breaks off: a JSON answer then lacks its end
//! with `row_count`, and with all formats the transfer itself is broken. A client that goes away stops its statement.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::Value;
use tidemill_query::{Code, Error, Flavour, Format, Parameter, Statement, Visible};
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::gateway::Shared;
use crate::problem::Problem;
use crate::users::Permission;

/// Longest body: a statement and its parameters, each character escaped as JSON may do it.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;

/// A statement.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryRequest {
    /// One statement that only reads.
    #[schema(example = "SELECT name FROM departments WHERE id = $1")]
    sql: String,
    /// The values of `$1`, `$2`, …: texts, numbers, booleans, null. Dates, times and decimals are texts.
    #[serde(default)]
    #[schema(example = json!([7]))]
    parameters: Vec<Value>,
    /// Missing: what the header `Accept` asks for, else JSON.
    format: Option<RowFormat>,
    /// At most so many rows.
    limit: Option<u64>,
}

/// The form of the rows.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RowFormat {
    /// `{"columns": […], "rows": [[…]], "row_count": n}`.
    Json,
    /// With a header.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

impl RowFormat {
    const ALL: [Self; 3] = [RowFormat::Json, RowFormat::Csv, RowFormat::Arrow];

    fn content_type(self) -> &'static str {
        match self {
            RowFormat::Json => "application/json",
            RowFormat::Csv => "text/csv; charset=utf-8",
            RowFormat::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// The first of the media types that `Accept` names and that we have.
    fn accepted(headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = |kind: &str| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let known = |wanted: String| Self::ALL.into_iter().find(|f| media(f.content_type()) == wanted);
        accept.split(',').find_map(|wanted| known(media(wanted))).unwrap_or(RowFormat::Json)
    }
}

impl From<RowFormat> for Format {
    fn from(format: RowFormat) -> Self {
        match format {
            RowFormat::Json => Format::Json,
            RowFormat::Csv => Format::Csv,
            RowFormat::Arrow => Format::Arrow,
        }
    }
}

/// Ask SQL of the results.
#[utoipa::path(post, path = "/v1/query", tag = "query", security(("bearer" = [])), request_body = QueryRequest,
    responses(
    (status = 200, description = "The rows, streamed; a body that breaks off is no whole answer", content(
        (Value = "application/json"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.arrow.stream"))),
    (status = 400, description = "The statement is wrong or not allowed; the detail says where"),
    (status = 408, description = "The body did not come in time"),
    (status = 413, description = "The statement or its parameters are too long"),
    (status = 422, description = "The statement needs more time or memory than it may use"),
    (status = 429, description = "Too many statements of this user at once; `Retry-After` tells the seconds to wait"),
    (status = 503, description = "Too many statements at once, or a database did not answer; `Retry-After` tells the seconds to wait"),
))]
pub(crate) async fn query(
    State(shared): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let request = body(request, shared.settings.request_timeout).await?;
    let format = request.format.unwrap_or_else(|| RowFormat::accepted(&headers));
    let user = &caller.user;
    let visible = match user.is_admin {
        true => Visible::All,
        false => Visible::of(&shared.pipelines, |pipeline| user.may(Permission::Read, pipeline)),
    };
    let statement = Statement {
        user: user.name.clone(),
        sql: request.sql,
        parameters: request.parameters.into_iter().map(parameter).collect::<Result<_, _>>()?,
        visible,
        flavour: Flavour::Plain,
        format: format.into(),
        limit: request.limit,
        timeout: None,
    };
    let answer = shared.query.run(&statement).await?;
    let rows = answer.into_stream().inspect_err(|error| tracing::warn!(%error, "an answer broke off"));
    Ok(([(CONTENT_TYPE, format.content_type())], Body::from_stream(rows)).into_response())
}

/// The statement, sent within the time that a request has.
async fn body(request: Request, limit: Duration) -> Result<QueryRequest, Problem> {
    match tokio::time::timeout(limit, Json::from_request(request, &())).await {
        Ok(body) => body.map(|Json(request)| request).map_err(refused_body),
        Err(_) => {
            let detail = format!("the body did not come within {} seconds", limit.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail))
        }
    }
}

fn refused_body(rejection: JsonRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let detail = format!("the body has more than {BODY_BYTES_MAX} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long", detail);
    }
    let detail = format!("the body was not understood: {}", rejection.body_text());
    Problem::bad_request("bad_body", detail)
}

fn parameter(value: Value) -> Result<Parameter, Problem> {
    Ok(match value {
        Value::Null => Parameter::Null,
        Value::Bool(value) => Parameter::Boolean(value),
        Value::String(text) => Parameter::Text(text),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Parameter::Int64(number),
            (None, Some(number)) => Parameter::Float64(number),
            (None, None) => Parameter::Text(number.to_string()),
        },
        Value::Array(_) | Value::Object(_) => {
            let detail = "a parameter is a text, a number, true, false or null";
            return Err(Problem::bad_request(Code::BadParameter.as_str(), detail));
        }
    })
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        let too_much = |code| Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail.clone());
        match &error {
            Error::Refused(refusal) if refusal.code == Code::TooLong => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, refusal.code.as_str(), detail)
            }
            Error::Refused(refusal) => Self::bad_request(refusal.code.as_str(), detail),
            Error::TimedOut { .. } => too_much("statement_timed_out"),
            Error::Memory { .. } => too_much("statement_memory"),
            Error::Cpu => too_much("statement_cpu"),
            Error::Busy { by_user: true, retry_after_seconds, .. } => Self::try_later(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_statements",
                &detail,
                *retry_after_seconds,
            ),
            Error::Busy { retry_after_seconds, .. } => Self::try_later(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_statements",
                &detail,
                *retry_after_seconds,
            ),
            Error::Unavailable { .. } => Self::unavailable("the data", &error),
            Error::Worker { .. } => Self::internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_form_is_what_the_client_accepts_else_json() {
        for (accept, content_type) in [
            ("text/csv", "text/csv; charset=utf-8"),
            ("text/html, TEXT/CSV;q=0.5, */*", "text/csv; charset=utf-8"),
            ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
            ("*/*", "application/json"),
            ("", "application/json"),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(RowFormat::accepted(&headers).content_type(), content_type, "{accept}");
        }
    }
}
