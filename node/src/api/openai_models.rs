//! `/v1/models`: what is served, in OpenAI's shape with our own members beside it.

use aither_protocol::Amount;
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, ApiState, extract::RoutingHints, openai_types::OpenAiError, unix_seconds};
use crate::services::{LlmError, ModelCard};

/// A list of models.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// `list`.
    object: &'static str,
    /// Models first, then the aliases that lead to them.
    data: Vec<ModelObject>,
}

/// One model, or an alias of one.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ModelObject {
    /// The name to ask for.
    pub(super) id: String,
    /// `model`.
    object: &'static str,
    /// When it was added, in seconds since 1970.
    created: u64,
    /// `aither`.
    owned_by: &'static str,
    /// `llama`, `qwen2`.
    family: String,
    /// Number of weights.
    parameters: u64,
    /// The prevailing tensor type: `Q4_1`.
    quantization: String,
    /// Context in model tokens.
    pub(super) context_length: usize,
    /// What a thousand prompt tokens cost.
    #[schema(value_type = f64)]
    pub(super) cost_per_1k_prompt: Amount,
    /// What a thousand completion tokens cost.
    #[schema(value_type = f64)]
    pub(super) cost_per_1k: Amount,
    /// Whether this node serves it.
    local: bool,
    /// The nodes that serve it.
    nodes: Vec<String>,
    /// Whether it is in memory here.
    loaded: bool,
    /// The model that an alias stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alias_of: Option<String>,
}

/// Lists the models and aliases that are served.
#[utoipa::path(
    get, path = "/v1/models", tag = "openai",
    responses(
        (status = 200, description = "The models", body = ModelList),
        (status = "default", description = "An error", body = OpenAiError),
    ),
)]
pub(super) async fn list(State(state): State<ApiState>, _hints: RoutingHints) -> Json<ModelList> {
    Json(ModelList {
        object: "list",
        data: objects(&state),
    })
}

/// Returns the models that are served, then the aliases that lead to them.
pub(super) fn objects(state: &ApiState) -> Vec<ModelObject> {
    let catalog = state.llm.catalog();
    let mut objects: Vec<_> = catalog
        .list()
        .into_iter()
        .map(|card| object_of(state, card))
        .collect();
    for (alias, target) in catalog.aliases() {
        let object = objects.iter().find(|object| object.id == target).cloned();
        objects.extend(object.map(|object| object.aliased(alias)));
    }
    objects
}

/// Describes one model.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "openai",
    params(("id" = String, Path, description = "A model's name or an alias, URL-encoded")),
    responses(
        (status = 200, description = "The model", body = ModelObject),
        (status = "default", description = "An error", body = OpenAiError),
    ),
)]
pub(super) async fn retrieve(
    State(state): State<ApiState>,
    _hints: RoutingHints,
    Path(id): Path<String>,
) -> Result<Json<ModelObject>, ApiError> {
    let info = state
        .llm
        .catalog()
        .resolve_any(&id)
        .map_err(LlmError::from)?;
    let object = object_of(&state, state.llm.catalog().card(info));
    let is_alias = state
        .llm
        .catalog()
        .aliases()
        .iter()
        .any(|(alias, _)| *alias == id);
    Ok(Json(if is_alias { object.aliased(id) } else { object }))
}

impl ModelObject {
    fn aliased(mut self, alias: String) -> Self {
        self.alias_of = Some(std::mem::replace(&mut self.id, alias));
        self
    }
}

fn object_of(state: &ApiState, card: ModelCard) -> ModelObject {
    ModelObject {
        id: card.info.name,
        object: "model",
        created: unix_seconds(card.added_at),
        owned_by: "aither",
        family: card.info.architecture,
        parameters: card.info.parameters,
        quantization: card.info.quantization,
        context_length: card.info.context_length,
        cost_per_1k_prompt: card.price.prompt_per_1k,
        cost_per_1k: card.price.completion_per_1k,
        local: true,
        nodes: vec![state.peer_id.clone()],
        loaded: card.loaded,
        alias_of: None,
    }
}
