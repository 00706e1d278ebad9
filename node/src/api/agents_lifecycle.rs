//! `/v1/agents/{name}/lifecycle`, `/health`, `/drain` and `/usage`: how an agent fares.
//!
//! Anybody with a key may see whether an agent is well, since whoever calls it wants to know; where
//! it was and what it earns is for those who may manage it.

use std::time::{Duration, UNIX_EPOCH};

use aither_protocol::Amount;
use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiError, ApiState, Problem,
    agents::{item_of, managed, rank},
    agents_types::AgentItem,
    auth::Caller,
    extract::parse_duration,
    rfc3339,
};
use crate::{
    accounts::time_of,
    agents::{AgentError, CallDay},
    services::{Authority, ProbeFailure},
};

/// What `/usage` covers unless said otherwise, and at most: as long as days are kept.
const PERIOD_DEFAULT: Duration = Duration::from_secs(30 * DAY_SECONDS);
const DAY_SECONDS: u64 = 24 * 60 * 60;
/// When to ask again for a probe while many are made.
const RETRY_WHEN_BUSY: Duration = Duration::from_secs(2);

/// `?probe=1`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HealthParams {
    /// `1` asks the agent now. For those who may manage it; others see what it said last.
    probe: Option<String>,
}

/// The query of `GET /v1/agents/{name}/usage`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AgentUsageParams {
    /// How far back, in whole days: "30d" unless said otherwise, and at most.
    period: Option<String>,
}

/// Where an agent is in its life, and how it came there.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LifecycleBody {
    name: String,
    /// `DEPLOY`, `INIT`, `BOOT`, `LIVE`, `PAIN`, `HEAL`, `DRAIN` or `STOP`.
    state: &'static str,
    /// Why, in words.
    reason: String,
    since: String,
    /// Its last 200 moves, the oldest first.
    history: Vec<MoveItem>,
}

/// A move in an agent's life.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MoveItem {
    time: String,
    from: &'static str,
    to: &'static str,
    /// Why, in words.
    reason: String,
}

/// Whether an agent is well.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentHealthBody {
    name: String,
    /// `LIVE` and `PAIN` take calls.
    state: &'static str,
    /// What it said when it was asked last; nobody asks one without an address.
    healthy: Option<bool>,
    /// When that was; none since the node started.
    checked_at: Option<String>,
    /// A moving mean of what answers took; none before the first.
    latency_ms: Option<f64>,
    /// How much of what it does at once it has; above 1 some calls wait.
    load: Option<f64>,
    /// How likely a call is answered, by the recent ones.
    reputation: Option<f64>,
    /// Why it is in this state.
    reason: String,
}

/// What an agent was called for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentUsageBody {
    name: String,
    /// Calls that were answered, failed or took too long.
    calls: u64,
    /// Those of them that were not answered.
    failed: u64,
    /// What its owner has earned by them.
    #[schema(value_type = f64)]
    earned: Amount,
    /// A moving mean of what answers took.
    latency_ms: Option<f64>,
    /// How likely a call is answered, by the recent ones.
    reputation: Option<f64>,
    /// Days with calls, the oldest first.
    by_day: Vec<AgentDayItem>,
}

/// An agent's calls of a day in UTC.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentDayItem {
    /// As `2026-01-31`.
    day: String,
    calls: u64,
    failed: u64,
    #[schema(value_type = f64)]
    earned: Amount,
}

/// Shows where an agent is in its life, and how it came there.
#[utoipa::path(
    get, path = "/v1/agents/{name}/lifecycle", tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "Its state and its history", body = LifecycleBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn lifecycle(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<LifecycleBody>, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let story = state.agents.story(agent.id).await?;
    let history = story.moves.into_iter().map(|moved| MoveItem {
        time: rfc3339(time_of(moved.time_ms)),
        from: moved.from.as_str(),
        to: moved.to.as_str(),
        reason: moved.reason,
    });
    Ok(Json(LifecycleBody {
        name: agent.name.to_string(),
        state: story.state.as_str(),
        reason: story.reason,
        since: rfc3339(time_of(story.since_ms)),
        history: history.collect(),
    }))
}

