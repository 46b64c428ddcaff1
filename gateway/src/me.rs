//! Who the token is and what it may do.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::gateway::Shared;
use crate::problem::Problem;
use crate::users::Permission;

/// The caller.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Me {
    /// The user's name.
    #[schema(example = "ann@example.org")]
    user: String,
    /// Whether the user may do everything.
    admin: bool,
    /// When the token expires.
    expires_at: DateTime<Utc>,
    /// What the user may do, for each pipeline that now stands.
    permissions: Vec<PipelinePermissions>,
}

/// What may be done with one pipeline.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PipelinePermissions {
    /// The pipeline.
    pipeline: String,
    /// Upload; see, retry and cancel one's own jobs.
    send: bool,
    /// See all jobs.
    read: bool,
}

/// Who the token is and what it may do.
#[utoipa::path(get, path = "/v1/me", tag = "users", security(("bearer" = [])), responses(
    (status = 200, description = "The caller", body = Me),
))]
pub(crate) async fn me(State(shared): State<Shared>, caller: Caller) -> Result<Json<Me>, Problem> {
    let rights = shared.pipelines.iter().map(|pipeline| PipelinePermissions {
        pipeline: pipeline.name.to_string(),
        send: caller.user.may(Permission::Send, &pipeline.name),
        read: caller.user.may(Permission::Read, &pipeline.name),
    });
    let expires = i64::try_from(caller.expires).ok().and_then(|at| DateTime::from_timestamp(at, 0));
    Ok(Json(Me {
        user: caller.user.name.clone(),
        admin: caller.user.is_admin,
        expires_at: expires.unwrap_or(DateTime::<Utc>::MAX_UTC),
        permissions: rights.filter(|rights| rights.send || rights.read).collect(),
    }))
}
