//! Who a node is: an ed25519 public key, written as a libp2p peer id.
//!
//! The text form is base58btc of an identity multihash over the key's protobuf encoding, which is
//! why every ed25519 id starts with `12D3KooW`. The forms are fixed, so six constant bytes stand
//! for the whole encoder; a longer or different prefix is another key type and is refused.

use std::{fmt, str::FromStr};

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Multihash: identity code, 36 bytes of content; protobuf: field 1 (key type) is 1 (ed25519),
/// field 2 (data) has 32 bytes.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
/// Length of the decoded form.
const ENCODED_LEN: usize = PREFIX.len() + KEY_LEN;
/// Length of an ed25519 public key.
const KEY_LEN: usize = 32;
/// Longest text that is decoded; the real ones have 52 characters.
const TEXT_LEN_MAX: usize = 64;

/// A node's id: its ed25519 public key.
///
/// Invariant: the bytes are a valid point, so verification with them cannot fail to start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; KEY_LEN]);

/// Why a text or a byte string is no node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeIdError {
    /// Not base58btc, or far too long for a peer id.
    #[error("not a base58 peer id")]
    NotBase58,
    /// A peer id of another key type, or of a hashed key.
    #[error("not the peer id of an ed25519 key")]
    NotEd25519,
    /// The 32 bytes are no point of the curve.
    #[error("not a valid ed25519 public key")]
    InvalidKey,
}

impl NodeId {
    /// Takes a public key's 32 bytes.
    ///
    /// # Errors
    /// [`NodeIdError::InvalidKey`] when they are no point of the curve.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Result<Self, NodeIdError> {
        VerifyingKey::from_bytes(&bytes)
            .map(Self::from)
            .map_err(|_| NodeIdError::InvalidKey)
    }

    /// Returns the public key's bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Returns the public key as documents write it: `ed25519:` and 64 hexadecimal digits.
    pub fn public_key(&self) -> String {
        let mut text = String::with_capacity("ed25519:".len() + 2 * KEY_LEN);
        text.push_str("ed25519:");
        push_hex(&mut text, &self.0);
        text
    }
}

impl From<VerifyingKey> for NodeId {
    fn from(key: VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(NodeIdError::NotBase58);
        }
        let decoded = bs58::decode(text)
            .into_vec()
            .map_err(|_| NodeIdError::NotBase58)?;
        if decoded.len() != ENCODED_LEN {
            return Err(NodeIdError::NotEd25519);
        }
        let key = decoded
            .strip_prefix(&PREFIX)
            .ok_or(NodeIdError::NotEd25519)?;
        let key = key.try_into().map_err(|_| NodeIdError::NotEd25519)?;
        Self::from_bytes(key)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut encoded = [0; ENCODED_LEN];
        encoded[..PREFIX.len()].copy_from_slice(&PREFIX);
        encoded[PREFIX.len()..].copy_from_slice(&self.0);
        f.pad(&bs58::encode(encoded).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = String::with_capacity(2 * KEY_LEN);
        push_hex(&mut hex, &self.0);
        f.debug_tuple("NodeId")
            .field(&format_args!("{hex}"))
            .finish()
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the peer-id specification: this text and the CID
    /// `bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l` name the same key.
    const EXAMPLE_TEXT: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
    const EXAMPLE_HEX: &str = "2ffa35a99d3a3cfbb17bb7c1dc5561b18a8dcca4df38dc613ea859c37eb1336b";

    #[test]
    fn the_specifications_example_is_read_and_written() {
        let id: NodeId = EXAMPLE_TEXT.parse().unwrap();
        assert_eq!(id.to_string(), EXAMPLE_TEXT);
        assert_eq!(id.public_key(), format!("ed25519:{EXAMPLE_HEX}"));
        assert_eq!(format!("{id:?}"), format!("NodeId({EXAMPLE_HEX})"));
    }

    #[test]
    fn the_specifications_key_vector_has_this_id() {
        // The protobuf-encoded public key of the specification, without its four header bytes.
        let key = [
            0x1e, 0xd1, 0xe8, 0xfa, 0xe2, 0xc4, 0xa1, 0x44, 0xb8, 0xbe, 0x8f, 0xd4, 0xb4, 0x7b,
            0xf3, 0xd3, 0xb3, 0x4b, 0x87, 0x1c, 0x3c, 0xac, 0xf6, 0x01, 0x0f, 0x0e, 0x42, 0xd4,
            0x74, 0xfc, 0xe2, 0x7e,
        ];
        let id = NodeId::from_bytes(key).unwrap();
        assert_eq!(
            id.to_string(),
            "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
        );
    }

    #[test]
    fn ids_survive_json() {
        let id: NodeId = EXAMPLE_TEXT.parse().unwrap();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{EXAMPLE_TEXT}\""));
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
    }

    #[test]
    fn texts_that_are_no_ed25519_peer_id_are_refused() {
        let cases = [
            ("", NodeIdError::NotEd25519),
            ("0OIl", NodeIdError::NotBase58),
            // A hashed RSA key.
            (
                "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
                NodeIdError::NotEd25519,
            ),
            (&EXAMPLE_TEXT[..51], NodeIdError::NotEd25519),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<NodeId>(), Err(expected), "{text:?}");
        }
        assert_eq!(
            "1".repeat(10_000).parse::<NodeId>(),
            Err(NodeIdError::NotBase58)
        );
    }

    #[test]
    fn bytes_that_are_no_point_are_refused() {
        let mut not_a_point = [0; 32];
        not_a_point[0] = 2;
        assert_eq!(
            NodeId::from_bytes(not_a_point),
            Err(NodeIdError::InvalidKey)
        );
    }
}
