//! Ads: their size, their signature, and every rule about their fields.

use std::cmp::Ordering;

use aither_protocol::{
    Ad, Record as _, RecordError, RecordId, Signed, SkillHash, SubjectId, SubjectKind, Verified,
    cbor::CborError, limits, version,
};

use super::{NOW, federation, fields, key, node, payload_of, signed, typical_ad, value};

/// Bytes that a typical ad may have.
const TYPICAL_BYTES_MAX: usize = 320;

fn verified() -> Verified<Ad> {
    typical_ad().sign(&key(1), &federation()).unwrap()
}

fn read(bytes: &[u8]) -> Result<Verified<Ad>, RecordError> {
    Signed::<Ad>::parse(bytes)?.verify(&federation())
}

/// Signs a typical ad of which some fields are changed, added or, where nothing is given, left
/// out.
fn changed(changes: &[(u64, Option<Vec<u8>>)]) -> Result<Verified<Ad>, RecordError> {
    let mut all = fields(&typical_ad().encode());
    for (number, value) in changes {
        all.retain(|(found, _)| found != number);
        all.extend(value.clone().map(|value| (*number, value)));
    }
    all.sort();
    read(&signed(
        &payload_of(&all),
        version::AD_DOMAIN,
        federation().as_bytes(),
        &key(1),
    ))
}

fn uint(number: u64) -> Option<Vec<u8>> {
    Some(value(|writer| _ = writer.uint(number)))
}

#[test]
fn typical_ad_is_small() {
    let len = verified().as_bytes().len();
    assert!(len <= TYPICAL_BYTES_MAX, "{len} bytes");
}

#[test]
fn ads_survive_the_wire() {
    let sent = verified();
    let received = read(sent.as_bytes()).unwrap();
    assert_eq!(*received, typical_ad());
    assert_eq!(received.as_bytes(), sent.as_bytes());
    assert_eq!(received.id(), RecordId::of(sent.as_bytes()));
}

#[test]
fn largest_ad_fits() {
    let mut ad = typical_ad();
    ad.kind = SubjectKind::Model;
    ad.name = "m".repeat(limits::MODEL_NAME_BYTES_MAX);
    let offer = ad.offer.as_mut().unwrap();
    let skills = (0..limits::AD_SKILLS_MAX).map(|number| SkillHash::of(&number.to_string()));
    offer.skills = skills.collect();
    offer.skills.sort();
    offer.price_micros = u64::MAX;
    offer.flags.0 = u32::MAX;
    let sent = ad.sign(&key(1), &federation()).unwrap();
    assert_eq!(*read(sent.as_bytes()).unwrap(), ad);
    offer_of(&mut ad).skills.push(SkillHash::of("one more"));
    offer_of(&mut ad).skills.sort();
    let refused = ad.sign(&key(1), &federation());
    assert_eq!(refused, Err(RecordError::Malformed(CborError::TooLong)));
}

fn offer_of(ad: &mut Ad) -> &mut aither_protocol::ad::Offer {
    ad.offer.as_mut().unwrap()
}

#[test]
fn ad_of_another_federation_is_forged() {
    let other = key(201).verifying_key().into();
    let ad = Signed::<Ad>::parse(verified().as_bytes()).unwrap();
    assert_eq!(ad.verify(&other), Err(RecordError::Forged));
}

#[test]
fn signature_of_another_kind_of_record_is_forged() {
    let payload = typical_ad().encode();
    for domain in [&b"aither certificate v1"[..], b"", b"aither ad v2"] {
        let ad = signed(&payload, domain, federation().as_bytes(), &key(1));
        assert_eq!(read(&ad), Err(RecordError::Forged));
    }
}

#[test]
fn nobody_signs_for_another_node() {
    let payload = typical_ad().encode();
    let context = federation();
    let ad = signed(&payload, version::AD_DOMAIN, context.as_bytes(), &key(2));
    assert_eq!(read(&ad), Err(RecordError::Forged));
    assert_eq!(
        typical_ad().sign(&key(2), &context),
        Err(RecordError::Forged)
    );
}

#[test]
fn every_changed_bit_and_every_cut_is_refused() {
    let ad = verified();
    for bit in 0..ad.as_bytes().len() * 8 {
        let mut bytes = ad.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes).is_err(), "bit {bit}");
    }
    for len in 0..ad.as_bytes().len() {
        assert!(read(&ad.as_bytes()[..len]).is_err(), "{len} bytes");
    }
    let longer = [ad.as_bytes(), &[0]].concat();
    assert!(read(&longer).is_err());
}

#[test]
fn too_long_an_ad_is_refused_unread() {
    let refused = Signed::<Ad>::parse(&vec![0xff; limits::AD_BYTES_MAX + 1]);
    assert_eq!(
        refused.err(),
        Some(RecordError::TooLong(limits::AD_BYTES_MAX))
    );
}

#[test]
fn unknown_field_is_ignored_and_kept() {
    let ad = changed(&[(30, Some(value(|writer| _ = writer.text("news"))))]).unwrap();
    assert_eq!(*ad, typical_ad());
    let again = read(ad.as_bytes()).unwrap();
    assert_eq!(again.as_bytes(), ad.as_bytes());
}

