//! Server-sent events out of a byte stream.
//!
//! Reads what the HTML standard calls an event stream, without its reconnection fields. Pieces
//! may end anywhere, also inside a character or between CR and LF. A line and an event have a
//! size limit, because the other side decides how much it sends.

use std::mem;

/// One event: its name (`message` when none was given) and its data lines, joined by newlines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind of event it is.
    pub name: String,
    /// What it says.
    pub data: String,
}

/// Why a stream was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line or an event has no end within the limit.
    #[error("an event of more than {0} bytes")]
    TooLarge(usize),
    /// It is no text.
    #[error("an event that is not UTF-8")]
    Encoding,
}

/// Collects bytes until an event is whole.
#[derive(Debug)]
pub struct Parser {
    size_max: usize,
    line: Vec<u8>,
    /// The last byte was a CR that ended a line: a LF right after it belongs to it.
    after_cr: bool,
    name: String,
    data: String,
    has_data: bool,
}

impl Parser {
    /// Makes a parser that gives up on an event or a line of more than `size_max` bytes.
    pub fn new(size_max: usize) -> Self {
        Self {
            size_max,
            line: Vec::new(),
            after_cr: false,
            name: String::new(),
            data: String::new(),
            has_data: false,
        }
    }

    /// Takes the next bytes and returns the events that they complete.
    ///
    /// # Errors
    /// The stream is none; what follows is not to be pushed.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, SseError> {
        let mut events = Vec::new();
        for &byte in bytes {
            let ends_line = match byte {
                b'\n' => !mem::take(&mut self.after_cr),
                b'\r' => {
                    self.after_cr = true;
                    true
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                    false
                }
            };
            if self.line.len() + self.data.len() > self.size_max {
                return Err(SseError::TooLarge(self.size_max));
            }
            if ends_line {
                events.extend(self.on_line()?);
            }
        }
        Ok(events)
    }

    fn on_line(&mut self) -> Result<Option<Event>, SseError> {
        let line = String::from_utf8(mem::take(&mut self.line)).map_err(|_| SseError::Encoding)?;
        if line.is_empty() {
            return Ok(self.finish());
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // A comment has an empty field name; the other fields are for reconnecting.
            _ => {}
        }
        Ok(None)
    }

    fn finish(&mut self) -> Option<Event> {
        let mut name = mem::take(&mut self.name);
        let data = mem::take(&mut self.data);
        if name.is_empty() {
            name.push_str("message");
        }
        mem::take(&mut self.has_data).then_some(Event { name, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nevent: delta\ndata: {\"text\":\"é\"}\n\ndata: a\ndata:b\n\n";

    fn expected() -> Vec<Event> {
        vec![
            Event {
                name: "delta".into(),
                data: "{\"text\":\"é\"}".into(),
            },
            Event {
                name: "message".into(),
                data: "a\nb".into(),
            },
        ]
    }

    #[test]
    fn events_are_the_same_wherever_the_pieces_end() {
        for newline in ["\n", "\r\n", "\r"] {
            let bytes = STREAM.replace('\n', newline).into_bytes();
            for size in 1..bytes.len() {
                let mut parser = Parser::new(1000);
                let mut events = Vec::new();
                for piece in bytes.chunks(size) {
                    events.extend(parser.push(piece).unwrap());
                }
                assert_eq!(events, expected(), "pieces of {size}, newline {newline:?}");
            }
        }
    }

    #[test]
    fn event_without_data_is_none() {
        assert_eq!(Parser::new(100).push(b"event: done\n\n"), Ok(vec![]));
    }

    #[test]
    fn endless_line_is_given_up() {
        assert_eq!(
            Parser::new(100).push(&[b'x'; 101]),
            Err(SseError::TooLarge(100))
        );
    }

    #[test]
    fn endless_event_is_given_up() {
        let mut parser = Parser::new(100);
        let refused = (0..100).find_map(|_| parser.push(b"data: 123456789\n").err());
        assert_eq!(refused, Some(SseError::TooLarge(100)));
    }

    #[test]
    fn invalid_utf8_is_refused() {
        assert_eq!(
            Parser::new(100).push(b"data: \xff\n\n"),
            Err(SseError::Encoding)
        );
    }
}
