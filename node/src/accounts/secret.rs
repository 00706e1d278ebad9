//! Secrets that are handed out: API keys and refresh tokens.
//!
//! Both are random bytes from the operating system in base58, behind a prefix by which a leaked
//! one can be recognised. Only their SHA-256 is kept. A refresh token has two halves: one names
//! its login, the other changes with each use; so one that was used before is told from one that
//! never was without remembering every one of them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::StoreError;

/// Begins every key of an account.
pub(crate) const ACCOUNT_KEY_PREFIX: &str = "aither_sk_";
/// Begins every key of an agent.
pub(crate) const AGENT_KEY_PREFIX: &str = "aither_ak_";
/// Begins every refresh token.
const REFRESH_PREFIX: &str = "aither_rt_";
/// 256 bits.
const SECRET_BYTES: usize = 32;
/// The half of a refresh token that names the login: 128 bits, for nobody may guess it.
const HANDLE_BYTES: usize = 16;
/// How much of a key is shown again: its prefix and 47 bits, which name it among an account's.
const SHOWN_BYTES: usize = ACCOUNT_KEY_PREFIX.len() + 8;
/// No secret that is handed out is longer; more is not even hashed.
const SECRET_TEXT_BYTES_MAX: usize = 128;

/// A secret's SHA-256.
pub(crate) type SecretHash = [u8; 32];

/// A secret as text: a password, a key, a refresh token. Its `Debug` does not show it; serializing
/// it does, since that is how it reaches its owner.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Returns the secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A key that was just made.
#[derive(Debug)]
pub(crate) struct NewKey {
    pub(crate) text: SecretText,
    pub(crate) hash: SecretHash,
    pub(crate) prefix: String,
}

impl NewKey {
    /// Makes a key that begins with one of the prefixes of this module.
    pub(crate) fn make(prefix: &str) -> Result<Self, StoreError> {
        let bytes: Zeroizing<[u8; SECRET_BYTES]> = random()?;
        let text = with_prefix(prefix, bytes.as_slice());
        Ok(Self {
            hash: hash_of(text.reveal()),
            prefix: text.reveal()[..SHOWN_BYTES.min(text.reveal().len())].to_owned(),
            text,
        })
    }
}

/// Returns the hash under which a presented key would be kept; `None` for what is no such key.
pub(crate) fn key_hash(prefix: &str, presented: &str) -> Option<SecretHash> {
    let fits = presented.starts_with(prefix) && presented.len() <= SECRET_TEXT_BYTES_MAX;
    fits.then(|| hash_of(presented))
}

/// A refresh token, taken apart.
#[derive(Debug)]
pub(super) struct RefreshToken {
    pub(super) text: SecretText,
    /// What the login is known by.
    pub(super) family: SecretHash,
    /// What this one is known by.
    pub(super) hash: SecretHash,
}

impl RefreshToken {
    /// Makes the first of a login.
    pub(super) fn first() -> Result<Self, StoreError> {
        let handle: Zeroizing<[u8; HANDLE_BYTES]> = random()?;
        Self::with_handle(handle.as_slice())
    }

    /// Makes the one that follows.
    pub(super) fn next(&self) -> Result<Self, StoreError> {
        let bytes = decode(self.text.reveal()).ok_or(StoreError::NoRandomness)?;
        Self::with_handle(&bytes[..HANDLE_BYTES])
    }

    /// Reads a presented one; `None` for what never was one.
    pub(super) fn parse(presented: &SecretText) -> Option<Self> {
        let bytes = decode(presented.reveal())?;
        Some(Self::of(presented.clone(), &bytes[..HANDLE_BYTES]))
    }

    fn with_handle(handle: &[u8]) -> Result<Self, StoreError> {
        let secret: Zeroizing<[u8; SECRET_BYTES]> = random()?;
        let mut bytes = Zeroizing::new([0; HANDLE_BYTES + SECRET_BYTES]);
        bytes[..HANDLE_BYTES].copy_from_slice(handle);
        bytes[HANDLE_BYTES..].copy_from_slice(secret.as_slice());
        Ok(Self::of(
            with_prefix(REFRESH_PREFIX, bytes.as_slice()),
            handle,
        ))
    }

    fn of(text: SecretText, handle: &[u8]) -> Self {
        Self {
            family: Sha256::digest(handle).into(),
            hash: hash_of(text.reveal()),
            text,
        }
    }
}

fn decode(text: &str) -> Option<Zeroizing<[u8; HANDLE_BYTES + SECRET_BYTES]>> {
    let encoded = text.strip_prefix(REFRESH_PREFIX)?;
    if text.len() > SECRET_TEXT_BYTES_MAX {
        return None;
    }
    let mut bytes = Zeroizing::new([0; HANDLE_BYTES + SECRET_BYTES]);
    let len = bs58::decode(encoded).onto(bytes.as_mut_slice()).ok()?;
    (len == bytes.len()).then_some(bytes)
}

fn with_prefix(prefix: &str, bytes: &[u8]) -> SecretText {
    let encoded = Zeroizing::new(bs58::encode(bytes).into_string());
    SecretText::from(format!("{prefix}{}", *encoded))
}

fn hash_of(text: &str) -> SecretHash {
    Sha256::digest(text.as_bytes()).into()
}

/// Returns random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, StoreError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| StoreError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_hash_and_shown_by_their_beginning() {
        let key = NewKey::make(ACCOUNT_KEY_PREFIX).unwrap();
        assert_eq!(
            key_hash(ACCOUNT_KEY_PREFIX, key.text.reveal()),
            Some(key.hash)
        );
        assert!(key.text.reveal().starts_with(&key.prefix));
        assert!(key.prefix.len() < key.text.reveal().len() / 2);
        assert_ne!(NewKey::make(ACCOUNT_KEY_PREFIX).unwrap().hash, key.hash);
        for text in ["", "aither_admin_x", "aither_sk", &"aither_sk_".repeat(20)] {
            assert_eq!(key_hash(ACCOUNT_KEY_PREFIX, text), None, "{text}");
        }
    }

    #[test]
    fn refresh_tokens_of_one_login_share_its_name_and_nothing_else() {
        let first = RefreshToken::first().unwrap();
        let next = first.next().unwrap();
        assert_eq!(first.family, next.family);
        assert_ne!(first.hash, next.hash);
        assert_ne!(RefreshToken::first().unwrap().family, first.family);
        let parsed = RefreshToken::parse(&next.text).unwrap();
        assert_eq!((parsed.family, parsed.hash), (next.family, next.hash));
    }

    #[test]
    fn what_was_never_a_refresh_token_is_told() {
        let good = RefreshToken::first().unwrap().text;
        let cut = &good.reveal()[..good.reveal().len() - 4];
        for text in [
            "",
            "aither_rt_",
            "aither_rt_0OIl",
            cut,
            &"aither_rt_1".repeat(20),
        ] {
            assert!(
                RefreshToken::parse(&text.to_owned().into()).is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let key = NewKey::make(ACCOUNT_KEY_PREFIX).unwrap();
        let printed = format!("{key:?} {:?}", RefreshToken::first().unwrap());
        assert!(printed.contains("***") && !printed.contains(key.text.reveal()));
    }
}
