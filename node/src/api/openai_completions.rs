//! `/v1/completions`, OpenAI's older route: plain continuation of one or several prompts.

use std::collections::BTreeMap;

use aither_inference::request::{GenerateRequest, Prompt, TOP_LOGPROBS_MAX, TokenLogprob};
use aither_protocol::Amount;
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};

use super::{
    ApiError, ApiState,
    error::Dialect,
    extract::{JsonBody, RoutingHints, bounded, completion_bound},
    native::resolve,
    openai_chat::{COMMENT, END_OF_STREAM, Head, Sampling, choices_of, usage_of},
    openai_types::{
        Completion, CompletionChoice, CompletionRequest, LegacyLogprobs, OpenAiError,
        PromptRequest, Usage,
    },
    payment::Paid,
    request_id::RequestId,
    stream::{self, Collected, Encoder, cost_header, finish_word, json_logprob, push_event},
};
use crate::services::{GenerationStep, llm::PROMPTS_MAX};

/// `max_tokens` of a request without one, as OpenAI has it.
const MAX_TOKENS_DEFAULT: i64 = 16;
const OBJECT: &str = "text_completion";

/// Continues one or several prompts.
#[utoipa::path(
    post, path = "/v1/completions", tag = "openai",
    request_body = CompletionRequest,
    responses(
        (
            status = 200,
            description = "The answer, or a stream of chunks",
            content(
                (Completion<CompletionChoice> = "application/json"),
                (String = "text/event-stream"),
            ),
        ),
        (status = "default", description = "An error", body = OpenAiError),
    ),
)]
pub(super) async fn completions(
    State(state): State<ApiState>,
    hints: RoutingHints,
    Paid(payment): Paid,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    refuse_unsupported(&body)?;
    let choices = choices_of(body.n)?;
    let prompts = prompts_of(body.prompt)?;
    let echoes = echoes_of(body.echo.unwrap_or(false), body.logprobs, &prompts, choices)?;
    let max_tokens = body.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT);
    let sampling = Sampling {
        temperature: body.temperature,
        top_p: body.top_p,
        presence_penalty: body.presence_penalty,
        frequency_penalty: body.frequency_penalty,
        logit_bias: body.logit_bias,
        seed: body.seed,
    };
    let info = resolve(&state, Some(&body.model))?;
    let top_max = i64::try_from(TOP_LOGPROBS_MAX).unwrap_or(i64::MAX);
    let template = GenerateRequest {
        sampling: sampling.into_params()?,
        max_completion_tokens: completion_bound("max_tokens", Some(max_tokens))?,
        stop: body.stop.into_vec(),
        choices,
        logprobs: bounded("logprobs", body.logprobs, 0..=top_max)?,
        ..GenerateRequest::new(info.name, Prompt::TokenIds(Vec::new()))
    };
    let choices = choices * prompts.len();
    let with_logprobs = template.logprobs.is_some();
    let requests = prompts
        .into_iter()
        .map(|prompt| GenerateRequest {
            prompt,
            ..template.clone()
        })
        .collect();
    let generation = state
        .llm
        .generate(requests, hints.urgency, &payment)
        .await?;
    let head = Head::new("cmpl", generation.model());
    if body.stream.unwrap_or(false) {
        let encoder = CompletionEncoder {
            head,
            last: None,
            request_id,
            with_logprobs,
            include_usage: body
                .stream_options
                .and_then(|o| o.include_usage)
                .unwrap_or(false),
            offsets: echoes.iter().map(|echo| echo.chars().count()).collect(),
            echoes,
        };
        return stream::respond(generation, encoder).await;
    }
    let collected = stream::collect(generation, choices).await?;
    Ok(whole_answer(&head, collected, echoes, with_logprobs))
}

