//! Texts to vectors: `/v1/llm/embed`, `/v1/embeddings` as OpenAI has it, `/api/embed` and its older
//! form as Ollama has them.
//!
//! A text longer than what the model reads is cut, unless Ollama's `truncate` forbids it. Token ids
//! are not taken: they are another tokenizer's.

use std::time::{Duration, Instant};

use aither_protocol::Amount;
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    ApiError, ApiState, Problem, auth::Caller, extract::JsonBody, ollama_types::OllamaError,
    openai_types::OpenAiError, payment::Paid, stream::cost_header,
};
use crate::{
    billing::Payment,
    services::{Embedded, LongTexts, TEXTS_MAX},
};

/// `POST /v1/llm/embed`: one of both fields of texts.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbedBody {
    /// A text.
    text: Option<String>,
    /// Several.
    texts: Option<Vec<String>>,
    /// An embedding model; without it the default one.
    model: Option<String>,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbedAnswer {
    /// Of `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vec<f32>>,
    /// Of `texts`, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings: Option<Vec<Vec<f32>>>,
    /// Length of a vector, whose norm is 1.
    dimensions: usize,
    /// The model that ran.
    model: String,
    /// Model tokens that were read.
    prompt_tokens: usize,
    /// Texts that are longer than what the model reads, and were cut.
    truncated: usize,
    /// From the request's arrival to the answer.
    latency_ms: u64,
    /// What was charged.
    #[schema(value_type = f64)]
    cost_tokens: Amount,
}

/// `POST /v1/embeddings`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbeddingsRequest {
    /// A text or an array of texts.
    #[schema(value_type = Object)]
    input: Value,
    /// An embedding model; without it the default one.
    model: Option<String>,
    /// `float`, or `base64` of 32-bit floats in little endian.
    encoding_format: Option<String>,
    /// Only the model's own number of dimensions is served.
    dimensions: Option<i64>,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingsAnswer {
    /// `list`.
    object: &'static str,
    /// In the order of the texts.
    data: Vec<EmbeddingObject>,
    /// The model that ran.
    model: String,
    /// What was read.
    usage: EmbeddingUsage,
}

/// A text's vector.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingObject {
    /// `embedding`.
    object: &'static str,
    /// Which text's.
    index: usize,
    /// Numbers, or a text in base64.
    #[schema(value_type = Object)]
    embedding: Encoded,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Encoded {
    Floats(Vec<f32>),
    Base64(String),
}

/// Counts of model tokens.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingUsage {
    /// In all texts.
    prompt_tokens: usize,
    /// The same.
    total_tokens: usize,
}

/// `POST /api/embed`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct OllamaEmbedRequest {
    /// An embedding model.
    #[serde(default)]
    model: String,
    /// A text or an array of texts.
    #[schema(value_type = Object)]
    #[serde(default)]
    input: Value,
    /// Whether a long text is cut (the default) or refused.
    truncate: Option<bool>,
    /// Only the model's own number of dimensions is served.
    dimensions: Option<i64>,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OllamaEmbedAnswer {
    /// The model that ran.
    model: String,
    /// In the order of the texts.
    embeddings: Vec<Vec<f32>>,
    /// In nanoseconds.
    total_duration: u64,
    /// Of that, what loading the model took.
    load_duration: u64,
    /// Model tokens that were read.
    prompt_eval_count: usize,
}

/// `POST /api/embeddings`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct OllamaEmbeddingsRequest {
    /// An embedding model.
    #[serde(default)]
    model: String,
    /// The text.
    #[serde(default)]
    prompt: String,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OllamaEmbeddingsAnswer {
    /// The text's vector.
    embedding: Vec<f32>,
}

