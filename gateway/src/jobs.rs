//! Jobs: list, show, wait for, retry, cancel. A job that the caller may not see is not there.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidemill_jobs::{Job, JobFilter, JobId, JobStatus, OwnJobs};
use tidemill_pipelines::PipelineName;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::extract::{Path, QueryString, job_id, pipeline, unknown_job};
use crate::gateway::{self, Shared};
use crate::problem::Problem;
use crate::users::{Permission, Scope, User};
use crate::views::{JobView, StatusView};

/// Jobs of a page when the caller does not say.
const LIMIT_DEFAULT: u32 = 50;

/// Largest page.
const LIMIT_MAX: u32 = 1_000;

/// Longest `?wait=`, in seconds; proxies often give up after 60.
const WAIT_SECONDS_MAX: u64 = 30;

/// Between two looks at a job that is waited for: 256 waiters make at most some 1,000 small reads a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The first looks come sooner, as a small file takes only a moment.
const LOOK_FIRST: Duration = Duration::from_millis(25);

/// Which jobs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only jobs of this status.
    #[param(inline)]
    status: Option<StatusView>,
    /// Only jobs of this pipeline.
    pipeline: Option<String>,
    /// Jobs of a page, 1 to 1,000; 50 when it is not given.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// One page of jobs, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobList {
    jobs: Vec<JobView>,
    /// Where the next page begins; `null` at the end.
    next_cursor: Option<String>,
}

/// How long to wait.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShowQuery {
    /// Wait up to so many seconds, at most 30, until the job has ended; with `If-None-Match`, until it has changed.
    wait: Option<u64>,
}

/// The jobs that the caller may see, the newest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", security(("bearer" = [])), params(ListQuery), responses(
    (status = 200, description = "One page of jobs", body = JobList),
    (status = 400, description = "A query that is not understood"),
    (status = 403, description = "No grant for the pipeline that was asked for"),
    (status = 404, description = "No such pipeline"),
))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    caller: Caller,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Json<JobList>, Problem> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_request("bad_query", format!("`limit` must be 1 to {LIMIT_MAX}")));
    }
    let mut filter = visible(&shared, &caller.user, query.pipeline.as_deref())?;
    filter.statuses = query.status.map(JobStatus::from).into_iter().collect();
    filter.limit = limit;
    filter.cursor = query.cursor;
    let page = shared.jobs.list(&filter).await.map_err(bad_cursor)?;
    let jobs = page.jobs.into_iter().map(JobView::from).collect();
    Ok(Json(JobList { jobs, next_cursor: page.next_cursor }))
}

/// The jobs that the user may see, of one pipeline or of all.
fn visible(state: &gateway::State, user: &User, name: Option<&str>) -> Result<JobFilter, Problem> {
    let Some(name) = name else {
        return Ok(visible_of_all(user));
    };
    let pipeline = &pipeline(state, name)?.name;
    let sees_all = user.may(Permission::Read, pipeline);
    if !sees_all && !user.may(Permission::Send, pipeline) {
        return Err(Problem::forbidden(format!("you have no grant for pipeline `{name}`")));
    }
    let sender = (!sees_all).then(|| user.name.clone());
    Ok(JobFilter { pipelines: Some(vec![pipeline.clone()]), sender, ..JobFilter::default() })
}

/// By the grants, so that jobs of a pipeline that was taken away can still be seen.
fn visible_of_all(user: &User) -> JobFilter {
    if user.is_admin || user.has(Permission::Read, &Scope::All) {
        return JobFilter::default();
    }
    let pipelines = Some(user.named(Permission::Read));
    if user.has(Permission::Send, &Scope::All) {
        // All of one's own, and all of some pipelines.
        return JobFilter { pipelines, own: Some(own(user, None)), ..JobFilter::default() };
    }
    let own = own(user, Some(user.named(Permission::Send)));
    JobFilter { pipelines, own: Some(own), ..JobFilter::default() }
}

fn own(user: &User, pipelines: Option<Vec<PipelineName>>) -> OwnJobs {
    OwnJobs { sender: user.name.clone(), pipelines }
}

fn bad_cursor(error: tidemill_jobs::Error) -> Problem {
    match &error {
        tidemill_jobs::Error::Malformed { what: "the cursor", .. } => {
            Problem::bad_request("bad_query", "`cursor` is not one that a page of jobs gave")
        }
        _ => error.into(),
    }
}

