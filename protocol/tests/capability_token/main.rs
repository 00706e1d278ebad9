//! Capability tokens as an attacker sees them: texts that can be taken apart, changed and put
//! together again, by somebody who has read how they are made.
//!
//! A holder has the MAC at the end of his token, so whatever he appends is genuine. That is tried
//! too: a genuine caveat of any bytes must be refused or take something away.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod bounds;
mod forged;
mod grants;
mod properties;

use aither_protocol::{
    Amount, CAPABILITY_TOKEN_PREFIX, CapabilityToken, CapabilityTokenError as Error, Caveat, Grant,
    RootKey, Tier, TokenId,
};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const ID: TokenId = TokenId {
    key_id: 3,
    serial: 0x0190_0000_0000_0000_0000_0000_0000_0001,
    agent: 0x0190_0000_0000_0000_0000_0000_0000_0002,
};
const HEADER_BYTES: usize = 37;
const SKILLS: &[&str] = &["code.review", "search", "translate", "übersetzen"];

fn root() -> RootKey {
    RootKey::from_bytes([0x5a; 32])
}

fn mint(caveats: &[Caveat]) -> CapabilityToken {
    CapabilityToken::mint(&root(), ID, caveats).unwrap()
}

fn grant(caveats: &[Caveat]) -> Grant {
    mint(caveats).verify(&root()).unwrap()
}

/// One caveat of each kind.
fn one_of_each() -> Vec<Caveat> {
    vec![
        Caveat::Capabilities(Tier::Agent.capabilities()),
        Caveat::Agent("scout-2".into()),
        Caveat::Tier(Tier::Agent),
        Caveat::Expires(1_800_000_000_000),
        Caveat::MemoryTiers(Tier::Agent.memory_tiers()),
        Caveat::KeyPrefix("team/".into()),
        Caveat::MaxSpend(Amount::from_tokens(25)),
        Caveat::Skills(vec!["search".into(), "code.review".into()]),
        Caveat::Id(7),
    ]
}

/// A token's bytes, cut where an attacker would cut them.
#[derive(Clone)]
struct Parts {
    header: Vec<u8>,
    caveats: Vec<Vec<u8>>,
    mac: Vec<u8>,
}

impl Parts {
    fn of(capability_token: &CapabilityToken) -> Self {
        let bytes = bytes_of(&capability_token.to_text());
        let (header, rest) = bytes.split_at(HEADER_BYTES);
        let (mut rest, mac) = rest.split_at(rest.len() - 32);
        let mut caveats = Vec::new();
        while let [_, high, low, ..] = *rest {
            let (caveat, after) = rest.split_at(3 + usize::from(u16::from_be_bytes([high, low])));
            caveats.push(caveat.to_vec());
            rest = after;
        }
        assert!(rest.is_empty());
        Self {
            header: header.to_vec(),
            caveats,
            mac: mac.to_vec(),
        }
    }

    /// Appends as a holder does, who has the MAC and writes what he likes.
    fn append(&mut self, caveat: Vec<u8>) {
        let mac = Hmac::<Sha256>::new_from_slice(&self.mac).unwrap();
        self.mac = mac.chain_update(&caveat).finalize().into_bytes().to_vec();
        self.caveats.push(caveat);
    }

    fn text(&self) -> String {
        text_of(&[&*self.header, &self.caveats.concat(), &self.mac].concat())
    }
}

fn bytes_of(text: &str) -> Vec<u8> {
    let encoded = text.strip_prefix(CAPABILITY_TOKEN_PREFIX).unwrap();
    Base64UrlUnpadded::decode_vec(encoded).unwrap()
}

fn text_of(bytes: &[u8]) -> String {
    let encoded = Base64UrlUnpadded::encode_string(bytes);
    format!("{CAPABILITY_TOKEN_PREFIX}{encoded}")
}

fn raw(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

fn read(text: &str) -> Result<Grant, Error> {
    CapabilityToken::parse(text)?.verify(&root())
}

/// What a holder gets who appends this to a token without caveats.
fn appended(kind: u8, value: &[u8]) -> Result<Grant, Error> {
    let mut parts = Parts::of(&mint(&[]));
    parts.append(raw(kind, value));
    read(&parts.text())
}