/// Says whether an agent is well.
#[utoipa::path(
    get, path = "/v1/agents/{name}/health", tag = "agents",
    params(("name" = String, Path, description = "The agent's name"), HealthParams),
    responses(
        (status = 200, description = "How it fares", body = AgentHealthBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn health(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
    Query(params): Query<HealthParams>,
) -> Result<Json<AgentHealthBody>, ApiError> {
    let agent = state.agents.managed(Authority::Operator, &name)?;
    let health = state.agents.health();
    let wants_probe = matches!(params.probe.as_deref(), Some("1" | "true"));
    if wants_probe
        && managed(&state, &caller, &name).is_ok()
        && health.ask(agent.id).await == Err(ProbeFailure::Busy)
    {
        let retry_after = RETRY_WHEN_BUSY;
        return Err(AgentError::Overloaded { retry_after }.into());
    }
    let story = state.agents.story(agent.id).await?;
    let (checkup, standing) = (health.checkup(agent.id), health.standing(agent.id));
    Ok(Json(AgentHealthBody {
        name: agent.name.to_string(),
        state: story.state.as_str(),
        healthy: checkup.map(|checkup| checkup.is_healthy),
        checked_at: checkup.map(|checkup| rfc3339(checkup.time)),
        latency_ms: standing.latency_ms,
        load: standing.load,
        reputation: standing.reputation,
        reason: story.reason,
    }))
}

/// Sets an agent aside once it has finished the calls that it has: it takes no more, and has a
/// minute for those. `resume` takes it back.
#[utoipa::path(
    post, path = "/v1/agents/{name}/drain", tag = "agents",
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
pub(super) async fn drain(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<AgentItem>, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let agent = state.agents.drain(agent.id, rank(&caller)).await?;
    item_of(&state, &agent).await
}

/// Says what an agent was called for, and what it has earned.
#[utoipa::path(
    get, path = "/v1/agents/{name}/usage", tag = "agents",
    params(("name" = String, Path, description = "The agent's name"), AgentUsageParams),
    responses(
        (status = 200, description = "Its calls", body = AgentUsageBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn usage(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
    Query(params): Query<AgentUsageParams>,
) -> Result<Json<AgentUsageBody>, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let period = match params.period.as_deref() {
        None | Some("") => PERIOD_DEFAULT,
        Some(text) => parse_duration(text)
            .ok_or_else(|| ApiError::field("period", "must be a time such as 30d or 7d"))?,
    };
    let day_count = period.min(PERIOD_DEFAULT).as_secs().div_ceil(DAY_SECONDS);
    let health = state.agents.health();
    let days = health.days(
        agent.id,
        usize::try_from(day_count.max(1)).unwrap_or(usize::MAX),
    );
    let standing = health.standing(agent.id);
    let earned = days.iter().map(|day| day.earned_micros).sum();
    Ok(Json(AgentUsageBody {
        name: agent.name.to_string(),
        calls: days.iter().map(|day| day.calls).sum(),
        failed: days.iter().map(|day| day.failed).sum(),
        earned: Amount::from_micros(earned),
        latency_ms: standing.latency_ms,
        reputation: standing.reputation,
        by_day: days.iter().map(AgentDayItem::of).collect(),
    }))
}

impl AgentDayItem {
    fn of(day: &CallDay) -> Self {
        let start = UNIX_EPOCH + Duration::from_secs(u64::from(day.day) * DAY_SECONDS);
        let mut text = rfc3339(start);
        // The day of a time, in UTC.
        text.truncate(10);
        Self {
            day: text,
            calls: day.calls,
            failed: day.failed,
            earned: Amount::from_micros(day.earned_micros),
        }
    }
}
