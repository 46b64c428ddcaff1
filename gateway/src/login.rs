//! Login: Basic credentials for a token. Guessing is slowed by a limit for each user and address.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::{Extensions, HeaderMap, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use crate::caller::credentials;
use crate::gateway::Shared;
use crate::problem::Problem;

/// Users and addresses counted at once; when these are used up, only known ones may go on.
const COUNTED_MAX: usize = 100_000;

/// A token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Login {
    /// A JWT for the header `Authorization: Bearer …`.
    token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds until the token expires.
    #[schema(example = 28800)]
    expires_in: u64,
}

/// Log in with Basic credentials.
#[utoipa::path(post, path = "/v1/login", tag = "users", security(("basic" = [])), responses(
    (status = 200, description = "A token", body = Login),
    (status = 401, description = "Missing or wrong credentials"),
    (status = 429, description = "Too many logins; `Retry-After` tells the seconds to wait"),
))]
pub(crate) async fn login(
    State(shared): State<Shared>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Json<Login>, Problem> {
    let (name, password) = basic(&headers)
        .ok_or_else(|| Problem::bad_credentials("send user and password as Basic credentials"))?;
    shared.login_limit.check(&name, address(&extensions))?;
    let user = shared.users.verify(&name, password).await?;
    let user = user.ok_or_else(|| Problem::bad_credentials("user or password is wrong"))?;
    tracing::Span::current().record("user", user.name.as_str());
    let made = shared.tokens.make(&user);
    let (token, expires_in) = made.map_err(|error| Problem::internal(&error))?;
    Ok(Json(Login { token, token_type: "Bearer", expires_in }))
}

fn basic(headers: &HeaderMap) -> Option<(String, SecretString)> {
    let decoded = BASE64_STANDARD.decode(credentials(headers, "basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned().into()))
}

fn address(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())
}

/// Counts logins by user and address.
pub(crate) struct LoginLimit {
    limiter: DefaultKeyedRateLimiter<(String, Option<IpAddr>)>,
}

impl LoginLimit {
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
        Self { limiter: RateLimiter::keyed(Quota::per_minute(per_minute)) }
    }

    fn check(&self, user: &str, address: Option<IpAddr>) -> Result<(), Problem> {
        if self.limiter.len() >= COUNTED_MAX {
            self.limiter.retain_recent();
        }
        if self.limiter.len() >= COUNTED_MAX {
            return Err(too_many(60));
        }
        let user: String = user.chars().take(190).collect();
        self.limiter.check_key(&(user, address)).map_err(|not_until| {
            too_many(not_until.wait_time_from(DefaultClock::default().now()).as_secs() + 1)
        })
    }
}

fn too_many(seconds: u64) -> Problem {
    let detail = format!("too many logins of this user from this address; try again in {seconds} seconds");
    Problem::try_later(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", &detail, seconds)
}
