//! Bodies of OpenAI's routes.
//!
//! Requests list the fields that are read and those that are refused by name; all others are
//! ignored. Types that may be one thing or another are read by hand, so that an error names the
//! field and says what it may be.

use std::{collections::BTreeMap, fmt};

use aither_protocol::Amount;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, Visitor},
};
use serde_json::Value;
use utoipa::ToSchema;

use super::extract::OneOrMany;

/// `POST /v1/chat/completions`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OpenAiChatRequest)]
pub(super) struct ChatRequest {
    /// A model or an alias.
    pub(super) model: String,
    /// The conversation so far.
    pub(super) messages: Vec<MessageRequest>,
    /// 1 by default.
    pub(super) temperature: Option<f64>,
    /// 1 by default.
    pub(super) top_p: Option<f64>,
    /// Number of choices, 1 to 16.
    pub(super) n: Option<i64>,
    /// Whether to stream chunks.
    pub(super) stream: Option<bool>,
    /// What a stream ends with.
    pub(super) stream_options: Option<StreamOptions>,
    /// Up to 16 strings that end the text.
    #[serde(default)]
    pub(super) stop: OneOrMany,
    /// Older name of `max_completion_tokens`.
    pub(super) max_tokens: Option<i64>,
    /// Upper bound on each choice; by default the context's end.
    pub(super) max_completion_tokens: Option<i64>,
    /// -2 to 2.
    pub(super) presence_penalty: Option<f64>,
    /// -2 to 2.
    pub(super) frequency_penalty: Option<f64>,
    /// From a model token's id to -100 … 100.
    pub(super) logit_bias: Option<BTreeMap<String, f64>>,
    /// The same seed and request give the same text.
    pub(super) seed: Option<i64>,
    /// Whether to report log-probabilities.
    pub(super) logprobs: Option<bool>,
    /// Likeliest alternatives to report, 0 to 20; needs `logprobs`.
    pub(super) top_logprobs: Option<i64>,
    /// Not in this version: only an empty list is taken.
    pub(super) tools: Option<Value>,
    /// Not in this version: only `none` and `auto` are taken.
    pub(super) tool_choice: Option<Value>,
    /// Not in this version: older name of `tools`.
    pub(super) functions: Option<Value>,
    /// Not in this version: only the type `text` is taken.
    pub(super) response_format: Option<Value>,
    /// Not in this version: only `["text"]` is taken.
    pub(super) modalities: Option<Value>,
}

/// One message of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct MessageRequest {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub(super) role: String,
    /// A string, or an array of parts of the type `text`.
    #[serde(default)]
    pub(super) content: Content,
    /// Not in this version.
    pub(super) tool_calls: Option<Value>,
}

/// A message's text.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Content {
    /// None.
    #[default]
    Null,
    /// As it is.
    Text(String),
    /// In parts.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Part {
    /// `text`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The text.
    pub(super) text: Option<String>,
}

/// What a stream ends with.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct StreamOptions {
    /// Whether a last chunk reports the usage.
    pub(super) include_usage: Option<bool>,
}

/// `POST /v1/completions`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OpenAiCompletionRequest)]
pub(super) struct CompletionRequest {
    /// A model or an alias.
    pub(super) model: String,
    /// What to continue: a string, token ids, or an array of either.
    pub(super) prompt: PromptRequest,
    /// Upper bound on each choice; 16 by default.
    pub(super) max_tokens: Option<i64>,
    /// 1 by default.
    pub(super) temperature: Option<f64>,
    /// 1 by default.
    pub(super) top_p: Option<f64>,
    /// Number of choices per prompt, 1 to 16.
    pub(super) n: Option<i64>,
    /// Whether to stream chunks.
    pub(super) stream: Option<bool>,
    /// What a stream ends with.
    pub(super) stream_options: Option<StreamOptions>,
    /// Up to 16 strings that end the text.
    #[serde(default)]
    pub(super) stop: OneOrMany,
    /// Log-probabilities of each model token and of this many alternatives, 0 to 20.
    pub(super) logprobs: Option<i64>,
    /// Whether the prompt goes before the text.
    pub(super) echo: Option<bool>,
    /// -2 to 2.
    pub(super) presence_penalty: Option<f64>,
    /// -2 to 2.
    pub(super) frequency_penalty: Option<f64>,
    /// From a model token's id to -100 … 100.
    pub(super) logit_bias: Option<BTreeMap<String, f64>>,
    /// The same seed and request give the same text.
    pub(super) seed: Option<i64>,
    /// Not in this version: only `n` is taken.
    pub(super) best_of: Option<i64>,
    /// Not in this version.
    pub(super) suffix: Option<String>,
}

/// What to continue.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum PromptRequest {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One list of token ids.
    TokenIds(Vec<u32>),
    /// Several lists of token ids.
    TokenIdLists(Vec<Vec<u32>>),
}

/// A whole answer of either route.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Completion<C> {
    /// Unique.
    pub(super) id: String,
    /// The kind of answer.
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// The model that ran.
    pub(super) model: String,
    /// Changes with what could change the text: the node's version.
    pub(super) system_fingerprint: &'static str,
    /// One per choice.
    pub(super) choices: Vec<C>,
    /// Present, and null until the last, in chunks of a stream that reports its usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub(super) usage: Option<Option<Usage>>,
    /// What was charged: in a whole answer, and in the last chunk of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub(super) cost_tokens: Option<Amount>,
}

