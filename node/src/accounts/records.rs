//! What the tables' values hold: a version byte, then postcard.
//!
//! A type is named by the version that introduced it and never changes; a later one is a type of
//! its own, made from it. Words, not positions, name plans, so that the enum may grow anywhere.

use std::time::SystemTime;

use redb::StorageError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use ulid::Ulid;

use super::{Account, AccountId, AccountState, KeyInfo, secret::SecretHash, time_of};

/// A value of a table.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// The byte before it.
    const VERSION: u8;

    /// Returns the value's bytes.
    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![Self::VERSION])
            .expect("plain records have no value that postcard cannot write")
    }

    /// Reads a value back.
    fn decode(bytes: &[u8]) -> Result<Self, redb::Error> {
        let what = std::any::type_name::<Self>().rsplit("::").next();
        let corrupt = || {
            let message = format!("a value is no {}", what.unwrap_or_default());
            redb::Error::from(StorageError::Corrupted(message))
        };
        match bytes.split_first() {
            Some((version, rest)) if *version == Self::VERSION => {
                match postcard::take_from_bytes(rest) {
                    Ok((value, [])) => Ok(value),
                    _ => Err(corrupt()),
                }
            }
            _ => Err(corrupt()),
        }
    }
}

/// An account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AccountV1 {
    pub(super) email: String,
    /// A PHC string; none for an account that the operator made without a password.
    pub(super) password_hash: Option<String>,
    pub(super) plan: String,
    pub(super) created_ms: u64,
    pub(super) is_disabled: bool,
    /// Whether those who wanted to know that it was made were told.
    pub(super) is_announced: bool,
}

/// An API key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyV1 {
    pub(super) id: u128,
    pub(super) account: u128,
    pub(super) prefix: String,
    pub(super) made_ms: u64,
    pub(super) last_used_ms: Option<u64>,
    pub(super) expires_ms: Option<u64>,
    /// The login that it came from.
    pub(super) family: Option<SecretHash>,
}

/// A login: its refresh tokens follow each other, and one works at a time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FamilyV1 {
    pub(super) account: u128,
    pub(super) made_ms: u64,
    pub(super) expires_ms: u64,
    /// The token that works.
    pub(super) current: SecretHash,
}

impl Record for AccountV1 {
    const VERSION: u8 = 1;
}

impl Record for KeyV1 {
    const VERSION: u8 = 1;
}

impl Record for FamilyV1 {
    const VERSION: u8 = 1;
}

impl AccountV1 {
    /// Returns the account without its secret.
    pub(super) fn account(&self, id: AccountId) -> Result<Account, redb::Error> {
        let unknown = |_| StorageError::Corrupted("an account has an unknown plan".into());
        Ok(Account {
            id,
            email: self.email.clone(),
            plan: self.plan.parse().map_err(unknown)?,
            state: if self.is_disabled {
                AccountState::Disabled
            } else {
                AccountState::Active
            },
            created: time_of(self.created_ms),
        })
    }
}

impl KeyV1 {
    /// Returns the key's description, with what memory knows better than the disk.
    pub(super) fn info(&self, last_used: Option<SystemTime>) -> KeyInfo {
        KeyInfo {
            id: Ulid(self.id),
            prefix: self.prefix.clone(),
            made: time_of(self.made_ms),
            last_used,
            expires: self.expires_ms.map(time_of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KeyV1 {
        KeyV1 {
            id: 7,
            account: 1 << 127,
            prefix: "aither_sk_12345678".into(),
            made_ms: 1_700_000_000_000,
            last_used_ms: None,
            expires_ms: Some(1_700_000_000_001),
            family: Some([9; 32]),
        }
    }

    #[test]
    fn values_read_back_and_anything_else_is_refused() {
        let bytes = key().encode();
        assert_eq!(bytes[0], 1);
        assert!(KeyV1::decode(&bytes).unwrap() == key());
        let mut newer = bytes.clone();
        newer[0] = 2;
        let mut longer = bytes.clone();
        longer.push(0);
        for bad in [&[][..], &[1], &newer, &longer, &bytes[..bytes.len() - 1]] {
            assert!(KeyV1::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn regression_the_layout_of_version_1_does_not_move() {
        let bytes = FamilyV1 {
            account: 300,
            made_ms: 1,
            expires_ms: 2,
            current: [3; 32],
        }
        .encode();
        let mut expected = vec![1, 0xac, 0x02, 1, 2];
        expected.extend([3; 32]);
        assert_eq!(bytes, expected);
    }
}
