//! `/health` and `/ready`: for people, supervisors and load balancers. Open to everybody, so they
//! say nothing that an outsider could use.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, ApiState, Problem, VERSION, error::not_ready};
use crate::services::ReadyState;

/// How the node is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `healthy`: the process answers.
    status: &'static str,
    version: &'static str,
    /// Seconds since the start.
    uptime_s: u64,
    peer_id: String,
    name: String,
    /// The device that runs the models, and why.
    backend: String,
    /// Models that are served.
    models: usize,
    /// Of these, in memory.
    models_loaded: Vec<String>,
    /// Requests that run.
    running: usize,
    /// Requests that wait.
    queued: usize,
}

/// Whether the node takes requests.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// `ready`.
    status: &'static str,
}

/// Tells how the node is.
#[utoipa::path(
    get, path = "/health", tag = "operation",
    responses((status = 200, description = "The process answers", body = Health)),
)]
pub(super) async fn health(State(state): State<ApiState>) -> Json<Health> {
    let status = state.engine.status();
    Json(Health {
        status: "healthy",
        version: VERSION,
        uptime_s: state.started.elapsed().as_secs(),
        peer_id: state.peer_id.clone(),
        name: state.node_name.clone(),
        backend: status.backend,
        models: state.engine.models().len(),
        models_loaded: status.loaded.into_iter().map(|model| model.name).collect(),
        running: status.running,
        queued: status.queued,
    })
}

/// Tells whether the node takes requests.
#[utoipa::path(
    get, path = "/ready", tag = "operation",
    responses(
        (status = 200, description = "It does", body = Ready),
        (
            status = 503,
            description = "It is starting or stopping",
            body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn ready(State(state): State<ApiState>) -> Result<Json<Ready>, ApiError> {
    match state.readiness.get() {
        ReadyState::Ready => Ok(Json(Ready { status: "ready" })),
        ReadyState::Starting => Err(not_ready("the node is starting: models are being loaded")),
        ReadyState::Draining => Err(not_ready("the node is stopping")),
    }
}
