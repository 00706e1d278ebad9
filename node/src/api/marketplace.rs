//! `/v1/marketplace`: agents that are offered for tokens, by their owners.

use std::sync::Arc;

use aither_protocol::Amount;
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Value, value::RawValue};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiError, ApiState, Problem,
    agents::managed,
    auth::Caller,
    extract::JsonBody,
    page::{Items, Page, PageQuery},
    rfc3339,
};
use crate::{
    agents::{Agent, AgentError, LISTING_DESCRIPTION_BYTES_MAX, SkillSummary},
    services::{Offer, OfferFilter},
};

/// Highest price of one call.
const PRICE_MAX: Amount = Amount::from_tokens(1_000_000);

/// Which offers are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfferParams {
    /// Words of the offer, or that begin words of the agent's name and skills.
    q: Option<String>,
    /// The agent's tier.
    category: Option<String>,
    /// What comes first: `reputation` (unless said otherwise), `price`, `calls`, `latency`,
    /// `newest` or `name`.
    sort: Option<String>,
}

/// `POST /v1/marketplace/listings`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ListingBody {
    /// The agent's name or id.
    #[serde(alias = "agent_id", alias = "name")]
    agent: String,
    /// What a call costs, in tokens: 80 % of it are the owner's.
    #[serde(alias = "pricing")]
    #[schema(value_type = f64)]
    price_per_request: Price,
    /// What the agent does for it; without it, its card says so.
    description: Option<String>,
}

/// A number of tokens, or an object that says it under one of the names that are in use.
#[derive(Debug)]
struct Price(Amount);

/// The object.
#[derive(Deserialize)]
struct NamedPrice {
    #[serde(alias = "token_cost_per_request", alias = "tokens")]
    price_per_request: Amount,
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As it is written: an amount that went through a float could come out as its neighbour.
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let read = match raw.get().starts_with('{') {
            true => {
                serde_json::from_str(raw.get()).map(|named: NamedPrice| named.price_per_request)
            }
            false => serde_json::from_str(raw.get()),
        };
        read.map(Self).map_err(D::Error::custom)
    }
}

/// Whose offer ends.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UnlistParams {
    /// The agent's name or id; it may stand in the body instead.
    agent: Option<String>,
}

/// An agent that is offered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OfferItem {
    name: String,
    /// The same.
    agent: String,
    agent_id: String,
    /// The node that it is aboard of.
    node: String,
    description: String,
    version: String,
    /// Its tier.
    category: &'static str,
    #[schema(value_type = Vec<Object>)]
    skills: Vec<SkillSummary>,
    /// What a call costs.
    #[schema(value_type = f64)]
    price_per_request: Amount,
    /// Where it is in its life.
    state: &'static str,
    /// Calls so far.
    calls: u64,
    /// How likely a call is answered, by those so far: 0 to 1.
    reputation: Option<f64>,
    /// What answers took, as a moving mean.
    latency_ms: Option<f64>,
    /// How much of what it may have at once it has.
    load: Option<f64>,
    listed_at: String,
}

