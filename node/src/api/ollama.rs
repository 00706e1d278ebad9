//! `/api/chat` and `/api/generate`, as Ollama's clients know them. Streams are lines of JSON.
//!
//! Defaults are Ollama's: temperature 0.8, top-k 40, top-p 0.9, no penalties, text up to the
//! context's end. An empty request loads the model, or unloads it with `keep_alive` 0.

use std::time::{Duration, Instant, SystemTime};

use aither_inference::{
    engine::ModelInfo,
    request::{
        ChatMessage, FinishReason, GenerateRequest as EngineRequest, Prompt, SamplingParams,
        TOP_LOGPROBS_MAX, TokenLogprob,
    },
};
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
    native::{check_messages, prompt_of, resolve},
    ollama_types::{
        Answer, AnswerMessage, ChatRequest, GenerateRequest, Logprob, Message, OllamaError,
        Options, Timings,
    },
    payment::Paid,
    rfc3339,
    stream::{self, Encoder, cost_header, finish_word, json_logprob, push_line},
};
use crate::{
    billing::Payment,
    services::{Finished, GenerationStep, Urgency},
};

const TEMPERATURE_DEFAULT: f64 = 0.8;
const TOP_P_DEFAULT: f64 = 0.9;
const TOP_K_DEFAULT: i64 = 40;
const REPEAT_LAST_N_DEFAULT: i64 = 64;
/// Ollama's words for "up to the context's end".
const NUM_PREDICT_UNBOUNDED: [i64; 2] = [-1, -2];
/// Names that Ollama has for the engine's fields.
const FIELD_NAMES: [(&str, &str); 11] = [
    ("max_tokens", "options.num_predict"),
    ("repetition_penalty", "options.repeat_penalty"),
    ("repetition_window", "options.repeat_last_n"),
    ("temperature", "options.temperature"),
    ("top_p", "options.top_p"),
    ("top_k", "options.top_k"),
    ("min_p", "options.min_p"),
    ("presence_penalty", "options.presence_penalty"),
    ("frequency_penalty", "options.frequency_penalty"),
    ("stop", "options.stop"),
    ("num_ctx", "options.num_ctx"),
];

/// Answers a conversation.
#[utoipa::path(
    post, path = "/api/chat", tag = "ollama",
    request_body = ChatRequest,
    responses(
        (
            status = 200,
            description = "Lines of JSON, or one object",
            content((Answer = "application/x-ndjson"), (Answer = "application/json")),
        ),
        (status = "default", description = "An error", body = OllamaError),
    ),
)]
pub(super) async fn chat(
    State(state): State<ApiState>,
    hints: RoutingHints,
    Paid(payment): Paid,
    JsonBody(body): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    refuse_given("tools", body.tools.as_ref(), "does not support tools")?;
    refuse_given(
        "format",
        body.format.as_ref(),
        "can only answer with free text",
    )?;
    refuse_given("think", body.think.as_ref(), "does not support thinking")?;
    let info = resolve(&state, Some(&body.model))?;
    let messages = body.messages.unwrap_or_default();
    let reply = Reply::new(&info, arrived, true);
    if messages.is_empty() {
        return load(&state, &info, body.keep_alive.0, &reply).await;
    }
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| chat_message(index, message))
        .collect::<Result<_, _>>()?;
    let request = EngineRequest {
        logprobs: logprobs_of(body.logprobs, body.top_logprobs)?,
        keep_alive: body.keep_alive.0,
        ..EngineRequest::new(&info.name, Prompt::Chat(check_messages(messages)?))
    };
    let request = with_options(request, body.options.unwrap_or_default(), &info)?;
    let terms = (hints.urgency, payment);
    run(&state, request, terms, body.stream, reply).await
}

