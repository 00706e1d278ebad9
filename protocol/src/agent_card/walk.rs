//! How a value of the tree becomes one of the card, or an error with its path.
//!
//! Every reader here answers `None` exactly when it has reported why, so that a walk over a whole
//! document goes on behind an error, and a card is there exactly when there are no errors.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use super::{
    FieldError,
    document::{Node, NodeValue, Position},
};
use crate::limits;

/// What a walk has found wrong.
#[derive(Debug)]
pub(super) struct Walk {
    errors: Vec<FieldError>,
}

/// A value at its path.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) path: String,
    node: &'a Node<'a>,
}

/// An object at its path.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    path: String,
    at: Option<Position>,
    fields: &'a [(std::borrow::Cow<'a, str>, Node<'a>)],
}

/// What a text must be like.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextRule {
    pub(super) bytes_max: usize,
    pub(super) empty: bool,
    pub(super) shape: Shape,
}

/// What the characters of a text may be. Each has its pattern in `values`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One line for people.
    Line,
    /// Lines for people.
    Prose,
    /// Path of an endpoint.
    Path,
    /// File below the agent's folder.
    File,
    /// Id of a skill.
    SkillId,
}

impl TextRule {
    pub(super) const fn new(shape: Shape, bytes_max: usize) -> Self {
        Self {
            bytes_max,
            empty: false,
            shape,
        }
    }

    pub(super) const fn or_empty(self) -> Self {
        Self {
            empty: true,
            ..self
        }
    }

    fn check(self, text: &str) -> Result<(), String> {
        if text.trim().is_empty() && !self.empty {
            return Err("must not be empty".to_owned());
        }
        if text.len() > self.bytes_max {
            return Err(format!("must be at most {} bytes", self.bytes_max));
        }
        let complaint = self.shape.complaint(text);
        complaint.map_or(Ok(()), |complaint| Err(complaint.to_owned()))
    }
}

impl Shape {
    fn complaint(self, text: &str) -> Option<&'static str> {
        let (right, complaint) = match self {
            Self::Line => (
                !text.contains(is_hidden),
                "must be one line without control characters",
            ),
            Self::Prose => (
                !text.contains(|c| is_hidden(c) && c != '\n' && c != '\t'),
                "must not contain control characters",
            ),
            Self::Path => (
                is_path(text),
                "must be an absolute path, as /chat, without query and dot segments",
            ),
            Self::File => (
                is_file(text),
                "must be a relative path of a file, as src/main.py, without parent segments",
            ),
            Self::SkillId => (
                is_skill_id(text),
                "must be letters, digits and the characters . _ : / - with a letter or digit first",
            ),
        };
        (!right).then_some(complaint)
    }
}

