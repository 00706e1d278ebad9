//! Rows as bytes: a version, then the fields in postcard.
//!
//! What is read may be damaged: anything that is not a whole row of a known version is an error.

use serde::{Serialize, de::DeserializeOwned};

use crate::{entry::Entry, error::LedgerError};

/// The version that is written. Older ones stay readable.
const VERSION: u8 = 1;

/// Longer than any row: texts are bounded, and so are the receivers of a post.
const ROW_BYTES_MAX: usize = 4096;

/// Turns rows into bytes, always in the same memory.
#[derive(Debug)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut buffer = vec![0; ROW_BYTES_MAX];
        buffer[0] = VERSION;
        Self { buffer }
    }
}

impl Encoder {
    /// Returns a row's version and fields.
    pub(super) fn row(&mut self, row: &impl Serialize) -> Result<&[u8], LedgerError> {
        let len = self.fields(row)?.len();
        let bytes = self.buffer.get(..=len);
        bytes.ok_or_else(|| LedgerError::corrupt("a row is longer than its memory"))
    }

    /// Returns what an entry adds to a block of the journal.
    pub(super) fn entry(&mut self, entry: &Entry) -> Result<&[u8], LedgerError> {
        self.fields(entry)
    }

    fn fields(&mut self, row: &impl Serialize) -> Result<&[u8], LedgerError> {
        let memory = self.buffer.get_mut(1..).unwrap_or_default();
        let fields = postcard::to_slice(row, memory)
            .map_err(|error| LedgerError::corrupt(format!("a row cannot be written: {error}")))?;
        Ok(fields)
    }
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
