//! Bodies of the node's own inference routes.

use aither_protocol::Amount;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{extract::OneOrMany, openai_types::Timings};

/// `POST /v1/llm/generate`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct GenerateBody {
    /// What to answer or to continue.
    pub(super) prompt: String,
    /// Goes before the prompt where the model has a chat template.
    pub(super) system: Option<String>,
    /// A model or an alias; without it the default model answers.
    pub(super) model: Option<String>,
    /// Upper bound on the answer, in model tokens; 256 by default.
    pub(super) max_tokens: Option<i64>,
    /// 0 is greedy; 0.8 by default.
    pub(super) temperature: Option<f64>,
    /// 0.9 by default.
    pub(super) top_p: Option<f64>,
    /// 40 by default; 0 keeps all.
    pub(super) top_k: Option<i64>,
    /// The same seed and request give the same text.
    pub(super) seed: Option<i64>,
    /// The answer ends before any of these.
    #[serde(default)]
    pub(super) stop: OneOrMany,
    /// Whether to answer with server-sent events.
    pub(super) stream: Option<bool>,
}

/// `POST /v1/llm/chat`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ChatBody {
    /// The conversation so far, oldest first.
    pub(super) messages: Vec<MessageBody>,
    /// A model or an alias; without it the default model answers.
    pub(super) model: Option<String>,
    /// Upper bound on the answer, in model tokens; 256 by default.
    pub(super) max_tokens: Option<i64>,
    /// 0 is greedy; 0.8 by default.
    pub(super) temperature: Option<f64>,
    /// 0.9 by default.
    pub(super) top_p: Option<f64>,
    /// 40 by default; 0 keeps all.
    pub(super) top_k: Option<i64>,
    /// The same seed and request give the same text.
    pub(super) seed: Option<i64>,
    /// The answer ends before any of these.
    #[serde(default)]
    pub(super) stop: OneOrMany,
    /// Whether to answer with server-sent events.
    pub(super) stream: Option<bool>,
}

/// One message of a conversation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct MessageBody {
    /// `system`, `user` or `assistant`.
    pub(super) role: String,
    /// The text.
    pub(super) content: String,
}

/// What both routes take. The bodies list the fields one by one instead of flattening this in:
/// a flattened field loses its name in an error.
#[derive(Debug, Default)]
pub(super) struct CommonBody {
    pub(super) max_tokens: Option<i64>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<i64>,
    pub(super) seed: Option<i64>,
    pub(super) stop: OneOrMany,
    pub(super) stream: Option<bool>,
}

macro_rules! common_of {
    ($body:expr) => {
        $crate::api::native_types::CommonBody {
            max_tokens: $body.max_tokens,
            temperature: $body.temperature,
            top_p: $body.top_p,
            top_k: $body.top_k,
            seed: $body.seed,
            stop: $body.stop,
            stream: $body.stream,
        }
    };
}
pub(super) use common_of;

/// The answer, and the data of the event `done`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer {
    /// The text.
    pub(super) text: String,
    /// The same as a message, on `/v1/llm/chat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<MessageBody>,
    /// The model that ran.
    pub(super) model: String,
    /// Prompt and completion together.
    pub(super) tokens_used: usize,
    /// Length of the prompt in model tokens.
    pub(super) prompt_tokens: usize,
    /// Of the prompt, what needed no evaluation because another request had begun alike.
    pub(super) cached_tokens: usize,
    /// Length of the answer in model tokens.
    pub(super) completion_tokens: usize,
    /// Where the time went.
    pub(super) timings: Timings,
    /// From the request's arrival to the answer's end.
    pub(super) latency_ms: u64,
    /// What was charged.
    #[schema(value_type = f64)]
    pub(super) cost_tokens: Amount,
    /// `stop` or `length`.
    pub(super) finish_reason: &'static str,
    /// The node that ran it.
    pub(super) node: String,
    /// Why there, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) explain: Option<Explanation>,
}

/// Why a request ran where it ran.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Explanation {
    /// `local`.
    pub(super) route: &'static str,
    /// In words.
    pub(super) reason: String,
}

/// The data of the event `delta`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Delta<'a> {
    /// The next piece of the text.
    pub(super) text: &'a str,
}