/// Embeds a text or several.
#[utoipa::path(
    post, path = "/v1/llm/embed", tag = "llm",
    request_body = EmbedBody,
    responses(
        (status = 200, description = "The vectors", body = EmbedAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn native(
    State(state): State<ApiState>,
    _caller: Caller,
    Paid(payment): Paid,
    JsonBody(body): JsonBody<EmbedBody>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let (texts, is_one) = match (body.text, body.texts) {
        (Some(text), None) => (vec![text], true),
        (None, Some(texts)) => (texts, false),
        (None, None) => return Err(ApiError::field("text", "is required, or texts")),
        (Some(_), Some(_)) => {
            return Err(ApiError::field(
                "texts",
                "cannot be given together with text",
            ));
        }
    };
    if texts.is_empty() {
        return Err(ApiError::field("texts", "must have at least one text"));
    }
    let model = body.model.as_deref();
    let done = embed(&state, model, texts, LongTexts::Cut, &payment, "texts").await?;
    let truncated = done
        .embeddings
        .iter()
        .filter(|one| one.is_truncated)
        .count();
    let (cost, prompt_tokens, model) = (done.cost, done.prompt_tokens, done.model.clone());
    let mut vectors = vectors_of(done);
    let answer = EmbedAnswer {
        dimensions: vectors.first().map_or(0, Vec::len),
        embedding: if is_one { vectors.pop() } else { None },
        embeddings: (!is_one).then_some(vectors),
        model,
        prompt_tokens,
        truncated,
        latency_ms: u64::try_from(arrived.elapsed().as_millis()).unwrap_or(u64::MAX),
        cost_tokens: cost,
    };
    Ok((cost_header(cost), Json(answer)).into_response())
}

/// Embeds a text or several, as OpenAI does.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "openai",
    request_body = EmbeddingsRequest,
    responses(
        (status = 200, description = "The vectors", body = EmbeddingsAnswer),
        (status = "default", description = "An error", body = OpenAiError),
    ),
)]
pub(super) async fn openai(
    State(state): State<ApiState>,
    Paid(payment): Paid,
    JsonBody(body): JsonBody<EmbeddingsRequest>,
) -> Result<Response, ApiError> {
    let texts = texts_of("input", body.input)?;
    if texts.is_empty() {
        return Err(ApiError::field("input", "must have at least one text"));
    }
    let in_base64 = match body.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(ApiError::field(
                "encoding_format",
                "must be float or base64",
            ));
        }
    };
    let model = body.model.as_deref();
    check_dimensions(&state, model, body.dimensions)?;
    let done = embed(&state, model, texts, LongTexts::Cut, &payment, "input").await?;
    let (cost, prompt_tokens, model) = (done.cost, done.prompt_tokens, done.model.clone());
    let vectors = vectors_of(done).into_iter().enumerate();
    let data = vectors.map(|(index, vector)| EmbeddingObject {
        object: "embedding",
        index,
        embedding: match in_base64 {
            true => Encoded::Base64(base64_of(&vector)),
            false => Encoded::Floats(vector),
        },
    });
    let answer = EmbeddingsAnswer {
        object: "list",
        data: data.collect(),
        model,
        usage: EmbeddingUsage {
            prompt_tokens,
            total_tokens: prompt_tokens,
        },
    };
    Ok((cost_header(cost), Json(answer)).into_response())
}

/// Embeds a text or several, as Ollama does. Without any, the model is loaded.
#[utoipa::path(
    post, path = "/api/embed", tag = "ollama",
    request_body = OllamaEmbedRequest,
    responses(
        (status = 200, description = "The vectors", body = OllamaEmbedAnswer),
        (status = "default", description = "An error", body = OllamaError),
    ),
)]
pub(super) async fn ollama(
    State(state): State<ApiState>,
    Paid(payment): Paid,
    JsonBody(body): JsonBody<OllamaEmbedRequest>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let texts = match body.input {
        Value::Null => Vec::new(),
        input => texts_of("input", input)?,
    };
    let long = match body.truncate {
        Some(false) => LongTexts::Refuse,
        _ => LongTexts::Cut,
    };
    let model = Some(&*body.model);
    check_dimensions(&state, model, body.dimensions)?;
    let done = embed(&state, model, texts, long, &payment, "input").await?;
    let answer = OllamaEmbedAnswer {
        model: done.model.clone(),
        total_duration: nanoseconds(arrived.elapsed()),
        load_duration: nanoseconds(done.load_time),
        prompt_eval_count: done.prompt_tokens,
        embeddings: done.embeddings.into_iter().map(|one| one.vector).collect(),
    };
    Ok((cost_header(done.cost), Json(answer)).into_response())
}

