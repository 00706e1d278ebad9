//! `/v1/chat/completions`, as OpenAI's clients know it; and what both completion routes share.

use std::{collections::BTreeMap, time::Duration};

use aither_inference::request::{
    ChatMessage, GenerateRequest, GenerationStats, Prompt, SamplingParams, TokenLogprob,
};
use aither_protocol::Amount;
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    ApiError, ApiState,
    error::Dialect,
    extract::{JsonBody, RoutingHints, bounded, completion_bound, narrow},
    native::{check_messages, resolve},
    openai_types::{
        Alternative, ChatChoice, ChatLogprob, ChatLogprobs, ChatRequest, ChunkChoice, Completion,
        Content, MessageAnswer, MessageDelta, MessageRequest, OpenAiError, PromptTokensDetails,
        Timings, Usage,
    },
    payment::Paid,
    request_id::RequestId,
    stream::{self, Collected, Encoder, cost_header, finish_word, json_logprob, push_event},
    unix_seconds,
};
use crate::services::GenerationStep;

/// Ends every stream of these routes.
pub(super) const END_OF_STREAM: &[u8] = b"data: [DONE]\n\n";
/// Sent into a long pause.
pub(super) const COMMENT: &[u8] = b": the model is at work\n\n";
/// Changes whenever the text of a seed might: with the version.
pub(super) const SYSTEM_FINGERPRINT: &str = concat!("fp_aither_", env!("CARGO_PKG_VERSION"));

/// Answers a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "openai",
    request_body = ChatRequest,
    responses(
        (
            status = 200,
            description = "The answer, or a stream of chunks",
            content(
                (Completion<ChatChoice> = "application/json"),
                (String = "text/event-stream"),
            ),
        ),
        (status = "default", description = "An error", body = OpenAiError),
    ),
)]
pub(super) async fn chat_completions(
    State(state): State<ApiState>,
    hints: RoutingHints,
    Paid(payment): Paid,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    refuse_unsupported(&body)?;
    let (max_field, max) = match body.max_completion_tokens {
        Some(max) => ("max_completion_tokens", Some(max)),
        None => ("max_tokens", body.max_tokens),
    };
    let logprobs = chat_logprobs(body.logprobs, body.top_logprobs)?;
    let messages = body
        .messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| chat_message(index, message))
        .collect::<Result<_, _>>()?;
    let messages = check_messages(messages)?;
    let choices = choices_of(body.n)?;
    let sampling = Sampling {
        temperature: body.temperature,
        top_p: body.top_p,
        presence_penalty: body.presence_penalty,
        frequency_penalty: body.frequency_penalty,
        logit_bias: body.logit_bias,
        seed: body.seed,
    };
    let info = resolve(&state, Some(&body.model))?;
    let request = GenerateRequest {
        sampling: sampling.into_params()?,
        max_completion_tokens: completion_bound(max_field, max)?,
        stop: body.stop.into_vec(),
        choices,
        logprobs,
        ..GenerateRequest::new(info.name, Prompt::Chat(messages))
    };
    let generation = state
        .llm
        .generate(vec![request], hints.urgency, &payment)
        .await?;
    let head = Head::new("chatcmpl", generation.model());
    if body.stream.unwrap_or(false) {
        let encoder = ChatEncoder {
            head,
            last: None,
            choices,
            request_id,
            with_logprobs: logprobs.is_some(),
            include_usage: body
                .stream_options
                .and_then(|o| o.include_usage)
                .unwrap_or(false),
        };
        return stream::respond(generation, encoder).await;
    }
    let collected = stream::collect(generation, choices).await?;
    Ok(whole_answer(&head, collected, logprobs.is_some()))
}

fn whole_answer(head: &Head, collected: Collected, with_logprobs: bool) -> Response {
    let choices = collected.choices.into_iter().enumerate();
    let choices = choices
        .map(|(index, choice)| ChatChoice {
            index,
            message: MessageAnswer {
                role: "assistant",
                content: choice.text,
                refusal: (),
            },
            logprobs: with_logprobs.then(|| chat_logprobs_of(choice.logprobs)),
            finish_reason: finish_word(choice.finish_reason),
        })
        .collect();
    let finished = collected.finished;
    let usage = Some(Some(usage_of(&finished)));
    let answer = Completion {
        cost_tokens: Some(finished.cost),
        ..head.completion("chat.completion", choices, usage)
    };
    (cost_header(finished.cost), Json(answer)).into_response()
}

