//! An agent's stream of events, made into pieces of text and an answer.
//!
//! Agents stream in several ways: `delta` events and a `done`, as this node does; chunks of
//! OpenAI's; or plain lines of text. Told what comes, this says what of it is text. Events of other
//! names mean nothing here and are passed over. A stream has come to its end with `done`,
//! `[DONE]`, or where the connection ends in good order.

use aither_protocol::sse::{Event, Parser, SseError};
use serde::Deserialize;

use super::message::Reading;

/// Longest event of an agent.
const EVENT_BYTES_MAX: usize = 4 << 20;
/// Longest text that all pieces make together.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// What ends a stream of OpenAI's.
const OPENAI_END: &str = "[DONE]";

/// Why a stream is given up: words without what was said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// It is no stream of events, or one event is too long.
    #[error("streamed {0}")]
    Broken(#[from] SseError),
    /// All pieces together are too long.
    #[error("streamed more than {} bytes of text", TEXT_BYTES_MAX)]
    TooLong,
    /// The agent says that it has failed.
    #[error("streamed an error")]
    Failed,
    /// What it ended with is no answer.
    #[error("{0}")]
    Unreadable(String),
}

/// A stream as far as it has come.
#[derive(Debug)]
pub struct Relay {
    parser: Parser,
    text: String,
    done: Option<Reading>,
    is_over: bool,
}

/// An event's data with a text.
#[derive(Deserialize)]
struct Delta {
    text: String,
}

/// A chunk of OpenAI's.
#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    /// Chats have this.
    delta: Option<Content>,
    /// Completions have this.
    text: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    content: Option<String>,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            parser: Parser::new(EVENT_BYTES_MAX),
            text: String::new(),
            done: None,
            is_over: false,
        }
    }
}

impl Relay {
    /// Takes the next bytes and returns the text that they hold.
    ///
    /// # Errors
    /// The stream is to be given up.
    pub fn push(&mut self, bytes: &[u8]) -> Result<String, RelayError> {
        let mut pieces = String::new();
        for event in self.parser.push(bytes)? {
            if self.is_over {
                break;
            }
            if let Some(text) = self.on_event(event)? {
                if self.text.len() + text.len() > TEXT_BYTES_MAX {
                    return Err(RelayError::TooLong);
                }
                self.text.push_str(&text);
                pieces.push_str(&text);
            }
        }
        Ok(pieces)
    }

    /// Returns whether nothing more is expected.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns what the stream has come to: the answer that it ended with, else its text.
    pub fn finish(self) -> Reading {
        let said = Reading::text(&self.text);
        match self.done {
            // An end that only says that it is one.
            Some(done) if !self.text.is_empty() && !done.is_response => Reading {
                json: said.json,
                ..done
            },
            Some(done) => done,
            None => said,
        }
    }

    fn on_event(&mut self, event: Event) -> Result<Option<String>, RelayError> {
        match event.name.as_str() {
            "delta" => Ok(Some(text_of_delta(event.data))),
            "done" => {
                let done = Reading::of(event.data.as_bytes());
                self.done = Some(done.map_err(RelayError::Unreadable)?);
                self.is_over = true;
                Ok(None)
            }
            "error" => Err(RelayError::Failed),
            "message" if event.data.trim() == OPENAI_END => {
                self.is_over = true;
                Ok(None)
            }
            "message" => Ok(text_of_message(event.data)),
            _ => Ok(None),
        }
    }
}

fn text_of_delta(data: String) -> String {
    match serde_json::from_str::<Delta>(&data) {
        Ok(delta) => delta.text,
        Err(_) => data,
    }
}

fn text_of_message(data: String) -> Option<String> {
    if !data.starts_with('{') {
        return Some(data);
    }
    if let Ok(chunk) = serde_json::from_str::<Chunk>(&data) {
        let first = chunk.choices.into_iter().next()?;
        return first.delta.and_then(|delta| delta.content).or(first.text);
    }
    Some(text_of_delta(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream is made into: its pieces and its end.
    fn relayed(stream: &str) -> Result<(String, Reading), RelayError> {
        let mut relay = Relay::default();
        let mut text = String::new();
        // Byte by byte: where pieces end does not matter.
        for byte in stream.as_bytes() {
            text.push_str(&relay.push(std::slice::from_ref(byte))?);
        }
        Ok((text, relay.finish()))
    }

    // tidy: table
    #[test]
    fn every_way_to_stream_comes_to_the_same() {
        for (stream, text, json) in [
            (
                "event: delta\ndata: {\"text\":\"a\"}\n\nevent: delta\ndata: {\"text\":\"b\"}\n\n\
                 event: done\ndata: {\"response\": \"AB\", \"x\": 1}\n\n",
                "ab",
                "\"AB\"",
            ),
            (
                "event: delta\ndata: {\"text\":\"a\"}\n\nevent: done\ndata: {}\n\n",
                "a",
                "\"a\"",
            ),
            ("event: done\ndata: {\"rows\": 1}\n\n", "", "{\"rows\": 1}"),
            (
                "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n\
                 data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
                 data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
                "a",
                "\"a\"",
            ),
            (
                "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: [DONE]\n\n",
                "a",
                "\"a\"",
            ),
            (
                "data: one\ndata: two\n\ndata:  three\n\n",
                "one\ntwo three",
                "\"one\\ntwo three\"",
            ),
            (
                ": ping\n\nevent: ping\ndata: x\n\ndata: a\n\n",
                "a",
                "\"a\"",
            ),
            ("event: delta\ndata: bare\n\n", "bare", "\"bare\""),
            ("data: {\"text\": \"a\"}\n\n", "a", "\"a\""),
            (
                "data: {\"other\": 1}\n\n",
                "{\"other\": 1}",
                "\"{\\\"other\\\": 1}\"",
            ),
            ("", "", "\"\""),
        ] {
            let (pieces, reading) = relayed(stream).unwrap();
            assert_eq!(
                (pieces.as_str(), reading.json.as_str()),
                (text, json),
                "{stream}"
            );
        }
    }

    #[test]
    fn what_follows_the_end_is_not_read() {
        let stream = "data: a\n\ndata: [DONE]\n\nevent: error\ndata: {}\n\n";
        assert_eq!(relayed(stream).unwrap().0, "a");
        let mut relay = Relay::default();
        relay.push(b"event: done\ndata: 1\n\ndata: b\n\n").unwrap();
        assert!(relay.is_over());
        assert_eq!(relay.finish().json, "1");
    }

    #[test]
    fn an_error_ends_it_and_so_does_what_has_no_end() {
        let failed = relayed("data: a\n\nevent: error\ndata: {\"detail\":\"secret\"}\n\n");
        assert_eq!(failed.unwrap_err(), RelayError::Failed);
        let mut relay = Relay::default();
        let endless = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert!(matches!(relay.push(&endless), Err(RelayError::Broken(_))));
        let mut relay = Relay::default();
        let event = format!("data: {}\n\n", "x".repeat(1 << 20));
        let refused = (0..8).find_map(|_| relay.push(event.as_bytes()).err());
        assert_eq!(refused, Some(RelayError::TooLong));
        let mut relay = Relay::default();
        assert!(relay.push(b"data: \xff\n\n").is_err());
    }
}
