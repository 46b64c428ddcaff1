//! The OpenAPI document, made from the handlers; a golden file in the tests shows every change of the surface.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Response};
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
    modifiers(&Schemes, &Refusals)
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

/// What all refusals have in common: a problem as their body, and 401 where a token is needed.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityRequirement::new("bearer", [""; 0]);
        let paths = api.paths.paths.values_mut();
        for operation in paths.flat_map(|path| [&mut path.get, &mut path.put, &mut path.post]).flatten() {
            let responses = &mut operation.responses.responses;
            if operation.security.as_ref().is_some_and(|schemes| schemes.contains(&bearer)) {
                responses.insert("401".to_owned(), Response::new("Missing or bad token").into());
            }
            for (status, response) in responses {
                if let RefOr::T(response) = response
                    && status.as_str() >= "400"
                    && response.content.is_empty()
                {
                    let problem = Content::new(Some(Ref::from_schema_name("ProblemBody")));
                    response.content.insert("application/problem+json".to_owned(), problem.into());
                }
            }
        }
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
