//! Bodies of Ollama's routes.
//!
//! Options that have no counterpart here (threads, batches, memory) are ignored, as Ollama
//! ignores what does not concern its runner; what would change the text and is not here yet is
//! refused by name.

use std::{fmt, time::Duration};

use aither_protocol::Amount;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};
use serde_json::Value;
use utoipa::ToSchema;

use super::extract::OneOrMany;

/// `keep_alive` below zero: for good. A hundred years can still be added to a clock.
const FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// `POST /api/chat`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaChatRequest)]
pub(super) struct ChatRequest {
    /// A model or an alias.
    pub(super) model: String,
    /// The conversation; without any, the model is loaded.
    #[serde(default)]
    pub(super) messages: Option<Vec<Message>>,
    /// True by default.
    pub(super) stream: Option<bool>,
    /// Sampling and limits.
    pub(super) options: Option<Options>,
    /// How long the model stays loaded: seconds, or `5m`; below zero for good.
    #[serde(default)]
    pub(super) keep_alive: KeepAlive,
    /// Whether to report log-probabilities.
    pub(super) logprobs: Option<bool>,
    /// Likeliest alternatives to report, 0 to 20.
    pub(super) top_logprobs: Option<i64>,
    /// Not in this version.
    pub(super) format: Option<Value>,
    /// Not in this version.
    pub(super) tools: Option<Value>,
    /// Not in this version.
    pub(super) think: Option<Value>,
}

/// `POST /api/generate`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaGenerateRequest)]
pub(super) struct GenerateRequest {
    /// A model or an alias.
    pub(super) model: String,
    /// What to answer; without it, the model is loaded.
    pub(super) prompt: Option<String>,
    /// Goes before the prompt.
    pub(super) system: Option<String>,
    /// Whether the prompt is templated already.
    pub(super) raw: Option<bool>,
    /// True by default.
    pub(super) stream: Option<bool>,
    /// Sampling and limits.
    pub(super) options: Option<Options>,
    /// How long the model stays loaded: seconds, or `5m`; below zero for good.
    #[serde(default)]
    pub(super) keep_alive: KeepAlive,
    /// Whether to report log-probabilities.
    pub(super) logprobs: Option<bool>,
    /// Likeliest alternatives to report, 0 to 20.
    pub(super) top_logprobs: Option<i64>,
    /// Not in this version.
    pub(super) format: Option<Value>,
    /// Not in this version.
    pub(super) images: Option<Value>,
    /// Not in this version.
    pub(super) suffix: Option<String>,
    /// Not in this version.
    pub(super) template: Option<String>,
    /// Not in this version.
    pub(super) context: Option<Value>,
    /// Not in this version.
    pub(super) think: Option<Value>,
}

/// One message of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaMessage)]
pub(super) struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub(super) role: String,
    /// The text.
    pub(super) content: Option<String>,
    /// Not in this version.
    pub(super) images: Option<Value>,
    /// Not in this version.
    pub(super) tool_calls: Option<Value>,
}

/// Sampling and limits. The context is always the model's own, whatever `num_ctx` says.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaOptions)]
pub(super) struct Options {
    /// 0.8 by default.
    pub(super) temperature: Option<f64>,
    /// 40 by default.
    pub(super) top_k: Option<i64>,
    /// 0.9 by default.
    pub(super) top_p: Option<f64>,
    /// 0 by default.
    pub(super) min_p: Option<f64>,
    /// Below zero draws one.
    pub(super) seed: Option<i64>,
    /// Upper bound on the answer; -1, the default, and -2 mean the context's end.
    pub(super) num_predict: Option<i64>,
    /// Accepted and checked, without effect.
    pub(super) num_ctx: Option<i64>,
    /// The text ends before any of these.
    #[serde(default)]
    pub(super) stop: OneOrMany,
    /// 1 by default.
    pub(super) repeat_penalty: Option<f64>,
    /// 64 by default; -1 means the whole context.
    pub(super) repeat_last_n: Option<i64>,
    /// 0 by default.
    pub(super) presence_penalty: Option<f64>,
    /// 0 by default.
    pub(super) frequency_penalty: Option<f64>,
}

/// `POST /api/show`, `DELETE /api/delete`. `name` is the older name of `model`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaModelRequest)]
pub(super) struct ModelRequest {
    /// A model.
    pub(super) model: Option<String>,
    /// The same, from older clients.
    pub(super) name: Option<String>,
}