fn whole_answer(
    head: &Head,
    collected: Collected,
    echoes: Vec<String>,
    with_logprobs: bool,
) -> Response {
    let choices = collected.choices.into_iter().zip(echoes).enumerate();
    let choices = choices
        .map(|(index, (choice, echo))| {
            let mut offset = echo.chars().count();
            CompletionChoice {
                index,
                text: echo + &choice.text,
                logprobs: with_logprobs.then(|| legacy_logprobs(choice.logprobs, &mut offset)),
                finish_reason: Some(finish_word(choice.finish_reason)),
            }
        })
        .collect();
    let finished = collected.finished;
    let usage = Some(Some(usage_of(&finished)));
    let answer = Completion {
        cost_tokens: Some(finished.cost),
        ..head.completion(OBJECT, choices, usage)
    };
    (cost_header(finished.cost), Json(answer)).into_response()
}

fn refuse_unsupported(body: &CompletionRequest) -> Result<(), ApiError> {
    if body
        .suffix
        .as_ref()
        .is_some_and(|suffix| !suffix.is_empty())
    {
        let message = "this version cannot fill in before a suffix";
        return Err(ApiError::unsupported("suffix", message));
    }
    if body
        .best_of
        .is_some_and(|best_of| best_of != body.n.unwrap_or(1))
    {
        let message = "this version returns all choices that it makes; set it to n or leave it out";
        return Err(ApiError::unsupported("best_of", message));
    }
    Ok(())
}

fn prompts_of(prompt: PromptRequest) -> Result<Vec<Prompt>, ApiError> {
    let prompts: Vec<_> = match prompt {
        PromptRequest::Text(text) => vec![Prompt::Text(text)],
        PromptRequest::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        PromptRequest::TokenIds(ids) => vec![Prompt::TokenIds(ids)],
        PromptRequest::TokenIdLists(lists) => lists.into_iter().map(Prompt::TokenIds).collect(),
    };
    if !(1..=PROMPTS_MAX).contains(&prompts.len()) {
        return Err(ApiError::field(
            "prompt",
            format!("must be 1 to {PROMPTS_MAX} prompts"),
        ));
    }
    let is_empty = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.is_empty(),
        Prompt::TokenIds(ids) => ids.is_empty(),
        _ => false,
    };
    if prompts.iter().any(is_empty) {
        return Err(ApiError::field("prompt", "must not be empty"));
    }
    Ok(prompts)
}

/// Returns what goes before the text of each choice.
fn echoes_of(
    echo: bool,
    logprobs: Option<i64>,
    prompts: &[Prompt],
    choices: usize,
) -> Result<Vec<String>, ApiError> {
    if !echo {
        return Ok(vec![String::new(); prompts.len() * choices]);
    }
    if logprobs.is_some() {
        let message = "this version has no log-probabilities of the prompt; leave out echo or \
                       logprobs";
        return Err(ApiError::unsupported("echo", message));
    }
    let mut echoes = Vec::new();
    for prompt in prompts {
        let Prompt::Text(text) = prompt else {
            return Err(ApiError::unsupported(
                "echo",
                "needs a prompt of text, not of token ids",
            ));
        };
        echoes.extend(std::iter::repeat_n(text.clone(), choices));
    }
    Ok(echoes)
}

/// Returns the four parallel lists; `offset` counts the characters of a choice so far.
fn legacy_logprobs(logprobs: Vec<TokenLogprob>, offset: &mut usize) -> LegacyLogprobs {
    let mut lists = LegacyLogprobs::default();
    for entry in logprobs {
        let top: BTreeMap<_, _> = entry
            .top
            .into_iter()
            .map(|alternative| (alternative.text, json_logprob(alternative.logprob)))
            .collect();
        lists.text_offset.push(*offset);
        *offset += entry.text.chars().count();
        lists.texts.push(entry.text);
        lists.token_logprobs.push(json_logprob(entry.logprob));
        lists.top_logprobs.push(top);
    }
    lists
}

struct CompletionEncoder {
    head: Head,
    /// The end of a choice, held back until it is known whether it is the last event, which says
    /// what the answer cost.
    last: Option<CompletionChoice>,
    request_id: String,
    with_logprobs: bool,
    include_usage: bool,
    /// Per choice: what goes before its text.
    echoes: Vec<String>,
    /// Per choice: characters so far.
    offsets: Vec<usize>,
}