/// Answers a prompt.
#[utoipa::path(
    post, path = "/api/generate", tag = "ollama",
    request_body = GenerateRequest,
    responses(
        (
            status = 200,
            description = "Lines of JSON, or one object",
            content((Answer = "application/x-ndjson"), (Answer = "application/json")),
        ),
        (status = "default", description = "An error", body = OllamaError),
    ),
)]
pub(super) async fn generate(
    State(state): State<ApiState>,
    hints: RoutingHints,
    Paid(payment): Paid,
    JsonBody(body): JsonBody<GenerateRequest>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    refuse_given("images", body.images.as_ref(), "does not read images")?;
    refuse_given(
        "format",
        body.format.as_ref(),
        "can only answer with free text",
    )?;
    refuse_given("think", body.think.as_ref(), "does not support thinking")?;
    refuse_given(
        "context",
        body.context.as_ref(),
        "keeps no context; use /api/chat",
    )?;
    refuse_text(
        "suffix",
        body.suffix.as_deref(),
        "cannot fill in before a suffix",
    )?;
    let words = "uses the model's own template; send a templated prompt with raw instead";
    refuse_text("template", body.template.as_deref(), words)?;
    let info = resolve(&state, Some(&body.model))?;
    let reply = Reply::new(&info, arrived, false);
    let prompt = body.prompt.unwrap_or_default();
    if prompt.is_empty() {
        return load(&state, &info, body.keep_alive.0, &reply).await;
    }
    let prompt = if body.raw.unwrap_or(false) {
        Prompt::Templated(prompt)
    } else {
        prompt_of(&info, body.system, prompt)
    };
    let request = EngineRequest {
        logprobs: logprobs_of(body.logprobs, body.top_logprobs)?,
        keep_alive: body.keep_alive.0,
        ..EngineRequest::new(&info.name, prompt)
    };
    let request = with_options(request, body.options.unwrap_or_default(), &info)?;
    let terms = (hints.urgency, payment);
    run(&state, request, terms, body.stream, reply).await
}

/// Refuses a field that is given and asks for something.
fn refuse_given(field: &str, value: Option<&Value>, words: &str) -> Result<(), ApiError> {
    let asks = match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    refuse_if(asks, field, words)
}

fn refuse_text(field: &str, value: Option<&str>, words: &str) -> Result<(), ApiError> {
    refuse_if(value.is_some_and(|text| !text.is_empty()), field, words)
}

fn refuse_if(asks: bool, field: &str, words: &str) -> Result<(), ApiError> {
    if asks {
        return Err(ApiError::unsupported(
            field,
            format!("this version {words}"),
        ));
    }
    Ok(())
}

fn chat_message(index: usize, message: Message) -> Result<ChatMessage, ApiError> {
    let field = |name: &str| format!("messages[{index}].{name}");
    refuse_given(
        &field("images"),
        message.images.as_ref(),
        "does not read images",
    )?;
    refuse_given(
        &field("tool_calls"),
        message.tool_calls.as_ref(),
        "does not support tools",
    )?;
    Ok(ChatMessage {
        role: message.role,
        content: message.content.unwrap_or_default(),
    })
}

fn logprobs_of(wanted: Option<bool>, top: Option<i64>) -> Result<Option<usize>, ApiError> {
    let top_max = i64::try_from(TOP_LOGPROBS_MAX).unwrap_or(i64::MAX);
    let top = bounded("top_logprobs", top, 0..=top_max)?;
    Ok(wanted.unwrap_or(false).then_some(top.unwrap_or(0)))
}

fn with_options(
    request: EngineRequest,
    options: Options,
    info: &ModelInfo,
) -> Result<EngineRequest, ApiError> {
    let integers = 0..=i64::from(i32::MAX);
    let num_predict = options
        .num_predict
        .filter(|bound| !NUM_PREDICT_UNBOUNDED.contains(bound));
    bounded("options.num_ctx", options.num_ctx, 1..=i64::from(i32::MAX))?;
    let repetition_window = match options.repeat_last_n.unwrap_or(REPEAT_LAST_N_DEFAULT) {
        -1 => info.context_length,
        last_n => bounded("options.repeat_last_n", Some(last_n), integers.clone())?.unwrap_or(0),
    };
    let top_k = options.top_k.unwrap_or(TOP_K_DEFAULT);
    Ok(EngineRequest {
        max_completion_tokens: completion_bound("options.num_predict", num_predict)?,
        stop: options.stop.into_vec(),
        sampling: SamplingParams {
            temperature: narrow(options.temperature.unwrap_or(TEMPERATURE_DEFAULT)),
            top_p: narrow(options.top_p.unwrap_or(TOP_P_DEFAULT)),
            top_k: bounded("options.top_k", Some(top_k), integers)?.unwrap_or(0),
            min_p: options.min_p.map_or(0.0, narrow),
            repetition_penalty: options.repeat_penalty.map_or(1.0, narrow),
            repetition_window,
            presence_penalty: options.presence_penalty.map_or(0.0, narrow),
            frequency_penalty: options.frequency_penalty.map_or(0.0, narrow),
            logit_bias: Vec::new(),
            seed: options.seed.and_then(|seed| u64::try_from(seed).ok()),
        },
        ..request
    })
}