/// One job.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", security(("bearer" = [])),
    params(("id" = String, Path, description = "The job's id"), ShowQuery), responses(
    (status = 200, description = "The job; `ETag` changes with it", body = JobView),
    (status = 304, description = "The job has not changed since `If-None-Match`"),
    (status = 404, description = "No such job, or not yours to see"),
))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    QueryString(query): QueryString<ShowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let job = seen(&shared, &caller.user, &id).await?;
    let job = match query.wait {
        Some(seconds) => wait(&shared, job, known, seconds.min(WAIT_SECONDS_MAX)).await?,
        None => job,
    };
    let etag = etag(&job);
    if known == Some(etag.as_str()) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    Ok(([(ETAG, etag)], Json(JobView::from(job))).into_response())
}

/// Looks at the job until it is what the caller waits for, or the time is over. When too many wait already,
/// answers at once: the caller asks again and is no worse off.
async fn wait(shared: &Shared, job: Job, known: Option<&str>, seconds: u64) -> Result<Job, Problem> {
    let Ok(_place) = shared.waiters.try_acquire() else {
        return Ok(job);
    };
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut job = job;
    let mut pause = LOOK_FIRST;
    while !is_awaited(&job, known) && Instant::now() + pause < deadline {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_EVERY);
        match shared.jobs.get(job.job_id).await? {
            Some(found) => job = found,
            None => break,
        }
    }
    Ok(job)
}

fn is_awaited(job: &Job, known: Option<&str>) -> bool {
    match known {
        Some(known) => etag(job) != known,
        None => has_ended(job),
    }
}

/// Whether its report and rejects stand.
pub(crate) fn has_ended(job: &Job) -> bool {
    match job.status {
        JobStatus::Queued | JobStatus::Processing => false,
        JobStatus::Success | JobStatus::Failed | JobStatus::Downloaded => true,
    }
}

/// All that changes in a job changes with one of these.
fn etag(job: &Job) -> String {
    let ended = job.finished_at.map_or(0, |at| at.timestamp_micros());
    format!("\"{:?}-{}-{}-{ended}\"", job.status, job.attempt, job.retries).to_lowercase()
}

/// Put a failed job back into the queue.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "jobs", security(("bearer" = [])),
    params(("id" = String, Path, description = "The job's id")), responses(
    (status = 200, description = "The job, queued again; or `success`, when its rows turn out to be committed", body = JobView),
    (status = 403, description = "Seen, but not yours to change"),
    (status = 404, description = "No such job, or not yours to see"),
    (status = 409, description = "The job has not failed, or its fetch has, and is to be fetched again"),
))]
pub(crate) async fn retry(
    State(shared): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let job = changeable(&shared, &caller.user, &id).await?;
    let job = shared.settler.retry(job).await?;
    job.map(|job| Json(JobView::from(job))).ok_or_else(|| unknown_job(&id))
}

/// Cancel a job that has not ended.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", security(("bearer" = [])),
    params(("id" = String, Path, description = "The job's id")), responses(
    (status = 200, description = "The job, failed with code `cancelled`", body = JobView),
    (status = 403, description = "Seen, but not yours to change"),
    (status = 404, description = "No such job, or not yours to see"),
    (status = 409, description = "The job has ended, perhaps by a commit just now"),
    (status = 503, description = "The ledger does not answer, so nobody can say how the job ends"),
))]
pub(crate) async fn cancel(
    State(shared): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let job = changeable(&shared, &caller.user, &id).await?;
    let job = shared.settler.cancel(job).await?;
    job.map(|job| Json(JobView::from(job))).ok_or_else(|| unknown_job(&id))
}

/// The job, when there is one that the user may see.
pub(crate) async fn seen(shared: &Shared, user: &User, id: &str) -> Result<Job, Problem> {
    let job = shared.jobs.get(job_id(id)?).await?;
    let job = job.filter(|job| user.may_see(job)).ok_or_else(|| unknown_job(id))?;
    let span = tracing::Span::current();
    span.record("job_id", tracing::field::display(job.job_id));
    span.record("pipeline", job.pipeline.as_str());
    Ok(job)
}

async fn changeable(shared: &Shared, user: &User, id: &str) -> Result<JobId, Problem> {
    let job = seen(shared, user, id).await?;
    if user.may_change(&job) {
        return Ok(job.job_id);
    }
    Err(Problem::forbidden(format!("job `{id}` was sent by another user; you may only see it")))
}
