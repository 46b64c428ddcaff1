//! Gateway: the HTTP surface.
//!
//! [`Gateway::new`] takes its parts, [`Gateway::router`] is every route (see `routes.rs`, one screen),
//! [`Gateway::serve`] answers connections until it is told to stop. Refusals are problem JSON (RFC 9457).
//! A request passes: `observe` (id, span, metrics) → `Caller` (token, user) → the handler in the file of
//! its resource → `Problem` or a view of `views.rs`.

mod artifacts;
mod caller;
mod delayed;
mod extract;
mod fair;
mod gateway;
mod health;
mod jobs;
mod login;
mod me;
mod metrics;
mod observe;
mod openapi;
mod pipelines;
mod problem;
mod query;
mod routes;
mod serve;
mod settings;
mod tokens;
mod uploads;
mod users;
mod views;

pub use gateway::{Gateway, GatewayParts, SetupError};
pub use health::ReadinessCheck;
pub use metrics::Metrics;
pub use openapi::openapi_json;
pub use serve::ServeError;
pub use settings::GatewaySettings;
pub use users::{CACHE_AGE_MAX, Grant, Permission, Scope, User, Users, UsersError};