/// Embeds a text, in Ollama's older form.
#[utoipa::path(
    post, path = "/api/embeddings", tag = "ollama",
    request_body = OllamaEmbeddingsRequest,
    responses(
        (status = 200, description = "The vector", body = OllamaEmbeddingsAnswer),
        (status = "default", description = "An error", body = OllamaError),
    ),
)]
pub(super) async fn ollama_legacy(
    State(state): State<ApiState>,
    Paid(payment): Paid,
    JsonBody(body): JsonBody<OllamaEmbeddingsRequest>,
) -> Result<Response, ApiError> {
    let texts = match body.prompt.is_empty() {
        true => Vec::new(),
        false => vec![body.prompt],
    };
    let model = Some(&*body.model);
    let done = embed(&state, model, texts, LongTexts::Cut, &payment, "prompt").await?;
    let cost = done.cost;
    let answer = OllamaEmbeddingsAnswer {
        embedding: vectors_of(done).pop().unwrap_or_default(),
    };
    Ok((StatusCode::OK, cost_header(cost), Json(answer)).into_response())
}

/// Embeds texts; `field` is what the dialect calls them.
async fn embed(
    state: &ApiState,
    model: Option<&str>,
    texts: Vec<String>,
    long: LongTexts,
    payment: &Payment,
    field: &str,
) -> Result<Embedded, ApiError> {
    if texts.len() > TEXTS_MAX {
        let message = format!("must have at most {TEXTS_MAX} texts");
        return Err(ApiError::field(field, message));
    }
    let name = model.filter(|name| !name.trim().is_empty());
    if let Some(name) = name
        && state.embeddings.resolve(Some(name)).is_err()
        && state.engine.model(name).is_some()
    {
        let message = "writes text and makes no embeddings; choose an embedding model, or leave \
                       the field out";
        return Err(ApiError::field("model", message));
    }
    let done = state.embeddings.embed(name, texts, long, payment).await;
    done.map_err(|error| ApiError::from(error).renamed(&[("input", field)]))
}

/// Reads a text or an array of texts.
fn texts_of(field: &str, input: Value) -> Result<Vec<String>, ApiError> {
    let text_of = |item: Value| match item {
        Value::String(text) => Ok(text),
        Value::Number(_) | Value::Array(_) => Err(ApiError::field(
            field,
            "arrays of token ids are not read, they are another tokenizer's; send texts",
        )),
        _ => Err(ApiError::field(
            field,
            "must be a text or an array of texts",
        )),
    };
    match input {
        Value::Array(items) if items.len() > TEXTS_MAX => {
            let message = format!("must have at most {TEXTS_MAX} texts");
            Err(ApiError::field(field, message))
        }
        Value::Array(items) => items.into_iter().map(text_of).collect(),
        one @ Value::String(_) => Ok(vec![text_of(one)?]),
        _ => Err(ApiError::field(
            field,
            "must be a text or an array of texts",
        )),
    }
}

/// Refuses another number of dimensions than the model's: it was not trained to be cut.
fn check_dimensions(
    state: &ApiState,
    model: Option<&str>,
    dimensions: Option<i64>,
) -> Result<(), ApiError> {
    let (Some(wanted), Ok(info)) = (dimensions, state.embeddings.resolve(model)) else {
        return Ok(());
    };
    let own = info.embedding_length;
    if usize::try_from(wanted) == Ok(own) {
        return Ok(());
    }
    let message = format!("this model's vectors have {own} dimensions and cannot be shortened");
    Err(ApiError::field("dimensions", message))
}

fn vectors_of(done: Embedded) -> Vec<Vec<f32>> {
    done.embeddings.into_iter().map(|one| one.vector).collect()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes 32-bit floats in little endian as base64.
fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn vectors_are_written_in_base64() {
        assert_eq!(base64_of(&[]), "");
        assert_eq!(base64_of(&[1.0]), "AACAPw==");
        assert_eq!(base64_of(&[1.0, -2.0]), "AACAPwAAAMA=");
        assert_eq!(base64_of(&[1.0, -2.0, 0.5]), "AACAPwAAAMAAAAA/");
    }

    #[test]
    fn texts_are_read_and_ids_are_refused_with_words() {
        let texts = |input| texts_of("input", input);
        assert_eq!(texts(json!("a")).unwrap(), ["a"]);
        assert_eq!(texts(json!(["a", ""])).unwrap(), ["a", ""]);
        assert!(texts(json!([])).unwrap().is_empty());
        for ids in [json!([1, 2]), json!([[1, 2], [3]]), json!(["a", 1])] {
            let error = format!("{:?}", texts(ids).unwrap_err());
            assert!(error.contains("token ids"), "{error}");
        }
        for other in [json!(null), json!({}), json!(true), json!([null]), json!(7)] {
            assert!(texts(other).is_err());
        }
        assert!(texts(json!(vec!["a"; TEXTS_MAX + 1])).is_err());
    }
}