#[test]
fn unknown_field_that_must_be_understood_is_refused() {
    let critical = Some(value(|writer| _ = writer.array(2).uint(3).uint(30)));
    let news = Some(value(|writer| _ = writer.uint(1)));
    let refused = changed(&[(0, critical.clone()), (30, news)]);
    assert_eq!(refused, Err(RecordError::UnknownCritical(30)));
    // What is known is understood, and what is not there changes nothing.
    assert_eq!(*changed(&[(0, critical)]).unwrap(), typical_ad());
}

#[test]
fn fields_out_of_order_or_twice_are_refused() {
    let mut all = fields(&typical_ad().encode());
    all.swap(0, 1);
    let refused = Err(RecordError::Malformed(CborError::NotDeterministic));
    let context = federation();
    let sign = |all: &[(u64, Vec<u8>)]| {
        signed(
            &payload_of(all),
            version::AD_DOMAIN,
            context.as_bytes(),
            &key(1),
        )
    };
    assert_eq!(read(&sign(&all)), refused);
    let mut all = fields(&typical_ad().encode());
    all.insert(1, all[0].clone());
    assert_eq!(read(&sign(&all)), refused);
}

#[test]
fn each_field_that_an_ad_needs_is_missed() {
    let needed = [
        (1, "node"),
        (2, "kind"),
        (3, "name"),
        (4, "epoch"),
        (5, "sequence"),
        (6, "issued"),
        (7, "expires"),
        (9, "card_hash"),
    ];
    for (number, name) in needed {
        assert_eq!(changed(&[(number, None)]), Err(RecordError::Missing(name)));
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    let text = |text: &str| Some(value(|writer| _ = writer.text(text)));
    let bytes = |bytes: &[u8]| Some(value(|writer| _ = writer.bytes(bytes)));
    let life = |seconds| uint(NOW.seconds() + seconds);
    let cases = [
        (2, uint(2), "kind"),
        (3, text(""), "name"),
        (3, text(&"a".repeat(65)), "name"),
        (3, text("two\nlines"), "name"),
        (3, text(" space"), "name"),
        (7, life(0), "expires"),
        (7, uint(5), "expires"),
        (7, life(24 * 3600 + 1), "expires"),
        (8, Some(value(|writer| _ = writer.bool(true))), "tombstone"),
        (10, bytes(&[1; 9]), "skills"),
        (10, bytes(&[1; 16]), "skills"),
        (10, bytes(&[[2; 8], [1; 8]].concat()), "skills"),
        (12, uint(1 << 32), "flags"),
    ];
    for (number, value, name) in cases {
        let refused = changed(&[(number, value.clone())]);
        assert_eq!(refused, Err(RecordError::Invalid(name)), "{value:?}");
    }
    let mut not_a_point = [0; 32];
    not_a_point[0] = 2;
    let refused = changed(&[(1, bytes(&not_a_point))]);
    assert_eq!(refused, Err(RecordError::Invalid("node")));
}

#[test]
fn tombstone_outlives_every_ad_that_it_may_bury() {
    let mut grave = typical_ad();
    grave.offer = None;
    let sign = |ad: &Ad| ad.sign(&key(1), &federation());
    assert_eq!(sign(&grave), Err(RecordError::Invalid("expires")));
    grave.expires = NOW.plus(limits::TOMBSTONE_LIFE);
    let sent = sign(&grave).unwrap();
    assert!(read(sent.as_bytes()).unwrap().is_tombstone());
    let longest = limits::AD_LIFE_MAX + 2 * limits::CLOCK_SKEW_MAX;
    assert!(limits::TOMBSTONE_LIFE > longest);
}

#[test]
fn newer_epoch_counts_then_newer_sequence_then_greater_id() {
    let make = |epoch, sequence, price_micros| {
        let mut ad = typical_ad();
        (ad.epoch, ad.sequence) = (epoch, sequence);
        offer_of(&mut ad).price_micros = price_micros;
        ad.sign(&key(1), &federation()).unwrap()
    };
    assert_eq!(Ad::order(&make(2, 1, 5), &make(1, 9, 5)), Ordering::Greater);
    assert_eq!(Ad::order(&make(2, 1, 5), &make(2, 2, 5)), Ordering::Less);
    let (one, other) = (make(2, 1, 5), make(2, 1, 6));
    assert_eq!(Ad::order(&one, &one), Ordering::Equal);
    assert_eq!(Ad::order(&one, &other), one.id().cmp(&other.id()));
    assert_ne!(Ad::order(&one, &other), Ordering::Equal);
}

#[test]
fn subjects_differ_by_node_kind_and_name() {
    let ids = [
        SubjectId::of(&node(1), SubjectKind::Agent, "a"),
        SubjectId::of(&node(2), SubjectKind::Agent, "a"),
        SubjectId::of(&node(1), SubjectKind::Model, "a"),
        SubjectId::of(&node(1), SubjectKind::Agent, "b"),
    ];
    let distinct: std::collections::BTreeSet<_> = ids.into_iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

#[test]
fn topic_names_the_federation_and_the_version() {
    let topic = version::ads_topic(&federation());
    assert_eq!(topic, format!("aither/{}/ads/1", federation()));
    assert!(topic.starts_with("aither/fed-"), "{topic}");
}
