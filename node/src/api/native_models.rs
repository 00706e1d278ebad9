//! The node's own routes about model files.
//!
//! A path names a file of the machine that the node runs on, so this is the operator's alone: it
//! is what `aither-node models import` asks of a running node.

use std::path::PathBuf;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, ApiState, Problem, extract::JsonBody, ollama_models::serve};

/// `POST /v1/models/import`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ImportBody {
    /// An absolute path of a GGUF file on the node's machine.
    #[schema(value_type = String)]
    path: PathBuf,
    /// The name to serve it under; without it the file's.
    name: Option<String>,
}

/// A model that was imported.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Imported {
    /// The name it is served under.
    name: String,
    /// The file's size in bytes.
    size_bytes: u64,
    /// Its SHA-256 in hexadecimal.
    sha256: String,
}

/// Copies a model file into the store and serves it.
#[utoipa::path(
    post, path = "/v1/models/import", tag = "models",
    request_body = ImportBody,
    responses(
        (status = 200, description = "It is stored and served", body = Imported),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn import(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<ImportBody>,
) -> Result<Json<Imported>, ApiError> {
    if !body.path.is_absolute() {
        return Err(ApiError::field("path", "must be an absolute path"));
    }
    let store = state.models.clone();
    let importing =
        tokio::task::spawn_blocking(move || store.import(&body.path, body.name.as_deref()));
    let entry = importing
        .await
        .map_err(|error| ApiError::internal(error.to_string()))??;
    let imported = Imported {
        name: entry.name.clone(),
        size_bytes: entry.size_bytes,
        sha256: entry.sha256.clone(),
    };
    serve(&state, entry).await?;
    Ok(Json(imported))
}
