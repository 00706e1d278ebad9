//! `/v1/a2a/…`: tasks for agents, by name or by skill, one or several at once.
//!
//! A task is known by its id from the moment that it is paid for, if it comes to something: to its
//! caller, to the account that pays and to the operator. Nobody else is told that it is there.

use std::sync::Arc;

use aither_protocol::Plan;
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};

use super::{
    ApiError, ApiState, Problem,
    agents::body_of,
    agents_types::AgentBody,
    auth::Caller,
    calls::{CallTerms, CallWish, viewer_of},
    calls_stream::{self, Said},
    calls_types::{
        PARALLEL_MAX, ParallelAnswer, ParallelBody, TaskAnswer, TaskBody, TaskItem, endpoint,
        named, said, task_id_of,
    },
    error::Dialect,
    extract::JsonBody,
    stream::cost_header,
};
use crate::{
    accounts::AccountId,
    billing::OPERATOR,
    calls::TaskStatus,
    services::{Authority, Budget, CallRequest, Callee, Permit, What},
};

/// Longest answer of one of several tasks: all of them are in one.
const PARALLEL_ANSWER_BYTES_MAX: usize = 1 << 20;

/// Has an agent do something.
#[utoipa::path(
    post, path = "/v1/a2a/tasks", tag = "calls",
    request_body = TaskBody,
    responses(
        (
            status = 200,
            description = "What came of it, or a stream of server-sent events",
            content((TaskAnswer = "application/json"), (String = "text/event-stream")),
        ),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn begin(
    State(state): State<ApiState>,
    terms: CallTerms,
    JsonBody(body): JsonBody<TaskBody>,
) -> Result<Response, ApiError> {
    let wish = wish_of(body)?;
    let is_stream = wish.stream;
    let request = terms.request(&state, wish)?;
    let said = Said::Task {
        explain: terms.explain,
    };
    if is_stream {
        let stream = state.calls.stream(request);
        return calls_stream::respond(stream, said, &state, terms.request_id).await;
    }
    let answer = state.calls.call(request).await?;
    Ok((cost_header(answer.cost), said.body(answer, &state.peer_id)).into_response())
}

/// Has agents do several things at once. One that fails harms no other.
#[utoipa::path(
    post, path = "/v1/a2a/parallel", tag = "calls",
    request_body = ParallelBody,
    responses(
        (status = 200, description = "What came of each", body = ParallelAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn parallel(
    State(state): State<ApiState>,
    terms: CallTerms,
    JsonBody(body): JsonBody<ParallelBody>,
) -> Result<Response, ApiError> {
    if !(1..=PARALLEL_MAX).contains(&body.tasks.len()) {
        return Err(ApiError::field(
            "tasks",
            format!("must be 1 to {PARALLEL_MAX} tasks"),
        ));
    }
    let count = body.tasks.len();
    // What the header bounds is the request, so all of its tasks together.
    let budget = terms.payment.max_cost.map(Budget::new).map(Arc::new);
    let requests = body.tasks.into_iter().map(|task| {
        let request = terms.request(&state, wish_of(task)?)?;
        Ok(CallRequest {
            stream: false,
            answer_bytes_max: PARALLEL_ANSWER_BYTES_MAX,
            budget: budget.clone(),
            ..request
        })
    });
    let requests: Vec<Result<CallRequest, ApiError>> = requests.collect();
    let operations = state
        .calls
        .operations(terms.payment.operation, count)
        .await?;
    let works = requests.into_iter().zip(operations).enumerate();
    let works = works.map(|(at, (request, operation))| {
        let (state, terms) = (&state, &terms);
        async move {
            let request = request.map(|mut request| {
                request.payment.operation = operation;
                request
            });
            one_of(state, terms, at, request).await
        }
    });
    // Beside the one that the request itself has.
    let more = more_of(&state, &terms.caller, count - 1);
    let width = 1 + more.len();
    let results: Vec<_> = stream::iter(works).buffered(width).collect().await;
    let cost = results.iter().filter_map(TaskAnswer::cost).sum();
    let cost = aither_protocol::Amount::from_micros(cost);
    Ok((cost_header(cost), Json(ParallelAnswer { results })).into_response())
}

/// Does one of several tasks.
async fn one_of(
    state: &ApiState,
    terms: &CallTerms,
    at: usize,
    request: Result<CallRequest, ApiError>,
) -> TaskAnswer {
    let refused = |error: ApiError| {
        let problem = error.body(Dialect::Native, &terms.request_id);
        TaskAnswer::failed((None, TaskStatus::Failed), &state.peer_id, problem)
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => return refused(error),
    };
    // The first is what the request itself was counted for.
    if at > 0
        && let Err(error) = count(state, &terms.caller)
    {
        return refused(error);
    }
    match state.calls.call(request).await {
        Ok(answer) => TaskAnswer::of(answer, &state.peer_id, terms.explain),
        Err(failure) => {
            let (task_id, status) = (failure.task_id, failure.error.status());
            let problem = ApiError::from(failure).body(Dialect::Native, &terms.request_id);
            TaskAnswer::failed((task_id, status), &state.peer_id, problem)
        }
    }
}

/// Counts a task against its account's plan, as if it had been asked for by itself.
fn count(state: &ApiState, caller: &Caller) -> Result<(), ApiError> {
    match plan_of(caller) {
        Some((account, plan)) => Ok(state.accounts.count(account, plan)?),
        None => Ok(()),
    }
}

/// Takes places for more tasks at once: as many as there are now for requests of their own, until
/// the answer is there. Else the width of one request would be that of the plan, times over.
fn more_of(state: &ApiState, caller: &Caller, count_max: usize) -> Vec<Permit> {
    match plan_of(caller) {
        Some((account, plan)) => state.accounts.more(account, plan, count_max),
        None => (0..count_max).map(|_| Permit::default()).collect(),
    }
}

/// Returns whose plan counts, if one does.
fn plan_of(caller: &Caller) -> Option<(AccountId, Plan)> {
    match caller {
        Caller::Account(account) => Some((account.account, account.plan)),
        Caller::Agent(agent) if agent.agent.owner != OPERATOR => {
            Some((AccountId::from_u128(agent.agent.owner.0), agent.plan))
        }
        _ => None,
    }
}

/// Says where a task stands, and what came of it.
#[utoipa::path(
    get, path = "/v1/a2a/tasks/{id}", tag = "calls",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The task", body = TaskItem),
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
) -> Result<Json<TaskItem>, ApiError> {
    let id = task_id_of(&id)?;
    let record = state.calls.task(id, viewer_of(&caller))?;
    Ok(Json(TaskItem::of(id, record, &state.peer_id)))
}

/// Ends a task that waits or is at work: its agent's connection is closed, and nothing is charged,
/// unless it is a streamed answer of which a piece was read.
#[utoipa::path(
    delete, path = "/v1/a2a/tasks/{id}", tag = "calls",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The task as it has ended", body = TaskItem),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn cancel(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<TaskItem>, ApiError> {
    let id = task_id_of(&id)?;
    let record = state.calls.cancel(id, viewer_of(&caller)).await?;
    Ok(Json(TaskItem::of(id, record, &state.peer_id)))
}

/// Shows an agent that can be called, and its card.
#[utoipa::path(
    get, path = "/v1/a2a/agents/{name}", tag = "calls",
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
pub(super) async fn agent(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<AgentBody>, ApiError> {
    let agent = state.agents.managed(Authority::Operator, &name)?;
    body_of(&state, &agent).await
}

/// Returns what a task asks for.
fn wish_of(body: TaskBody) -> Result<CallWish, ApiError> {
    let skill = named("skill", body.skill)?;
    let callee = match (named("agent", body.agent)?, &skill) {
        (Some(agent), _) => Callee::Agent(agent),
        (None, Some(_)) => Callee::BySkill,
        (None, None) => {
            let words = "is required, or \"agent\": who is to be called";
            return Err(ApiError::field("skill", words));
        }
    };
    let what = match (body.input, body.endpoint) {
        (Some(input), None) => What::Message {
            input: said("input", input)?,
            session_id: named("session_id", body.session_id)?,
        },
        (None, Some(path)) => endpoint(path, body.method.as_deref(), body.payload)?,
        (None, None) => {
            let words = "is required, or \"endpoint\": what is to be done";
            return Err(ApiError::field("input", words));
        }
        (Some(_), Some(_)) => {
            let words = "cannot be given together with \"input\"";
            return Err(ApiError::field("endpoint", words));
        }
    };
    Ok(CallWish {
        callee,
        skill,
        what,
        stream: body.stream,
        timeout: body.timeout,
        max_cost: body.max_cost,
    })
}

#[cfg(test)]
mod tests {
    use aither_protocol::ErrorCode;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_needs_somebody_and_something() {
        for (body, field) in [
            (json!({}), "skill"),
            (json!({ "input": "x" }), "skill"),
            (json!({ "skill": "", "input": "x" }), "skill"),
            (json!({ "skill": "s" }), "input"),
            (json!({ "agent": "a", "input": "" }), "input"),
            (
                json!({ "agent": "a", "input": "x", "endpoint": "/x" }),
                "endpoint",
            ),
            (
                json!({ "agent": "a", "endpoint": "/x", "method": "FLY" }),
                "method",
            ),
        ] {
            let body: TaskBody = serde_json::from_value(body.clone()).unwrap();
            let error = wish_of(body).err().unwrap();
            assert_eq!(error.code(), ErrorCode::ValidationFailed);
            let problem = error.body(Dialect::Native, "");
            assert_eq!(problem["errors"][0]["field"], field);
        }
        let body = json!({ "skill": "s", "input": { "any": 1 }, "from_agent": "me" });
        let wish = wish_of(serde_json::from_value(body).unwrap()).ok().unwrap();
        assert_eq!(wish.callee, Callee::BySkill);
    }
}
