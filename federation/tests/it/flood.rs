//! A peer that sends without end: what it sends is bounded here, and it loses its score.

use std::sync::Arc;

use aither_federation::{
    Directory, DirectorySettings, Reason, Source, Standing, Verdict, Via, directory::Rate,
};
use aither_protocol::{Signed, SubjectKind};

use super::{MINUTE, NOW, ad, node, sign};

/// Ads in the flood, each of which is made by changing a number.
const FLOOD: u64 = 20_000;

fn stranger(peer: u32) -> Source {
    let address = std::net::IpAddr::from([192, 0, 2, 7]);
    Source {
        via: Via::Gossip(node(peer)),
        standing: Standing::Stranger(aither_federation::AddressPrefix::of(address)),
    }
}

#[test]
fn flood_of_one_subject_leaves_one_ad_and_a_rejected_peer() {
    let mut directory = Directory::new(DirectorySettings::open());
    let first = sign(1, &ad(1, "a"));
    assert_eq!(directory.offer(&first, stranger(2), NOW), Verdict::Accept);
    // Nobody verifies what is not worth it, so these need no signature: the claim is enough.
    let mut rejected = 0;
    let mut bytes = first.as_bytes().to_vec();
    for number in 0..FLOOD {
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&number.to_be_bytes());
        let mut old = bytes.clone();
        // The sequence, a byte after its key and the five bytes of the epoch, goes back to 0.
        let sequence = old.windows(2).position(|pair| pair == [5, 1]).unwrap() + 1;
        old[sequence] = 0;
        let received = Signed::parse(&old).unwrap();
        match directory.screen(&received, stranger(2), NOW) {
            Some(Verdict::Ignore(Reason::Stale)) => {}
            Some(Verdict::Reject(Reason::Stale)) => rejected += 1,
            other => panic!("{other:?}"),
        }
    }
    let burst = u64::from(DirectorySettings::open().useless_rate.burst);
    assert_eq!(rejected, FLOOD - burst);
    assert_eq!(directory.len(), 1);
}

#[test]
fn ads_of_invented_nodes_fill_no_more_than_their_part() {
    let settings = DirectorySettings {
        strangers_max: 300,
        strangers_per_prefix_max: 100,
        ads_per_stranger_max: 2,
        useless_rate: Rate {
            burst: 50,
            interval: MINUTE,
        },
        ..DirectorySettings::open()
    };
    let mut directory = Directory::new(settings);
    let mut verdicts = std::collections::BTreeMap::new();
    for number in 1..1000 {
        for (kind, name) in [(SubjectKind::Agent, "a"), (SubjectKind::Model, "m")] {
            let mut ad = ad(number, name);
            ad.kind = kind;
            let verdict = directory.offer(&sign(number, &ad), stranger(2), NOW);
            *verdicts.entry(format!("{verdict:?}")).or_insert(0) += 1;
        }
    }
    let counts: Vec<_> = verdicts.into_iter().collect();
    let expected = [
        ("Accept".to_owned(), 100),
        ("Ignore(StrangersFull)".to_owned(), 50),
        ("Reject(StrangersFull)".to_owned(), 1998 - 150),
    ];
    assert_eq!(counts, expected);
    assert_eq!(directory.len(), 100);
}

#[test]
fn peers_without_number_are_not_counted_without_number() {
    let mut directory = Directory::new(DirectorySettings::open());
    let known = sign(1, &ad(1, "a"));
    directory.offer(&known, stranger(2), NOW);
    // More than are remembered: those beyond go uncounted, and nothing grows or stops.
    for peer in 0..5000 {
        let verdict = directory.offer(&Arc::clone(&known), stranger(peer), NOW);
        assert_eq!(verdict, Verdict::Ignore(Reason::Known));
    }
    directory.expire(NOW.plus(MINUTE));
    let verdict = directory.offer(&known, stranger(4999), NOW.plus(MINUTE));
    assert_eq!(verdict, Verdict::Ignore(Reason::Known));
}
