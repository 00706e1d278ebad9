//! Calls whose answers come in pieces.
//!
//! A stream of the node's own begins with `task`, which names the task, then has a `delta` for each
//! piece and ends with `done`, the whole answer, or `error`, the problem. What an agent streams to
//! `/call` is passed on untouched. Dropped, either ends the call.

use std::{convert::Infallible, io};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::time::timeout;
use ulid::Ulid;

use super::{
    ApiError, ApiState,
    calls_types::{ChatAnswer, TaskAnswer},
    error::Dialect,
    native_types::Delta,
    stream::{FRAME_BYTES_TARGET, KEEP_ALIVE, StreamBroken, push_event},
};
use crate::services::{CallAnswer, CallEvent, CallFailure, CallStream};

/// What is sent into a long pause.
const COMMENT: &[u8] = b": the agent is at work\n\n";

/// What an answer is said as.
#[derive(Debug)]
pub(super) enum Said {
    /// A chat's.
    Chat {
        session_id: String,
        /// Whether to say why this agent was called.
        explain: bool,
    },
    /// A task's.
    Task {
        /// Whether to say why this agent was called.
        explain: bool,
    },
}

struct Frames {
    /// `None` once the stream is over.
    stream: Option<CallStream>,
    said: Said,
    node: String,
    request_id: String,
    head: Vec<u8>,
    broken: StreamBroken,
}

/// Waits until a task has begun and answers with a stream of it. What is refused before that keeps
/// its status.
pub(super) async fn respond(
    mut stream: CallStream,
    said: Said,
    state: &ApiState,
    request_id: String,
) -> Result<Response, ApiError> {
    let mut head = Vec::new();
    let is_over = match stream.next().await {
        Some(CallEvent::Began { task_id, agent }) => {
            let task_id = Ulid(task_id).to_string();
            let data = json!({ "task_id": task_id, "agent": agent });
            push_event(&mut head, Some("task"), &data);
            false
        }
        Some(CallEvent::End(ended)) => {
            // It was answered before.
            push_done(&mut head, &said, (*ended)?, &state.peer_id);
            true
        }
        _ => return Err(ApiError::internal("a call began without a beginning")),
    };
    let broken = StreamBroken::default();
    let frames = Frames {
        stream: (!is_over).then_some(stream),
        said,
        node: state.peer_id.clone(),
        request_id,
        head,
        broken: broken.clone(),
    };
    let frames = stream::unfold(frames, |mut frames| async move {
        let frame = frames.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frame)), frames))
    });
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
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

/// Returns the body of a stream that is passed on, and what tells whether it broke off.
pub(super) fn passed_on(stream: CallStream) -> (Body, Option<StreamBroken>) {
    let broken = StreamBroken::default();
    let state = (Some(stream), broken.clone());
    let chunks = stream::unfold(state, |(stream, broken)| async move {
        let mut stream = stream?;
        match stream.next().await {
            Some(CallEvent::Bytes(chunk)) => Some((Ok(chunk), (Some(stream), broken))),
            Some(CallEvent::End(ended)) if ended.is_ok() => None,
            // Whoever reads shall not take it for whole.
            _ => {
                broken.set();
                let error = io::Error::other("the agent's stream broke off");
                Some((Err(error), (None, broken)))
            }
        }
    });
    (Body::from_stream(chunks), Some(broken))
}

fn push_done(out: &mut Vec<u8>, said: &Said, answer: CallAnswer, node: &str) {
    match said {
        Said::Chat {
            session_id,
            explain,
        } => push_event(
            out,
            Some("done"),
            &ChatAnswer::of(answer, session_id, *explain),
        ),
        Said::Task { explain } => {
            push_event(out, Some("done"), &TaskAnswer::of(answer, node, *explain));
        }
    }
}

impl Frames {
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut frame = std::mem::take(&mut self.head);
        if !frame.is_empty() {
            return Some(frame);
        }
        while frame.is_empty() {
            let stream = self.stream.as_mut()?;
            let mut next = match timeout(KEEP_ALIVE, stream.next()).await {
                Ok(next) => next,
                Err(_elapsed) => return Some(COMMENT.to_vec()),
            };
            if next.is_none() {
                self.on_lost(&mut frame);
            }
            while let Some(event) = next {
                self.on_event(event, &mut frame);
                if frame.len() >= FRAME_BYTES_TARGET {
                    break;
                }
                next = self.stream.as_mut().and_then(CallStream::try_next);
            }
        }
        Some(frame)
    }

    fn on_event(&mut self, event: CallEvent, out: &mut Vec<u8>) {
        match event {
            CallEvent::Text(text) => push_event(out, Some("delta"), &Delta { text: &text }),
            CallEvent::End(ended) => {
                self.stream = None;
                match *ended {
                    Ok(answer) => self.on_done(answer, out),
                    Err(failure) => self.on_failure(failure, out),
                }
            }
            CallEvent::Began { .. } | CallEvent::Head { .. } | CallEvent::Bytes(_) => {}
        }
    }

    fn on_done(&mut self, answer: CallAnswer, out: &mut Vec<u8>) {
        push_done(out, &self.said, answer, &self.node);
    }

    fn on_failure(&mut self, failure: CallFailure, out: &mut Vec<u8>) {
        self.on_error(ApiError::from(failure), out);
    }

    /// Whoever was to tell how it ended is gone, and nothing more will come.
    fn on_lost(&mut self, out: &mut Vec<u8>) {
        self.stream = None;
        self.on_error(ApiError::internal("a call ended without an end"), out);
    }

    fn on_error(&mut self, error: ApiError, out: &mut Vec<u8>) {
        tracing::warn!(code = %error.code(), "a call ended in an error");
        self.broken.set();
        let problem = error.body(Dialect::Native, &self.request_id);
        push_event(out, Some("error"), &problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(stream: CallStream) -> Frames {
        Frames {
            stream: Some(stream),
            said: Said::Task { explain: false },
            node: "n".into(),
            request_id: "r".into(),
            head: Vec::new(),
            broken: StreamBroken::default(),
        }
    }

    #[tokio::test]
    async fn regression_a_stream_whose_end_is_lost_ends_in_an_error() {
        for pieces in [0, 1] {
            let (sink, end, stream) = CallStream::new();
            let mut frames = frames(stream);
            for _ in 0..pieces {
                sink.send(CallEvent::Text("a".into())).await.unwrap();
            }
            drop((sink, end));
            let mut said = Vec::new();
            while let Some(frame) = frames.next().await {
                said.extend(frame);
            }
            let said = String::from_utf8(said).unwrap();
            assert_eq!(said.matches("event: delta").count(), pieces, "{said}");
            assert_eq!(said.matches("event: error").count(), 1, "{said}");
            assert!(frames.broken.is_set());
        }
    }
}
