//! What the tables' values hold: a version byte, then postcard.
//!
//! A type is named by the version that introduced it and never changes. An entry's value stands
//! behind its head as it came, so that what is written and read most is copied least.

use serde::{Deserialize, Serialize};

use super::{Entry, EntryInfo, EntrySignature, ScopeId, Serial};
use crate::{accounts::Record, store_file::corrupt};

/// A scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ScopeV1 {
    pub(super) id: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Entries that come begin above this version.
    pub(super) version_floor: u64,
}

/// Somebody who has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnerV1 {
    /// Scopes that come begin with this floor.
    pub(super) version_floor: u64,
}

/// What an account's entries come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UsageV1 {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// All of an entry but its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeadV1 {
    pub(super) version: u64,
    pub(super) serial: u64,
    /// Who pays for the room.
    pub(super) account: u128,
    pub(super) bytes: u64,
    pub(super) created_ms: u64,
    pub(super) updated_ms: u64,
    pub(super) expires_ms: Option<u64>,
    pub(super) writer: String,
    pub(super) tags: Vec<String>,
    pub(super) signature: Option<SignatureV1>,
}

/// A writer's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SignatureV1 {
    pub(super) public_key: [u8; 32],
    pub(super) value: Vec<u8>,
}

impl Record for ScopeV1 {
    const VERSION: u8 = 1;
}

impl Record for OwnerV1 {
    const VERSION: u8 = 1;
}

impl Record for UsageV1 {
    const VERSION: u8 = 1;
}

impl HeadV1 {
    const VERSION: u8 = 1;

    /// Returns the row of an entry.
    pub(super) fn row(&self, value: &str) -> Vec<u8> {
        let mut row = Vec::with_capacity(128 + value.len());
        row.push(Self::VERSION);
        let mut row = postcard::to_extend(self, row)
            .expect("plain records have no value that postcard cannot write");
        row.extend_from_slice(value.as_bytes());
        row
    }

    /// Reads a row: the head and the value.
    pub(super) fn read(row: &[u8]) -> Result<(Self, &str), redb::Error> {
        let (head, value) = Self::split(row)?;
        let value = std::str::from_utf8(value).map_err(|_| wrong())?;
        Ok((head, value))
    }

    /// Reads a row's head, and how many bytes its value has, at which it does not look: it may be
    /// large, and lists do not show it.
    pub(super) fn read_head(row: &[u8]) -> Result<(Self, usize), redb::Error> {
        Self::split(row).map(|(head, value)| (head, value.len()))
    }

    fn split(row: &[u8]) -> Result<(Self, &[u8]), redb::Error> {
        let (version, rest) = row.split_first().ok_or_else(wrong)?;
        if *version != Self::VERSION {
            return Err(wrong());
        }
        postcard::take_from_bytes(rest).map_err(|_| wrong())
    }

    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// Returns what lists show.
    pub(super) fn info(self, scope: ScopeId, key: &str, value_bytes: usize) -> EntryInfo {
        EntryInfo {
            scope,
            key: key.to_owned(),
            serial: Serial(self.serial),
            version: self.version,
            created_ms: self.created_ms,
            updated_ms: self.updated_ms,
            expires_ms: self.expires_ms,
            writer: self.writer,
            tags: self.tags,
            signature: self.signature.map(|signature| EntrySignature {
                public_key: signature.public_key,
                value: signature.value,
            }),
            value_bytes,
        }
    }

    /// Returns the entry.
    pub(super) fn entry(self, scope: ScopeId, key: &str, value: &str) -> Entry {
        Entry {
            info: self.info(scope, key, value.len()),
            value: value.to_owned(),
        }
    }
}

fn wrong() -> redb::Error {
    corrupt("an entry is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_and_a_damaged_one_does_not() {
        let head = HeadV1 {
            version: 3,
            serial: 9,
            account: u128::MAX,
            bytes: 70,
            created_ms: 1,
            updated_ms: 2,
            expires_ms: Some(3),
            writer: "lyra".into(),
            tags: vec!["a".into()],
            signature: Some(SignatureV1 {
                public_key: [7; 32],
                value: vec![1; 64],
            }),
        };
        let row = head.row("{\"a\": 1}");
        assert_eq!(HeadV1::read_head(&row).unwrap(), (head.clone(), 8));
        assert_eq!(HeadV1::read(&row).unwrap(), (head, "{\"a\": 1}"));
        assert!(HeadV1::read(&[]).is_err());
        assert!(HeadV1::read(&row[..10]).is_err());
        let mut later = row.clone();
        later[0] = 2;
        assert!(HeadV1::read(&later).is_err());
        let mut not_text = row;
        not_text.push(0xff);
        assert!(HeadV1::read(&not_text).is_err());
        // A list does not look at it.
        assert_eq!(HeadV1::read_head(&not_text).unwrap().1, 9);
    }
}
