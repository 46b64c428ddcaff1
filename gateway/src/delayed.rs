//! Delayed jobs: a sender asks for places, pushes objects to them, and later posts a job over them.
//!
//! It promises: a place is given to one sender for one pipeline and a short time; a job is made only of objects that
//! are there, within the limits, and that no other job took; a 202 is given only for what is recorded.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemill_ingest::{Delayed, PUSHED_MAX, PushedKey, Stored};
use tidemill_pipelines::Pipeline;
use tracing::Instrument;
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::extract::{JsonBody, Path, pipeline};
use crate::gateway::{self, Shared};
use crate::metrics::Gauged;
use crate::problem::Problem;
use crate::uploads::body::{UploadBody, drain};
use crate::uploads::request::{idempotency_key, length, refuse_length, upload_source};
use crate::uploads::{answer, place};
use crate::users::{Permission, User};
use crate::views::JobView;

/// Which objects are to be pushed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PlacesRequest {
    /// The names of the files, 1 to 1,000; a place is made for each. Without them one place is made.
    #[schema(example = json!(["may.csv"]))]
    names: Vec<String>,
}

/// Where to push.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Places {
    objects: Vec<Place>,
}

/// Where to push one object.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Place {
    /// What the job is told of it, in `files_to_process`.
    #[schema(example = "pushed/sales/ana/019a8f6e-5c1d-7a30-9d55-2f0c5a1b7e11/may.csv")]
    key: String,
    /// Always `PUT`.
    method: &'static str,
    /// Where to: a URL of the object store, which needs no token, or a path of this gateway, which needs yours.
    url: String,
    /// Headers to send with it.
    headers: BTreeMap<String, String>,
    /// Until when a push may begin.
    expires_at: DateTime<Utc>,
}

/// An object that was pushed through the gateway.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pushed {
    key: String,
    size_bytes: u64,
    content_sha256: String,
}

/// A job over objects that were pushed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DelayedRequest {
    #[schema(example = "sales")]
    pipeline: String,
    /// Keys of pushed objects, 1 to 1,000, in the order in which they are read.
    files_to_process: Vec<String>,
    /// The pipeline's parameters: texts, numbers, true or false.
    #[serde(default)]
    #[schema(value_type = Object)]
    parameters: BTreeMap<String, Value>,
}

/// Ask for places to push objects to.
///
/// Each answer has a URL to which the file is PUT as it is. Post a job over the keys once all are pushed.
#[utoipa::path(post, path = "/v1/pipelines/{name}/objects", tag = "delayed jobs", security(("bearer" = [])),
    params(("name" = String, Path, description = "The pipeline's name")), request_body = PlacesRequest,
    responses(
    (status = 200, description = "A place for each name", body = Places),
    (status = 400, description = "A body that is not understood"),
    (status = 403, description = "No grant to send to this pipeline"),
    (status = 404, description = "No such pipeline"),
))]
pub(crate) async fn places(
    State(shared): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<PlacesRequest>,
) -> Result<Json<Places>, Problem> {
    let pipeline = sendable(&shared, &caller.user, &name)?;
    upload_source(pipeline)?;
    let names: Vec<Option<&str>> = match &request.names[..] {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    bounded(names.len(), "names")?;
    let mut objects = Vec::with_capacity(names.len());
    for name in names {
        let key = PushedKey::new(&pipeline.name, &caller.user.name, name);
        let url = match &shared.signer {
            Some(signer) => key.presigned(signer.as_ref()).await?.to_string(),
            None => format!("/v1/objects/{}", key.key()),
        };
        let (expires_at, key) = (key.expires_at(), key.key().to_string());
        objects.push(Place { key, method: "PUT", url, headers: BTreeMap::new(), expires_at });
    }
    Ok(Json(Places { objects }))
}

/// Push an object through the gateway, where the object store itself gives no URLs.
#[utoipa::path(put, path = "/v1/objects/{key}", tag = "delayed jobs", security(("bearer" = [])),
    params(("key" = String, Path, description = "A key that was given to you; its slashes stay as they are")),
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
    (status = 200, description = "It is stored", body = Pushed),
    (status = 404, description = "No key that was given to you"),
    (status = 409, description = "A job took the object already"),
    (status = 410, description = "The place has expired"),
    (status = 413, description = "Over the limit of the pipeline"),
    (status = 503, description = "Too many uploads at once, or a part that does not answer"),
))]
pub(crate) async fn push(
    State(shared): State<Shared>,
    caller: Result<Caller, Problem>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Pushed>, Problem> {
    match admit(&shared, caller, &key, &headers).await {
        Ok(admitted) => {
            // In a task of its own, as uploads are: what is half written has to be taken back.
            let task = store(shared.clone(), admitted, body).in_current_span();
            match shared.landings.spawn(task).await {
                Ok(stored) => stored.map(Json),
                Err(error) => Err(Problem::internal(&error)),
            }
        }
        Err(problem) => {
            drain(body.into_data_stream()).await;
            Err(problem)
        }
    }
}

/// A push that may begin.
struct Admitted {
    key: PushedKey,
    limit_bytes: u64,
    length: Option<u64>,
    place: crate::fair::Permit,
}

async fn admit(
    shared: &Shared,
    caller: Result<Caller, Problem>,
    text: &str,
    headers: &HeaderMap,
) -> Result<Admitted, Problem> {
    let caller = caller?;
    let known = PushedKey::parse(text).and_then(|key| Some((pipeline(shared, key.pipeline()).ok()?, key)));
    let known = known.filter(|(pipeline, key)| key.is_for(&pipeline.name, &caller.user.name));
    let (pipeline, key) = known.ok_or_else(|| {
        Problem::not_found(
            "unknown_object",
            "this key was not given to you; ask for one at /v1/pipelines/{name}/objects",
        )
    })?;
    sendable(shared, &caller.user, pipeline.name.as_str())?;
    if key.expires_at() < Utc::now() {
        return Err(Problem::new(StatusCode::GONE, "expired", "the place has expired; ask for a new one"));
    }
    let length = length(headers)?;
    let limit_bytes = upload_source(pipeline)?.max_size_bytes;
    refuse_length(limit_bytes, length)?;
    Ok(Admitted { key, limit_bytes, length, place: place(shared, &caller.user.name).await? })
}

async fn store(shared: Shared, admitted: Admitted, body: Body) -> Result<Pushed, Problem> {
    let Admitted { key, limit_bytes, length, place: _place } = admitted;
    let _under_way = Gauged::new(&shared.metrics.uploads_under_way);
    let mut body = UploadBody::new(body, length, &shared);
    match shared.landing.push(&key, limit_bytes, &mut body).await {
        Ok(Stored { size_bytes, sha256 }) => {
            Ok(Pushed { key: key.key().to_string(), size_bytes, content_sha256: sha256 })
        }
        Err(error) => Err(body.refusal(error).await),
    }
}

/// Post a job over objects that were pushed before.
///
/// Jobs of one pipeline that are made so run one after the other, in the order in which they were posted.
#[utoipa::path(post, path = "/v1/jobs", tag = "delayed jobs", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe: 1 to 190 visible ASCII characters")),
    request_body = DelayedRequest,
    responses(
    (status = 202, description = "The job; `Location` is where to watch it", body = JobView,
        headers(("Location" = String, description = "The job"), ("Tidemill-Duplicate" = String, description = "`true` when the job is that of an earlier request with this key"))),
    (status = 400, description = "A body that is not understood"),
    (status = 403, description = "No grant to send to this pipeline"),
    (status = 404, description = "No such pipeline"),
    (status = 409, description = "Another job took one of the objects"),
    (status = 413, description = "Objects over the limit of the pipeline; `keys` lists them"),
    (status = 422, description = "Objects that are not there or not yours (`keys` lists them), parameters that do not fit, or an Idempotency-Key that came with another request"),
    (status = 503, description = "A part that does not answer"),
))]
pub(crate) async fn submit(
    State(shared): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(request): JsonBody<DelayedRequest>,
) -> Result<Response, Problem> {
    let pipeline = sendable(&shared, &caller.user, &request.pipeline)?;
    upload_source(pipeline)?;
    let delayed = Delayed {
        sender: caller.user.name.clone(),
        files: own_keys(&request.files_to_process, pipeline, &caller.user)?,
        parameters: parameters(pipeline, &request.parameters)?,
        idempotency_key: idempotency_key(&headers)?,
    };
    let landed = shared.landing.land_pushed(pipeline, delayed).await?;
    Ok(answer(landed))
}

