//! What is asked of the engine, and what it answers.
//!
//! These types are plain data: the HTTP layer fills them in, the scheduler reads them. Every bound
//! is checked by [`GenerateRequest::validate`], which the engine calls at admission.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// One request for text.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// Registered name of the model.
    pub model: String,
    /// What to continue.
    pub prompt: Prompt,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// Upper bound on generated tokens per choice; `None` means up to the context's end.
    pub max_completion_tokens: Option<usize>,
    /// Generation ends before any of these appears in the text. At most [`STOP_STRINGS_MAX`].
    pub stop: Vec<String>,
    /// Number of independent choices, 1 to [`CHOICES_MAX`]; they share one prefill.
    pub choices: usize,
    /// `Some(k)` reports each token's log-probability and the `k` likeliest alternatives
    /// (`k` may be 0), at most [`TOP_LOGPROBS_MAX`].
    pub logprobs: Option<usize>,
    /// How long the model stays loaded after this request; `None` takes the engine's default.
    pub keep_alive: Option<Duration>,
    /// Its share of the machine beside other requests', [`WEIGHT_MIN`] to [`WEIGHT_MAX`]. One of
    /// weight 2 gets twice the tokens of one of weight 1 while both run.
    pub weight: f32,
    /// Higher ones start before lower ones, unless those have waited for long; each doubles the
    /// weight. At most [`PRIORITY_MAX`] above or below 0.
    pub priority: i32,
    /// How long the whole answer may take. One that cannot be met is refused at once.
    pub deadline: Option<Duration>,
}

/// Least weight of a request.
pub const WEIGHT_MIN: f32 = 0.01;
/// Greatest weight of a request.
pub const WEIGHT_MAX: f32 = 100.0;
/// Farthest that a priority is from 0.
pub const PRIORITY_MAX: i32 = 8;

/// Most stop strings in one request.
pub const STOP_STRINGS_MAX: usize = 16;
/// Longest stop string, in bytes.
pub const STOP_STRING_BYTES_MAX: usize = 1024;
/// Most choices in one request.
pub const CHOICES_MAX: usize = 16;
/// Most alternatives reported per token.
pub const TOP_LOGPROBS_MAX: usize = 20;
/// Most entries of a logit bias.
pub const LOGIT_BIAS_MAX: usize = 1024;

/// The text to continue.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Plain text; special tokens in it are read as text. A beginning-of-sequence token is added
    /// where the model wants one.
    Text(String),
    /// Text in which special tokens (`<|im_start|>`) are recognised: already templated.
    Templated(String),
    /// A conversation, rendered by the model's own chat template with a generation prompt.
    Chat(Vec<ChatMessage>),
    /// Token ids as they are.
    TokenIds(Vec<u32>),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// How the next token is chosen. The defaults are neutral: plain sampling at temperature 1.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; 0 to 100.
    pub temperature: f32,
    /// Keep the `k` likeliest; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set whose probability reaches `p`; 0 < p ≤ 1.
    pub top_p: f32,
    /// Drop what is less likely than `min_p` times the likeliest; 0 ≤ p ≤ 1.
    pub min_p: f32,
    /// Divides (positive) or multiplies (negative) logits of tokens seen; 1 is off.
    pub repetition_penalty: f32,
    /// Window of the repetition penalty in tokens, prompt included; 0 means none.
    pub repetition_window: usize,
    /// Subtracted once from logits of tokens already generated; −2 to 2.
    pub presence_penalty: f32,
    /// Subtracted per occurrence among generated tokens; −2 to 2.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens; −100 to 100 each.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, model and request: same text. `None` draws one.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// What a running request reports, in this order: one `Started`, any number of `Piece` and one
