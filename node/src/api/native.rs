//! `/v1/llm/…`: the node's own inference routes.
//!
//! A prompt is answered through the model's chat template where it has one; a bare model
//! continues it. Streams are server-sent events: `delta`, then `done` with the whole answer, or
//! `error` with the problem.

use std::time::Instant;

use aither_inference::{
    engine::ModelInfo,
    request::{ChatMessage, FinishReason, GenerateRequest, Prompt, SamplingParams},
};
use aither_protocol::limits::CHAT_MESSAGES_MAX;
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};

use super::{
    ApiError, ApiState, Problem,
    auth::Caller,
    error::Dialect,
    extract::{JsonBody, RoutingHints, bounded, completion_bound, narrow},
    native_types::{
        Answer, ChatBody, CommonBody, Delta, Explanation, GenerateBody, MessageBody, common_of,
    },
    openai_chat::timings_of,
    payment::Paid,
    request_id::RequestId,
    stream::{self, Encoder, cost_header, push_event},
};
use crate::{
    billing::Payment,
    services::{Finished, GenerationStep, Urgency},
};

/// `max_tokens` of a request without one (INTERFACE, section 4).
const MAX_TOKENS_DEFAULT: i64 = 256;
/// Sampling of a request that does not say: what local model servers use.
const TEMPERATURE_DEFAULT: f64 = 0.8;
const TOP_P_DEFAULT: f64 = 0.9;
const TOP_K_DEFAULT: i64 = 40;
/// Roles that a message can have.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// Answers a prompt.
#[utoipa::path(
    post, path = "/v1/llm/generate", tag = "llm",
    request_body = GenerateBody,
    responses(
        (
            status = 200,
            description = "The answer, or a stream of server-sent events",
            content((Answer = "application/json"), (String = "text/event-stream")),
        ),
        (
            status = "default",
            description = "A problem",
            body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn generate(
    State(state): State<ApiState>,
    hints: RoutingHints,
    caller: Caller,
    Paid(payment): Paid,
    request_id: RequestId,
    JsonBody(body): JsonBody<GenerateBody>,
) -> Result<Response, ApiError> {
    if body.prompt.is_empty() {
        return Err(ApiError::field("prompt", "must not be empty"));
    }
    let info = resolve(&state, model_of(&caller, body.model.as_deref()))?;
    let prompt = prompt_of(&info, body.system, body.prompt);
    let reply = Reply::new(&state, hints, request_id, &info, false);
    let terms = (hints.urgency, payment);
    run(&state, info, prompt, common_of!(body), terms, reply).await
}

/// Answers a conversation.
#[utoipa::path(
    post, path = "/v1/llm/chat", tag = "llm",
    request_body = ChatBody,
    responses(
        (
            status = 200,
            description = "The answer, or a stream of server-sent events",
            content((Answer = "application/json"), (String = "text/event-stream")),
        ),
        (
            status = "default",
            description = "A problem",
            body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn chat(
    State(state): State<ApiState>,
    hints: RoutingHints,
    caller: Caller,
    Paid(payment): Paid,
    request_id: RequestId,
    JsonBody(body): JsonBody<ChatBody>,
) -> Result<Response, ApiError> {
    let messages = body
        .messages
        .into_iter()
        .map(|message| ChatMessage {
            role: message.role,
            content: message.content,
        })
        .collect();
    let messages = check_messages(messages)?;
    let info = resolve(&state, model_of(&caller, body.model.as_deref()))?;
    let reply = Reply::new(&state, hints, request_id, &info, true);
    run(
        &state,
        info,
        Prompt::Chat(messages),
        common_of!(body),
        (hints.urgency, payment),
        reply,
    )
    .await
}

/// Returns the name of the model that is asked for: an agent may have one of its own.
fn model_of<'a>(caller: &'a Caller, asked: Option<&'a str>) -> Option<&'a str> {
    let asked = asked.filter(|name| !name.trim().is_empty());
    asked.or_else(|| match caller {
        Caller::Agent(caller) => caller.agent.model.as_deref(),
        _ => None,
    })
}

/// Returns the model that a request means.
pub(super) fn resolve(state: &ApiState, name: Option<&str>) -> Result<ModelInfo, ApiError> {
    let catalog = state.llm.catalog();
    if let Some(name) = name
        && catalog.is_encoder(name)
    {
        let message = "is an embedding model, which writes no text; use it on /v1/embeddings, \
                       /api/embed or /v1/llm/embed";
        return Err(ApiError::field("model", message));
    }
    let found = catalog.resolve(name);
    found.map_err(|error| crate::services::LlmError::from(error).into())
}

/// Returns a prompt as the model's chat template wants it, or as plain text without one.
pub(super) fn prompt_of(info: &ModelInfo, system: Option<String>, prompt: String) -> Prompt {
    let system = system.filter(|system| !system.is_empty());
    if info.chat_template.is_none() {
        return Prompt::Text(match system {
            Some(system) => format!("{system}\n\n{prompt}"),
            None => prompt,
        });
    }
    let system = system.map(|content| ChatMessage {
        role: "system".into(),
        content,
    });
    let user = ChatMessage {
        role: "user".into(),
        content: prompt,
    };
    Prompt::Chat(system.into_iter().chain([user]).collect())
}

/// Checks the number of messages and their roles.
pub(super) fn check_messages(messages: Vec<ChatMessage>) -> Result<Vec<ChatMessage>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field(
            "messages",
            "must have at least one message",
        ));
    }
    if messages.len() > CHAT_MESSAGES_MAX {
        let message = format!("must have at most {CHAT_MESSAGES_MAX} messages");
        return Err(ApiError::field("messages", message));
    }
    for (index, message) in messages.iter().enumerate() {
        if !ROLES.contains(&message.role.as_str()) {
            let field = format!("messages[{index}].role");
            return Err(ApiError::field(
                field,
                format!("must be one of {}", ROLES.join(", ")),
            ));
        }
    }
    Ok(messages)
}

async fn run(
    state: &ApiState,
    info: ModelInfo,
    prompt: Prompt,
    common: CommonBody,
    (urgency, payment): (Urgency, Payment),
    reply: Reply,
) -> Result<Response, ApiError> {
    let max_tokens = common.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT);
    let top_k = common.top_k.unwrap_or(TOP_K_DEFAULT);
    let request = GenerateRequest {
        max_completion_tokens: completion_bound("max_tokens", Some(max_tokens))?,
        stop: common.stop.into_vec(),
        sampling: SamplingParams {
            temperature: narrow(common.temperature.unwrap_or(TEMPERATURE_DEFAULT)),
            top_p: narrow(common.top_p.unwrap_or(TOP_P_DEFAULT)),
            top_k: bounded("top_k", Some(top_k), 0..=i64::from(i32::MAX))?.unwrap_or(0),
            seed: common.seed.map(i64::cast_unsigned),
            ..SamplingParams::default()
        },
        ..GenerateRequest::new(info.name, prompt)
    };
    let generation = state.llm.generate(vec![request], urgency, &payment).await?;
    if common.stream.unwrap_or(false) {
        return stream::respond(generation, reply).await;
    }
    let (choice, finished) = stream::collect(generation, 1).await?.into_first();
    let answer = reply.answer(choice.text, &finished, choice.finish_reason);
    Ok((cost_header(finished.cost), Json(answer)).into_response())
}

