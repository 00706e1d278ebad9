//! The small tree that a card is validated on, whether it came as JSON or as YAML.
//!
//! A tree of its own, because neither a JSON value has positions nor a YAML one the types of JSON.
//! It is bounded before it is built: by the bytes of the document and by its depth.

use std::{borrow::Cow, io};

use serde_json::Value;

use super::FieldError;
use crate::limits;

/// Where something starts in a text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A value and where it starts, if in a text.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) at: Option<Position>,
    pub(super) value: NodeValue<'a>,
}

/// The values of JSON.
#[derive(Debug)]
pub(super) enum NodeValue<'a> {
    Null,
    Flag(bool),
    /// A whole number that is not negative; `3.0` is one.
    Whole(u64),
    /// Any other number: no field of a card takes one, so which it is does not matter.
    Number,
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    /// In the document's order, every key once.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
    /// What has been reported already, so that nothing else is said about it.
    Refused,
}

impl FieldError {
    pub(super) fn new(field: &str, message: impl Into<String>, at: Option<Position>) -> Self {
        Self {
            field: field.to_owned(),
            message: message.into(),
            line: at.map(|at| at.line),
            column: at.map(|at| at.column),
        }
    }

    /// Of a document that is larger than a card may be.
    pub(super) fn too_large(at: Option<Position>) -> Self {
        let message = format!("must be at most {} bytes", limits::CARD_BYTES_MAX);
        Self::new("", message, at)
    }

    /// Of a document that is nested deeper than a card may be.
    pub(super) fn too_deep(at: Option<Position>) -> Self {
        let message = format!("must be nested at most {} deep", limits::CARD_DEPTH_MAX);
        Self::new("", message, at)
    }
}

impl NodeValue<'_> {
    /// Returns the number as far as a card tells numbers apart.
    pub(super) fn number(number: f64) -> Self {
        // Above this, floats are whole but no longer exact.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if number.fract() == 0.0 && (0.0..=EXACT).contains(&number) {
            NodeValue::Whole(number as u64)
        } else {
            NodeValue::Number
        }
    }
}

/// Returns the tree of a card.
///
/// # Errors
/// It is larger or deeper than a card may be.
pub(super) fn from_json(value: &Value) -> Result<Node<'_>, FieldError> {
    // The depth first: measuring recurses too.
    if !is_shallow(value, limits::CARD_DEPTH_MAX) {
        return Err(FieldError::too_deep(None));
    }
    let mut room = Room(limits::CARD_BYTES_MAX);
    serde_json::to_writer(&mut room, value).map_err(|_| FieldError::too_large(None))?;
    Ok(node(value))
}

fn is_shallow(value: &Value, depth_max: usize) -> bool {
    let Some(below) = depth_max.checked_sub(1) else {
        return false;
    };
    match value {
        Value::Array(items) => items.iter().all(|item| is_shallow(item, below)),
        Value::Object(fields) => fields.values().all(|field| is_shallow(field, below)),
        _ => true,
    }
}

fn node(value: &Value) -> Node<'_> {
    let value = match value {
        Value::Null => NodeValue::Null,
        Value::Bool(flag) => NodeValue::Flag(*flag),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => NodeValue::Whole(whole),
            (None, Some(number)) => NodeValue::number(number),
            (None, None) => NodeValue::Number,
        },
        Value::String(text) => NodeValue::Text(Cow::Borrowed(text)),
        Value::Array(items) => NodeValue::List(items.iter().map(node).collect()),
        Value::Object(fields) => {
            let fields = fields.iter();
            NodeValue::Object(
                fields
                    .map(|(key, value)| (Cow::Borrowed(&**key), node(value)))
                    .collect(),
            )
        }
    };
    Node { at: None, value }
}

/// Takes so many bytes and forgets them.
struct Room(usize);

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.0.checked_sub(bytes.len());
        self.0 = left.ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
