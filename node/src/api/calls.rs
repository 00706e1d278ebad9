//! `/v1/agents/{name}/chat` and `/call`: one agent, by its name.
//!
//! A call costs what the agent's card says and is charged when the agent has answered with a
//! status of 2xx, whole. Everything else costs nothing: a refusal of the agent's (4xx, which is
//! passed on by `/call`), a failure, a timeout, a client that hangs up before it has read any of
//! the answer. Who has begun to read a streamed answer pays for it.

use aither_protocol::{Amount, ErrorCode};
use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use ulid::Ulid;

use super::{
    ApiError, ApiState, Problem,
    auth::Caller,
    calls_stream::{self, Said},
    calls_types::{CallBody, ChatAnswer, ChatBody, endpoint, named, said, timeout_of},
    error::Shaped,
    extract::{JsonBody, RoutingHints},
    payment::Paid,
    request_id::RequestId,
    stream::{X_AITHER_COST, cost_header},
};
use crate::{
    billing::{OPERATOR, Payment},
    services::{
        CallAnswer, CallEvent, CallRequest, Callee, TaskCaller, What, calls::ANSWER_BYTES_MAX,
    },
};

/// How often a call was passed on.
const X_AITHER_HOP: HeaderName = HeaderName::from_static("x-aither-hop");
/// The task that an answer belongs to.
pub(super) const X_AITHER_TASK_ID: HeaderName = HeaderName::from_static("x-aither-task-id");
/// An agent's page, shown under this node's name, must not act in it.
const PASSED_ON_POLICY: &str = "sandbox; default-src 'none'";

/// What every call has beside its body.
#[derive(Debug)]
pub(super) struct CallTerms {
    pub(super) caller: Caller,
    pub(super) payment: Payment,
    pub(super) request_id: String,
    pub(super) explain: bool,
    hop: u8,
}

/// What a body asks for.
pub(super) struct CallWish {
    pub(super) callee: Callee,
    pub(super) skill: Option<String>,
    pub(super) what: What,
    pub(super) stream: bool,
    pub(super) timeout: Option<f64>,
    pub(super) max_cost: Option<Amount>,
}

impl FromRequestParts<ApiState> for CallTerms {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let Paid(payment) = Paid::from_request_parts(parts, state).await?;
        let hints = RoutingHints::from_request_parts(parts, state).await?;
        let Ok(RequestId(request_id)): Result<_, std::convert::Infallible> =
            RequestId::from_request_parts(parts, state).await;
        Ok(Self {
            caller: Caller::from_request_parts(parts, state).await?,
            payment,
            request_id,
            explain: hints.explain,
            hop: hop_of(&parts.headers)?,
        })
    }
}

impl CallTerms {
    /// Makes a call of what is asked for.
    pub(super) fn request(
        &self,
        state: &ApiState,
        wish: CallWish,
    ) -> Result<CallRequest, ApiError> {
        self.permit(&wish)?;
        let mut payment = self.payment.clone();
        let bounds = [payment.max_cost, wish.max_cost];
        payment.max_cost = bounds.into_iter().flatten().min();
        Ok(CallRequest {
            callee: wish.callee,
            skill: wish.skill,
            what: wish.what,
            pass_through: false,
            stream: wish.stream,
            timeout: timeout_of(wish.timeout, state.http.request_timeout)?,
            answer_bytes_max: ANSWER_BYTES_MAX,
            payment,
            budget: None,
            caller: caller_of(&self.caller),
            request_id: self.request_id.clone(),
            hop: self.hop,
        })
    }

    /// Holds a call against what a capability token leaves: one that names skills is good for
    /// messages for one of them, and for nothing else.
    fn permit(&self, wish: &CallWish) -> Result<(), ApiError> {
        let Caller::Agent(agent) = &self.caller else {
            return Ok(());
        };
        let grant = agent
            .token_grant
            .as_ref()
            .map(|token_grant| &token_grant.grant);
        let Some(skills) = grant.and_then(|grant| grant.skills.as_ref()) else {
            return Ok(());
        };
        let is_message = matches!(wish.what, What::Message { .. });
        let skill = wish.skill.as_ref().filter(|skill| skills.contains(*skill));
        if is_message && skill.is_some() {
            return Ok(());
        }
        let words = "the capability token is for certain skills alone; name one of them in \
                     \"skill\", with an input";
        Err(ApiError::new(ErrorCode::CapabilityMissing, words)
            .with_member("capability", "agent_call"))
    }
}

