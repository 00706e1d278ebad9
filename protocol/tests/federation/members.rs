//! Memberships: who is one, and each reason why somebody is none.

use std::time::Duration;

use aither_protocol::{
    NodeId, Record as _, RecordError, Signed, UnixTime, Verified,
    cbor::CborError,
    limits,
    membership::{
        Certificate, Issuer, Member, Membership, MembershipError, Presented, Revocations, Rights,
    },
    version,
};

use super::{NOW, certificate, certify, federation, issuer_certificate, key, node, root, signed};

fn check_at(
    membership: &Membership,
    peer: &NodeId,
    now: UnixTime,
) -> Result<Member, MembershipError> {
    let membership = Membership::parse(&membership.to_bytes()).unwrap();
    membership.verify(Presented {
        federation: &federation(),
        peer,
        revocations: &Revocations::new(federation()),
        now,
    })
}

fn check(membership: &Membership) -> Result<Member, MembershipError> {
    check_at(membership, &node(2), NOW)
}

fn of_issuer() -> Membership {
    let member = certify(&certificate(2, Some(1), Rights::MEMBER));
    Membership::new(&member, Some(&issuer_certificate()))
}

fn of_root(certificate: &Certificate) -> Membership {
    Membership::new(&certify(certificate), None)
}

#[test]
fn member_of_the_root_and_member_of_an_issuer_are_let_in() {
    let expires = NOW.plus(limits::CERTIFICATE_LIFE_MAX);
    let node = node(2);
    let issuer = Issuer::Root;
    let direct = check(&of_root(&certificate(2, None, Rights::MEMBER)));
    let expected = Member {
        node,
        issuer,
        expires,
    };
    assert_eq!(direct, Ok(expected));
    let issuer = Issuer::Node(super::node(1));
    assert_eq!(check(&of_issuer()), Ok(Member { issuer, ..expected }));
}

#[test]
fn membership_ends_with_its_issuer() {
    let mut issuer = certificate(1, None, Rights::ISSUER);
    issuer.expires = NOW.plus(Duration::from_secs(60));
    let member = certify(&certificate(2, Some(1), Rights::MEMBER));
    let membership = Membership::new(&member, Some(&certify(&issuer)));
    assert_eq!(check(&membership).unwrap().expires, issuer.expires);
    let refused = check_at(&membership, &node(2), issuer.expires);
    assert_eq!(refused, Err(MembershipError::Expired(issuer.expires)));
}

#[test]
fn certificate_holds_from_its_first_second_to_its_last() {
    let membership = of_issuer();
    let end = NOW.plus(limits::CERTIFICATE_LIFE_MAX);
    let last = end.minus(Duration::from_secs(1));
    let early = NOW.minus(limits::CLOCK_SKEW_MAX);
    assert!(check_at(&membership, &node(2), last).is_ok());
    assert!(check_at(&membership, &node(2), early).is_ok());
    let refused = check_at(&membership, &node(2), end);
    assert_eq!(refused, Err(MembershipError::Expired(end)));
    let too_early = early.minus(Duration::from_secs(1));
    let refused = check_at(&membership, &node(2), too_early);
    assert_eq!(refused, Err(MembershipError::NotYetValid));
}

#[test]
fn certificate_is_renewed_with_half_of_its_life_left() {
    let certificate = certificate(2, None, Rights::MEMBER);
    let left = certificate.expires.since(certificate.renew_at());
    assert_eq!(left, limits::CERTIFICATE_LIFE_MAX / 2);
}

#[test]
fn certificate_of_another_node_is_refused() {
    let refused = check_at(&of_issuer(), &node(3), NOW);
    assert_eq!(refused, Err(MembershipError::OtherNode));
}

#[test]
fn certificate_of_another_federation_is_refused() {
    let mut other = certificate(2, None, Rights::MEMBER);
    other.federation = key(9).verifying_key().into();
    let refused = check(&of_root(&other));
    let expected = MembershipError::OtherFederation(other.federation);
    assert_eq!(refused, Err(expected));
}

#[test]
fn member_without_an_issuers_certificate_is_refused() {
    let member = certify(&certificate(2, Some(1), Rights::MEMBER));
    let alone = Membership::new(&member, None);
    assert_eq!(check(&alone), Err(MembershipError::NotIssuer));
    // Somebody else's, or one that makes nobody an issuer.
    let others = certify(&certificate(4, None, Rights::ISSUER));
    let with_others = Membership::new(&member, Some(&others));
    assert_eq!(check(&with_others), Err(MembershipError::NotIssuer));
    let plain = certify(&certificate(1, None, Rights::MEMBER));
    let with_plain = Membership::new(&member, Some(&plain));
    assert_eq!(check(&with_plain), Err(MembershipError::NotIssuer));
}