/// Lists what is offered.
#[utoipa::path(
    get, path = "/v1/marketplace", tag = "marketplace",
    params(OfferParams, PageQuery),
    responses(
        (status = 200, description = "The offers", body = Items<OfferItem>),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn offers(
    State(state): State<ApiState>,
    Query(params): Query<OfferParams>,
    page: Page,
) -> Result<Json<Items<OfferItem>>, ApiError> {
    let wanted = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let order = match wanted(params.sort) {
        None => Ok(Default::default()),
        Some(word) => word.parse::<crate::services::OfferOrder>(),
    };
    let filter = OfferFilter {
        query: wanted(params.q),
        category: wanted(params.category),
        order: order.map_err(|error| ApiError::field("sort", error.to_string()))?,
        after: page.after()?,
        limit: page.limit + 1,
    };
    let cut = page.cut(state.agents.offers(&filter), |offer| {
        offer.place.to_string()
    });
    let agents: Vec<_> = cut.items.iter().map(|offer| offer.agent.id).collect();
    let mut skills = state.agents.skills_of(agents).await?.into_iter();
    let mut items = Vec::with_capacity(cut.items.len());
    for offer in &cut.items {
        let skills = skills.next().unwrap_or_default();
        items.push(item_of(&state, offer, skills).await?);
    }
    Ok(Json(Items {
        items,
        next_cursor: cut.next_cursor,
    }))
}

/// Offers an agent, or changes its offer. Calls cost what it says from then on.
#[utoipa::path(
    post, path = "/v1/marketplace/listings", tag = "marketplace",
    request_body = ListingBody,
    responses(
        (status = 201, description = "It is offered", body = OfferItem),
        (status = 200, description = "The offer is changed", body = OfferItem),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<ListingBody>,
) -> Result<Response, ApiError> {
    let agent = managed(&state, &caller, &body.agent)?;
    let Price(price) = body.price_per_request;
    if price.is_zero() || price > PRICE_MAX {
        let message = format!("must be more than 0 and at most {PRICE_MAX}");
        return Err(ApiError::field("price_per_request", message));
    }
    let description = body.description.filter(|text| !text.trim().is_empty());
    if description
        .as_ref()
        .is_some_and(|text| text.len() > LISTING_DESCRIPTION_BYTES_MAX)
    {
        let message = format!("must have at most {LISTING_DESCRIPTION_BYTES_MAX} bytes");
        return Err(ApiError::field("description", message));
    }
    let is_new = state.agents.list(agent.id, price, description).await?;
    let offer = state.agents.offer(Arc::clone(&agent));
    // It may have been torn down meanwhile.
    let offer = offer.ok_or_else(|| AgentError::Unknown(agent.name.to_string()))?;
    let skills = state.agents.skills_of(vec![agent.id]).await?;
    let skills = skills.into_iter().next().unwrap_or_default();
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let item = item_of(&state, &offer, skills).await?;
    Ok((status, Json(item)).into_response())
}

/// Takes an offer back: calls cost again what the agent's card says.
#[utoipa::path(
    delete, path = "/v1/marketplace/listings", tag = "marketplace",
    params(UnlistParams),
    responses(
        (status = 204, description = "It is not offered any more"),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn unlist(
    State(state): State<ApiState>,
    caller: Caller,
    Query(params): Query<UnlistParams>,
    body: String,
) -> Result<StatusCode, ApiError> {
    let body: Option<Value> = serde_json::from_str(&body).ok();
    let named = body.as_ref().and_then(|body| body["agent"].as_str());
    let name = params.agent.as_deref().or(named);
    let name = name.ok_or_else(|| ApiError::field("agent", "is required"))?;
    end(&state, &caller, name).await
}

/// Takes the offer of an agent back.
#[utoipa::path(
    delete, path = "/v1/marketplace/listings/{agent}", tag = "marketplace",
    params(("agent" = String, Path, description = "The agent's name or id")),
    responses(
        (status = 204, description = "It is not offered any more"),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn unlist_named(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    end(&state, &caller, &name).await
}

async fn end(state: &ApiState, caller: &Caller, name: &str) -> Result<StatusCode, ApiError> {
    let agent = managed(state, caller, name)?;
    match state.agents.unlist(agent.id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::new(
            aither_protocol::ErrorCode::NotFound,
            format!("{name} is not offered"),
        )),
    }
}

async fn item_of(
    state: &ApiState,
    offer: &Offer,
    skills: Vec<SkillSummary>,
) -> Result<OfferItem, ApiError> {
    let agent = &offer.agent;
    let description = match &offer.listing.description {
        Some(description) => description.to_string(),
        None => described_by_card(state, agent).await?,
    };
    Ok(OfferItem {
        name: agent.name.to_string(),
        agent: agent.name.to_string(),
        agent_id: agent.id.to_string(),
        node: state.peer_id.clone(),
        description,
        version: agent.version.to_string(),
        category: agent.tier.as_str(),
        skills,
        price_per_request: offer.listing.price,
        state: agent.state.as_str(),
        calls: offer.standing.calls,
        reputation: offer.standing.reputation,
        latency_ms: offer.standing.latency_ms,
        load: offer.standing.load,
        listed_at: rfc3339(offer.listing.listed),
    })
}

async fn described_by_card(state: &ApiState, agent: &Agent) -> Result<String, ApiError> {
    let card = match state.agents.card(agent.id).await {
        // It has left while this was written.
        Err(AgentError::Unknown(_)) => Value::Null,
        card => card?,
    };
    Ok(card["description"].as_str().unwrap_or_default().to_owned())
}
