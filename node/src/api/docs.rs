//! `/openapi.json`, the page `/docs` that shows it, and `/`, which leads there.
//!
//! The page is one file of ours without anything from elsewhere, so that it works offline and no
//! third party learns who reads it.

use axum::{
    Extension,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Object, Required, Type,
        path::{ParameterBuilder, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::idempotency::Keeping;

const DOCS_PAGE: &str = include_str!("docs.html");
/// The page runs its own inline code, talks to its own origin, and can be framed by nobody.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Everything of the document that is not a route.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "aither-node",
        description = "One machine as a home for agents: inference on local models, in the \
            node's own API and in those of OpenAI and Ollama. Send `Authorization: Bearer KEY`; \
            programs on the same machine may use inference and model lists without a key unless \
            that is switched off.",
    ),
    tags(
        (name = "llm", description = "Inference, the node's own API"),
        (name = "models", description = "Model files, the node's own API"),
        (name = "accounts", description = "Accounts and their keys"),
        (name = "discovery", description = "What there is, for agents before they come aboard"),
        (name = "agents", description = "Agents: coming aboard, keys, capability tokens"),
        (name = "calls", description = "Calling agents, by name and by skill"),
        (name = "marketplace", description = "Agents that are offered, and for how much"),
        (name = "memory", description = "What agents remember"),
        (name = "events", description = "What happens, told and heard"),
        (name = "files", description = "Workspaces, artifacts and the text of documents"),
        (name = "tools", description = "Searches, repositories and fetches from outside"),
        (name = "billing", description = "Balances, payments, usage and prices"),
        (name = "openai", description = "Inference, as OpenAI's clients know it"),
        (name = "ollama", description = "Inference and models, as Ollama's clients know them"),
        (name = "operation", description = "Health, metrics and this document"),
    ),
    modifiers(&BearerKey),
)]
pub(super) struct ApiDocument;

#[derive(Debug)]
struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

/// Names every operation by its method and path: `post_v1_chat_completions`. The handlers' names,
/// which are the default, are unique in their modules only.
pub(super) fn name_operations(document: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let methods = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in methods {
            if let Some(operation) = operation {
                let parts = path.split(|c: char| !c.is_ascii_alphanumeric());
                let parts = parts.filter(|part| !part.is_empty());
                let name: Vec<_> = std::iter::once(method).chain(parts).collect();
                operation.operation_id = Some(name.join("_"));
            }
        }
    }
}

/// Tells of `Idempotency-Key` where it means something.
pub(super) fn describe_idempotency(document: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let keeping = Keeping::of(&Method::POST, path);
        let (Some(operation), Some(keeping)) = (&mut item.post, keeping) else {
            continue;
        };
        let words = match keeping {
            Keeping::Whole => {
                "For 24 hours the same request with the same key is answered as the first time and \
                 charged once; another one, or while the first is at work, is 409."
            }
            Keeping::Fact => {
                "For 24 hours any request with the same key is 409: the answer holds a secret and \
                 is not kept."
            }
        };
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(words))
            .schema(Some(Object::with_type(Type::String)))
            .build();
        operation
            .parameters
            .get_or_insert_default()
            .push(parameter.into());
    }
}

/// The document as it is sent.
#[derive(Debug, Clone)]
pub(super) struct OpenApiDocument(Bytes);

impl OpenApiDocument {
    pub(super) fn new(document: &utoipa::openapi::OpenApi) -> Self {
        let json = document.to_json().expect("the document's keys are strings");
        Self(json.into())
    }
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
pub(super) async fn openapi_json(Extension(document): Extension<OpenApiDocument>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.0).into_response()
}

/// A page that shows this document.
#[utoipa::path(
    get, path = "/docs", tag = "operation",
    responses((status = 200, description = "A page", body = String, content_type = "text/html")),
)]
pub(super) async fn docs_page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, DOCS_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, DOCS_PAGE).into_response()
}

/// Leads to the documentation.
#[utoipa::path(
    get, path = "/", tag = "operation",
    responses((status = 307, description = "To /docs")),
)]
pub(super) async fn root() -> Response {
    let location = [(header::LOCATION, "/docs")];
    (StatusCode::TEMPORARY_REDIRECT, location).into_response()
}
