//! `/v1/agents/…`: coming aboard, being found, and what an agent or its owner does with it.
//!
//! Answers that hold a secret are not to be cached by anybody on the way. An agent that is
//! another's is managed by nobody else, and is not told from one that is not there.

use std::{sync::Arc, time::SystemTime};

use aither_ledger::AccountId;
use aither_protocol::Plan;
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    ApiError, ApiState, Problem,
    accounts::no_store,
    agents_types::{
        AgentBody, AgentItem, BundleSecrets, FindParams, KeyBody, OnboardBody, SpawnBody,
        SpawnedBody, TearDownParams, TokenKeyBody, agent_body, bundle,
    },
    auth::Caller,
    base_url::BaseUrl,
    extract::JsonBody,
    page::{Items, Page, PageQuery},
    rfc3339,
};
use crate::{
    accounts::SecretText,
    agents::{Agent, AgentError, AgentFilter, Mode, Rank},
    billing::OPERATOR,
    memory::Owner,
    services::Authority,
    workspaces::Quota,
};

/// Takes an agent aboard. Known already, it gets a fresh key, and its card is replaced.
#[utoipa::path(
    post, path = "/v1/agents/auto-onboard", tag = "agents",
    request_body = OnboardBody,
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
pub(super) async fn auto_onboard(
    State(state): State<ApiState>,
    caller: Caller,
    base: BaseUrl,
    JsonBody(body): JsonBody<OnboardBody>,
) -> Result<Response, ApiError> {
    onboard(&state, &caller, &base, &body.agent_card, body.mode.into()).await
}

/// Does it, whichever form asked.
pub(super) async fn onboard(
    state: &ApiState,
    caller: &Caller,
    base: &BaseUrl,
    card: &Value,
    mode: Mode,
) -> Result<Response, ApiError> {
    let owner = match caller {
        Caller::Account(caller) => (AccountId(caller.account.as_u128()), caller.plan),
        _ => (OPERATOR, Plan::Enterprise),
    };
    let onboarded = state.agents.onboard(owner, card, mode).await?;
    let secrets = BundleSecrets {
        api_key: onboarded.key.0,
        capability_token: SecretText::from(state.agents.mint(&onboarded.agent)?.to_string()),
    };
    let status = match onboarded.is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let bundle = bundle_of(state, &onboarded.agent, base, Some(secrets));
    Ok((status, no_store(), Json(bundle)).into_response())
}

fn bundle_of(
    state: &ApiState,
    agent: &Agent,
    base: &BaseUrl,
    secrets: Option<BundleSecrets>,
) -> Value {
    let catalog = state.llm.catalog();
    let models = catalog.list().into_iter().map(|card| card.info.name);
    let models: Vec<_> = models.collect();
    let mut bundle = bundle(agent, base, (&models, &catalog.default_model()), secrets);
    let quota = Quota::of(state.agents.plan_of(agent.owner));
    bundle["workspace"]["quota_gb"] = (quota.bytes >> 30).into();
    bundle
}

/// Lists agents, in the order in which they came aboard.
#[utoipa::path(
    get, path = "/v1/agents", tag = "agents",
    params(FindParams, PageQuery),
    responses(
        (status = 200, description = "The agents", body = Items<AgentItem>),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    Query(params): Query<FindParams>,
    page: Page,
) -> Result<Json<Items<AgentItem>>, ApiError> {
    let wanted = |text: Option<String>| text.filter(|text| !text.is_empty());
    let lives = params.state()?;
    let filter = AgentFilter {
        skill: wanted(params.skill),
        tag: wanted(params.tag),
        query: wanted(params.q),
        owner: None,
        state: lives,
        after: page.after()?,
        limit: page.limit + 1,
    };
    let is_here = |node: &String| *node == state.peer_id || *node == state.node_name;
    let found = match wanted(params.node).is_none_or(|node| is_here(&node)) {
        true => state.agents.find(&filter),
        false => Vec::new(),
    };
    let cut = page.cut(found, |agent| agent.id.to_string());
    let ids = cut.items.iter().map(|agent| agent.id).collect();
    let mut skills = state.agents.skills_of(ids).await?.into_iter();
    Ok(Json(cut.map(|agent| {
        let skills = skills.next().unwrap_or_default();
        let standing = state.agents.health().standing(agent.id);
        let price = state.agents.price_of(&agent);
        AgentItem::of(&agent, skills, &state.peer_id, (price, &standing))
    })))
}

/// Shows an agent and its card.
#[utoipa::path(
    get, path = "/v1/agents/{name}", tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
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
    Path(name): Path<String>,
) -> Result<Json<AgentBody>, ApiError> {
    let agent = state.agents.managed(Authority::Operator, &name)?;
    body_of(&state, &agent).await
}

/// Ends an agent: its keys and tokens die at once.
#[utoipa::path(
    delete, path = "/v1/agents/{name}", tag = "agents",
    params(("name" = String, Path, description = "The agent's name"), TearDownParams),
    responses(
        (status = 204, description = "It has left"),
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
    Path(name): Path<String>,
    Query(params): Query<TearDownParams>,
) -> Result<StatusCode, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let by = rank(&caller);
    state.agents.tear_down(agent.id, by, params.purge).await?;
    if params.purge {
        state.codegraph.forget(Owner::Agent(agent.id.as_u128()));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Tells an agent again all that it needs to know, without the secrets.
#[utoipa::path(
    get, path = "/v1/agents/{name}/connection-info", tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "All but the secrets", body = Object),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn connection_info(
    State(state): State<ApiState>,
    caller: Caller,
    base: BaseUrl,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    Ok(Json(bundle_of(&state, &agent, &base, None)))
}