/// Refuses by name what would change the answer and is not here yet.
fn refuse_unsupported(body: &ChatRequest) -> Result<(), ApiError> {
    let is_given = |value: &Option<Value>| match value {
        None | Some(Value::Null) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    if is_given(&body.tools) {
        return Err(ApiError::unsupported(
            "tools",
            "this version cannot call tools",
        ));
    }
    if is_given(&body.functions) {
        return Err(ApiError::unsupported(
            "functions",
            "this version cannot call functions",
        ));
    }
    match &body.tool_choice {
        None | Some(Value::Null) => {}
        Some(Value::String(choice)) if choice == "none" || choice == "auto" => {}
        Some(_) => {
            let message = "this version cannot call tools; leave it out, or send none or auto";
            return Err(ApiError::unsupported("tool_choice", message));
        }
    }
    match &body.response_format {
        None | Some(Value::Null) => {}
        Some(format) if format.get("type").and_then(Value::as_str) == Some("text") => {}
        Some(_) => {
            let message = "this version can only answer with free text: {\"type\":\"text\"}";
            return Err(ApiError::unsupported("response_format", message));
        }
    }
    match &body.modalities {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(kinds)) if kinds.iter().all(|kind| kind == "text") => Ok(()),
        Some(_) => Err(ApiError::unsupported(
            "modalities",
            "this version answers with text only",
        )),
    }
}

fn chat_message(index: usize, message: MessageRequest) -> Result<ChatMessage, ApiError> {
    let field = |name: &str| format!("messages[{index}].{name}");
    if message
        .tool_calls
        .is_some_and(|calls| calls.as_array().is_none_or(|c| !c.is_empty()))
    {
        return Err(ApiError::unsupported(
            field("tool_calls"),
            "this version cannot call tools",
        ));
    }
    // `developer` is the newer name of `system`; chat templates know the older.
    let role = match message.role.as_str() {
        "developer" => "system".to_owned(),
        _ => message.role,
    };
    let content = match message.content {
        Content::Text(text) => text,
        Content::Null if role == "assistant" => String::new(),
        Content::Null => return Err(ApiError::field(field("content"), "is required")),
        Content::Parts(parts) => {
            let mut content = String::new();
            for (part_index, part) in parts.into_iter().enumerate() {
                let field = |name| format!("messages[{index}].content[{part_index}].{name}");
                if part.kind != "text" {
                    let kind: String = part.kind.chars().take(40).collect();
                    let message = format!("{kind:?} is not supported; this version reads text");
                    return Err(ApiError::unsupported(field("type"), message));
                }
                let Some(text) = part.text else {
                    return Err(ApiError::field(field("text"), "is required"));
                };
                content.push_str(&text);
            }
            content
        }
    };
    Ok(ChatMessage { role, content })
}

fn chat_logprobs(wanted: Option<bool>, top: Option<i64>) -> Result<Option<usize>, ApiError> {
    let range = 0..=aither_inference::request::TOP_LOGPROBS_MAX.cast_signed() as i64;
    let top = bounded("top_logprobs", top, range)?;
    match (wanted.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::field("top_logprobs", "needs logprobs to be true")),
    }
}

/// Checks `n`.
pub(super) fn choices_of(n: Option<i64>) -> Result<usize, ApiError> {
    let range = 1..=aither_inference::request::CHOICES_MAX.cast_signed() as i64;
    Ok(bounded("n", n, range)?.unwrap_or(1))
}

/// The sampling fields of both routes.
pub(super) struct Sampling {
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) logit_bias: Option<BTreeMap<String, f64>>,
    pub(super) seed: Option<i64>,
}

