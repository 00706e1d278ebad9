//! From a generation to the body of an answer: streamed in a dialect's frames, or collected.
//!
//! An answer's head is sent when the prompt is evaluated, not before, so that a refusal still has
//! a status of its own. From then on errors are frames. What has piled up goes out as one write.
//! When the client hangs up, the server drops the body (or, before that, the handler), the
//! generation goes with it, and the engine sees a closed channel at its next piece.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aither_inference::request::{FinishReason, TokenLogprob};
use aither_protocol::Amount;
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::time::timeout;

use super::ApiError;
use crate::services::{Finished, Generation, GenerationStep};

/// Pause after which a comment shows that the stream lives.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A frame is closed once it has this size, so that one write stays small.
pub(super) const FRAME_BYTES_TARGET: usize = 16 << 10;
/// What the answer cost.
pub(super) const X_AITHER_COST: HeaderName = HeaderName::from_static("x-aither-cost");

/// How a dialect writes a stream.
pub(super) trait Encoder: Send + 'static {
    /// The body's media type.
    const CONTENT_TYPE: &'static str;
    /// What is sent into a long pause; may be nothing.
    const COMMENT: &'static [u8];

    /// Writes what a step is to the client.
    fn step(&mut self, step: GenerationStep, out: &mut Vec<u8>);

    /// Writes the error that ends the stream.
    fn error(&mut self, error: &ApiError, out: &mut Vec<u8>);
}

/// Waits until the prompt is evaluated and answers with a stream.
pub(super) async fn respond<E: Encoder>(
    generation: Generation,
    encoder: E,
) -> Result<Response, ApiError> {
    respond_with(generation, encoder, KEEP_ALIVE).await
}

async fn respond_with<E: Encoder>(
    mut generation: Generation,
    mut encoder: E,
    keep_alive: Duration,
) -> Result<Response, ApiError> {
    let first = generation.next().await?;
    let mut head = Vec::new();
    let is_over = matches!(first, GenerationStep::Done(_));
    encoder.step(first, &mut head);
    let broken = StreamBroken::default();
    let state = Frames {
        broken: broken.clone(),
        generation: (!is_over).then_some(generation),
        encoder,
        head,
        keep_alive,
    };
    let frames = stream::unfold(state, |mut state| async move {
        let frame = state.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frame)), state))
    });
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(E::CONTENT_TYPE),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Proxies of the nginx kind collect a body unless told not to.
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    let mut response = (headers, Body::from_stream(frames)).into_response();
    response.extensions_mut().insert(broken);
    Ok(response)
}

/// Tells whoever has an answer's head whether its stream has ended in an error.
#[derive(Debug, Clone, Default)]
pub(super) struct StreamBroken(Arc<AtomicBool>);

impl StreamBroken {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct Frames<E> {
    broken: StreamBroken,
    /// `None` once the stream is over.
    generation: Option<Generation>,
    encoder: E,
    head: Vec<u8>,
    keep_alive: Duration,
}

impl<E: Encoder> Frames<E> {
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut frame = std::mem::take(&mut self.head);
        if !frame.is_empty() {
            return Some(frame);
        }
        while frame.is_empty() {
            let generation = self.generation.as_mut()?;
            let next = match timeout(self.keep_alive, generation.next()).await {
                Ok(next) => next,
                Err(_elapsed) => {
                    frame.extend_from_slice(E::COMMENT);
                    continue;
                }
            };
            let mut next = next.map(Some);
            loop {
                match next {
                    Ok(None) => break,
                    Ok(Some(step)) => {
                        let is_over = matches!(step, GenerationStep::Done(_));
                        self.encoder.step(step, &mut frame);
                        if is_over {
                            self.generation = None;
                            return Some(frame);
                        }
                    }
                    Err(error) => {
                        let error = ApiError::from(error);
                        tracing::warn!(code = %error.code(), "a stream ended in an error");
                        self.encoder.error(&error, &mut frame);
                        self.broken.set();
                        self.generation = None;
                        return Some(frame);
                    }
                }
                if frame.len() >= FRAME_BYTES_TARGET {
                    break;
                }
                next = generation.try_next();
            }
        }
        Some(frame)
    }
}

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) choices: Vec<CollectedChoice>,
    pub(super) finished: Finished,
}

/// One of its choices.
#[derive(Debug)]
pub(super) struct CollectedChoice {
    pub(super) text: String,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) finish_reason: FinishReason,
}

impl Default for CollectedChoice {
    fn default() -> Self {
        Self {
            text: String::new(),
            logprobs: Vec::new(),
            finish_reason: FinishReason::Stop,
        }
    }
}

impl Collected {
    /// Returns the first choice.
    pub(super) fn into_first(mut self) -> (CollectedChoice, Finished) {
        let first = if self.choices.is_empty() {
            CollectedChoice::default()
        } else {
            self.choices.swap_remove(0)
        };
        (first, self.finished)
    }
}