/// Whether a character shows as nothing or turns the text around it: a name that holds one can
/// look like another.
fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_path(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>?\\^`|".contains(&byte);
    let dots = |segment: &str| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    };
    // A second slash would make the next segment a host.
    text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(known)
        && !text.split('/').any(dots)
}

fn is_file(text: &str) -> bool {
    let known = |c: char| !is_hidden(c) && c != '\\' && c != ':';
    text.chars().all(known)
        && !text.starts_with(['-', '~'])
        && !text
            .split('/')
            .any(|segment| segment.is_empty() || segment == "..")
}

fn is_skill_id(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    text.bytes().all(known) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

impl Walk {
    /// Begins with what reading the document has found wrong.
    pub(super) fn new(errors: Vec<FieldError>) -> Self {
        Self { errors }
    }

    /// Ends: with what was made, unless something was wrong.
    ///
    /// # Errors
    /// Everything that was wrong, in the order of the text, if it came as one.
    pub(super) fn finish<T>(mut self, made: Option<T>) -> Result<T, Vec<FieldError>> {
        match made {
            Some(made) if self.errors.is_empty() => Ok(made),
            _ => {
                // Stable: what has no position, or the same, stays in the order of the fields.
                self.errors.sort_by_key(|error| (error.line, error.column));
                Err(self.errors)
            }
        }
    }

    /// Reports something about a place.
    pub(super) fn refuse(&mut self, place: &Place<'_>, message: impl Into<String>) {
        self.report(&place.path, message, place.node.at);
    }

    fn report(&mut self, path: &str, message: impl Into<String>, at: Option<Position>) {
        if self.errors.len() < limits::FIELD_ERRORS_MAX {
            self.errors.push(FieldError::new(path, message, at));
        }
    }

    fn mistyped<T>(&mut self, place: &Place<'_>, message: &str) -> Option<T> {
        if !matches!(place.node.value, NodeValue::Refused) {
            self.refuse(place, message);
        }
        None
    }

    /// Reads an object.
    pub(super) fn object<'a>(&mut self, place: &Place<'a>) -> Option<Fields<'a>> {
        match &place.node.value {
            NodeValue::Object(fields) => Some(Fields {
                path: place.path.clone(),
                at: place.node.at,
                fields,
            }),
            _ => self.mistyped(place, "must be an object"),
        }
    }

    /// Reads a list and gives every entry to `read`. The list is there if all entries are.
    pub(super) fn list<'a, T>(
        &mut self,
        place: &Place<'a>,
        entries_max: usize,
        mut read: impl FnMut(&mut Self, &Place<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let NodeValue::List(entries) = &place.node.value else {
            return self.mistyped(place, "must be a list");
        };
        if entries.len() > entries_max {
            return self.mistyped(place, &format!("must have at most {entries_max} entries"));
        }
        let mut made = Vec::with_capacity(entries.len());
        for (index, node) in entries.iter().enumerate() {
            let path = format!("{}[{index}]", place.path);
            made.extend(read(self, &Place { path, node }));
        }
        (made.len() == entries.len()).then_some(made)
    }

    /// Reads a text that follows a rule.
    pub(super) fn text(&mut self, place: &Place<'_>, rule: TextRule) -> Option<String> {
        let text = self.any_text(place)?;
        match rule.check(text) {
            Ok(()) => Some(text.to_owned()),
            Err(complaint) => self.mistyped(place, &complaint),
        }
    }

    /// Reads a text of any kind.
    pub(super) fn any_text<'a>(&mut self, place: &Place<'a>) -> Option<&'a str> {
        match &place.node.value {
            NodeValue::Text(text) => Some(text),
            _ => self.mistyped(place, "must be a string"),
        }
    }

    /// Reads a text that says a value, which complains itself.
    pub(super) fn value<T: FromStr<Err: Display>>(&mut self, place: &Place<'_>) -> Option<T> {
        let parsed = self.any_text(place)?.parse();
        match parsed {
            Ok(value) => Some(value),
            Err(error) => self.mistyped(place, &error.to_string()),
        }
    }

    /// Reads one of some words.
    pub(super) fn word<T: Copy>(
        &mut self,
        place: &Place<'_>,
        all: &[T],
        as_str: impl Fn(T) -> &'static str,
    ) -> Option<T> {
        let text = self.any_text(place)?;
        let found = all.iter().copied().find(|known| as_str(*known) == text);
        if found.is_none() {
            let words: Vec<_> = all.iter().map(|known| as_str(*known)).collect();
            self.refuse(place, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    /// Reads a whole number within bounds.
    pub(super) fn whole(&mut self, place: &Place<'_>, bounds: RangeInclusive<u64>) -> Option<u32> {
        let number = match place.node.value {
            NodeValue::Whole(number) if bounds.contains(&number) => u32::try_from(number).ok(),
            _ => None,
        };
        let (least, most) = bounds.into_inner();
        number.or_else(|| {
            let message = format!("must be a whole number from {least} to {most}");
            self.mistyped(place, &message)
        })
    }

    /// Reads a flag.
    pub(super) fn flag(&mut self, place: &Place<'_>) -> Option<bool> {
        match place.node.value {
            NodeValue::Flag(flag) => Some(flag),
            _ => self.mistyped(place, "must be true or false"),
        }
    }

    /// Reads a field that may be missing: `Some(None)` if it is.
    pub(super) fn optional<'a, T>(
        &mut self,
        fields: &Fields<'a>,
        name: &str,
        read: impl FnOnce(&mut Self, &Place<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        match fields.get(name) {
            Some(place) => read(self, &place).map(Some),
            None => Some(None),
        }
    }

    /// Reads a field that must be there.
    pub(super) fn required<'a, T>(
        &mut self,
        fields: &Fields<'a>,
        name: &str,
        read: impl FnOnce(&mut Self, &Place<'a>) -> Option<T>,
    ) -> Option<T> {
        match fields.get(name) {
            Some(place) => read(self, &place),
            None => self.missing(fields, name),
        }
    }

    /// Reports a missing field.
    pub(super) fn missing<T>(&mut self, fields: &Fields<'_>, name: &str) -> Option<T> {
        self.report(&fields.path_of(name), "is required", fields.at);
        None
    }
}

impl<'a> Place<'a> {
    /// The whole document.
    pub(super) fn root(node: &'a Node<'a>) -> Self {
        let path = String::new();
        Self { path, node }
    }
}

impl<'a> Fields<'a> {
    /// Returns a field, unless it is missing or null.
    pub(super) fn get(&self, name: &str) -> Option<Place<'a>> {
        let (_, node) = self.fields.iter().find(|(key, _)| key == name)?;
        let path = self.path_of(name);
        (!matches!(node.value, NodeValue::Null)).then_some(Place { path, node })
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}
