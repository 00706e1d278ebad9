//! The machines of a federation from outside: with signed ads, a clock that the test moves, and
//! partners that mean harm.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod admission;
mod directory;
mod flood;
mod own_ads;
mod reconcile;

use std::{sync::Arc, time::Duration};

use aither_federation::{Directory, DirectorySettings, Source, Standing, Verdict, Via};
use aither_protocol::{
    Ad, AdFlags, FederationId, NodeId, SkillHash, SubjectKind, UnixTime, Verified, ad::Offer,
    limits,
};
use ed25519_dalek::SigningKey;

/// A moment of the tests.
const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn key(number: u32) -> SigningKey {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&bytes)
}

fn node(number: u32) -> NodeId {
    key(number).verifying_key().into()
}

fn federation() -> FederationId {
    key(0).verifying_key().into()
}

/// An agent of a node, with one skill and a price.
fn ad(number: u32, name: &str) -> Ad {
    Ad {
        node: node(number),
        kind: SubjectKind::Agent,
        name: name.to_owned(),
        epoch: NOW.seconds(),
        sequence: 1,
        issued: NOW,
        expires: NOW.plus(limits::AD_LIFE_MAX),
        offer: Some(Offer {
            card_hash: Some([7; 32]),
            skills: vec![SkillHash::of("translate")],
            price_micros: 1000,
            flags: AdFlags::default(),
        }),
    }
}

/// The same subject, later.
fn later(ad: &Ad, sequence: u64, after: Duration) -> Ad {
    let mut ad = ad.clone();
    ad.sequence = sequence;
    ad.issued = ad.issued.plus(after);
    ad.expires = ad.expires.plus(after);
    ad
}

fn tombstone(ad: &Ad, sequence: u64) -> Ad {
    let mut grave = ad.clone();
    grave.sequence = sequence;
    grave.offer = None;
    grave.expires = grave.issued.plus(limits::TOMBSTONE_LIFE);
    grave
}

/// Signs with the key of a numbered node.
fn sign(number: u32, ad: &Ad) -> Arc<Verified<Ad>> {
    Arc::new(ad.sign(&key(number), &federation()).unwrap())
}

fn gossip(peer: u32) -> Source {
    Source {
        via: Via::Gossip(node(peer)),
        standing: Standing::Known,
    }
}

fn directory() -> Directory {
    Directory::new(DirectorySettings::closed())
}

/// Takes ads of a peer, all of which must be accepted.
fn with(ads: &[Arc<Verified<Ad>>]) -> Directory {
    let mut directory = directory();
    for ad in ads {
        assert_eq!(directory.offer(ad, gossip(900), ad.issued), Verdict::Accept);
    }
    directory
}
