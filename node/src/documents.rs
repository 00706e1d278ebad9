//! The text of documents: PDF, DOCX, HTML, Markdown and plain text.
//!
//! Whoever sends a document may have made it to do harm, and parsers of such formats loop, nest
//! and grow. So nothing in here runs in the node: [`child`] is a process of its own that has taken
//! away from itself what it does not need, reads the document from its standard input, writes one
//! line of JSON and ends. What it says is bounded once more by whoever started it.

pub mod child;
mod docx;
mod format;
mod html;
mod markdown;
mod pdf;
#[cfg(test)]
mod tests;
mod text;

pub use self::format::{Format, HEAD_BYTES, Unknown};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Largest text that is handed out; of a longer one the beginning.
pub const TEXT_BYTES_MAX: usize = 8 << 20;
/// Headings that are told of.
const HEADINGS_MAX: usize = 1000;
/// Facts about a document that are told.
const FACTS_MAX: usize = 32;
/// Longest heading, title or fact; of a longer one the beginning.
const FACT_CHARS_MAX: usize = 1000;

/// What a document says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extracted {
    /// Its text, or the beginning of it.
    pub text: String,
    /// Its pages, where its format has them.
    pub pages: Option<usize>,
    /// What it is called.
    pub title: Option<String>,
    /// Characters of the whole text.
    pub characters: usize,
    /// Words of the whole text.
    pub words: usize,
    /// Whether there was more: of the text, of pages, or of what could not be read.
    pub truncated: bool,
    /// What it says of itself.
    pub metadata: BTreeMap<String, String>,
    /// Its headings, in order.
    pub headings: Vec<Heading>,
}

/// A heading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heading {
    /// 1 is the highest.
    pub level: u8,
    /// Its words.
    pub text: String,
}

/// Why a document has no text for us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DocumentFault {
    /// It is not what it says it is, or is broken.
    #[error("the document cannot be read: {0}")]
    Damaged(String),
    /// It asks for a password.
    #[error("the document is encrypted; send it without a password")]
    Encrypted,
    /// Unpacked it is larger than any honest document.
    #[error("the document unpacks to more than is read of any")]
    Unpacked,
    /// Reading it took too long.
    #[error("reading the document took too long, and it was given up")]
    TooSlow,
    /// Reading it took too much memory.
    #[error("reading the document takes too much memory, and it was given up")]
    Memory,
    /// What it is made of is nested too deeply.
    #[error("the document is nested too deeply to be read")]
    TooDeep,
}

impl DocumentFault {
    /// Returns a word for it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::Encrypted => "encrypted",
            Self::Unpacked => "too_large",
            Self::TooSlow => "timed_out",
            Self::Memory => "memory",
            Self::TooDeep => "too_deep",
        }
    }

    fn damaged(error: impl std::fmt::Display) -> Self {
        // Words of libraries may quote the document.
        let words: String = error.to_string().chars().take(200).collect();
        Self::Damaged(words)
    }
}

/// Reads a document. Not in the node: see [`child`].
///
/// # Errors
/// It cannot be read.
fn extract(format: Format, bytes: &[u8]) -> Result<Extracted, DocumentFault> {
    let draft = match format {
        Format::Pdf => pdf::read(bytes)?,
        Format::Docx => docx::read(bytes)?,
        Format::Html => html::read(bytes)?,
        Format::Markdown => markdown::read(bytes),
        Format::Text => Draft {
            text: text::decode(bytes),
            ..Draft::default()
        },
    };
    Ok(draft.finish())
}

/// What a reader found, as it found it.
#[derive(Debug, Default)]
struct Draft {
    text: String,
    pages: Option<usize>,
    title: Option<String>,
    is_partial: bool,
    metadata: BTreeMap<String, String>,
    headings: Vec<Heading>,
}

impl Draft {
    /// Adds a heading, if it has words.
    fn add_heading(&mut self, level: u8, words: &str) {
        let text = short(words);
        if !text.is_empty() && self.headings.len() < HEADINGS_MAX {
            self.headings.push(Heading { level, text });
        }
    }

    /// Adds a fact, if there is anything to it.
    fn add_fact(&mut self, name: &str, words: &str) {
        let words = short(words);
        if !words.is_empty() && self.metadata.len() < FACTS_MAX {
            self.metadata.insert(name.to_owned(), words);
        }
    }

    /// Tidies the text up, counts it and cuts it.
    fn finish(self) -> Extracted {
        let mut text = text::tidy(&self.text);
        let (characters, words) = (text.chars().count(), text.split_whitespace().count());
        let is_cut = TEXT_BYTES_MAX < text.len();
        if is_cut {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        let title = self.title.as_deref().map(short);
        Extracted {
            text,
            pages: self.pages,
            title: title.filter(|title| !title.is_empty()),
            characters,
            words,
            truncated: is_cut || self.is_partial,
            metadata: self.metadata,
            headings: self.headings,
        }
    }
}

/// Returns words on one line, and not too many.
fn short(words: &str) -> String {
    let line: Vec<_> = words.split_whitespace().collect();
    let line = line.join(" ");
    let printable = line.chars().filter(|c| !c.is_control());
    printable.take(FACT_CHARS_MAX).collect()
}