async fn run(
    state: &ApiState,
    request: EngineRequest,
    (urgency, payment): (Urgency, Payment),
    stream: Option<bool>,
    mut reply: Reply,
) -> Result<Response, ApiError> {
    reply.with_logprobs = request.logprobs.is_some();
    let generation = state.llm.generate(vec![request], urgency, &payment).await;
    let generation = generation.map_err(|error| ApiError::from(error).renamed(&FIELD_NAMES))?;
    if stream.unwrap_or(true) {
        return stream::respond(generation, reply).await;
    }
    let (choice, finished) = stream::collect(generation, 1).await?.into_first();
    let mut answer = reply.answer(choice.text);
    if reply.with_logprobs {
        answer.logprobs = Some(choice.logprobs.into_iter().map(logprob_of).collect());
    }
    let answer = reply.finished(answer, finish_word(choice.finish_reason), &finished);
    Ok((cost_header(finished.cost), Json(answer)).into_response())
}

/// Loads or unloads a model and says so.
async fn load(
    state: &ApiState,
    info: &ModelInfo,
    keep_alive: Option<Duration>,
    reply: &Reply,
) -> Result<Response, ApiError> {
    state.llm.preload(&info.name, keep_alive).await?;
    let unloads = keep_alive == Some(Duration::ZERO);
    let answer = Answer {
        done: true,
        done_reason: Some(if unloads { "unload" } else { "load" }),
        ..reply.answer(String::new())
    };
    Ok(Json(answer).into_response())
}

fn logprob_of(entry: TokenLogprob) -> Logprob {
    Logprob {
        text: entry.text,
        logprob: json_logprob(entry.logprob),
        bytes: entry.bytes,
        top_logprobs: entry.top.into_iter().map(logprob_of).collect(),
    }
}

/// What every line of one request repeats; writes the stream as well.
struct Reply {
    model: String,
    arrived: Instant,
    is_chat: bool,
    with_logprobs: bool,
    finish_reason: FinishReason,
}

impl Reply {
    fn new(info: &ModelInfo, arrived: Instant, is_chat: bool) -> Self {
        Self {
            model: info.name.clone(),
            arrived,
            is_chat,
            with_logprobs: false,
            finish_reason: FinishReason::Stop,
        }
    }

    fn answer(&self, text: String) -> Answer {
        let (message, response) = if self.is_chat {
            let message = AnswerMessage {
                role: "assistant",
                content: text,
            };
            (Some(message), None)
        } else {
            (None, Some(text))
        };
        Answer {
            model: self.model.clone(),
            created_at: rfc3339(SystemTime::now()),
            message,
            response,
            ..Answer::default()
        }
    }

    fn finished(&self, answer: Answer, reason: &'static str, stats: &Finished) -> Answer {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Answer {
            done: true,
            done_reason: Some(reason),
            timings: Some(Timings {
                total_duration: nanos(self.arrived.elapsed()),
                load_duration: nanos(stats.load_time),
                prompt_eval_count: stats.prompt_tokens,
                prompt_eval_duration: nanos(stats.prefill_time),
                eval_count: stats.completion_tokens,
                eval_duration: nanos(stats.decode_time),
            }),
            cost_tokens: Some(stats.cost),
            ..answer
        }
    }
}

impl Encoder for Reply {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";
    const COMMENT: &'static [u8] = b"";

    fn step(&mut self, step: GenerationStep, out: &mut Vec<u8>) {
        match step {
            GenerationStep::Started => {}
            GenerationStep::Piece { text, logprobs, .. }
                if text.is_empty() && logprobs.is_empty() => {}
            GenerationStep::Piece { text, logprobs, .. } => {
                let mut answer = self.answer(text);
                if self.with_logprobs {
                    answer.logprobs = Some(logprobs.into_iter().map(logprob_of).collect());
                }
                push_line(out, &answer);
            }
            GenerationStep::ChoiceDone { finish_reason, .. } => self.finish_reason = finish_reason,
            GenerationStep::Done(finished) => {
                let answer = self.answer(String::new());
                push_line(
                    out,
                    &self.finished(answer, finish_word(self.finish_reason), &finished),
                );
            }
        }
    }

    fn error(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        push_line(out, &error.body(Dialect::Ollama, ""));
    }
}