impl CompletionEncoder {
    fn push(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>, out: &mut Vec<u8>) {
        self.push_with(choices, usage, None, out);
    }

    fn push_with(
        &self,
        choices: Vec<CompletionChoice>,
        usage: Option<Usage>,
        cost_tokens: Option<Amount>,
        out: &mut Vec<u8>,
    ) {
        let usage = self.include_usage.then_some(usage);
        let chunk = Completion {
            cost_tokens,
            ..self.head.completion(OBJECT, choices, usage)
        };
        push_event(out, None, &chunk);
    }
}

impl Encoder for CompletionEncoder {
    const CONTENT_TYPE: &'static str = "text/event-stream";
    const COMMENT: &'static [u8] = COMMENT;

    fn step(&mut self, step: GenerationStep, out: &mut Vec<u8>) {
        let choice = |index, text| CompletionChoice {
            index,
            text,
            logprobs: None,
            finish_reason: None,
        };
        match step {
            GenerationStep::Started => {
                // A comment sends the head off even where nothing is echoed.
                out.extend_from_slice(b": started\n\n");
                for (index, echo) in std::mem::take(&mut self.echoes).into_iter().enumerate() {
                    if !echo.is_empty() {
                        self.push(vec![choice(index, echo)], None, out);
                    }
                }
            }
            GenerationStep::Piece { text, logprobs, .. }
                if text.is_empty() && logprobs.is_empty() => {}
            GenerationStep::Piece {
                choice: index,
                text,
                logprobs,
            } => {
                let mut unknown_choice = 0;
                let offset = self.offsets.get_mut(index).unwrap_or(&mut unknown_choice);
                let logprobs = self
                    .with_logprobs
                    .then(|| legacy_logprobs(logprobs, offset));
                let choice = CompletionChoice {
                    logprobs,
                    ..choice(index, text)
                };
                self.push(vec![choice], None, out);
            }
            GenerationStep::ChoiceDone {
                choice: index,
                finish_reason,
            } => {
                let choice = CompletionChoice {
                    finish_reason: Some(finish_word(finish_reason)),
                    ..choice(index, String::new())
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

    #[test]
    fn prompts_are_bounded_and_not_empty() {
        let texts = |n: usize| PromptRequest::Texts(vec!["a".into(); n]);
        assert_eq!(prompts_of(texts(PROMPTS_MAX)).unwrap().len(), PROMPTS_MAX);
        assert!(prompts_of(texts(0)).is_err());
        assert!(prompts_of(texts(PROMPTS_MAX + 1)).is_err());
        assert!(prompts_of(PromptRequest::Text(String::new())).is_err());
        assert!(prompts_of(PromptRequest::TokenIds(Vec::new())).is_err());
    }

    #[test]
    fn an_echo_repeats_each_prompt_for_each_choice() {
        let prompts = [Prompt::Text("a".into()), Prompt::Text("b".into())];
        assert_eq!(
            echoes_of(true, None, &prompts, 2).unwrap(),
            ["a", "a", "b", "b"]
        );
        assert_eq!(echoes_of(false, None, &prompts, 1).unwrap(), ["", ""]);
        assert!(echoes_of(true, Some(1), &prompts, 1).is_err());
        assert!(echoes_of(true, None, &[Prompt::TokenIds(vec![1])], 1).is_err());
    }

    #[test]
    fn offsets_count_characters() {
        let entry = |text: &str| TokenLogprob {
            id: 0,
            text: text.into(),
            bytes: text.as_bytes().to_vec(),
            logprob: f32::NEG_INFINITY,
            top: Vec::new(),
        };
        let mut offset = 2;
        let lists = legacy_logprobs(vec![entry("é"), entry("bc"), entry("")], &mut offset);
        assert_eq!(lists.text_offset, [2, 3, 5]);
        assert_eq!(lists.token_logprobs[0], -9999.0);
        assert_eq!(offset, 5);
    }
}