/// `ChoiceDone` per choice, one `Done`. `Failed` or `Cancelled` may come instead of any of them and
/// is the last.
#[derive(Debug, Clone)]
pub enum GenerationEvent {
    /// The prompt is in the cache; the first piece follows.
    Started {
        /// Length of the prompt, in model tokens.
        prompt_tokens: usize,
    },
    /// A piece of text; never half a character.
    Piece {
        /// Which choice it belongs to, from 0.
        choice: usize,
        /// The text; may be empty where only log-probabilities are reported.
        text: String,
        /// One entry per token that the piece covers, when asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// A choice is complete.
    ChoiceDone {
        /// Which one.
        choice: usize,
        /// Why it ended.
        finish_reason: FinishReason,
    },
    /// All choices are complete.
    Done(GenerationStats),
    /// The receiver has gone, or gave the request up while it ran; what was made until then. A
    /// prompt that was not complete counts as nothing.
    Cancelled(GenerationStats),
    /// The request ended in an error.
    Failed(Error),
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-generation token or a stop string.
    Stop,
    /// `max_completion_tokens` or the context's end.
    Length,
}

/// The log-probability of one generated token, after the model's softmax at temperature 1.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token's id.
    pub id: u32,
    /// Its text; bytes that are no character by themselves are replaced.
    pub text: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest alternatives, best first; their own `top` is empty.
    pub top: Vec<TokenLogprob>,
}

/// Counts and times of a finished request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationStats {
    /// Prompt length, in model tokens.
    pub prompt_tokens: usize,
    /// Prompt tokens that needed no evaluation, because another request had begun alike.
    pub cached_tokens: usize,
    /// Generated tokens, over all choices; a final end-of-generation token counts.
    pub completion_tokens: usize,
    /// Ids that were evaluated on the chance that they come next; no part of the above.
    pub drafted_tokens: usize,
    /// Those of them that came; part of `completion_tokens`.
    pub accepted_tokens: usize,
    /// Waiting for a place.
    pub queue_time: Duration,
    /// Waiting for the model to load.
    pub load_time: Duration,
    /// Evaluating the prompt.
    pub prefill_time: Duration,
    /// Generating.
    pub decode_time: Duration,
}

impl GenerateRequest {
    /// Returns a request with neutral sampling and no limits of its own.
    pub fn new(model: impl Into<String>, prompt: Prompt) -> Self {
        Self {
            model: model.into(),
            prompt,
            sampling: SamplingParams::default(),
            max_completion_tokens: None,
            stop: Vec::new(),
            choices: 1,
            logprobs: None,
            keep_alive: None,
            weight: 1.0,
            priority: 0,
            deadline: None,
        }
    }

    /// Checks every bound that does not need the model.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] with the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), Error> {
        let invalid = |field, message: String| Err(Error::InvalidRequest { field, message });
        if !(1..=CHOICES_MAX).contains(&self.choices) {
            return invalid("n", format!("must be 1 to {CHOICES_MAX}"));
        }
        if self.max_completion_tokens == Some(0) {
            return invalid("max_tokens", "must be at least 1".into());
        }
        if self.stop.len() > STOP_STRINGS_MAX {
            return invalid("stop", format!("at most {STOP_STRINGS_MAX} strings"));
        }
        if self
            .stop
            .iter()
            .any(|stop| stop.is_empty() || stop.len() > STOP_STRING_BYTES_MAX)
        {
            return invalid(
                "stop",
                format!("each must have 1 to {STOP_STRING_BYTES_MAX} bytes"),
            );
        }
        if self.logprobs.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
            return invalid("top_logprobs", format!("must be 0 to {TOP_LOGPROBS_MAX}"));
        }
        // NaN is in no range.
        if !(WEIGHT_MIN..=WEIGHT_MAX).contains(&self.weight) {
            return invalid("weight", format!("must be {WEIGHT_MIN} to {WEIGHT_MAX}"));
        }
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&self.priority) {
            let message = format!("must be -{PRIORITY_MAX} to {PRIORITY_MAX}");
            return invalid("priority", message);
        }
        self.sampling.validate()
    }
}

impl SamplingParams {
    fn validate(&self) -> Result<(), Error> {
        // NaN is in no range, so it is refused with the rest.
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
        ];
        for (field, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                let message = if min == f32::MIN_POSITIVE {
                    format!("must be above 0 and at most {max}")
                } else {
                    format!("must be {min} to {max}")
                };
                return Err(Error::InvalidRequest { field, message });
            }
        }
        if self.logit_bias.len() > LOGIT_BIAS_MAX {
            let message = format!("at most {LOGIT_BIAS_MAX} entries");
            return Err(Error::InvalidRequest {
                field: "logit_bias",
                message,
            });
        }
        if self
            .logit_bias
            .iter()
            .any(|(_, bias)| !(-100.0..=100.0).contains(bias))
        {
            let message = "each must be -100 to 100".into();
            return Err(Error::InvalidRequest {
                field: "logit_bias",
                message,
            });
        }
        Ok(())
    }
}