/// `POST /api/pull`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaPullRequest)]
pub(super) struct PullRequest {
    /// A name of the catalogue, or a source.
    pub(super) model: Option<String>,
    /// The same, from older clients.
    pub(super) name: Option<String>,
    /// True by default.
    pub(super) stream: Option<bool>,
}

/// How long a model stays loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeepAlive(pub(super) Option<Duration>);

/// One line of a chat's or a generation's stream, or the whole answer.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = OllamaAnswer)]
pub(super) struct Answer {
    pub(super) model: String,
    pub(super) created_at: String,
    /// On `/api/chat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<AnswerMessage>,
    /// On `/api/generate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) logprobs: Option<Vec<Logprob>>,
    pub(super) done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) done_reason: Option<&'static str>,
    #[serde(flatten)]
    pub(super) timings: Option<Timings>,
    /// What was charged, in the last line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub(super) cost_tokens: Option<Amount>,
}

/// The answer as a message.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = OllamaAnswerMessage)]
pub(super) struct AnswerMessage {
    pub(super) role: &'static str,
    pub(super) content: String,
}

/// Counts, and times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
#[schema(as = OllamaTimings)]
pub(super) struct Timings {
    pub(super) total_duration: u64,
    pub(super) load_duration: u64,
    pub(super) prompt_eval_count: usize,
    pub(super) prompt_eval_duration: u64,
    pub(super) eval_count: usize,
    pub(super) eval_duration: u64,
}

/// The log-probability of one model token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaLogprob)]
pub(super) struct Logprob {
    #[serde(rename = "token")]
    pub(super) text: String,
    pub(super) logprob: f32,
    pub(super) bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub(super) top_logprobs: Vec<Logprob>,
}

/// An error of these routes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OllamaError {
    /// What happened, and what helps.
    error: String,
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeepAliveVisitor;

        impl<'de> Visitor<'de> for KeepAliveVisitor {
            type Value = KeepAlive;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds, or a duration such as \"5m\"")
            }

            fn visit_unit<E: de::Error>(self) -> Result<KeepAlive, E> {
                Ok(KeepAlive(None))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<KeepAlive, E> {
                let seconds = u64::try_from(seconds).map_or(FOR_GOOD, Duration::from_secs);
                Ok(KeepAlive(Some(seconds.min(FOR_GOOD))))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<KeepAlive, E> {
                Ok(KeepAlive(Some(Duration::from_secs(seconds).min(FOR_GOOD))))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<KeepAlive, E> {
                let duration = if seconds < 0.0 {
                    FOR_GOOD
                } else {
                    Duration::try_from_secs_f64(seconds).unwrap_or(FOR_GOOD)
                };
                Ok(KeepAlive(Some(duration.min(FOR_GOOD))))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepAlive, E> {
                let text = text.trim();
                // Ollama's clients send plain seconds as a string, too.
                if let Some(seconds) = text.parse().ok().filter(|s: &f64| s.is_finite()) {
                    return self.visit_f64(seconds);
                }
                if text.starts_with('-') {
                    return Ok(KeepAlive(Some(FOR_GOOD)));
                }
                let duration = humantime::parse_duration(text)
                    .map_err(|_words| E::invalid_value(de::Unexpected::Str(text), &self))?;
                Ok(KeepAlive(Some(duration.min(FOR_GOOD))))
            }
        }

        deserializer.deserialize_any(KeepAliveVisitor)
    }
}

impl utoipa::PartialSchema for KeepAlive {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::{ObjectBuilder, OneOfBuilder, Type};
        OneOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::Number))
            .item(ObjectBuilder::new().schema_type(Type::String))
            .into()
    }
}

impl ToSchema for KeepAlive {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_is_read_in_each_of_its_forms() {
        let read = |json: &str| serde_json::from_str::<KeepAlive>(json).map(|keep| keep.0);
        let seconds = |n| Some(Duration::from_secs(n));
        let rows = [
            ("null", None),
            ("0", seconds(0)),
            ("300", seconds(300)),
            ("1.5", Some(Duration::from_millis(1500))),
            ("\"5m\"", seconds(300)),
            ("\"1h30m\"", seconds(5400)),
            ("\"0\"", seconds(0)),
            ("-1", Some(FOR_GOOD)),
            ("\"-1m\"", Some(FOR_GOOD)),
            ("18446744073709551615", Some(FOR_GOOD)),
            ("1e300", Some(FOR_GOOD)),
        ];
        for (json, expected) in rows {
            assert_eq!(read(json).unwrap(), expected, "{json}");
        }
        for wrong in ["true", "\"soon\"", "[]", "\"NaN\""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
