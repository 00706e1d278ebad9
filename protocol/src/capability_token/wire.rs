//! A token's bytes: a header of fixed width, then caveats as kind, length and value.
//!
//! Lengths are fixed-width and numbers big-endian, so that everything has one encoding and two
//! different byte strings never mean the same. Nothing here allocates or trusts a length.

use super::{CapabilityTokenError, TokenId};
use crate::version;

/// Length of version, key id, serial and agent.
pub(super) const HEADER_BYTES: usize = 1 + 4 + 16 + 16;

/// Kinds of caveats. A number is never used for something else.
pub(super) mod kind {
    pub(crate) const CAPABILITIES: u8 = 1;
    pub(crate) const AGENT: u8 = 2;
    pub(crate) const TIER: u8 = 3;
    pub(crate) const EXPIRES: u8 = 4;
    pub(crate) const MEMORY_TIERS: u8 = 5;
    pub(crate) const KEY_PREFIX: u8 = 6;
    pub(crate) const MAX_SPEND: u8 = 7;
    pub(crate) const SKILLS: u8 = 8;
    pub(crate) const ID: u8 = 9;
}

/// A caveat as it stands in a token.
#[derive(Clone, Copy)]
pub(super) struct RawCaveat<'a> {
    pub(super) kind: u8,
    pub(super) value: &'a [u8],
    /// Kind, length and value: what the MAC is over.
    pub(super) bytes: &'a [u8],
}

/// The caveats of a token, in order; ends after the first that is not whole.
pub(super) struct RawCaveats<'a>(&'a [u8]);

impl RawCaveat<'_> {
    /// Returns whether it bounds what is spent.
    pub(super) fn is_allowance(self) -> bool {
        self.kind == kind::MAX_SPEND
    }
}

impl<'a> RawCaveats<'a> {
    pub(super) fn new(caveats: &'a [u8]) -> Self {
        Self(caveats)
    }
}

impl<'a> Iterator for RawCaveats<'a> {
    type Item = Result<RawCaveat<'a>, CapabilityTokenError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((caveat, rest)) = split_caveat(self.0) else {
            self.0 = &[];
            return Some(Err(CapabilityTokenError::Malformed(
                "a caveat is cut short",
            )));
        };
        self.0 = rest;
        Some(Ok(caveat))
    }
}

fn split_caveat(bytes: &[u8]) -> Option<(RawCaveat<'_>, &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (value, rest) = rest.split_at_checked(length)?;
    let (bytes, _) = bytes.split_at_checked(3 + length)?;
    Some((RawCaveat { kind, value, bytes }, rest))
}

/// Writes a caveat; `None` when its value is too long for a length of 16 bits.
pub(super) fn caveat(kind: u8, value: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(value.len()).ok()?;
    let mut bytes = Vec::with_capacity(3 + value.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
    Some(bytes)
}

/// Writes what comes before the caveats.
pub(super) fn header(id: TokenId) -> [u8; HEADER_BYTES] {
    let mut bytes = [version::CAPABILITY_TOKEN; HEADER_BYTES];
    bytes[1..5].copy_from_slice(&id.key_id.to_be_bytes());
    bytes[5..21].copy_from_slice(&id.serial.to_be_bytes());
    bytes[21..].copy_from_slice(&id.agent.to_be_bytes());
    bytes
}

/// Reads what comes before the caveats, and returns the rest.
pub(super) fn read_header(bytes: &[u8]) -> Result<(TokenId, &[u8]), CapabilityTokenError> {
    const CUT_SHORT: CapabilityTokenError = CapabilityTokenError::Malformed("cut short");
    let (&version, rest) = bytes.split_first().ok_or(CUT_SHORT)?;
    if version != version::CAPABILITY_TOKEN {
        return Err(CapabilityTokenError::UnknownVersion(version));
    }
    let (key_id, rest) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
    let (serial, rest) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
    let (agent, rest) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
    let id = TokenId {
        key_id: u32::from_be_bytes(*key_id),
        serial: u128::from_be_bytes(*serial),
        agent: u128::from_be_bytes(*agent),
    };
    Ok((id, rest))
}
