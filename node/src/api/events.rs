//! `/v1/events/…` and `/v1/agents/{name}/logs`: telling what happens, and hearing of it.
//!
//! A stream is bounded by what one write takes: what follows waits in the log, not in the stream.
//! It ends with words about why: a follower that is too slow, a key that works no more, a node
//! that stops.

use std::{collections::VecDeque, convert::Infallible, fmt, time::Duration};

use aither_ledger::AccountId;
use aither_protocol::ErrorCode;
use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, Path, Query, State},
    http::{HeaderName, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{
    ApiError, ApiState, Problem,
    agents::managed,
    auth::{Caller, KeyWatch},
    events_types::{EmitBody, EmittedBody, LogItem, LogParams, SubscribeParams, push_own, shown},
    extract::JsonBody,
    page::{Items, Page, PageQuery},
    rfc3339,
};
use crate::{
    accounts::{StoreError, time_of},
    billing::OPERATOR,
    events::{Event, EventError, Filter, Pattern, Viewer},
    services::{Emission, Step, Subscription},
};

/// Pause after which a comment shows that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often it is asked whether the follower's key still works.
const KEY_CHECKED_EVERY: Duration = Duration::from_secs(2);
/// When to come back where somebody must make room first.
const RETRY_WHEN_MENDED: Duration = Duration::from_secs(60);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Emits an event. It is durable when the answer comes.
#[utoipa::path(
    post, path = "/v1/events/emit", tag = "events",
    request_body = EmitBody,
    responses(
        (status = 200, description = "It is taken", body = EmittedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn emit(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<EmitBody>,
) -> Result<Json<EmittedBody>, ApiError> {
    let (source, agent) = match &caller {
        Caller::Account(account) => (AccountId(account.account.as_u128()), None),
        Caller::Agent(caller) => (caller.agent.owner, Some(caller.agent.name.to_string())),
        Caller::Operator => (OPERATOR, None),
        Caller::Anyone | Caller::Local => return Err(without_key()),
    };
    let emitting = state.events.emit(Emission {
        source,
        is_operator: caller == Caller::Operator,
        agent,
        name: body.event,
        data: body.data.get().to_owned(),
        is_public: body.public,
    });
    let emitted = emitting.await?;
    Ok(Json(EmittedBody {
        id: emitted.id.to_string(),
        time: rfc3339(time_of(emitted.time_ms)),
    }))
}

/// Follows events: an SSE stream of those after `Last-Event-ID`, or of those to come. `gap` says
/// that what came before is not kept any more, `lagged` and `closed` that the stream ends.
#[utoipa::path(
    get, path = "/v1/events/subscribe", tag = "events",
    params(SubscribeParams),
    responses(
        (
            status = 200, description = "The events", body = String,
            content_type = "text/event-stream",
        ),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn subscribe(
    State(state): State<ApiState>,
    caller: Caller,
    key: KeyWatch,
    LastEventId(last): LastEventId,
    Query(params): Query<SubscribeParams>,
) -> Result<Response, ApiError> {
    let filter = Filter {
        viewer: viewer_of(&caller)?,
        patterns: Pattern::parse_list(params.events.as_deref().unwrap_or_default())?,
        agent: None,
    };
    let after = match last {
        Some(last) => Some(last),
        None => parse_id("last_event_id", params.last_event_id.as_deref())?,
    };
    let subscription = state.events.subscribe(filter, after)?;
    let watch = move || key.still_opens(&state);
    Ok(streamed(subscription, VecDeque::new(), Box::new(watch)))
}

/// Shows what happened to an agent and what it emitted, the newest last. `next_cursor` leads to
/// what came before.
#[utoipa::path(
    get, path = "/v1/agents/{name}/logs", tag = "agents",
    params(("name" = String, Path, description = "The agent's name"), LogParams, PageQuery),
    responses(
        (status = 200, description = "The events, or a stream of them", body = Items<LogItem>),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn logs(
    State(state): State<ApiState>,
    caller: Caller,
    key: KeyWatch,
    LastEventId(last): LastEventId,
    Path(name): Path<String>,
    Query(params): Query<LogParams>,
    page: Page,
) -> Result<Response, ApiError> {
    let agent = managed(&state, &caller, &name)?;
    let viewer = viewer_of(&caller)?;
    if !params.follow {
        let before = page.after::<u64>()?.unwrap_or(u64::MAX);
        let looking = state
            .events
            .of_agent((viewer, &agent.name), before, page.limit);
        let found = looking.await?;
        let items: Result<_, _> = found.events.iter().map(LogItem::of).collect();
        let body = Items {
            items: items?,
            next_cursor: found.before.map(|id| id.to_string()),
        };
        return Ok(Json(body).into_response());
    }
    // Whoever comes back has seen the last ones; whoever comes is shown what there is up to now,
    // and then what comes.
    let after = last.unwrap_or_else(|| state.events.last());
    let mut head = VecDeque::new();
    if last.is_none() {
        let before = after.saturating_add(1);
        let looking = state
            .events
            .of_agent((viewer, &agent.name), before, page.limit);
        head.extend(looking.await?.events);
    }
    let filter = Filter {
        viewer,
        patterns: Vec::new(),
        agent: Some(agent.name.clone()),
    };
    let subscription = state.events.subscribe(filter, Some(after))?;
    let watch = move || key.still_opens(&state) && managed(&state, &caller, &name).is_ok();
    Ok(streamed(subscription, head, Box::new(watch)))
}

/// The header by which somebody says what was seen last.
pub(super) struct LastEventId(Option<u64>);

impl FromRequestParts<ApiState> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(LAST_EVENT_ID) else {
            return Ok(Self(None));
        };
        // What is no text is no number, either.
        let text = value.to_str().unwrap_or("?");
        parse_id("Last-Event-ID", Some(text)).map(Self)
    }
}

fn parse_id(field: &str, text: Option<&str>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| ApiError::field(field, "must be the id of an event: a number"))
}

fn viewer_of(caller: &Caller) -> Result<Viewer, ApiError> {
    match caller {
        Caller::Operator => Ok(Viewer::Operator),
        Caller::Account(account) => Ok(Viewer::Account(AccountId(account.account.as_u128()))),
        Caller::Agent(caller) => Ok(Viewer::Account(caller.agent.owner)),
        Caller::Anyone | Caller::Local => Err(without_key()),
    }
}

fn without_key() -> ApiError {
    ApiError::internal("events without a key")
}

/// Says whether the stream's follower may still follow.
type Watch = Box<dyn Fn() -> bool + Send>;

fn streamed(subscription: Subscription, head: VecDeque<Event>, watch: Watch) -> Response {
    let now = Instant::now();
    let state = Frames {
        subscription,
        watch,
        // A comment goes first: whoever waits for the head of the answer waits for no event.
        first: b": following\n\n".to_vec(),
        head,
        is_over: false,
        check_at: now + KEY_CHECKED_EVERY,
        comment_at: now + KEEP_ALIVE,
    };
    let frames = stream::unfold(state, |mut state| async move {
        let frame = state.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frame)), state))
    });
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Proxies of the nginx kind collect a body unless told not to.
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    (headers, Body::from_stream(frames)).into_response()
}

