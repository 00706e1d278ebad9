//! Reads the small part of YAML that an `aither-agent.yaml` needs, with positions.
//!
//! The tree is built from the parser's events, so that bounds hold while it grows: nothing can
//! unfold, for anchors, aliases and merge keys are refused; depth and bytes are capped. Plain
//! scalars mean what the core schema of YAML 1.2 says, so `no` and `on` are texts. What is refused
//! is reported and stepped over, that the rest of the document is still looked at; only what is
//! no YAML at all ends the reading.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::{
    FieldError,
    document::{Node, NodeValue, Position},
};
use crate::limits;

/// Longest key of which an error's path shows all.
const KEY_CHARS_SHOWN_MAX: usize = 64;

/// Reads a document. The list is what was refused in it and stepped over.
///
/// # Errors
/// It is too large, too deep, or no YAML document.
pub(super) fn read(text: &str) -> Result<(Node<'_>, Vec<FieldError>), FieldError> {
    if text.len() > limits::CARD_BYTES_MAX {
        return Err(FieldError::too_large(Some(START)));
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        errors: Vec::new(),
    };
    let root = reader.document()?;
    Ok((root, reader.errors))
}

const START: Position = Position { line: 1, column: 1 };

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    errors: Vec<FieldError>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Node<'a>, FieldError> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    let message = "must be one document; remove what follows the second ---";
                    return Err(FieldError::new("", message, Some(position(span))));
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, "", limits::CARD_DEPTH_MAX)?);
                }
                _ => return Err(unexpected(span)),
            }
        }
        // An empty text has no document; it is treated as one that says nothing.
        let value = NodeValue::Null;
        let at = Some(START);
        Ok(root.unwrap_or(Node { at, value }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), FieldError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// Reads the value that an event begins.
    fn node(
        &mut self,
        event: Event<'a>,
        span: Span,
        path: &str,
        depth_max: usize,
    ) -> Result<Node<'a>, FieldError> {
        let at = Some(position(span));
        let below = depth_max.checked_sub(1);
        let below = below.ok_or_else(|| FieldError::too_deep(at))?;
        let refusal = refusal(&event);
        if let Some(message) = refusal {
            self.report(path, message, at);
        }
        let value = match event {
            Event::Alias(_) => NodeValue::Refused,
            Event::Scalar(text, ScalarStyle::Plain, ..) => plain(text),
            Event::Scalar(text, ..) => NodeValue::Text(text),
            Event::SequenceStart(..) => NodeValue::List(self.list(path, below)?),
            Event::MappingStart(..) => NodeValue::Object(self.object(path, below)?),
            _ => return Err(unexpected(span)),
        };
        // What has a refused type may be of a wrong one: nothing more is said about it.
        let value = if refusal.is_some() {
            NodeValue::Refused
        } else {
            value
        };
        Ok(Node { at, value })
    }

    fn list(&mut self, path: &str, depth_max: usize) -> Result<Vec<Node<'a>>, FieldError> {
        let mut entries = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(entries),
                (event, span) => {
                    let path = format!("{path}[{}]", entries.len());
                    entries.push(self.node(event, span, &path, depth_max)?);
                }
            }
        }
    }

    fn object(
        &mut self,
        path: &str,
        depth_max: usize,
    ) -> Result<Vec<(Cow<'a, str>, Node<'a>)>, FieldError> {
        let mut fields = Vec::new();
        // A search of the list for each key would take quadratic time.
        let mut seen = std::collections::HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(fields);
            }
            let at = Some(position(span));
            let key = self.key(event, span, path, depth_max)?;
            let (event, span) = self.next()?;
            let path = child_path(path, key.as_deref().unwrap_or("?"));
            let value = self.node(event, span, &path, depth_max)?;
            match key {
                Some(key) if seen.insert(key.clone()) => fields.push((key, value)),
                Some(_) => self.report(&path, "must be given only once", at),
                None => {}
            }
        }
    }

    /// Reads a key; `None` where it was refused.
    fn key(
        &mut self,
        event: Event<'a>,
        span: Span,
        path: &str,
        depth_max: usize,
    ) -> Result<Option<Cow<'a, str>>, FieldError> {
        let at = Some(position(span));
        let message = match event {
            Event::Scalar(text, ScalarStyle::Plain, 0, None) if text == "<<" => {
                "must not use merge keys; write the fields out"
            }
            Event::Scalar(text, _, 0, None) => return Ok(Some(text)),
            event => match refusal(&event) {
                Some(message) => {
                    self.report(path, message, at);
                    if !matches!(event, Event::Alias(_)) {
                        self.node_in_silence(event, span, depth_max)?;
                    }
                    return Ok(None);
                }
                None => {
                    self.node_in_silence(event, span, depth_max)?;
                    "must have strings as keys"
                }
            },
        };
        self.report(path, message, at);
        Ok(None)
    }

    /// Steps over a value whatever is in it.
    fn node_in_silence(
        &mut self,
        event: Event<'a>,
        span: Span,
        depth_max: usize,
    ) -> Result<(), FieldError> {
        let reported = self.errors.len();
        self.node(event, span, "", depth_max)?;
        self.errors.truncate(reported);
        Ok(())
    }

    fn report(&mut self, path: &str, message: &str, at: Option<Position>) {
        if self.errors.len() < limits::FIELD_ERRORS_MAX {
            self.errors.push(FieldError::new(path, message, at));
        }
    }
}