/// Talks to an agent.
#[utoipa::path(
    post, path = "/v1/agents/{name}/chat", tag = "calls",
    params(("name" = String, Path, description = "The agent's name, or name@node")),
    request_body = ChatBody,
    responses(
        (
            status = 200,
            description = "What the agent says, or a stream of server-sent events",
            content((ChatAnswer = "application/json"), (String = "text/event-stream")),
        ),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn chat(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    terms: CallTerms,
    JsonBody(body): JsonBody<ChatBody>,
) -> Result<Response, ApiError> {
    let session_id = named("session_id", body.session_id)?;
    // Named here if nobody else has, so that the conversation can go on.
    let session_id = session_id.unwrap_or_else(|| Ulid::generate().to_string());
    let request = terms.request(
        &state,
        CallWish {
            callee: Callee::Agent(name),
            skill: None,
            what: What::Message {
                input: said("message", body.message)?,
                session_id: Some(session_id.clone()),
            },
            stream: body.stream,
            timeout: body.timeout,
            max_cost: body.max_cost,
        },
    )?;
    let said = Said::Chat {
        session_id,
        explain: terms.explain,
    };
    if body.stream {
        let stream = state.calls.stream(request);
        return calls_stream::respond(stream, said, &state, terms.request_id).await;
    }
    let answer = state.calls.call(request).await?;
    Ok((cost_header(answer.cost), said.body(answer, &state.peer_id)).into_response())
}

/// Calls an endpoint that an agent declares, and passes its answer on as it is.
#[utoipa::path(
    post, path = "/v1/agents/{name}/call", tag = "calls",
    params(("name" = String, Path, description = "The agent's name, or name@node")),
    request_body = CallBody,
    responses(
        (
            status = 200,
            description = "The agent's own status and body: any of 2xx, which is charged, and of \
                4xx, which is not. A stream of events is passed on as it comes.",
            body = Object,
        ),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn call(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    terms: CallTerms,
    JsonBody(body): JsonBody<CallBody>,
) -> Result<Response, ApiError> {
    let request = terms.request(
        &state,
        CallWish {
            callee: Callee::Agent(name),
            skill: None,
            what: endpoint(body.endpoint, body.method.as_deref(), body.payload)?,
            stream: false,
            timeout: body.timeout,
            max_cost: body.max_cost,
        },
    )?;
    let mut stream = state.calls.stream(CallRequest {
        pass_through: true,
        ..request
    });
    let mut began = None;
    loop {
        match stream.next().await {
            Some(CallEvent::Began { task_id, .. }) => began = Some(task_id),
            Some(CallEvent::Head {
                status,
                content_type,
            }) => {
                let body = calls_stream::passed_on(stream);
                return Ok(passed_on((status, &content_type), began, body));
            }
            Some(CallEvent::End(ended)) => return Ok(whole((*ended)?)),
            Some(CallEvent::Bytes(_) | CallEvent::Text(_)) => {}
            None => return Err(ApiError::internal("a call ended without an end")),
        }
    }
}

fn whole(answer: CallAnswer) -> Response {
    let head = (answer.status, answer.content_type.as_str());
    let task_id = Some(answer.task_id);
    let mut response = passed_on(head, task_id, (Body::from(answer.body), None));
    if let Ok(cost) = HeaderValue::try_from(answer.cost.to_string()) {
        response.headers_mut().insert(X_AITHER_COST, cost);
    }
    response
}

/// Makes an answer of an agent's own, whose words are the agent's.
fn passed_on(
    (status, content_type): (u16, &str),
    task_id: Option<u128>,
    (body, broken): (Body, Option<super::stream::StreamBroken>),
) -> Response {
    let mut response = Response::new(body);
    // The service lets only 2xx and 4xx through.
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    if let Some(id) = task_id
        && let Ok(id) = HeaderValue::try_from(Ulid(id).to_string())
    {
        headers.insert(X_AITHER_TASK_ID, id);
    }
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let policy = HeaderValue::from_static(PASSED_ON_POLICY);
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response.extensions_mut().insert(Shaped);
    if let Some(broken) = broken {
        response.extensions_mut().insert(broken);
    }
    response
}

/// Returns who a task is noted to come from.
fn caller_of(caller: &Caller) -> TaskCaller {
    match caller {
        Caller::Account(caller) => TaskCaller {
            name: caller.account.to_string(),
            agent: None,
        },
        Caller::Agent(caller) => TaskCaller {
            name: caller.billed_name(),
            agent: Some(caller.agent.id),
        },
        Caller::Operator | Caller::Local | Caller::Anyone => TaskCaller {
            name: OPERATOR_NAME.to_owned(),
            agent: None,
        },
    }
}

/// What the operator is called towards agents.
const OPERATOR_NAME: &str = "operator";

fn hop_of(headers: &HeaderMap) -> Result<u8, ApiError> {
    let Some(value) = headers.get(X_AITHER_HOP) else {
        return Ok(0);
    };
    let hop = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    hop.ok_or_else(|| ApiError::field("x-aither-hop", "must be a number from 0 to 255"))
}

impl Said {
    /// Returns the body of a whole answer.
    pub(super) fn body(&self, answer: CallAnswer, node: &str) -> Response {
        match self {
            Self::Chat {
                session_id,
                explain,
            } => Json(ChatAnswer::of(answer, session_id, *explain)).into_response(),
            Self::Task { explain } => {
                Json(super::calls_types::TaskAnswer::of(answer, node, *explain)).into_response()
            }
        }
    }
}

/// Returns the account that an operator's or an owner's tasks are listed under.
pub(super) fn viewer_of(caller: &Caller) -> crate::services::TaskViewer {
    use crate::services::TaskViewer;
    match caller {
        Caller::Operator => TaskViewer::Operator,
        Caller::Account(caller) => TaskViewer::Account(caller.account.as_u128()),
        Caller::Agent(caller) => TaskViewer::Agent(caller.agent.id.as_u128()),
        // Nobody's: no account has the operator's number.
        Caller::Local | Caller::Anyone => TaskViewer::Agent(OPERATOR.0),
    }
}
