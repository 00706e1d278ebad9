//! `/api/onboard`, `/api/agents/{id}…`, `/api/audit/{id}`: what clients of the platform's version 3
//! know. Thin routes onto the same services as `/v1/agents/…`.
//!
//! The flat card becomes a card of today, so the same validator reads it; its errors name the flat
//! card's fields. What the flat card has and this node does not decide by is ignored:
//! `billing_plan` (the account has one), `callback_url`, `register_a2a` (who is aboard is listed),
//! and `isolation`, since whoever runs an agent isolates it. `{id}` is an agent's id or its name.

use aither_protocol::{Capability, Tier, limits::PAGE_ITEMS_MAX};
use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiError, ApiState, Problem,
    accounts::no_store,
    agents::{self, body_of, managed, rank},
    agents_types::{AgentBody, OnboardMode, TearDownParams},
    auth::Caller,
    base_url::BaseUrl,
    extract::JsonBody,
    page::Page,
    rfc3339,
};
use crate::{
    accounts::SecretText,
    agents::{Agent, Mode},
    memory::Owner,
};

/// The version of a card that names none.
const VERSION_DEFAULT: &str = "1.0.0";
/// Where health is asked for when a card does not say.
const HEALTH_DEFAULT: &str = "/health";
/// What an agent asks for that does not say: to think and to remember.
const CAPABILITIES_DEFAULT: [Capability; 3] = [
    Capability::LlmInference,
    Capability::MemoryRead,
    Capability::MemoryWrite,
];
/// Fields of a card, by the names that the flat card has for them.
const FLAT_NAMES: [(&str, &str); 3] = [
    ("name", "agent_name"),
    (
        "resources.max_concurrent",
        "resources.max_concurrent_requests",
    ),
    ("endpoints[1].path", "health_endpoint"),
];

/// The flat card. Its values are checked as those of the card that is made of it.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct FlatCard {
    /// Lowercase letters, digits and hyphens.
    #[serde(default)]
    #[schema(value_type = String)]
    agent_name: Value,
    /// `1.0.0` unless said otherwise.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    version: Value,
    #[serde(default)]
    #[schema(value_type = String)]
    description: Value,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    author: Value,
    /// Where the agent answers, if it can be called.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    agent_url: Value,
    /// `/health` unless said otherwise.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    health_endpoint: Value,
    /// `hybrid` unless said otherwise.
    mode: Option<OnboardMode>,
    #[expect(
        dead_code,
        reason = "only checked: a node runs no agents that it could isolate"
    )]
    isolation: Option<Isolation>,
    /// `llm_inference`, `memory_read` and `memory_write` unless said otherwise. The agent's tier is
    /// the lowest that may have them, and `agent` at least.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    capabilities_requested: Value,
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    skills: Value,
    resources: Option<FlatResources>,
}

/// How an agent is kept from others, in words of version 3.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Isolation {
    Standard,
    Strict,
    Paranoid,
}

/// What an agent needs, in words of version 3.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct FlatResources {
    /// Most requests that it takes at once.
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    max_concurrent_requests: Value,
    /// The model that it prefers.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Value,
}

/// `POST /api/onboard/quick`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct QuickParams {
    /// Lowercase letters, digits and hyphens.
    agent_name: Option<String>,
    /// What it is for.
    description: Option<String>,
}

/// A new key, in words of version 3.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewKeyBody {
    /// The key, shown this once.
    #[schema(value_type = String)]
    new_api_key: SecretText,
    /// True: older keys and all capability tokens are void.
    old_key_revoked: bool,
}

/// How an agent stands after a change.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusBody {
    /// True.
    success: bool,
    agent_id: String,
    agent_name: String,
    /// `active`, `suspended` or `removed`.
    status: &'static str,
}

/// What happened to an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditBody {
    /// The newest first.
    entries: Vec<AuditItem>,
    /// How many are kept.
    total: usize,
}

/// Something that happened to an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditItem {
    timestamp: String,
    /// One word.
    action: String,
    /// More about it.
    detail: String,
}

