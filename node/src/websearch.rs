//! What a search looks through: the web by a SearXNG, and folders of this machine.
//!
//! Synchronous and without a network: [`searxng`] reads what a SearXNG answered, [`FolderIndex`]
//! keeps an index of folders on the disk. That index is made of files that are there anyway, so it
//! is in no backup, and one that is damaged is made again. [`crate::services::SearchService`] asks.

mod error;
mod folders;
mod index;
pub mod searxng;
mod snippet;
mod text;
mod words;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::{
    error::SearchError,
    index::{FolderIndex, Refreshed},
    text::{TextFile, text_of_html},
};

/// Bytes of a query.
pub const QUERY_BYTES_MAX: usize = 1000;
/// Results where the request does not say how many, and most of them.
pub const RESULTS_DEFAULT: usize = 10;
/// Most of them.
pub const RESULTS_MAX: usize = 50;
/// Characters of a result's content.
pub const CONTENT_CHARS_MAX: usize = 20_000;
/// Characters of a title.
pub const TITLE_CHARS_MAX: usize = 200;
/// Characters of a snippet.
pub const SNIPPET_CHARS_MAX: usize = 300;
/// Bytes of an answer of a SearXNG.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Time for it.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a file that is indexed.
pub const FILE_BYTES_MAX: u64 = 2 << 20;
/// Files that are indexed.
pub const FILES_MAX: usize = 200_000;
/// Bytes of all of them together.
pub const ALL_BYTES_MAX: u64 = 4 << 30;

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// What it is called.
    pub title: String,
    /// Where it is: an address, or `local:FOLDER/path` for a file of this machine.
    pub url: String,
    /// The part of it that fits the query.
    pub snippet: String,
    /// Its text, where that is at hand.
    pub content: Option<String>,
}

/// Cuts a text to so many characters.
pub(crate) fn cut(text: &str, chars_max: usize) -> &str {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
