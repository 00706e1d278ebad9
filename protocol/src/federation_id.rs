//! Which federation is meant: the public key of its root, which lies in a file apart from any
//! node's.
//!
//! In text it is `fed-` and the key in base58btc, so that nobody takes it for a peer id, which is
//! a public key too.

use std::{fmt, str::FromStr};

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What the text of a federation's id starts with.
const TEXT_PREFIX: &str = "fed-";
/// Length of an ed25519 public key.
const KEY_LEN: usize = 32;
/// Longest text that is decoded; base58 of 32 bytes has at most 44 characters.
const TEXT_LEN_MAX: usize = TEXT_PREFIX.len() + 44;

/// A federation's id: the ed25519 public key of its root.
///
/// Invariant: the bytes are a valid point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FederationId([u8; KEY_LEN]);

/// Why a text or a byte string is no federation's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a federation, which is `fed-` and a public key in base58")]
pub struct InvalidFederationId;

impl FederationId {
    /// Takes a public key's 32 bytes.
    ///
    /// # Errors
    /// When they are no point of the curve.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Result<Self, InvalidFederationId> {
        VerifyingKey::from_bytes(&bytes)
            .map(Self::from)
            .map_err(|_| InvalidFederationId)
    }

    /// Returns the public key's bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl From<VerifyingKey> for FederationId {
    fn from(key: VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

impl AsRef<[u8]> for FederationId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for FederationId {
    type Err = InvalidFederationId;

    fn from_str(text: &str) -> Result<Self, InvalidFederationId> {
        if text.len() > TEXT_LEN_MAX {
            return Err(InvalidFederationId);
        }
        let encoded = text.strip_prefix(TEXT_PREFIX).ok_or(InvalidFederationId)?;
        let mut bytes = [0; KEY_LEN];
        let decoded = bs58::decode(encoded).onto(&mut bytes);
        match decoded {
            Ok(KEY_LEN) => Self::from_bytes(bytes),
            _ => Err(InvalidFederationId),
        }
    }
}

impl fmt::Display for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!(
            "{TEXT_PREFIX}{}",
            bs58::encode(self.0).into_string()
        ))
    }
}

impl fmt::Debug for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FederationId({self})")
    }
}

impl Serialize for FederationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FederationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::NodeId;

    #[test]
    fn ids_survive_text_and_are_no_peer_ids() {
        let key = SigningKey::from_bytes(&[3; 32]).verifying_key();
        let id = FederationId::from(key);
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert!(text.parse::<NodeId>().is_err());
        let peer = NodeId::from(key).to_string();
        assert_eq!(peer.parse::<FederationId>(), Err(InvalidFederationId));
        for wrong in ["", "fed-", "fed-0", &text[..40], &"fed-1".repeat(1000)] {
            assert_eq!(
                wrong.parse::<FederationId>(),
                Err(InvalidFederationId),
                "{wrong}"
            );
        }
    }
}
