//! The chain of MACs: each is the key of the next, so that it can be extended and not cut.
//!
//! All that is secret about a token passes through here. MACs are wiped when dropped and compared
//! in constant time.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::RootKey;
use crate::version;

/// Length of a MAC.
pub(super) const MAC_BYTES: usize = 32;

/// A chain up to some caveat.
#[derive(Clone)]
pub(super) struct Chain(Zeroizing<[u8; MAC_BYTES]>);

impl Chain {
    /// Starts at an identifier. The root key itself only makes the key of this construction, so
    /// that it may serve others beside it.
    pub(super) fn start(root: &RootKey, header: &[u8]) -> Self {
        let key = hmac_sha256(&root.0, version::CAPABILITY_TOKEN_KEY_DOMAIN);
        Self(hmac_sha256(&key, header))
    }

    /// Goes on where a token ends.
    pub(super) fn resume(mac: &Zeroizing<[u8; MAC_BYTES]>) -> Self {
        Self(mac.clone())
    }

    /// Returns the chain with a caveat more.
    pub(super) fn extended(&self, caveat: &[u8]) -> Self {
        Self(hmac_sha256(&self.0, caveat))
    }

    /// Returns the name of the allowance that the last caveat made.
    ///
    /// It stands for everything up to that caveat, so only tokens that share all of it share the
    /// allowance, and it says nothing about the MAC, which could extend the chain.
    pub(super) fn allowance_id(&self) -> u128 {
        let hash = Sha256::new_with_prefix(version::CAPABILITY_ALLOWANCE_DOMAIN)
            .chain_update(*self.0)
            .finalize();
        let high = hash.iter().take(size_of::<u128>());
        high.fold(0, |id, byte| id << 8 | u128::from(*byte))
    }

    /// Returns whether this is the MAC at the end, without telling by time where it differs.
    pub(super) fn ends_with(&self, mac: &[u8; MAC_BYTES]) -> bool {
        self.0.ct_eq(mac).into()
    }

    /// Returns the MAC at the end.
    pub(super) fn into_mac(self) -> Zeroizing<[u8; MAC_BYTES]> {
        self.0
    }
}

fn hmac_sha256(key: &[u8; MAC_BYTES], message: &[u8]) -> Zeroizing<[u8; MAC_BYTES]> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    Zeroizing::new(mac.chain_update(message).finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 1, whose key of 20 bytes HMAC itself fills up with zeros.
    #[test]
    fn macs_are_those_of_the_standard() {
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let mac = hmac_sha256(&key, b"Hi There");
        assert_eq!(mac[..4], [0xb0, 0x34, 0x4c, 0x61]);
        assert_eq!(mac[28..], [0x2e, 0x32, 0xcf, 0xf7]);
    }

    #[test]
    fn an_allowance_is_named_by_everything_before_it() {
        let root = RootKey::from_bytes([7; 32]);
        let chain = Chain::start(&root, b"header").extended(b"caveat");
        let again = Chain::start(&root, b"header").extended(b"caveat");
        assert_eq!(again.allowance_id(), chain.allowance_id());
        let other = Chain::start(&root, b"another").extended(b"caveat");
        assert_ne!(other.allowance_id(), chain.allowance_id());
        let longer = chain.extended(b"caveat");
        assert_ne!(longer.allowance_id(), chain.allowance_id());
    }
}