/// Replaces an agent's card by one of a higher version.
#[utoipa::path(
    put, path = "/v1/agents/{name}/card", tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    request_body = Object,
    responses(
        (status = 200, description = "The agent as it is now", body = AgentBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn replace_card(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(mut body): JsonBody<Value>,
) -> Result<Json<AgentBody>, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    // As it is sent at onboarding, or the card alone.
    let card = body.get_mut("agent_card").map(Value::take).unwrap_or(body);
    let asks = match &caller {
        Caller::Agent(asks) => Some(asks),
        _ => None,
    };
    let agent = state.agents.update_card(&agent, &card, asks).await?;
    body_of(&state, &agent).await
}

/// Gives an agent a new key. Its older keys and all of its capability tokens die at once.
#[utoipa::path(
    post, path = "/v1/agents/{name}/rotate-key", tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "The key", body = KeyBody),
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
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let api_key = state.agents.rotate_keys(agent.id).await?.0;
    Ok((no_store(), Json(KeyBody { api_key })).into_response())
}

/// Sets an agent aside: its keys open nothing but its own management.
#[utoipa::path(
    post, path = "/v1/agents/{name}/suspend", tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "The agent as it is now", body = AgentItem),
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
    Path(name): Path<String>,
) -> Result<Json<AgentItem>, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let agent = state.agents.suspend(agent.id, rank(&caller)).await?;
    item_of(&state, &agent).await
}

/// Takes an agent back that was set aside.
#[utoipa::path(
    post, path = "/v1/agents/{name}/resume", tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "The agent as it is now", body = AgentItem),
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
    Path(name): Path<String>,
) -> Result<Json<AgentItem>, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let agent = state.agents.resume(agent.id, rank(&caller)).await?;
    item_of(&state, &agent).await
}

/// Gives a sub-agent a token that is narrower than what its parent came with.
#[utoipa::path(
    post, path = "/v1/agents/{name}/spawn", tag = "agents",
    params(("name" = String, Path, description = "The parent's name")),
    request_body = SpawnBody,
    responses(
        (status = 201, description = "The sub-agent's token", body = SpawnedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn spawn(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<SpawnBody>,
) -> Result<Response, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let parent = match caller {
        Caller::Agent(parent) => parent,
        // The operator may do what the agent may.
        _ => agent.caller(Plan::Enterprise),
    };
    let capabilities = body.capabilities;
    let (terms, max_spend, ends) = body.terms(SystemTime::now())?;
    let spawned = state.agents.spawn(&parent, &terms)?;
    let body = SpawnedBody {
        capability_token: SecretText::from(spawned.text.to_string()),
        token_id: ulid::Ulid(spawned.number).to_string(),
        capabilities,
        max_spend,
        expires_at: ends.map(rfc3339),
    };
    Ok((StatusCode::CREATED, no_store(), Json(body)).into_response())
}

/// Makes a capability token void, and all that were narrowed from it.
#[utoipa::path(
    delete, path = "/v1/agents/{name}/tokens/{token}", tag = "agents",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("token" = String, Path, description = "The token's id"),
    ),
    responses(
        (status = 204, description = "It does not work any more"),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn revoke_token(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, token_id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let token_id = ulid::Ulid::from_string(&token_id)
        .map_err(|_| ApiError::field("token", "must be a token's id"))?;
    state.agents.revoke_token(agent.id, token_id.0).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Mints capability tokens with a new root key from now on; those of older keys still work.
#[utoipa::path(
    post, path = "/v1/admin/token-keys", tag = "agents",
    responses(
        (status = 201, description = "The key's number", body = TokenKeyBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn rotate_token_key(
    State(state): State<ApiState>,
) -> Result<(StatusCode, Json<TokenKeyBody>), ApiError> {
    let key_id = state.agents.rotate_root_key().await?;
    Ok((StatusCode::CREATED, Json(TokenKeyBody { key_id })))
}

/// Returns an agent that the caller may manage.
pub(super) fn managed(
    state: &ApiState,
    caller: &Caller,
    name: &str,
) -> Result<Arc<Agent>, AgentError> {
    let authority = authority_of(caller).ok_or_else(|| AgentError::Unknown(name.to_owned()))?;
    state.agents.managed(authority, name)
}

/// Returns the rank of a caller that may manage an agent.
pub(super) fn rank(caller: &Caller) -> Rank {
    authority_of(caller).map_or(Rank::Agent, Authority::rank)
}

fn authority_of(caller: &Caller) -> Option<Authority> {
    match caller {
        Caller::Account(caller) => Some(Authority::Account(AccountId(caller.account.as_u128()))),
        Caller::Agent(caller) => Some(Authority::Agent(caller.agent.id)),
        Caller::Operator => Some(Authority::Operator),
        Caller::Anyone | Caller::Local => None,
    }
}

/// Shows an agent with its card.
pub(super) async fn body_of(state: &ApiState, agent: &Agent) -> Result<Json<AgentBody>, ApiError> {
    let Json(item) = item_of(state, agent).await?;
    let card = state.agents.card(agent.id).await?;
    Ok(Json(agent_body(agent, item, card)))
}

/// Shows an agent as lists do.
pub(super) async fn item_of(state: &ApiState, agent: &Agent) -> Result<Json<AgentItem>, ApiError> {
    let skills = state.agents.skills_of(vec![agent.id]).await?;
    let skills = skills.into_iter().next().unwrap_or_default();
    let standing = state.agents.health().standing(agent.id);
    let known = (state.agents.price_of(agent), &standing);
    Ok(Json(AgentItem::of(agent, skills, &state.peer_id, known)))
}