/// The pipeline, when the user may send to it.
fn sendable<'a>(state: &'a gateway::State, user: &User, name: &str) -> Result<&'a Pipeline, Problem> {
    let pipeline = pipeline(state, name)?;
    tracing::Span::current().record("pipeline", pipeline.name.as_str());
    if user.may(Permission::Send, &pipeline.name) {
        return Ok(pipeline);
    }
    Err(Problem::forbidden(format!("you have no grant to send to pipeline `{name}`")))
}

/// The values of a pipeline's parameters, those by default included.
pub(crate) fn parameters(
    pipeline: &Pipeline,
    given: &BTreeMap<String, Value>,
) -> Result<BTreeMap<String, Value>, Problem> {
    match pipeline.bind(given) {
        Ok(bound) => Ok(bound.into_iter().map(|(name, value)| (name, value.to_json())).collect()),
        Err(detail) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_parameters", detail)),
    }
}

/// The keys, each once, each given to this user for this pipeline.
fn own_keys(texts: &[String], pipeline: &Pipeline, user: &User) -> Result<Vec<PushedKey>, Problem> {
    bounded(texts.len(), "files_to_process")?;
    let own = |text: &String| {
        PushedKey::parse(text)
            .filter(|key| key.is_for(&pipeline.name, &user.name))
            .ok_or_else(|| text.clone())
    };
    let (keys, strange): (Vec<_>, Vec<_>) = texts.iter().map(own).partition(Result::is_ok);
    let strange: Vec<String> = strange.into_iter().filter_map(Result::err).collect();
    if !strange.is_empty() {
        let detail = format!(
            "{} of the keys were not given to you for pipeline `{}`; ask for keys at /v1/pipelines/{}/objects",
            strange.len(),
            pipeline.name,
            pipeline.name
        );
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "foreign_keys", detail).with_keys(strange));
    }
    let keys: Vec<PushedKey> = keys.into_iter().filter_map(Result::ok).collect();
    let mut once = std::collections::HashSet::new();
    let doubled = keys.iter().filter(|key| !once.insert(key.id())).map(|key| key.key().to_string());
    let doubled: Vec<String> = doubled.collect();
    if doubled.is_empty() {
        return Ok(keys);
    }
    let detail = format!("{} of the keys stand there twice", doubled.len());
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "doubled_keys", detail).with_keys(doubled))
}

fn bounded(count: usize, what: &str) -> Result<(), Problem> {
    if (1..=PUSHED_MAX).contains(&count) {
        return Ok(());
    }
    let detail = format!("`{what}` has {count} entries; 1 to {PUSHED_MAX} are taken at once");
    Err(Problem::bad_request("bad_body", detail))
}
