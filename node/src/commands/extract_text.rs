//! `extract-text`: what the node starts to read a document in. Not for people, so help hides it.
//!
//! It reads no configuration and touches no data directory.

use crate::{
    documents::{Format, child},
    error::NodeError,
};

/// Reads the document on standard input.
///
/// # Errors
/// The process cannot be bounded, or cannot read or write.
pub fn extract_text(format: Format) -> Result<(), NodeError> {
    child::run(format).map_err(|source| NodeError::System {
        what: "read a document",
        source,
    })
}
