//! Rows as bytes: a version, then the fields in postcard.
//!
//! What is read may be damaged: anything that is not a whole row of a known version is an error.

use serde::{Serialize, de::DeserializeOwned};

use crate::{entry::Entry, error::LedgerError};

/// The version that is written. Older ones stay readable.
const VERSION: u8 = 1;

pub(super) fn encode(row: &impl Serialize) -> Result<Vec<u8>, LedgerError> {
    postcard::to_extend(row, vec![VERSION])
        .map_err(|error| LedgerError::corrupt(format!("a row cannot be written: {error}")))
}

pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, LedgerError> {
    let fields = fields_of(what, bytes)?;
    match postcard::take_from_bytes(fields) {
        Ok((row, [])) => Ok(row),
        Ok((_, rest)) => Err(LedgerError::corrupt(format!(
            "{what} has {} bytes too many",
            rest.len()
        ))),
        Err(error) => Err(LedgerError::corrupt(format!(
            "{what} cannot be read: {error}"
        ))),
    }
}

/// Returns a block of the journal without entries.
pub(super) fn new_block() -> Vec<u8> {
    vec![VERSION]
}

/// Returns what an entry adds to a block.
pub(super) fn encode_entry(entry: &Entry) -> Result<Vec<u8>, LedgerError> {
    postcard::to_extend(entry, Vec::with_capacity(128))
        .map_err(|error| LedgerError::corrupt(format!("an entry cannot be written: {error}")))
}

/// Reads the entries of a block one after another.
pub(super) fn entries(
    block: &[u8],
) -> Result<impl Iterator<Item = Result<Entry, LedgerError>>, LedgerError> {
    const WHAT: &str = "a block of the journal";
    let mut rest = fields_of(WHAT, block)?;
    Ok(std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let taken = postcard::take_from_bytes(rest);
        // After damage nothing more is read.
        rest = taken.as_ref().map_or(&[], |(_, rest)| *rest);
        let entry = taken.map(|(entry, _)| entry);
        Some(entry.map_err(|error| LedgerError::corrupt(format!("{WHAT} cannot be read: {error}"))))
    }))
}

fn fields_of<'b>(what: &str, bytes: &'b [u8]) -> Result<&'b [u8], LedgerError> {
    match bytes.split_first() {
        Some((&VERSION, fields)) => Ok(fields),
        Some((version, _)) => Err(LedgerError::corrupt(format!(
            "{what} has the unknown version {version}"
        ))),
        None => Err(LedgerError::corrupt(format!("{what} is empty"))),
    }
}
