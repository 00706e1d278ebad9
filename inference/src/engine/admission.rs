//! From a request to checked work: the prompt becomes ids, and what cannot be done is refused.
//!
//! Runs on the caller's thread, so that a long prompt delays nobody else. The prompt's bytes are
//! bounded before it is rendered and tokenized.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{catalogue::Registered, text_side::TextSide};
use crate::{
    error::{Error, Result},
    generate::Work,
    request::{GenerateRequest, Prompt},
    sampler::random_seed,
};

/// Prompt bytes per position of the context beyond which a prompt is not even tokenized. Text has
/// about 4 bytes per token; runs of spaces and long identifiers come to some dozens.
const PROMPT_BYTES_PER_POSITION_MAX: usize = 64;
/// Bytes per token by which the length of such a prompt is estimated.
const BYTES_PER_TOKEN_TYPICAL: usize = 4;

/// A request that can be done: its prompt is counted, its parameters are in bounds, its model is
/// known. It holds no place yet.
pub struct Prepared {
    pub(super) registered: Arc<Registered>,
    /// Keeps the vocabulary, even if the model is not loaded yet.
    pub(super) text: Arc<TextSide>,
    pub(super) work: Work,
    pub(super) keep_alive: Option<Duration>,
    pub(super) weight: f32,
    pub(super) priority: i32,
    pub(super) deadline: Option<Duration>,
    pub(super) submitted: Instant,
}

impl Prepared {
    /// The name of the model that will run.
    pub fn model(&self) -> &str {
        &self.registered.info.name
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.work.prompt_ids.len()
    }

    /// Texts that are generated from the prompt.
    pub fn choices(&self) -> usize {
        self.work.choices
    }

    /// The most tokens that each choice can have.
    pub fn completion_max(&self) -> usize {
        self.work.completion_max
    }

    /// Lets each choice have no more than so many tokens, at least one.
    pub fn limit_completion(&mut self, tokens_max: usize) {
        self.work.completion_max = self.work.completion_max.min(tokens_max.max(1));
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("model", &self.model())
            .field("prompt_tokens", &self.prompt_tokens())
            .field("completion_max", &self.completion_max())
            .finish_non_exhaustive()
    }
}

/// Checks a request against its model and prepares it, drafts of that length allowed.
///
/// # Errors
/// A parameter is out of bounds, or the prompt is empty, cannot be rendered or does not fit.
pub(super) fn prepare(
    request: GenerateRequest,
    registered: &Registered,
    text: &TextSide,
    draft_len_max: usize,
) -> Result<Work> {
    let context_length = registered.info.context_length;
    let prompt_ids = prompt_ids(&request.prompt, text, context_length)?;
    if prompt_ids.is_empty() {
        return invalid("prompt", "must not be empty".into());
    }
    let Some(room) = context_length
        .checked_sub(prompt_ids.len())
        .filter(|room| *room > 0)
    else {
        return Err(Error::PromptTooLong {
            prompt_tokens: prompt_ids.len(),
            context_length,
        });
    };
    let vocabulary_size = text.vocabulary_size();
    let is_unknown = |id: u32| id as usize >= vocabulary_size;
    if let Some(id) = prompt_ids.iter().copied().find(|id| is_unknown(*id)) {
        return invalid(
            "prompt",
            format!("token id {id} is not below {vocabulary_size}"),
        );
    }
    let mut biased = request.sampling.logit_bias.iter().map(|(id, _)| *id);
    if let Some(id) = biased.find(|id| is_unknown(*id)) {
        return invalid(
            "logit_bias",
            format!("token id {id} is not below {vocabulary_size}"),
        );
    }
    Ok(Work {
        prompt_ids,
        seed: request.sampling.seed.unwrap_or_else(random_seed),
        sampling: request.sampling,
        completion_max: request
            .max_completion_tokens
            .map_or(room, |max| max.min(room)),
        stop: request.stop,
        choices: request.choices,
        logprobs: request.logprobs,
        draft_len_max,
    })
}

fn prompt_ids(prompt: &Prompt, text: &TextSide, context_length: usize) -> Result<Vec<u32>> {
    match prompt {
        Prompt::Text(prompt) => {
            check_bytes(prompt.len(), context_length)?;
            text.encode_text(prompt)
        }
        Prompt::Templated(prompt) => {
            check_bytes(prompt.len(), context_length)?;
            text.encode_templated(prompt)
        }
        Prompt::Chat(messages) => {
            if messages.is_empty() {
                return invalid("messages", "must not be empty".into());
            }
            // Each message costs a few tokens of markup, whatever it says.
            let markup = messages.len().saturating_mul(BYTES_PER_TOKEN_TYPICAL);
            let sizes = messages
                .iter()
                .map(|message| message.role.len() + message.content.len());
            check_bytes(sizes.fold(markup, usize::saturating_add), context_length)?;
            let rendered = text.render(messages)?;
            check_bytes(rendered.len(), context_length)?;
            text.encode_templated(&rendered)
        }
        Prompt::TokenIds(ids) => {
            // Checked before the copy; the caller says the rest.
            if ids.len() >= context_length {
                let prompt_tokens = ids.len();
                return Err(Error::PromptTooLong {
                    prompt_tokens,
                    context_length,
                });
            }
            Ok(ids.clone())
        }
    }
}

fn check_bytes(bytes: usize, context_length: usize) -> Result<()> {
    if bytes <= context_length.saturating_mul(PROMPT_BYTES_PER_POSITION_MAX) {
        return Ok(());
    }
    Err(Error::PromptTooLong {
        prompt_tokens: bytes / BYTES_PER_TOKEN_TYPICAL,
        context_length,
    })
}

fn invalid<T>(field: &'static str, message: String) -> Result<T> {
    Err(Error::InvalidRequest { field, message })
}
