//! The caller: who the request's bearer token is, with the rights that the database gives now.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use crate::gateway::Shared;
use crate::problem::Problem;
use crate::users::{User, UsersError};

/// Longest header with credentials that is looked at, in bytes.
const CREDENTIALS_BYTES_MAX: usize = 8 * 1024;

/// A user with a valid token.
pub(crate) struct Caller {
    pub(crate) user: Arc<User>,
    /// When the token expires, in seconds since 1970.
    pub(crate) expires: u64,
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let token = credentials(&parts.headers, "bearer").ok_or_else(|| {
            Problem::bad_token(
                "the request has no token; log in at /v1/login and send `Authorization: Bearer …`",
            )
        })?;
        let claims = shared.tokens.check(token).map_err(Problem::bad_token)?;
        let user = shared.users.logged_in(&claims.sub, &claims.pwd, claims.iat).await?;
        let user = user.ok_or_else(|| {
            Problem::bad_token("the user of the token was removed, or has another password now; log in again")
        })?;
        tracing::Span::current().record("user", user.name.as_str());
        Ok(Self { user, expires: claims.exp })
    }
}

/// What follows the scheme in the `Authorization` header; schemes are compared without regard to case.
pub(crate) fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (given, rest) = value.split_once(' ')?;
    let fits = given.eq_ignore_ascii_case(scheme) && rest.len() <= CREDENTIALS_BYTES_MAX;
    fits.then(|| rest.trim())
}

impl From<UsersError> for Problem {
    fn from(error: UsersError) -> Self {
        match &error {
            UsersError::Database { .. } => Self::unavailable("the database of users", &error),
            UsersError::Busy => {
                Self::try_later(axum::http::StatusCode::SERVICE_UNAVAILABLE, "busy", &error.to_string(), 2)
            }
            _ => Self::internal(&error),
        }
    }
}