impl Sampling {
    /// OpenAI's defaults are the engine's: plain sampling at temperature 1.
    pub(super) fn into_params(self) -> Result<SamplingParams, ApiError> {
        let defaults = SamplingParams::default();
        // OpenAI's bound; the engine's own is wider.
        if self
            .temperature
            .is_some_and(|value| !(0.0..=2.0).contains(&value))
        {
            return Err(ApiError::field("temperature", "must be 0 to 2"));
        }
        let logit_bias = self
            .logit_bias
            .unwrap_or_default()
            .into_iter()
            .map(|(id, bias)| match id.trim().parse::<u32>() {
                Ok(id) => Ok((id, narrow(bias))),
                Err(_not_an_id) => Err(ApiError::field("logit_bias", "keys must be token ids")),
            })
            .collect::<Result<_, _>>()?;
        Ok(SamplingParams {
            temperature: self.temperature.map_or(defaults.temperature, narrow),
            top_p: self.top_p.map_or(defaults.top_p, narrow),
            presence_penalty: self.presence_penalty.map_or(0.0, narrow),
            frequency_penalty: self.frequency_penalty.map_or(0.0, narrow),
            logit_bias,
            seed: self.seed.map(i64::cast_unsigned),
            ..defaults
        })
    }
}

/// What every answer and every chunk of one request repeat.
pub(super) struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    pub(super) fn new(prefix: &str, model: &str) -> Self {
        Self {
            id: format!("{prefix}-{}", ulid::Ulid::generate()),
            created: unix_seconds(std::time::SystemTime::now()),
            model: model.to_owned(),
        }
    }

    pub(super) fn completion<C>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Option<Usage>>,
    ) -> Completion<C> {
        Completion {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices,
            usage,
            cost_tokens: None,
        }
    }
}

pub(super) fn usage_of(stats: &GenerationStats) -> Usage {
    Usage {
        prompt_tokens: stats.prompt_tokens,
        completion_tokens: stats.completion_tokens,
        total_tokens: stats.prompt_tokens + stats.completion_tokens,
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: stats.cached_tokens,
        },
        timings: timings_of(stats),
    }
}

/// Times to a hundredth of a millisecond.
pub(super) fn timings_of(stats: &GenerationStats) -> Timings {
    let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
    Timings {
        queue_ms: ms(stats.queue_time),
        load_ms: ms(stats.load_time),
        prefill_ms: ms(stats.prefill_time),
        decode_ms: ms(stats.decode_time),
    }
}

fn chat_logprobs_of(logprobs: Vec<TokenLogprob>) -> ChatLogprobs {
    let alternative = |entry: TokenLogprob| Alternative {
        text: entry.text,
        logprob: json_logprob(entry.logprob),
        bytes: entry.bytes,
    };
    let content = logprobs
        .into_iter()
        .map(|mut entry| {
            let top = std::mem::take(&mut entry.top);
            ChatLogprob {
                chosen: alternative(entry),
                top_logprobs: top.into_iter().map(alternative).collect(),
            }
        })
        .collect();
    ChatLogprobs { content }
}

struct ChatEncoder {
    head: Head,
    /// The end of a choice, held back until it is known whether it is the last event, which says
    /// what the answer cost.
    last: Option<ChunkChoice>,
    choices: usize,
    request_id: String,
    with_logprobs: bool,
    include_usage: bool,
}

impl ChatEncoder {
    fn push(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>, out: &mut Vec<u8>) {
        self.push_with(choices, usage, None, out);
    }

    fn push_with(
        &self,
        choices: Vec<ChunkChoice>,
        usage: Option<Usage>,
        cost_tokens: Option<Amount>,
        out: &mut Vec<u8>,
    ) {
        let usage = self.include_usage.then_some(usage);
        let chunk = Completion {
            cost_tokens,
            ..self
                .head
                .completion("chat.completion.chunk", choices, usage)
        };
        push_event(out, None, &chunk);
    }
}

impl Encoder for ChatEncoder {
    const CONTENT_TYPE: &'static str = "text/event-stream";
    const COMMENT: &'static [u8] = COMMENT;

