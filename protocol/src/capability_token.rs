//! Capability tokens: what an agent may do, in a text that its holder can narrow by himself.
//!
//! The construction is that of macaroons, without third parties. A token is an identifier, caveats
//! that each take something away, and a MAC that is chained over them:
//!
//! ```text
//! key       = HMAC-SHA-256(root key, "aither capability token v1")
//! mac[0]    = HMAC-SHA-256(key, header)            header: version, key id, serial, agent
//! mac[i]    = HMAC-SHA-256(mac[i-1], caveat[i])    caveat: kind, length, value
//! token     = header | caveat[1] | … | caveat[n] | mac[n]
//! allowance = SHA-256("aither capability allowance v1" | mac[i])[0..16]
//! ```
//!
//! Whoever has `mac[n]` can append, and nobody can take a caveat off without the root key. The MAC
//! is over the bytes as they came; there is one encoding only, so nothing is ever made canonical.
//! Every byte is written down in `docs/protocol/capability-token.md`, and why it is so in
//! `docs/adr/0007-capability-tokens.md`.

mod caveat;
mod chain;
mod error;
mod grant;
mod wire;

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use zeroize::Zeroizing;

pub use caveat::Caveat;
pub use error::CapabilityTokenError;
pub use grant::{Allowance, Grant};

use crate::limits;
use chain::{Chain, MAC_BYTES};
use grant::Link;
use wire::RawCaveats;

/// What the text of a capability token starts with.
pub const CAPABILITY_TOKEN_PREFIX: &str = "aither_ct_";

/// The secret that a node mints and verifies tokens with. Wiped when dropped.
pub struct RootKey(Zeroizing<[u8; 32]>);

/// What a token is minted with, and keeps however it is narrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId {
    /// Which of the node's root keys it was minted with.
    pub key_id: u32,
    /// The number of this token, a ULID's.
    pub serial: u128,
    /// The agent that it speaks for, by the number of its ULID.
    pub agent: u128,
}

/// A token that was read and not verified: nothing that it says may be relied on.
///
/// Invariant: the caveats are whole, within the limits, and those of a known kind well-formed.
#[derive(Clone)]
pub struct CapabilityToken {
    id: TokenId,
    /// As received: the MAC is over these bytes.
    caveats: Vec<u8>,
    /// The end of the chain. It is what a holder needs to narrow, hence as secret as a key.
    mac: Zeroizing<[u8; MAC_BYTES]>,
}

impl RootKey {
    /// Takes a key's bytes, which must come from a secure random source.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

/// Never the key.
impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(***)")
    }
}

impl CapabilityToken {
    /// Makes a token with a root key.
    ///
    /// # Errors
    /// When a caveat is out of bounds, or there are too many.
    pub fn mint(
        root: &RootKey,
        id: TokenId,
        caveats: &[Caveat],
    ) -> Result<Self, CapabilityTokenError> {
        let bare = Self {
            id,
            caveats: Vec::new(),
            mac: Chain::start(root, &wire::header(id)).into_mac(),
        };
        bare.narrow(caveats)
    }

    /// Makes a token that has these caveats too. This needs no key.
    ///
    /// The same caveats make the same token, which shares its allowances: put a [`Caveat::Id`]
    /// before a [`Caveat::MaxSpend`] where two holders shall each have an allowance.
    ///
    /// # Errors
    /// When a caveat is out of bounds, or there are too many.
    pub fn narrow(&self, caveats: &[Caveat]) -> Result<Self, CapabilityTokenError> {
        if caveats.len() > limits::CAPABILITY_CAVEATS_MAX {
            return Err(CapabilityTokenError::TooManyCaveats);
        }
        let mut bytes = self.caveats.clone();
        let mut chain = Chain::resume(&self.mac);
        for caveat in caveats {
            let encoded = caveat.encode()?;
            chain = chain.extended(&encoded);
            bytes.extend_from_slice(&encoded);
        }
        let narrowed = Self {
            id: self.id,
            caveats: bytes,
            mac: chain.into_mac(),
        };
        narrowed.check()?;
        Ok(narrowed)
    }

