//! Finding entries of one scope by their words and by their meaning.
//!
//! What is written becomes text ([`searchable_text`]), the text becomes [`Terms`] for the words and
//! [`pieces`] for an embedding model, and both become an [`IndexRow`] and [`CodedVectors`], which
//! are kept beside the entry. Rows of one scope make a [`ScopeIndex`] in memory. A scope has an
//! index of its own, with its own statistics of words: what others write changes no answer and no
//! score here, not even in its last digit, because there is nothing that two indexes share.
//!
//! All of this is derived and may be made again from the entries. There is no I/O, no clock and no
//! thread here: vectors that were coded are fetched by a function that the caller gives, and the
//! time is an argument.

mod analyze;
mod postings;
mod rank;
mod row;
mod scope;
mod text;
mod words;

#[cfg(test)]
mod tests;

pub use analyze::Terms;
pub use rank::{Hit, LIMIT_MAX, Query, SearchMode, join};
pub use row::{CodedVectors, INDEX_VERSION, IndexRow, RowError, SignVector};
pub use scope::{EmbeddingModel, ScopeIndex};
pub use text::{PIECES_MAX, TEXT_BYTES_MAX, pieces, searchable_text};
