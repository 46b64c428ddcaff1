//! Uploads: a body, raw or as a form's field `file`, becomes an object and a job.
//!
//! It promises: what can be refused is refused before a byte of the body is taken; a 202 is given only for what
//! is safely landed; an upload that breaks off leaves nothing.

pub(crate) mod body;
pub(crate) mod request;

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use tidemill_ingest::Upload;
use tidemill_jobs::{Job, Landed};
use tidemill_pipelines::{Pipeline, PipelineName};
use tracing::Instrument;

use crate::caller::Caller;
use crate::delayed::parameters;
use crate::extract::{Path, QueryString, pipeline};
use crate::fair::Permit;
use crate::gateway::Shared;
use crate::metrics::Gauged;
use crate::problem::Problem;
use crate::users::Permission;
use crate::views::JobView;
use body::{BodyFault, UploadBody};
use request::{Kind, Request};

const TIDEMILL_DUPLICATE: HeaderName = HeaderName::from_static("tidemill-duplicate");

/// Where the name of the file may stand.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UploadQuery {
    name: Option<String>,
}

/// The file itself.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code)] // Only shape the OpenAPI document: bodies are streamed, never read into a type.
struct RawFile(String);

/// A form with the file.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)] // Only shape the OpenAPI document: bodies are streamed, never read into a type.
struct FormFile {
    /// The file; its name is the name of the file.
    #[schema(value_type = String, format = Binary)]
    file: String,
}

/// Send a file to a pipeline.
///
/// The body is the file itself, or a form (`multipart/form-data`) with the file in its field `file`. The same
/// file sent again, or the same `Idempotency-Key`, is answered with the first job and `Tidemill-Duplicate: true`.
#[utoipa::path(post, path = "/v1/pipelines/{name}/uploads", tag = "uploads", security(("bearer" = [])),
    params(
        ("name" = String, Path, description = "The pipeline's name"),
        ("name" = Option<String>, Query, description = "The name of the file; else that of `Content-Disposition`"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe: 1 to 190 visible ASCII characters"),
    ),
    request_body(content((RawFile = "text/csv"), (RawFile = "application/octet-stream"), (FormFile = "multipart/form-data"))),
    responses(
    (status = 202, description = "The job; `Location` is where to watch it", body = JobView,
        headers(("Location" = String, description = "The job"), ("Tidemill-Duplicate" = String, description = "`true` when the job is that of an earlier upload"))),
    (status = 400, description = "Broken off, or a form that cannot be read"),
    (status = 403, description = "No grant to send to this pipeline"),
    (status = 404, description = "No such pipeline"),
    (status = 408, description = "The body stalled"),
    (status = 409, description = "The pipeline fetches its data itself"),
    (status = 413, description = "Over the limit of the pipeline"),
    (status = 415, description = "A content type that the pipeline does not read"),
    (status = 422, description = "The Idempotency-Key came before with other content"),
    (status = 503, description = "Too many uploads at once, also after a wait, or a part that does not answer"),
))]
pub(crate) async fn upload(
    State(shared): State<Shared>,
    caller: Result<Caller, Problem>,
    Path(name): Path<String>,
    query: Result<QueryString<UploadQuery>, Problem>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    match admit(&shared, caller, &name, query, &headers).await {
        Ok(admitted) => land(shared, admitted, body).await,
        Err(problem) => {
            body::drain(body.into_data_stream()).await;
            Err(problem)
        }
    }
}

/// An upload that may begin.
struct Admitted {
    pipeline: PipelineName,
    request: Request,
    parameters: BTreeMap<String, Value>,
    sender: String,
    place: Permit,
}

async fn admit(
    shared: &Shared,
    caller: Result<Caller, Problem>,
    name: &str,
    query: Result<QueryString<UploadQuery>, Problem>,
    headers: &HeaderMap,
) -> Result<Admitted, Problem> {
    let caller = caller?;
    let pipeline = pipeline(shared, name)?;
    tracing::Span::current().record("pipeline", pipeline.name.as_str());
    if !caller.user.may(Permission::Send, &pipeline.name) {
        return Err(Problem::forbidden(format!("you have no grant to send to pipeline `{name}`")));
    }
    let QueryString(query) = query?;
    let request = Request::read(pipeline, headers, query.name)?;
    let parameters = parameters(pipeline, &BTreeMap::new())?;
    let place = place(shared, &caller.user.name).await?;
    let (pipeline, sender) = (pipeline.name.clone(), caller.user.name.clone());
    Ok(Admitted { pipeline, request, parameters, sender, place })
}

