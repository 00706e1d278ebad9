//! `/v1/admin/backup`: what `aither-node backup` asks of a running node.
//!
//! A path names a file of the machine that the node runs on, so this is the operator's alone.

use std::path::PathBuf;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, ApiState, Problem, extract::JsonBody};
use crate::backup::{BackupError, Copies};

/// `POST /v1/admin/backup`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct BackupBody {
    /// An absolute path on the node's machine; a file there is replaced.
    #[schema(value_type = String)]
    path: PathBuf,
}

/// A backup that was written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BackupAnswer {
    /// Where it is.
    path: String,
    /// When it was made.
    made: String,
    /// What it holds.
    files: Vec<String>,
}

/// Writes a backup of keys, accounts, agents, memory, events, ledger and prices, while the node
/// goes on.
#[utoipa::path(
    post, path = "/v1/admin/backup", tag = "operation",
    request_body = BackupBody,
    responses(
        (status = 200, description = "It is written", body = BackupAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn back_up(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<BackupBody>,
) -> Result<Json<BackupAnswer>, ApiError> {
    if !body.path.is_absolute() {
        return Err(ApiError::field("path", "must be an absolute path"));
    }
    let data_dir = state.data_dir.clone();
    let copies = {
        let data_dir = data_dir.clone();
        let begun = tokio::task::spawn_blocking(move || Copies::begin(&data_dir));
        begun.await.map_err(|_panicked| lost())??
    };
    // Before the ledger: every account in it is known there.
    state.accounts.copy_to(copies.accounts_path()).await?;
    state.agents.copy_to(copies.registry_path()).await?;
    // After the agents: whoever has left since has none.
    let memory = state.memory.store().clone();
    let events = state.events.clone();
    let billing = state.billing.clone();
    let path = body.path.clone();
    let packed = tokio::task::spawn_blocking(move || {
        memory
            .copy_to(&copies.memory_path())
            .map_err(BackupError::from)?;
        if let Some(log) = events.log() {
            let copied = log.copy_to(&copies.events_path());
            copied.map_err(BackupError::from)?;
        }
        let view = billing.view()?;
        let copied = view.copy_to(&copies.ledger_path());
        copied.map_err(BackupError::from)?;
        Ok::<_, ApiError>(copies.pack(&data_dir, &path)?)
    });
    let manifest = packed.await.map_err(|_panicked| lost())??;
    Ok(Json(BackupAnswer {
        path: body.path.display().to_string(),
        made: manifest.made,
        files: manifest.files.into_keys().collect(),
    }))
}

fn lost() -> ApiError {
    ApiError::internal("a backup panicked")
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        match error {
            // The operator's own path and disk: the words help.
            BackupError::File(error) => Self::field("path", error.to_string()),
            other => Self::internal(other.to_string()),
        }
    }
}