/// Counts of model tokens.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct Usage {
    /// In the prompt.
    pub(super) prompt_tokens: usize,
    /// In all choices.
    pub(super) completion_tokens: usize,
    /// Together.
    pub(super) total_tokens: usize,
    /// Of the prompt.
    pub(super) prompt_tokens_details: PromptTokensDetails,
    /// Where the time went.
    pub(super) timings: Timings,
}

/// Parts of a prompt.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct PromptTokensDetails {
    /// That needed no evaluation, because another request had begun alike.
    pub(super) cached_tokens: usize,
}

/// Where a request's time went, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct Timings {
    /// Waiting for a place.
    pub(super) queue_ms: f64,
    /// Waiting for the model to load.
    pub(super) load_ms: f64,
    /// Evaluating the prompt.
    pub(super) prefill_ms: f64,
    /// Generating.
    pub(super) decode_ms: f64,
}

/// A choice of a chat.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatChoice {
    pub(super) index: usize,
    pub(super) message: MessageAnswer,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: &'static str,
}

/// The answer as a message.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessageAnswer {
    pub(super) role: &'static str,
    pub(super) content: String,
    #[schema(value_type = Option<String>)]
    pub(super) refusal: (),
}

/// A choice of a chunk of a chat.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChunkChoice {
    pub(super) index: usize,
    pub(super) delta: MessageDelta,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

/// What a chunk adds to a message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct MessageDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
}

/// Log-probabilities of a chat's choice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprobs {
    pub(super) content: Vec<ChatLogprob>,
}

/// The log-probability of one model token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprob {
    #[serde(flatten)]
    pub(super) chosen: Alternative,
    pub(super) top_logprobs: Vec<Alternative>,
}

/// One model token and how likely it was.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Alternative {
    #[serde(rename = "token")]
    pub(super) text: String,
    pub(super) logprob: f32,
    pub(super) bytes: Vec<u8>,
}

/// A choice of a completion, whole or in a chunk.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompletionChoice {
    pub(super) index: usize,
    pub(super) text: String,
    pub(super) logprobs: Option<LegacyLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

/// Log-probabilities of a completion: four parallel lists.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct LegacyLogprobs {
    #[serde(rename = "tokens")]
    pub(super) texts: Vec<String>,
    pub(super) token_logprobs: Vec<f32>,
    pub(super) top_logprobs: Vec<BTreeMap<String, f32>>,
    pub(super) text_offset: Vec<usize>,
}

/// An error of these routes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpenAiError {
    error: OpenAiErrorBody,
}

/// What an error says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpenAiErrorBody {
    /// What happened, and what helps.
    message: String,
    /// `invalid_request_error`, `authentication_error`, `server_error`, …
    #[serde(rename = "type")]
    kind: String,
    /// The field at fault.
    param: Option<String>,
    /// A stable word.
    code: String,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Content, E> {
                Ok(Content::Null)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = items.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

/// One element of a prompt array.
enum PromptItem {
    Text(String),
    TokenId(u32),
    TokenIds(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = PromptItem;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or an array of token ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PromptItem, E> {
                Ok(PromptItem::Text(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<PromptItem, E> {
                let id = u32::try_from(id);
                id.map(PromptItem::TokenId)
                    .map_err(|_too_large| E::custom("is too large for a token id"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PromptItem, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = items.next_element()? {
                    ids.push(id);
                }
                Ok(PromptItem::TokenIds(ids))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

impl<'de> Deserialize<'de> for PromptRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;

        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = PromptRequest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, or token ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PromptRequest, E> {
                Ok(PromptRequest::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PromptRequest, A::Error> {
                let (mut texts, mut ids, mut lists) = (Vec::new(), Vec::new(), Vec::new());
                while let Some(item) = items.next_element()? {
                    match item {
                        PromptItem::Text(text) => texts.push(text),
                        PromptItem::TokenId(id) => ids.push(id),
                        PromptItem::TokenIds(list) => lists.push(list),
                    }
                }
                match (texts.is_empty(), ids.is_empty(), lists.is_empty()) {
                    (_, true, true) => Ok(PromptRequest::Texts(texts)),
                    (true, false, true) => Ok(PromptRequest::TokenIds(ids)),
                    (true, true, false) => Ok(PromptRequest::TokenIdLists(lists)),
                    _ => Err(de::Error::custom("mixes strings and token ids")),
                }
            }
        }

        deserializer.deserialize_any(PromptVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_read_in_each_of_its_forms() {
        let read = |json: &str| serde_json::from_str::<PromptRequest>(json);
        assert_eq!(read("\"a\"").unwrap(), PromptRequest::Text("a".into()));
        assert_eq!(
            read("[\"a\"]").unwrap(),
            PromptRequest::Texts(vec!["a".into()])
        );
        assert_eq!(read("[1,2]").unwrap(), PromptRequest::TokenIds(vec![1, 2]));
        assert_eq!(
            read("[[1],[2]]").unwrap(),
            PromptRequest::TokenIdLists(vec![vec![1], vec![2]])
        );
        assert_eq!(read("[]").unwrap(), PromptRequest::Texts(Vec::new()));
        for wrong in [
            "null",
            "1",
            "{}",
            "[1,\"a\"]",
            "[-1]",
            "[1.5]",
            "[4294967296]",
            "[[\"a\"]]",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
