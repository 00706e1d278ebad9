//! A cursor over the header's bytes that cannot read past their end.
//!
//! Everything is little endian. Strings are copied before they are checked: the bytes may be a
//! mapping of a file that another process is changing.

use super::{invalid, limits};
use crate::error::Result;

/// A position in the header.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    /// Whether `bytes` was cut at [`limits::HEADER_BYTES_MAX`].
    capped: bool,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of a file.
    pub(super) fn new(file: &'a [u8]) -> Self {
        let capped = file.len() > limits::HEADER_BYTES_MAX;
        let end = file.len().min(limits::HEADER_BYTES_MAX);
        Self {
            bytes: &file[..end],
            position: 0,
            capped,
        }
    }

    /// Returns the offset of the next byte.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Returns how many bytes are left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Takes the next `len` bytes; `what` names them in the error.
    pub(super) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            let position = self.position;
            if self.capped {
                let max = limits::HEADER_BYTES_MAX;
                return Err(invalid(format!(
                    "the header is longer than {max} bytes (reading {what} at byte {position})"
                )));
            }
            return Err(invalid(format!(
                "the file ends within {what} at byte {position}; it is truncated"
            )));
        }
        let taken = &self.bytes[self.position..self.position + len];
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// Reads a byte.
    pub(super) fn u8(&mut self, what: &str) -> Result<u8> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// Reads a `u32`.
    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Reads a `u64`.
    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads a count of things that take at least `bytes_min` each, at most `max` of them.
    pub(super) fn count(&mut self, max: u64, bytes_min: usize, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        if count > max {
            return Err(invalid(format!("{what} is {count}, at most {max}")));
        }
        let room = (self.remaining() / bytes_min) as u64;
        if count > room {
            return Err(invalid(format!(
                "{what} is {count}, but the rest of the file has room for {room}; it is truncated"
            )));
        }
        usize::try_from(count).map_err(|_| invalid(format!("{what} is {count}")))
    }

    /// Reads a string of at most `bytes_max` bytes.
    pub(super) fn string(&mut self, bytes_max: u64, what: &str) -> Result<String> {
        let at = self.position;
        let len = self.u64(what)?;
        if len > bytes_max {
            return Err(invalid(format!(
                "{what} at byte {at} has {len} bytes, at most {bytes_max}"
            )));
        }
        let len = usize::try_from(len).map_err(|_| invalid(format!("{what} is too long")))?;
        let owned = self.take(len, what)?.to_vec();
        String::from_utf8(owned).map_err(|_| invalid(format!("{what} at byte {at} is not UTF-8")))
    }
}