/// Takes an agent aboard by its flat card.
#[utoipa::path(
    post, path = "/api/onboard", tag = "agents",
    request_body = FlatCard,
    responses(
        (status = 201, description = "It is aboard: all that it needs to know", body = Object),
        (status = 200, description = "It was known", body = Object),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn onboard(
    State(state): State<ApiState>,
    caller: Caller,
    base: BaseUrl,
    JsonBody(flat): JsonBody<FlatCard>,
) -> Result<Response, ApiError> {
    let mode = flat.mode.map_or(Mode::Hybrid, Mode::from);
    let onboarded = agents::onboard(&state, &caller, &base, &flat.into_card(), mode).await;
    onboarded.map_err(|error| error.renamed(&FLAT_NAMES))
}

/// Takes an agent aboard of which only a name is known.
#[utoipa::path(
    post, path = "/api/onboard/quick", tag = "agents",
    params(QuickParams),
    responses(
        (status = 201, description = "It is aboard: all that it needs to know", body = Object),
        (status = 200, description = "It was known", body = Object),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn onboard_quickly(
    State(state): State<ApiState>,
    caller: Caller,
    base: BaseUrl,
    Query(params): Query<QuickParams>,
) -> Result<Response, ApiError> {
    let described = params.description.filter(|text| !text.is_empty());
    let flat = FlatCard {
        agent_name: json!(params.agent_name),
        description: json!(described.as_deref().unwrap_or("An agent without a card")),
        ..FlatCard::default()
    };
    let onboarded = agents::onboard(&state, &caller, &base, &flat.into_card(), Mode::Hybrid).await;
    onboarded.map_err(|error| error.renamed(&FLAT_NAMES))
}

/// Shows an agent to itself or its owner.
#[utoipa::path(
    get, path = "/api/agents/{id}", tag = "agents",
    params(("id" = String, Path, description = "The agent's id or name")),
    responses(
        (status = 200, description = "The agent", body = AgentBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<AgentBody>, ApiError> {
    let agent = managed(&state, &caller, &id)?;
    body_of(&state, &agent).await
}

/// Ends an agent: its keys and tokens die at once.
#[utoipa::path(
    delete, path = "/api/agents/{id}", tag = "agents",
    params(("id" = String, Path, description = "The agent's id or name"), TearDownParams),
    responses(
        (status = 200, description = "It has left", body = StatusBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn tear_down(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(params): Query<TearDownParams>,
) -> Result<Json<StatusBody>, ApiError> {
    let agent = managed(&state, &caller, &id)?;
    let by = rank(&caller);
    state.agents.tear_down(agent.id, by, params.purge).await?;
    if params.purge {
        state.codegraph.forget(Owner::Agent(agent.id.as_u128()));
    }
    Ok(Json(StatusBody {
        status: "removed",
        ..StatusBody::of(&agent)
    }))
}

/// Gives an agent a new key. Its older keys and all of its capability tokens die at once.
#[utoipa::path(
    post, path = "/api/agents/{id}/rotate-key", tag = "agents",
    params(("id" = String, Path, description = "The agent's id or name")),
    responses(
        (status = 200, description = "The key", body = NewKeyBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn rotate_key(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let agent = managed(&state, &caller, &id)?;
    let body = NewKeyBody {
        new_api_key: state.agents.rotate_keys(agent.id).await?.0,
        old_key_revoked: true,
    };
    Ok((no_store(), Json(body)).into_response())
}

/// Sets an agent aside: its keys open nothing but its own management.
#[utoipa::path(
    post, path = "/api/agents/{id}/suspend", tag = "agents",
    params(("id" = String, Path, description = "The agent's id or name")),
    responses(
        (status = 200, description = "It is set aside", body = StatusBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn suspend(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<StatusBody>, ApiError> {
    let agent = managed(&state, &caller, &id)?;
    let agent = state.agents.suspend(agent.id, rank(&caller)).await?;
    Ok(Json(StatusBody::of(&agent)))
}

/// Takes an agent back that was set aside.
#[utoipa::path(
    post, path = "/api/agents/{id}/resume", tag = "agents",
    params(("id" = String, Path, description = "The agent's id or name")),
    responses(
        (status = 200, description = "It is back", body = StatusBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn resume(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<StatusBody>, ApiError> {
    let agent = managed(&state, &caller, &id)?;
    let agent = state.agents.resume(agent.id, rank(&caller)).await?;
    Ok(Json(StatusBody::of(&agent)))
}

/// Tells what happened to an agent, the newest first.
#[utoipa::path(
    get, path = "/api/audit/{id}", tag = "agents",
    params(
        ("id" = String, Path, description = "The agent's id or name"),
        ("limit" = Option<usize>, Query, description = "Most entries: 1 to 500, 50 by default"),
    ),
    responses(
        (status = 200, description = "What happened", body = AuditBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn audit(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    page: Page,
) -> Result<Json<AuditBody>, ApiError> {
    let agent = managed(&state, &caller, &id)?;
    // More than the store keeps of one agent, so that they are counted.
    let kept = state.agents.audit(agent.id, PAGE_ITEMS_MAX).await?;
    let total = kept.len();
    let entries = kept.into_iter().take(page.limit).map(|entry| AuditItem {
        timestamp: rfc3339(crate::accounts::time_of(entry.time_ms)),
        action: entry.action,
        detail: entry.detail,
    });
    Ok(Json(AuditBody {
        entries: entries.collect(),
        total,
    }))
}

impl StatusBody {
    fn of(agent: &Agent) -> Self {
        Self {
            success: true,
            agent_id: agent.id.to_string(),
            agent_name: agent.name.to_string(),
            status: match agent.is_suspended() {
                true => "suspended",
                false => "active",
            },
        }
    }
}

impl FlatCard {
    /// Returns the card of today that says the same.
    fn into_card(self) -> Value {
        let or = |value: Value, default: Value| if value.is_null() { default } else { value };
        let capabilities = or(self.capabilities_requested, json!(CAPABILITIES_DEFAULT));
        let health = or(self.health_endpoint, json!(HEALTH_DEFAULT));
        let resources = self.resources.unwrap_or_default();
        json!({
            "name": self.agent_name,
            "version": or(self.version, json!(VERSION_DEFAULT)),
            "description": self.description,
            "author": self.author,
            "agent_url": self.agent_url,
            "skills": self.skills,
            "endpoints": [
                {"path": "/chat", "method": "POST"},
                {"path": &health, "method": "GET"},
            ],
            "billing": {"token_cost_per_request": 1, "category": tier_for(&capabilities)},
            "capabilities_requested": capabilities,
            "health_endpoint": health,
            "resources": {
                "max_concurrent": resources.max_concurrent_requests,
                "model": resources.model,
            },
        })
    }
}

/// Returns the lowest tier that may have all of it, and `agent` at least. What is no capability is
/// left to the validator to name.
fn tier_for(capabilities: &Value) -> Tier {
    let words = capabilities.as_array().into_iter().flatten();
    let known = words.filter_map(|word| word.as_str()?.parse::<Capability>().ok());
    known
        .map(Capability::tier)
        .fold(Tier::Agent, std::cmp::Ord::max)
}

#[cfg(test)]
mod tests {
    use aither_protocol::AgentCard;

    use super::*;

    fn card_of(flat: Value) -> Result<AgentCard, Vec<String>> {
        let flat: FlatCard = serde_json::from_value(flat).unwrap();
        let read = AgentCard::from_json(&flat.into_card());
        read.map_err(|errors| errors.into_iter().map(|error| error.field).collect())
    }

    #[test]
    fn a_flat_card_becomes_a_card() {
        let card = card_of(json!({
            "agent_name": "bot", "version": "2.1.0", "description": "d", "author": "Ann",
            "agent_url": "http://localhost:9000", "callback_url": "http://localhost:9000/done",
            "health_endpoint": "/up", "mode": "remote", "isolation": "strict",
            "capabilities_requested": ["llm_inference", "code_read"],
            "skills": [{"id": "s", "name": "S", "description": "d"}],
            "resources": {"workspace_quota_gb": 1, "max_concurrent_requests": 7, "model": "m"},
            "billing_plan": "builder", "register_a2a": true,
        }));
        let card = card.unwrap();
        assert_eq!(card.name.as_str(), "bot");
        assert_eq!(card.version.to_string(), "2.1.0");
        assert_eq!(card.health.endpoint, "/up");
        assert_eq!(card.resources.max_concurrent, 7);
        assert_eq!(card.resources.model.as_deref(), Some("m"));
        assert_eq!(card.skills[0].id, "s");
        assert_eq!(card.billing.category, Tier::Reasoning);
        let paths = card.endpoints.iter().map(|endpoint| &*endpoint.path);
        assert_eq!(paths.collect::<Vec<_>>(), ["/chat", "/up"]);
    }

    #[test]
    fn a_name_and_a_description_are_enough() {
        let card = card_of(json!({"agent_name": "bot", "description": "d"})).unwrap();
        assert_eq!(card.version.to_string(), VERSION_DEFAULT);
        assert_eq!(card.billing.category, Tier::Agent);
        let capabilities: Vec<_> = card.capabilities.iter().collect();
        assert_eq!(capabilities, CAPABILITIES_DEFAULT);
    }

    #[test]
    fn the_tier_is_the_lowest_that_may_have_all_of_it_and_agent_at_least() {
        for (asked, tier) in [
            (json!([]), Tier::Agent),
            (json!(["llm_inference"]), Tier::Agent),
            (json!(["web_search"]), Tier::Agent),
            (json!(["web_search", "external_api"]), Tier::Reasoning),
            (json!(["agent_spawn", "code_read"]), Tier::Orchestrator),
            (json!(["fly", 7]), Tier::Agent),
            (json!("agent_spawn"), Tier::Agent),
        ] {
            assert_eq!(tier_for(&asked), tier, "{asked}");
        }
    }

    #[test]
    fn everything_wrong_with_a_flat_card_is_found_by_the_validator() {
        let errors = card_of(json!({
            "agent_name": "Not A Name", "capabilities_requested": ["fly"],
            "resources": {"max_concurrent_requests": "many"},
        }));
        let errors = errors.unwrap_err();
        for field in ["name", "description", "resources.max_concurrent"] {
            assert!(
                errors.iter().any(|error| error == field),
                "{field}: {errors:?}"
            );
        }
        let of_capabilities = |error: &String| error.starts_with("capabilities_requested");
        assert!(errors.iter().any(of_capabilities), "{errors:?}");
    }
}