/// What an answer says beside the text; writes the stream as well.
struct Reply {
    arrived: Instant,
    request_id: String,
    model: String,
    node: String,
    explain: Option<Explanation>,
    is_chat: bool,
    /// What has been streamed so far: `done` repeats it.
    text: String,
    finish_reason: FinishReason,
}

impl Reply {
    fn new(
        state: &ApiState,
        hints: RoutingHints,
        RequestId(request_id): RequestId,
        info: &ModelInfo,
        is_chat: bool,
    ) -> Self {
        let explain = hints.explain.then(|| Explanation {
            route: "local",
            reason: if hints.local_only {
                format!(
                    "the request may not leave this node, which serves {}",
                    info.name
                )
            } else {
                format!("this node serves {} itself", info.name)
            },
        });
        Self {
            arrived: Instant::now(),
            request_id,
            model: info.name.clone(),
            node: state.peer_id.clone(),
            explain,
            is_chat,
            text: String::new(),
            finish_reason: FinishReason::Stop,
        }
    }

    fn answer(&self, text: String, stats: &Finished, reason: FinishReason) -> Answer {
        let message = self.is_chat.then(|| MessageBody {
            role: "assistant".into(),
            content: text.clone(),
        });
        Answer {
            text,
            message,
            model: self.model.clone(),
            tokens_used: stats.prompt_tokens + stats.completion_tokens,
            prompt_tokens: stats.prompt_tokens,
            cached_tokens: stats.cached_tokens,
            timings: timings_of(stats),
            completion_tokens: stats.completion_tokens,
            latency_ms: u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX),
            cost_tokens: stats.cost,
            finish_reason: stream::finish_word(reason),
            node: self.node.clone(),
            explain: self.explain.clone(),
        }
    }
}

impl Encoder for Reply {
    const CONTENT_TYPE: &'static str = "text/event-stream";
    const COMMENT: &'static [u8] = b": the model is at work\n\n";

    fn step(&mut self, step: GenerationStep, out: &mut Vec<u8>) {
        match step {
            GenerationStep::Started => out.extend_from_slice(b": started\n\n"),
            GenerationStep::Piece { text, .. } if text.is_empty() => {}
            GenerationStep::Piece { text, .. } => {
                push_event(out, Some("delta"), &Delta { text: &text });
                self.text.push_str(&text);
            }
            GenerationStep::ChoiceDone { finish_reason, .. } => self.finish_reason = finish_reason,
            GenerationStep::Done(finished) => {
                let text = std::mem::take(&mut self.text);
                push_event(
                    out,
                    Some("done"),
                    &self.answer(text, &finished, self.finish_reason),
                );
            }
        }
    }

    fn error(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        push_event(
            out,
            Some("error"),
            &error.body(Dialect::Native, &self.request_id),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_need_a_known_role_and_a_bounded_number() {
        let message = |role: &str| ChatMessage {
            role: role.into(),
            content: String::new(),
        };
        assert!(check_messages(vec![message("user")]).is_ok());
        assert!(check_messages(Vec::new()).is_err());
        assert!(check_messages(vec![message("wizard")]).is_err());
        assert!(check_messages(vec![message("user"); CHAT_MESSAGES_MAX + 1]).is_err());
    }
}
