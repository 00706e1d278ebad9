//! Tokens that were changed by somebody who has no root key.

use aither_protocol::{
    Amount, CapabilitySet, CapabilityToken, CapabilityTokenError as Error, Caveat, RootKey, Tier,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{HEADER_BYTES, Parts, SKILLS, bytes_of, mint, one_of_each, raw, read, root, text_of};

#[test]
fn every_flipped_bit_is_refused() {
    let text = mint(&one_of_each()).to_text();
    let bytes = bytes_of(&text);
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&text_of(&changed)).is_err(), "bit {bit}");
    }
    for bit in 0..text.len() * 8 {
        let mut changed = text.as_bytes().to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(changed) = str::from_utf8(&changed) else {
            continue;
        };
        assert!(read(changed).is_err(), "{changed}");
    }
}

#[test]
fn every_piece_of_a_token_is_refused() {
    let text = mint(&one_of_each()).to_text();
    for end in 0..text.len() {
        assert!(read(&text[..end]).is_err(), "{end}");
    }
    let bytes = bytes_of(&text);
    for end in 0..bytes.len() {
        assert!(read(&text_of(&bytes[..end])).is_err(), "{end}");
        assert!(read(&text_of(&bytes[end + 1..])).is_err(), "{end}");
    }
    let longer = text_of(&[&*bytes, &[0]].concat());
    assert!(read(&longer).is_err());
}

#[test]
fn caveats_cannot_be_removed_moved_repeated_or_replaced() {
    let whole = Parts::of(&mint(&one_of_each()));
    assert!(read(&whole.text()).is_ok());
    for at in 0..whole.caveats.len() {
        let mut removed = whole.clone();
        removed.caveats.remove(at);
        check_forged(&removed.text(), "removed");
        let mut repeated = whole.clone();
        repeated.caveats.insert(at, whole.caveats[at].clone());
        check_forged(&repeated.text(), "repeated");
        for other in 0..at {
            let mut moved = whole.clone();
            moved.caveats.swap(at, other);
            check_forged(&moved.text(), "moved");
        }
    }
    let wider = [
        Caveat::Capabilities(CapabilitySet::all()),
        Caveat::Agent("boss".into()),
        Caveat::Tier(Tier::Orchestrator),
        Caveat::Expires(u64::MAX),
        Caveat::MemoryTiers(Tier::Orchestrator.memory_tiers()),
        Caveat::KeyPrefix("t".into()),
        Caveat::MaxSpend(Amount::MAX),
        Caveat::Skills(SKILLS.iter().map(|skill| (*skill).to_owned()).collect()),
        Caveat::Id(8),
    ];
    let wider = Parts::of(&mint(&wider)).caveats;
    for (at, caveat) in wider.into_iter().enumerate() {
        let mut widened = whole.clone();
        widened.caveats[at] = caveat;
        check_forged(&widened.text(), "widened");
    }
}

#[test]
fn a_parents_token_does_not_follow_from_that_of_its_child() {
    let parent = mint(&[Caveat::Tier(Tier::Agent)]);
    let child = parent.narrow(&[Caveat::Id(1)]).unwrap();
    let mut stripped = Parts::of(&child);
    stripped.caveats.pop();
    check_forged(&stripped.text(), "with the child's MAC");
    // Nor does a sibling's MAC fit.
    stripped.mac = Parts::of(&mint(&[Caveat::Tier(Tier::Reasoning)])).mac;
    check_forged(&stripped.text(), "with a sibling's MAC");
}

#[test]
fn other_root_keys_and_other_identifiers_are_refused() {
    let minted = mint(&one_of_each());
    let other = RootKey::from_bytes([0x5b; 32]);
    assert_eq!(minted.verify(&other), Err(Error::Forged));
    for at in 1..HEADER_BYTES {
        let mut parts = Parts::of(&minted);
        parts.header[at] ^= 1;
        check_forged(&parts.text(), "another identifier");
    }
}

#[test]
fn the_root_key_alone_is_not_the_key_of_the_chain() {
    let mut parts = Parts::of(&mint(&[]));
    let mac = Hmac::<Sha256>::new_from_slice(&[0x5a; 32]).unwrap();
    let mac = mac.chain_update(&parts.header);
    parts.mac = mac.finalize().into_bytes().to_vec();
    check_forged(&parts.text(), "without the domain");
}

#[test]
fn a_caveat_of_an_unknown_kind_is_handed_on_and_never_honoured() {
    for kind in [0, 10, 200, 255] {
        let mut parts = Parts::of(&mint(&[]));
        parts.append(raw(kind, b"whatever"));
        let held = CapabilityToken::parse(&parts.text()).unwrap();
        assert_eq!(held.verify(&root()), Err(Error::UnknownCaveat(kind)));
        let narrowed = held.narrow(&[Caveat::Id(1)]).unwrap().to_text();
        assert_eq!(read(&narrowed), Err(Error::UnknownCaveat(kind)));
        // Whoever has no genuine token does not learn even that.
        parts.mac[0] ^= 1;
        check_forged(&parts.text(), "unknown kind");
    }
}

#[track_caller]
fn check_forged(text: &str, what: &str) {
    assert_eq!(read(text), Err(Error::Forged), "{what}");
}