struct Frames {
    subscription: Subscription,
    watch: Watch,
    first: Vec<u8>,
    /// What was there already; each piece is made when the one before it was sent.
    head: VecDeque<Event>,
    is_over: bool,
    /// When it is asked whether the key still works.
    check_at: Instant,
    /// When a comment is due, unless something else is sent before.
    comment_at: Instant,
}

impl Frames {
    async fn next(&mut self) -> Option<Vec<u8>> {
        let first = std::mem::take(&mut self.first);
        if !first.is_empty() {
            return Some(first);
        }
        if let Some(event) = self.head.pop_front() {
            return Some(shown(&event).to_vec());
        }
        if self.is_over {
            return None;
        }
        let mut frame = Vec::new();
        while frame.is_empty() {
            let now = Instant::now();
            if now >= self.check_at {
                self.check_at = now + KEY_CHECKED_EVERY;
                if !(self.watch)() {
                    self.end(&mut frame, "the key does not open this stream any more");
                    break;
                }
            }
            if now >= self.comment_at {
                frame.extend_from_slice(b": still here\n\n");
                break;
            }
            let until = self.check_at.min(self.comment_at);
            if let Ok(step) = timeout_at(until, self.subscription.next()).await {
                self.show(step, &mut frame);
            }
        }
        self.comment_at = Instant::now() + KEEP_ALIVE;
        Some(frame)
    }

    fn show(&mut self, step: Step, frame: &mut Vec<u8>) {
        match step {
            Step::Events(events) => {
                frame.reserve(events.iter().map(|event| shown(event).len()).sum());
                for event in &events {
                    frame.extend_from_slice(shown(event));
                }
            }
            Step::Gap { after } => {
                let words = "events up to this id are not kept any more, or were never of this \
                             log; the stream goes on after it";
                let data = json!({ "after": after.to_string(), "message": words });
                push_own(frame, Some(after), "gap", &data);
            }
            Step::Lagged { last } => {
                let words = "too slow for what happens, and cut off; come back with this id in \
                             Last-Event-ID";
                let data = json!({ "last_id": last.to_string(), "message": words });
                push_own(frame, Some(last), "lagged", &data);
                self.is_over = true;
            }
            Step::Closed => self.end(frame, "the node is stopping"),
            Step::Failed(error) => {
                tracing::error!(%error, "a stream of events ended");
                self.end(frame, "the events cannot be read");
            }
        }
    }

    fn end(&mut self, frame: &mut Vec<u8>, reason: &str) {
        push_own(frame, None, "closed", &json!({ "reason": reason }));
        self.is_over = true;
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").finish_non_exhaustive()
    }
}

impl From<EventError> for ApiError {
    fn from(error: EventError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        let refused = match error.retry_after() {
            Some(after) => Self::new(code, words.clone()).with_retry_after(after),
            None => Self::new(code, words.clone()),
        };
        match error {
            EventError::Invalid { field, message } => Self::with_field(code, field, message),
            EventError::DataTooLarge { .. } => Self::with_field(code, "data", words),
            // The path is the operator's business.
            EventError::Store(StoreError::Full { .. }) => {
                tracing::error!(error = words, "no room for events");
                Self::new(code, "the node's disk is full; its operator must make room")
                    .with_retry_after(RETRY_WHEN_MENDED)
            }
            _ if code == ErrorCode::Internal => Self::internal(words),
            _ => refused,
        }
    }
}
