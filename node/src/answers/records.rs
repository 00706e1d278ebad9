//! What the values hold: a version byte, then postcard, or for a body its bytes.
//!
//! A type is named by the version that introduced it and never changes; a later one is a type of
//! its own, made from it.

use redb::StorageError;
use serde::{Deserialize, Serialize};

/// The byte before a [`RowV1`].
const ROW_VERSION: u8 = 1;
/// The byte before a body as it was sent.
const BODY_VERSION: u8 = 1;

/// A request that had a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RowV1 {
    /// Whose it is.
    pub(super) caller: u128,
    /// The hash of the request.
    pub(super) request: [u8; 32],
    /// Under which name it is paid.
    pub(super) operation: u128,
    /// When it first came.
    pub(super) made_ms: u64,
    pub(super) state: StateV1,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StateV1 {
    /// It is being done.
    InFlight,
    /// It was charged, and its answer lost.
    Charged { micros: u128 },
    /// It was done, and the answer's body is kept beside this.
    Answered(HeadV1),
    /// It was done, and the answer is not kept.
    Done,
}

/// An answer without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeadV1 {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl RowV1 {
    /// Returns the value's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![ROW_VERSION])
            .expect("plain records have no value that postcard cannot write")
    }

    /// Reads a value back.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, redb::Error> {
        if let Some((&ROW_VERSION, rest)) = bytes.split_first()
            && let Ok((row, [])) = postcard::take_from_bytes(rest)
        {
            return Ok(row);
        }
        Err(corrupt("a value is no row of a request"))
    }

    /// Returns where the row stands among all, by age.
    pub(super) fn age(&self, key: [u8; 32]) -> super::tables::Age {
        (self.made_ms, key)
    }
}

/// Returns a body with its version.
pub(super) fn encode_body(body: &[u8]) -> Vec<u8> {
    [&[BODY_VERSION], body].concat()
}

/// Returns a body without its version.
pub(super) fn decode_body(bytes: &[u8]) -> Result<&[u8], redb::Error> {
    match bytes.split_first() {
        Some((&BODY_VERSION, body)) => Ok(body),
        _ => Err(corrupt("a value is no body of an answer")),
    }
}

pub(super) fn corrupt(message: &str) -> redb::Error {
    StorageError::Corrupted(message.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> RowV1 {
        RowV1 {
            caller: 300,
            request: [3; 32],
            operation: 5,
            made_ms: 7,
            state: StateV1::Answered(HeadV1 {
                status: 200,
                headers: vec![("a".into(), vec![0xff])],
            }),
        }
    }

    #[test]
    fn values_read_back_and_anything_else_is_refused() {
        let bytes = row().encode();
        assert_eq!(RowV1::decode(&bytes).unwrap(), row());
        let mut newer = bytes.clone();
        newer[0] = 2;
        let mut longer = bytes.clone();
        longer.push(0);
        for bad in [&[][..], &[1], &newer, &longer, &bytes[..bytes.len() - 1]] {
            assert!(RowV1::decode(bad).is_err(), "{bad:?}");
        }
        assert_eq!(decode_body(&encode_body(b"x")).unwrap(), b"x");
        assert!(decode_body(b"").is_err() && decode_body(b"\x02x").is_err());
    }

    #[test]
    fn regression_the_layout_of_version_1_does_not_move() {
        let mut expected = vec![1, 0xac, 0x02];
        expected.extend([3; 32]);
        expected.extend([5, 7, 2, 0xc8, 0x01, 1, 1, b'a', 1, 0xff]);
        assert_eq!(row().encode(), expected);
    }
}
