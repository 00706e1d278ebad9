//! Ollama's routes about models: what there is, what is loaded, one in detail, pull, delete.
//!
//! Reading is for everybody who may use the models; `pull` and `delete` change the node and are
//! the operator's. A pulled model is served at once.

use std::{convert::Infallible, time::SystemTime};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::{sync::mpsc, task::JoinHandle};
use utoipa::ToSchema;

use super::{
    ApiError, ApiState, VERSION,
    error::Dialect,
    extract::JsonBody,
    ollama_types::{ModelRequest, OllamaError, PullRequest},
    rfc3339,
    stream::push_line,
};
use crate::{
    models::{ModelEntry, PullProgress},
    services::{EmbeddingService, LlmError, ModelCard},
};

/// Progress lines of a pull that wait for a slow reader; newer ones are dropped beyond that.
const PROGRESS_LINES_MAX: usize = 64;

/// The models that are served.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TagList {
    models: Vec<Tag>,
}

/// One of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tag {
    name: String,
    model: String,
    modified_at: String,
    size: u64,
    digest: String,
    details: Details,
}

/// What a model is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Details {
    parent_model: String,
    format: &'static str,
    family: String,
    families: Vec<String>,
    parameter_size: String,
    quantization_level: String,
}

/// The models in memory.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProcessList {
    models: Vec<Process>,
}

/// One of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Process {
    name: String,
    model: String,
    size: u64,
    digest: String,
    details: Details,
    expires_at: String,
    size_vram: u64,
    context_length: usize,
}

/// One model in detail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Show {
    license: String,
    modelfile: String,
    parameters: String,
    template: String,
    details: Details,
    #[schema(value_type = Object)]
    model_info: Map<String, Value>,
    capabilities: Vec<&'static str>,
    modified_at: String,
}

/// The version of this node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    version: &'static str,
}

/// A step of a pull.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PullStatus {
    /// `pulling manifest`, …, at last `success`.
    status: String,
    /// The file, as `sha256:…`.
    digest: Option<String>,
    /// Bytes in all.
    total: Option<u64>,
    /// Bytes done.
    completed: Option<u64>,
}

/// Lists the models that are served.
#[utoipa::path(
    get, path = "/api/tags", tag = "ollama",
    responses(
        (status = 200, description = "The models", body = TagList),
        (status = "default", description = "An error", body = OllamaError),
    ),
)]
pub(super) async fn tags(State(state): State<ApiState>) -> Json<TagList> {
    let cards = state.llm.catalog().list();
    let models = cards.into_iter().map(|card| Tag {
        details: details_of(&card),
        name: card.info.name.clone(),
        model: card.info.name,
        modified_at: rfc3339(card.added_at),
        size: card.info.size_bytes,
        digest: card.sha256,
    });
    Json(TagList {
        models: models.collect(),
    })
}

/// Lists the models in memory.
#[utoipa::path(
    get, path = "/api/ps", tag = "ollama",
    responses(
        (status = 200, description = "The models in memory", body = ProcessList),
        (status = "default", description = "An error", body = OllamaError),
    ),
)]
pub(super) async fn ps(State(state): State<ApiState>) -> Json<ProcessList> {
    let catalog = state.llm.catalog();
    let now = SystemTime::now();
    let loaded = state.engine.status().loaded.into_iter();
    let models = loaded.filter_map(|loaded| {
        let card = catalog.card(state.engine.model(&loaded.name)?);
        // "For good" may lie beyond what the clock can say.
        let expires_at = now.checked_add(loaded.unloads_in).unwrap_or(now);
        Some(Process {
            details: details_of(&card),
            name: loaded.name.clone(),
            model: loaded.name,
            size: loaded.resident_bytes,
            digest: card.sha256,
            expires_at: rfc3339(expires_at),
            size_vram: loaded.gpu_bytes,
            context_length: card.info.context_length,
        })
    });
    Json(ProcessList {
        models: models.collect(),
    })
}

/// Describes a model.
#[utoipa::path(
    post, path = "/api/show", tag = "ollama",
    request_body = ModelRequest,
    responses(
        (status = 200, description = "The model", body = Show),
        (status = "default", description = "An error", body = OllamaError),
    ),
)]
pub(super) async fn show(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<ModelRequest>,
) -> Result<Json<Show>, ApiError> {
    let name = required_name(body.model, body.name)?;
    let catalog = state.llm.catalog();
    let card = catalog.card(catalog.resolve_any(&name).map_err(LlmError::from)?);
    let info = &card.info;
    let mut model_info = Map::new();
    let architecture = &info.architecture;
    model_info.insert("general.architecture".into(), json!(architecture));
    model_info.insert("general.parameter_count".into(), json!(info.parameters));
    if let Some(title) = &info.title {
        model_info.insert("general.name".into(), json!(title));
    }
    let context_length = json!(info.context_length);
    model_info.insert(format!("{architecture}.context_length"), context_length);
    let embedding_length = json!(info.embedding_length);
    model_info.insert(format!("{architecture}.embedding_length"), embedding_length);
    Ok(Json(Show {
        license: String::new(),
        modelfile: format!("# served by aither-node\nFROM {}\n", info.name),
        parameters: String::new(),
        template: info.chat_template.clone().unwrap_or_default(),
        details: details_of(&card),
        model_info,
        capabilities: vec![match catalog.is_encoder(&info.name) {
            true => "embedding",
            false => "completion",
        }],
        modified_at: rfc3339(card.added_at),
    }))
}

