//! Pipelines: what may be sent here.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::extract::{Path, pipeline};
use crate::gateway::Shared;
use crate::problem::Problem;
use crate::users::{Permission, User};
use crate::views::PipelineView;

/// The pipelines that the caller may use.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PipelineList {
    pipelines: Vec<PipelineView>,
}

/// The pipelines that the caller may send to or read from.
#[utoipa::path(get, path = "/v1/pipelines", tag = "pipelines", security(("bearer" = [])), responses(
    (status = 200, description = "Pipelines by name", body = PipelineList),
))]
pub(crate) async fn list(State(shared): State<Shared>, caller: Caller) -> Json<PipelineList> {
    let mut granted: Vec<_> =
        shared.pipelines.iter().filter(|pipeline| may_use(&caller.user, &pipeline.name)).collect();
    granted.sort_by(|a, b| a.name.cmp(&b.name));
    Json(PipelineList { pipelines: granted.into_iter().map(PipelineView::from).collect() })
}

/// One pipeline: its columns, format and limits.
#[utoipa::path(get, path = "/v1/pipelines/{name}", tag = "pipelines", security(("bearer" = [])),
    params(("name" = String, Path, description = "The pipeline's name")), responses(
    (status = 200, description = "The pipeline", body = PipelineView),
    (status = 403, description = "No grant for this pipeline"),
    (status = 404, description = "No such pipeline"),
))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<PipelineView>, Problem> {
    let pipeline = pipeline(&shared, &name)?;
    if !may_use(&caller.user, &pipeline.name) {
        return Err(Problem::forbidden(format!("you have no grant for pipeline `{name}`")));
    }
    Ok(Json(PipelineView::from(pipeline)))
}

fn may_use(user: &User, pipeline: &tidemill_pipelines::PipelineName) -> bool {
    user.may(Permission::Send, pipeline) || user.may(Permission::Read, pipeline)
}