    /// Reads a token's text. What it says is not verified.
    ///
    /// Caveats of an unknown kind are kept, so that a token of a newer node can be narrowed and
    /// handed on; [`verify`](Self::verify) refuses them.
    ///
    /// # Errors
    /// When the text is no token of this version, or beyond the limits.
    pub fn parse(text: &str) -> Result<Self, CapabilityTokenError> {
        if text.len() > limits::CAPABILITY_TOKEN_BYTES_MAX {
            return Err(CapabilityTokenError::TooLong);
        }
        let encoded = text
            .strip_prefix(CAPABILITY_TOKEN_PREFIX)
            .ok_or(CapabilityTokenError::Malformed("its prefix is missing"))?;
        let bytes = Base64UrlUnpadded::decode_vec(encoded)
            .map(Zeroizing::new)
            .map_err(|_| CapabilityTokenError::Malformed("not base64url without padding"))?;
        let (id, rest) = wire::read_header(&bytes)?;
        let (caveats, mac) = rest
            .split_last_chunk()
            .ok_or(CapabilityTokenError::Malformed("cut short"))?;
        let read = Self {
            id,
            caveats: caveats.to_vec(),
            mac: Zeroizing::new(*mac),
        };
        read.check()?;
        Ok(read)
    }

    /// Returns its identifier, to look up the root key. It proves nothing before
    /// [`verify`](Self::verify).
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Returns its text: a secret, for whoever has it can use it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.bytes_len()));
        bytes.extend_from_slice(&wire::header(self.id));
        bytes.extend_from_slice(&self.caveats);
        bytes.extend_from_slice(&*self.mac);
        let encoded = Zeroizing::new(Base64UrlUnpadded::encode_string(&bytes));
        // At once in full length: a string that grows leaves copies behind.
        Zeroizing::new([CAPABILITY_TOKEN_PREFIX, &encoded].concat())
    }

    /// Verifies it and returns what all of its caveats leave. Expiry is for the caller to ask,
    /// who has a clock, and so is whether one of its ids was revoked.
    ///
    /// # Errors
    /// [`CapabilityTokenError::Forged`] unless it was minted with this key and narrowed since;
    /// [`CapabilityTokenError::UnknownCaveat`] when it holds a caveat that only a newer version
    /// could enforce.
    pub fn verify(&self, root: &RootKey) -> Result<Grant, CapabilityTokenError> {
        let mut chain = Chain::start(root, &wire::header(self.id));
        // Its capacity is the most that there are: a vector that grows leaves MACs behind.
        let mut links = Vec::with_capacity(limits::CAPABILITY_CAVEATS_MAX);
        for caveat in RawCaveats::new(&self.caveats) {
            let caveat = caveat?;
            chain = chain.extended(caveat.bytes);
            links.push(Link {
                caveat,
                chain: chain.clone(),
            });
        }
        // Nothing is made of the caveats before the MAC has been compared.
        if !chain.ends_with(&self.mac) {
            return Err(CapabilityTokenError::Forged);
        }
        Grant::of(self.id, &links)
    }

    /// Checks the invariant, however the caveats came.
    fn check(&self) -> Result<(), CapabilityTokenError> {
        let text_len = CAPABILITY_TOKEN_PREFIX.len() + (self.bytes_len() * 4).div_ceil(3);
        if text_len > limits::CAPABILITY_TOKEN_BYTES_MAX {
            return Err(CapabilityTokenError::TooLong);
        }
        let (mut caveats, mut allowances) = (0, 0);
        for caveat in RawCaveats::new(&self.caveats) {
            let caveat = caveat?;
            caveats += 1;
            allowances += usize::from(caveat.is_allowance());
            if caveats > limits::CAPABILITY_CAVEATS_MAX {
                return Err(CapabilityTokenError::TooManyCaveats);
            }
            if allowances > limits::CAPABILITY_ALLOWANCES_MAX {
                return Err(CapabilityTokenError::TooManyAllowances);
            }
            match Caveat::decode(caveat) {
                Ok(_) | Err(CapabilityTokenError::UnknownCaveat(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn bytes_len(&self) -> usize {
        wire::HEADER_BYTES + self.caveats.len() + MAC_BYTES
    }
}

/// Without the MAC, which is all that is secret about it.
impl fmt::Debug for CapabilityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = RawCaveats::new(&self.caveats).map(|caveat| caveat.and_then(Caveat::decode));
        f.debug_struct("CapabilityToken")
            .field("id", &self.id)
            .field("caveats", &known.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