    fn step(&mut self, step: GenerationStep, out: &mut Vec<u8>) {
        let choice = |index, delta| ChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
        };
        match step {
            GenerationStep::Started => {
                for index in 0..self.choices {
                    let delta = MessageDelta {
                        role: Some("assistant"),
                        content: Some(String::new()),
                    };
                    self.push(vec![choice(index, delta)], None, out);
                }
            }
            GenerationStep::Piece { text, logprobs, .. }
                if text.is_empty() && logprobs.is_empty() => {}
            GenerationStep::Piece {
                choice: index,
                text,
                logprobs,
            } => {
                let delta = MessageDelta {
                    role: None,
                    content: Some(text),
                };
                let logprobs = self.with_logprobs.then(|| chat_logprobs_of(logprobs));
                let choice = ChunkChoice {
                    logprobs,
                    ..choice(index, delta)
                };
                self.push(vec![choice], None, out);
            }
            GenerationStep::ChoiceDone {
                choice: index,
                finish_reason,
            } => {
                let choice = ChunkChoice {
                    finish_reason: Some(finish_word(finish_reason)),
                    ..choice(index, MessageDelta::default())
                };
                if let Some(before) = self.last.replace(choice) {
                    self.push(vec![before], None, out);
                }
            }
            GenerationStep::Done(finished) => {
                let last = self.last.take().into_iter().collect();
                let cost = Some(finished.cost);
                if self.include_usage {
                    self.push(last, None, out);
                    self.push_with(Vec::new(), Some(usage_of(&finished)), cost, out);
                } else {
                    self.push_with(last, None, cost, out);
                }
                out.extend_from_slice(END_OF_STREAM);
            }
        }
    }

    fn error(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        push_event(out, None, &error.body(Dialect::OpenAi, &self.request_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: serde_json::Value) -> ChatRequest {
        let mut body = serde_json::json!({"model": "m", "messages": []});
        for (key, value) in json.as_object().unwrap() {
            body[key] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn what_is_not_here_yet_is_refused_by_name() {
        let refused = [
            serde_json::json!({"tools": [{"type": "function"}]}),
            serde_json::json!({"tool_choice": "required"}),
            serde_json::json!({"functions": [{}]}),
            serde_json::json!({"response_format": {"type": "json_object"}}),
            serde_json::json!({"modalities": ["audio"]}),
        ];
        for json in refused {
            let error = refuse_unsupported(&request(json.clone())).unwrap_err();
            let field = json.as_object().unwrap().keys().next().unwrap();
            assert_eq!(error.body(Dialect::OpenAi, "")["error"]["param"], **field);
            assert_eq!(error.status(Dialect::OpenAi), 400);
        }
        let harmless = serde_json::json!({
            "tools": [],
            "tool_choice": "auto",
            "response_format": {"type": "text"},
            "functions": null,
        });
        assert!(refuse_unsupported(&request(harmless)).is_ok());
    }

    #[test]
    fn parts_of_text_are_joined_and_others_refused() {
        let message = |json| chat_message(0, serde_json::from_value(json).unwrap());
        let parts =
            serde_json::json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let joined = message(serde_json::json!({"role": "user", "content": parts})).unwrap();
        assert_eq!(joined.content, "ab");
        let image = serde_json::json!([{"type": "image_url", "image_url": {"url": "x"}}]);
        let error = message(serde_json::json!({"role": "user", "content": image})).unwrap_err();
        let body = error.body(Dialect::OpenAi, "");
        assert_eq!(body["error"]["param"], "messages[0].content[0].type");
        assert!(
            body["error"]["message"]
                .as_str()
                .unwrap()
                .contains("image_url")
        );
        assert!(message(serde_json::json!({"role": "user"})).is_err());
    }

    #[test]
    fn alternatives_need_log_probabilities() {
        assert_eq!(chat_logprobs(Some(true), None).unwrap(), Some(0));
        assert_eq!(chat_logprobs(Some(true), Some(20)).unwrap(), Some(20));
        assert_eq!(chat_logprobs(None, None).unwrap(), None);
        assert!(chat_logprobs(None, Some(1)).is_err());
        assert!(chat_logprobs(Some(true), Some(21)).is_err());
    }
}