/// Returns what is to be said against a value before one looks at it.
fn refusal(event: &Event<'_>) -> Option<&'static str> {
    let (anchor, tag) = match event {
        Event::Alias(_) => return Some("must not be an alias; write the value out"),
        Event::Scalar(_, _, anchor, tag)
        | Event::SequenceStart(anchor, tag)
        | Event::MappingStart(anchor, tag) => (*anchor, tag),
        _ => return None,
    };
    if anchor != 0 {
        Some("must not have an anchor; write the value out where it is used")
    } else if tag.is_some() {
        Some("must not have a type tag; quote what is to be a string")
    } else {
        None
    }
}

/// Returns what a scalar without quotes means.
fn plain(text: Cow<'_, str>) -> NodeValue<'_> {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeValue::Null,
        "true" | "True" | "TRUE" => return NodeValue::Flag(true),
        "false" | "False" | "FALSE" => return NodeValue::Flag(false),
        ".nan" | ".NaN" | ".NAN" => return NodeValue::Number,
        _ => {}
    }
    number(&text).unwrap_or(NodeValue::Text(text))
}

/// Returns a number of the core schema, or `None` where the text is none.
fn number(text: &str) -> Option<NodeValue<'static>> {
    let radix = |digits: &str, radix| {
        let known = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        let whole =
            || u64::from_str_radix(digits, radix).map_or(NodeValue::Number, NodeValue::Whole);
        known.then(whole)
    };
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Some(NodeValue::Number);
    }
    // Without its words (`inf`, `infinity`, `nan`), Rust's grammar of decimals is that of YAML.
    let starts = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let known = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !starts || !unsigned.chars().all(known) {
        return None;
    }
    if let (true, Ok(whole)) = (!text.starts_with('-'), unsigned.parse()) {
        return Some(NodeValue::Whole(whole));
    }
    text.parse().ok().map(NodeValue::number)
}

fn position(span: Span) -> Position {
    Position {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

fn syntax(error: &ScanError) -> FieldError {
    let marker = error.marker();
    let at = Position {
        line: marker.line(),
        column: marker.col() + 1,
    };
    FieldError::new("", format!("is not valid YAML: {}", error.info()), Some(at))
}

fn unexpected(span: Span) -> FieldError {
    FieldError::new("", "is not valid YAML", Some(position(span)))
}

/// Returns the path of a field. A long or odd key is shown cut and escaped.
fn child_path(path: &str, key: &str) -> String {
    let key: String = key
        .chars()
        .take(KEY_CHARS_SHOWN_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}