#[test]
fn issuer_of_another_federation_is_refused() {
    // Somebody who makes a federation of his own can make any node its issuer.
    let own_root = key(9);
    let mut issuer = certificate(1, None, Rights::ISSUER);
    issuer.federation = own_root.verifying_key().into();
    let issuer = Verified::sign(&issuer, &own_root, &[]).unwrap();
    let member = certify(&certificate(2, Some(1), Rights::MEMBER));
    let refused = check(&Membership::new(&member, Some(&issuer)));
    let other = own_root.verifying_key().into();
    assert_eq!(refused, Err(MembershipError::OtherFederation(other)));
}

#[test]
fn issuer_is_not_thereby_a_member() {
    let membership = of_root(&certificate(2, None, Rights::ISSUER));
    assert_eq!(check(&membership), Err(MembershipError::NotMember));
}

#[test]
fn issuers_make_no_issuers_and_nobody_lives_too_long() {
    let rights = Rights::MEMBER.and(Rights::ISSUER);
    let made = Verified::sign(&certificate(2, Some(1), rights), &key(1), &[]);
    assert_eq!(made, Err(RecordError::Invalid("rights")));
    let mut long = certificate(2, None, Rights::MEMBER);
    long.expires = long.expires.plus(Duration::from_secs(1));
    let made = Verified::sign(&long, &root(), &[]);
    assert_eq!(made, Err(RecordError::Invalid("expires")));
    // With the rights of a member too, an issuer's life is a member's.
    let mut both = certificate(2, None, Rights::ISSUER);
    both.rights = rights;
    let made = Verified::sign(&both, &root(), &[]);
    assert_eq!(made, Err(RecordError::Invalid("expires")));
}

#[test]
fn forged_certificates_are_refused() {
    let forged = Err(MembershipError::Record(RecordError::Forged));
    // A member's, and its issuer's, each signed by somebody else.
    let payload = certificate(2, Some(1), Rights::MEMBER).encode();
    let member = signed(&payload, version::CERTIFICATE_DOMAIN, &[], &key(5));
    let shown = put_together(&member, issuer_certificate().as_bytes());
    assert_eq!(check(&shown), forged);
    let payload = certificate(1, None, Rights::ISSUER).encode();
    let issuer = signed(&payload, version::CERTIFICATE_DOMAIN, &[], &key(1));
    let member = certify(&certificate(2, Some(1), Rights::MEMBER));
    assert_eq!(check(&put_together(member.as_bytes(), &issuer)), forged);
}

fn put_together(member: &[u8], issuer: &[u8]) -> Membership {
    let mut writer = aither_protocol::cbor::Writer::new();
    writer.array(2).bytes(member).bytes(issuer);
    Membership::parse(&writer.into_bytes()).unwrap()
}

#[test]
fn every_changed_bit_and_every_cut_of_a_membership_is_refused() {
    let bytes = of_issuer().to_bytes();
    let check = |bytes: &[u8]| {
        let membership = Membership::parse(bytes).ok()?;
        let presented = Presented {
            federation: &federation(),
            peer: &node(2),
            revocations: &Revocations::new(federation()),
            now: NOW,
        };
        membership.verify(presented).ok()
    };
    assert!(check(&bytes).is_some());
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&changed).is_none(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(check(&bytes[..len]).is_none(), "{len} bytes");
    }
    assert!(check(&[&bytes[..], &[0]].concat()).is_none());
}

#[test]
fn longer_chains_and_longer_proofs_are_refused() {
    let mut writer = aither_protocol::cbor::Writer::new();
    writer.array(3);
    let refused = Membership::parse(&writer.into_bytes()).err();
    assert_eq!(refused, Some(RecordError::Malformed(CborError::TooLong)));
    let refused = Membership::parse(&vec![0; limits::MEMBERSHIP_BYTES_MAX + 1]).err();
    let expected = RecordError::TooLong(limits::MEMBERSHIP_BYTES_MAX);
    assert_eq!(refused, Some(expected));
    let long = Signed::<Certificate>::parse(&vec![0; limits::CERTIFICATE_BYTES_MAX + 1]).err();
    let expected = RecordError::TooLong(limits::CERTIFICATE_BYTES_MAX);
    assert_eq!(long, Some(expected));
}
