//! The OpenAPI document, made from the handlers; a golden file in the tests shows every change of the surface.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::{artifacts, delayed, health, jobs, login, me, metrics, pipelines, query, uploads};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidemill",
        description = "Send files, watch their jobs, fetch what was refused. Refusals are problem JSON (RFC 9457).",
        contact(), license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        login::login, me::me, pipelines::list, pipelines::show, uploads::upload, delayed::places, delayed::push, delayed::submit, jobs::list, jobs::show,
        jobs::retry, jobs::cancel, artifacts::rejects, artifacts::file, health::healthz, health::readyz,
        query::query, metrics::metrics, openapi
    ),
    components(schemas(crate::problem::ProblemBody)),
    modifiers(&Schemes)
)]
struct Api;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let http = |scheme, format: Option<&str>| {
            let builder = HttpBuilder::new().scheme(scheme);
            SecurityScheme::Http(match format {
                Some(format) => builder.bearer_format(format).build(),
                None => builder.build(),
            })
        };
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("basic", http(HttpAuthScheme::Basic, None));
        components.add_security_scheme("bearer", http(HttpAuthScheme::Bearer, Some("JWT")));
    }
}

/// The document as JSON, for programs that make clients of it.
pub fn openapi_json() -> serde_json::Value {
    serde_json::to_value(Api::openapi()).unwrap_or_default()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operation",
    responses((status = 200, description = "The OpenAPI document", content_type = "application/json")))]
pub(crate) async fn openapi() -> Json<serde_json::Value> {
    Json(openapi_json())
}