/// A permit among the uploads at once; when all are taken, waits for one before the body is read.
pub(crate) async fn place(shared: &Shared, user: &str) -> Result<Permit, Problem> {
    let waited = tokio::time::timeout(shared.settings.upload_wait, shared.uploads.acquire(user)).await;
    waited.ok().and_then(Result::ok).ok_or_else(|| {
        let detail = "too many uploads are under way; try again in a moment";
        Problem::try_later(StatusCode::SERVICE_UNAVAILABLE, "too_many_uploads", detail, 2)
    })
}

/// The landing runs in a task of its own: when the connection goes away, hyper drops the handler, and what was
/// written has to be taken back all the same.
async fn land(shared: Shared, admitted: Admitted, body: Body) -> Result<Response, Problem> {
    let task = run(shared.clone(), admitted, body).in_current_span();
    match shared.landings.spawn(task).await {
        Ok(landed) => landed.map(answer),
        Err(error) => Err(Problem::internal(&error)),
    }
}

async fn run(shared: Shared, admitted: Admitted, body: Body) -> Result<Landed, Problem> {
    let Admitted { pipeline: name, request, parameters, sender, place: _place } = admitted;
    let _under_way = Gauged::new(&shared.metrics.uploads_under_way);
    let pipeline = pipeline(&shared, name.as_str())?;
    let body = UploadBody::new(body, request.length, &shared);
    let (mut body, file_name) = match request.kind {
        Kind::Raw => (body, request.file_name),
        Kind::Form { boundary } => {
            let (body, form_name) = body.file_of_form(boundary).await?;
            (body, request.file_name.or(form_name))
        }
    };
    let upload = Upload { sender, file_name, idempotency_key: request.idempotency_key, parameters };
    let landed = land_body(&shared, pipeline, upload, &mut body).await;
    count(&shared, name.as_str(), &landed);
    landed
}

async fn land_body(
    shared: &Shared,
    pipeline: &Pipeline,
    upload: Upload,
    body: &mut UploadBody,
) -> Result<Landed, Problem> {
    match shared.landing.land(pipeline, upload, &mut *body).await {
        Ok(landed) => Ok(landed),
        Err(error) => Err(body.refusal(error).await),
    }
}

fn count(shared: &Shared, pipeline: &str, landed: &Result<Landed, Problem>) {
    match landed {
        Ok(Landed::New(job)) => {
            tracing::Span::current().record("job_id", tracing::field::display(job.job_id));
            shared.metrics.upload_landed(pipeline, job.size_bytes);
        }
        Ok(Landed::Duplicate(_)) => shared.metrics.upload_duplicate(pipeline),
        Err(_) => shared.metrics.upload_refused(pipeline),
    }
}

pub(crate) fn answer(landed: Landed) -> Response {
    match landed {
        Landed::New(job) => accepted(job),
        Landed::Duplicate(job) => {
            let mut response = accepted(job);
            response.headers_mut().insert(TIDEMILL_DUPLICATE, HeaderValue::from_static("true"));
            response
        }
    }
}

fn accepted(job: Job) -> Response {
    let location = format!("/v1/jobs/{}", job.job_id);
    (StatusCode::ACCEPTED, [(LOCATION, location)], Json(JobView::from(job))).into_response()
}

impl From<BodyFault> for Problem {
    fn from(fault: BodyFault) -> Self {
        let detail = fault.to_string();
        match fault {
            BodyFault::Stalled { .. } => Self::new(StatusCode::REQUEST_TIMEOUT, "stalled", detail),
            BodyFault::TooSlow { .. } => Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail),
            BodyFault::Broken { .. } | BodyFault::Short { .. } => Self::bad_request("broken_off", detail),
            BodyFault::Form(_) => Self::bad_request("bad_form", detail),
            BodyFault::Stopping => Self::try_later(StatusCode::SERVICE_UNAVAILABLE, "stopping", &detail, 5),
        }
    }
}