/// Waits for the whole answer of `choices` choices.
pub(super) async fn collect(
    mut generation: Generation,
    choices: usize,
) -> Result<Collected, ApiError> {
    let mut collected = Collected::default();
    collected
        .choices
        .resize_with(choices, CollectedChoice::default);
    loop {
        match generation.next_of_whole().await? {
            GenerationStep::Started => {}
            GenerationStep::Piece {
                choice,
                text,
                mut logprobs,
            } => {
                if let Some(choice) = collected.choices.get_mut(choice) {
                    choice.text.push_str(&text);
                    choice.logprobs.append(&mut logprobs);
                }
            }
            GenerationStep::ChoiceDone {
                choice,
                finish_reason,
            } => {
                if let Some(choice) = collected.choices.get_mut(choice) {
                    choice.finish_reason = finish_reason;
                }
            }
            GenerationStep::Done(finished) => {
                collected.finished = finished;
                return Ok(collected);
            }
        }
    }
}

/// Returns the header that says what a whole answer cost.
pub(super) fn cost_header(cost: Amount) -> [(HeaderName, String); 1] {
    [(X_AITHER_COST, cost.to_string())]
}

/// Appends a server-sent event.
pub(super) fn push_event(out: &mut Vec<u8>, name: Option<&str>, data: &impl Serialize) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    push_json(out, data);
    out.extend_from_slice(b"\n\n");
}

/// Appends a line of JSON.
pub(super) fn push_line(out: &mut Vec<u8>, data: &impl Serialize) {
    push_json(out, data);
    out.push(b'\n');
}

/// JSON text has no raw line break, so it cannot break out of its event or line.
fn push_json(out: &mut Vec<u8>, data: &impl Serialize) {
    serde_json::to_writer(out, data).expect("our own types have string keys and finite numbers");
}

/// Returns a log-probability as JSON can hold it: the logarithm of zero has no notation there.
pub(super) fn json_logprob(logprob: f32) -> f32 {
    /// OpenAI's stand-in for "impossible".
    const IMPOSSIBLE: f32 = -9999.0;
    if logprob.is_finite() {
        logprob
    } else {
        IMPOSSIBLE
    }
}

/// Returns the word that both foreign APIs have for an end.
pub(super) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

#[cfg(test)]
mod tests {
    use aither_inference::{
        Error,
        engine::EventSink,
        request::{GenerationEvent, GenerationStats},
    };
    use futures_util::StreamExt;

    use super::*;

    struct Letters;

    impl Encoder for Letters {
        const CONTENT_TYPE: &'static str = "text/plain";
        const COMMENT: &'static [u8] = b"(pause)";

        fn step(&mut self, step: GenerationStep, out: &mut Vec<u8>) {
            match step {
                GenerationStep::Started => out.extend_from_slice(b"(start)"),
                GenerationStep::Piece { text, .. } => out.extend_from_slice(text.as_bytes()),
                GenerationStep::ChoiceDone { .. } => {}
                GenerationStep::Done(_) => out.extend_from_slice(b"(end)"),
            }
        }

        fn error(&mut self, error: &ApiError, out: &mut Vec<u8>) {
            out.extend_from_slice(format!("({})", error.code()).as_bytes());
        }
    }

    fn started() -> (EventSink, Generation) {
        let (mut sinks, generation) = Generation::scripted(1, Duration::from_secs(60));
        let mut sink = sinks.remove(0);
        let _ = sink(GenerationEvent::Started { prompt_tokens: 1 });
        (sink, generation)
    }

    fn piece(text: &str) -> GenerationEvent {
        GenerationEvent::Piece {
            choice: 0,
            text: text.into(),
            logprobs: Vec::new(),
        }
    }

    async fn text_of(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        String::from_utf8(body.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_stream_is_its_steps_in_order() {
        let (mut sink, generation) = started();
        for text in ["a", "b", "c"] {
            let _ = sink(piece(text));
        }
        let _ = sink(GenerationEvent::Done(GenerationStats::default()));
        let response = respond(generation, Letters).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/plain");
        assert_eq!(text_of(response).await, "(start)abc(end)");
    }

    #[tokio::test]
    async fn a_failure_after_the_first_piece_is_a_frame_and_the_end() {
        let (mut sink, generation) = started();
        let _ = sink(piece("a"));
        let message = "secret".into();
        let _ = sink(GenerationEvent::Failed(Error::Internal { message }));
        let response = respond(generation, Letters).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(text_of(response).await, "(start)a(internal)");
    }

    #[tokio::test]
    async fn a_failure_before_the_first_piece_keeps_its_status() {
        let (mut sinks, generation) = Generation::scripted(1, Duration::from_secs(60));
        let _ = sinks[0](GenerationEvent::Failed(Error::ShuttingDown));
        let refused = respond(generation, Letters).await.unwrap_err();
        assert_eq!(refused.into_response().status(), 503);
    }

    #[tokio::test]
    async fn a_long_pause_is_filled_with_comments() {
        let (mut sink, generation) = started();
        let pause = Duration::from_millis(1);
        let response = respond_with(generation, Letters, pause).await.unwrap();
        let mut frames = response.into_body().into_data_stream();
        assert_eq!(frames.next().await.unwrap().unwrap(), "(start)");
        assert_eq!(frames.next().await.unwrap().unwrap(), "(pause)");
        assert_eq!(frames.next().await.unwrap().unwrap(), "(pause)");
        let _ = sink(piece("a"));
        let _ = sink(GenerationEvent::Done(GenerationStats::default()));
        let mut rest = String::new();
        while let Some(frame) = frames.next().await {
            rest += std::str::from_utf8(&frame.unwrap()).unwrap();
        }
        assert!(rest.ends_with("a(end)"), "{rest}");
    }
}