/// Fetches a model and serves it.
#[utoipa::path(
    post, path = "/api/pull", tag = "ollama",
    request_body = PullRequest,
    responses(
        (
            status = 200,
            description = "Lines of JSON, or one object",
            content((PullStatus = "application/x-ndjson"), (PullStatus = "application/json")),
        ),
        (status = "default", description = "An error", body = OllamaError),
    ),
    security(("key" = [])),
)]
pub(super) async fn pull(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<PullRequest>,
) -> Result<Response, ApiError> {
    let source = required_name(body.model, body.name)?;
    let (sender, mut lines) = mpsc::channel(PROGRESS_LINES_MAX);
    let task = PullTask(tokio::spawn(async move {
        let pulled = state.models.pull(&source, |progress| {
            // A full channel only means that the reader sees fewer steps.
            let _ = sender.try_send(progress);
        });
        let entry = pulled.await?;
        serve(&state, entry).await
    }));
    if !body.stream.unwrap_or(true) {
        while lines.recv().await.is_some() {}
        task.finish().await?;
        return Ok(Json(PullProgress::step("success")).into_response());
    }
    let frames = stream::unfold(Some((task, lines)), |state| async move {
        let (task, mut lines) = state?;
        let mut frame = Vec::new();
        if let Some(progress) = lines.recv().await {
            push_line(&mut frame, &progress);
            return Some((Ok::<_, Infallible>(Bytes::from(frame)), Some((task, lines))));
        }
        match task.finish().await {
            Ok(()) => push_line(&mut frame, &PullProgress::step("success")),
            Err(error) => push_line(&mut frame, &error.body(Dialect::Ollama, "")),
        }
        Some((Ok(Bytes::from(frame)), None))
    });
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((content_type, Body::from_stream(frames)).into_response())
}

/// Forgets a model and deletes its file.
#[utoipa::path(
    method(delete, post), path = "/api/delete", tag = "ollama",
    request_body = ModelRequest,
    responses(
        (status = 200, description = "It is gone"),
        (status = "default", description = "An error", body = OllamaError),
    ),
    security(("key" = [])),
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<ModelRequest>,
) -> Result<(), ApiError> {
    let name = required_name(body.model, body.name)?;
    // An alias must not delete the model that it stands for.
    let is_encoder = state
        .embeddings
        .models()
        .iter()
        .any(|info| info.name == name);
    let is_served = is_encoder || state.engine.model(&name).is_some();
    let removal = {
        let (state, name) = (state.clone(), name.clone());
        tokio::task::spawn_blocking(move || state.models.remove(&name))
    };
    let was_stored = removal
        .await
        .map_err(|error| ApiError::internal(error.to_string()))??;
    state.engine.unregister(&name);
    state.embeddings.unregister(&name);
    if is_served || was_stored {
        return Ok(());
    }
    let detail = format!("model {name:?} not found");
    Err(ApiError::new(
        aither_protocol::ErrorCode::ModelNotFound,
        detail,
    ))
}

/// Tells the version.
#[utoipa::path(
    get, path = "/api/version", tag = "ollama",
    responses((status = 200, description = "The version of this node", body = Version)),
)]
pub(super) async fn version() -> Json<Version> {
    Json(Version { version: VERSION })
}

/// A pull at work; a client that hangs up ends it, and the next pull resumes.
struct PullTask(JoinHandle<Result<(), ApiError>>);

impl PullTask {
    async fn finish(mut self) -> Result<(), ApiError> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) => Err(ApiError::internal(error.to_string())),
        }
    }
}

impl Drop for PullTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes a stored model known to what runs it.
pub(super) async fn serve(state: &ApiState, entry: ModelEntry) -> Result<(), ApiError> {
    let (engine, embeddings) = (state.engine.clone(), state.embeddings.clone());
    let registered = tokio::task::spawn_blocking(move || {
        // A name means one model, whatever it was before.
        if EmbeddingService::is_encoder(&entry.path) {
            engine.unregister(&entry.name);
            embeddings.register(&entry.name, &entry.path)
        } else {
            embeddings.unregister(&entry.name);
            engine.register(&entry.name, &entry.path)
        }
    })
    .await;
    match registered {
        Ok(Ok(_info)) => Ok(()),
        Ok(Err(error)) => Err(crate::services::LlmError::Engine(error).into()),
        Err(error) => Err(ApiError::internal(error.to_string())),
    }
}

fn required_name(model: Option<String>, name: Option<String>) -> Result<String, ApiError> {
    model
        .or(name)
        .filter(|name| !name.trim().is_empty())
        .ok_or_else(|| ApiError::field("model", "is required"))
}

fn details_of(card: &ModelCard) -> Details {
    Details {
        parent_model: String::new(),
        format: "gguf",
        family: card.info.architecture.clone(),
        families: vec![card.info.architecture.clone()],
        parameter_size: parameter_size(card.info.parameters),
        quantization_level: card.info.quantization.clone(),
    }
}

/// Returns a number of weights as people write it: `134.52M`, `8.0B`.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn parameter_size(parameters: u64) -> String {
    let parameters = parameters as f64;
    if parameters >= 1e9 {
        format!("{:.1}B", parameters / 1e9)
    } else if parameters >= 1e6 {
        format!("{:.2}M", parameters / 1e6)
    } else {
        format!("{:.1}K", parameters / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_written_for_people() {
        assert_eq!(parameter_size(134_515_008), "134.52M");
        assert_eq!(parameter_size(8_030_261_248), "8.0B");
        assert_eq!(parameter_size(1_500), "1.5K");
    }

    #[test]
    fn a_name_may_have_either_key_but_must_be_there() {
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(required_name(some("a"), some("b")).unwrap(), "a");
        assert_eq!(required_name(None, some("b")).unwrap(), "b");
        assert!(required_name(some(" "), None).is_err());
        assert!(required_name(None, None).is_err());
    }
}
