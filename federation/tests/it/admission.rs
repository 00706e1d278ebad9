//! Who is let in, and who gets a certificate.

use std::{collections::BTreeMap, time::Duration};

use aither_federation::{IssuerDesk, Judgement, OwnFederation, OwnFederations, Refusal};
use aither_protocol::{
    FederationId, UnixTime, Verified, limits,
    membership::{
        Certificate, Hello, Introduction, Issuer, JoinRefusal, JoinRequest, JoinSecret, Membership,
        MembershipError, OpenInvites, Revocation, Revocations, Rights, Statement,
    },
};
use ed25519_dalek::SigningKey;

use super::{HOUR, NOW, federation, key, node};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The key whose federation the tests are in.
fn root() -> SigningKey {
    key(0)
}

fn other_federation() -> FederationId {
    key(7000).verifying_key().into()
}

/// The root's certificate for a node, from a time on.
fn certified(number: u32, begins: UnixTime) -> Verified<Certificate> {
    let certificate = Certificate {
        federation: federation(),
        subject: node(number),
        issuer: Issuer::Root,
        serial: 1,
        not_before: begins,
        expires: begins.plus(limits::CERTIFICATE_LIFE_MAX),
        rights: Rights::MEMBER,
    };
    Verified::sign(&certificate, &root(), &[]).unwrap()
}

fn excluding(number: u32) -> Revocations {
    let revocation = Revocation {
        federation: federation(),
        signer: Issuer::Root,
        number: 1,
        issued: NOW,
        statement: Statement::Exclude {
            node: node(number),
            honoured: 0,
        },
    };
    let entry = Verified::sign(&revocation, &root(), &[]).unwrap();
    let mut revocations = Revocations::new(federation());
    revocations.merge(entry.to_signed(), None).unwrap();
    revocations
}

/// A node in one federation.
fn own() -> OwnFederation {
    OwnFederation {
        membership: Some(Membership::new(&certified(1, NOW), None)),
        revocations: Revocations::new(federation()),
        open: false,
        issues: false,
    }
}

fn in_one(own: OwnFederation) -> OwnFederations {
    OwnFederations(BTreeMap::from([(federation(), own)]))
}

fn hello(membership: Option<Membership>) -> Hello {
    Hello(vec![Introduction {
        federation: federation(),
        membership,
        revocations: Revocations::new(federation()).summary(),
    }])
}

/// What node 2 says.
fn member(begins: UnixTime) -> Hello {
    hello(Some(Membership::new(&certified(2, begins), None)))
}

#[test]
fn member_is_let_in_until_its_certificate_ends() {
    let judged = in_one(own()).judge(&node(2), &member(NOW), NOW);
    let Judgement::Member(of) = judged else {
        panic!("{judged:?}");
    };
    assert_eq!(of.len(), 1);
    assert_eq!((of[0].0, of[0].1.node), (federation(), node(2)));
    assert_eq!(of[0].1.expires, NOW.plus(limits::CERTIFICATE_LIFE_MAX));
}

#[test]
fn stranger_gets_nothing_from_a_closed_federation_and_tight_limits_in_an_open_one() {
    let judged = in_one(own()).judge(&node(2), &hello(None), NOW);
    assert_eq!(judged, Judgement::Refused(Refusal::NoCertificate));
    let open = OwnFederation {
        open: true,
        ..own()
    };
    let judged = in_one(open).judge(&node(2), &hello(None), NOW);
    assert_eq!(judged, Judgement::Stranger(vec![federation()]));
}

#[test]
fn member_of_another_federation_gets_nothing() {
    let mut hello = member(NOW);
    hello.0[0].federation = other_federation();
    let judged = in_one(own()).judge(&node(2), &hello, NOW);
    assert_eq!(judged, Judgement::Refused(Refusal::NothingInCommon));
    // Nor does it by naming ours: its certificate is of the other one.
    let both = OwnFederations(BTreeMap::from([
        (federation(), own()),
        (
            other_federation(),
            OwnFederation {
                revocations: Revocations::new(other_federation()),
                ..own()
            },
        ),
    ]));
    let judged = both.judge(&node(2), &hello, NOW);
    let expected = MembershipError::OtherFederation(federation());
    assert_eq!(judged, Judgement::Refused(expected.into()));
}

#[test]
fn somebody_elses_certificate_gets_nothing() {
    let judged = in_one(own()).judge(&node(3), &member(NOW), NOW);
    let expected = MembershipError::OtherNode.into();
    assert_eq!(judged, Judgement::Refused(expected));
}

#[test]
fn excluded_node_gets_nothing_even_where_all_others_are_let_in() {
    let own = OwnFederation {
        open: true,
        issues: true,
        revocations: excluding(2),
        ..own()
    };
    let own = in_one(own);
    for hello in [member(NOW), hello(None)] {
        let judged = own.judge(&node(2), &hello, NOW);
        assert_eq!(judged, Judgement::Refused(MembershipError::Revoked.into()));
    }
}

#[test]
fn newcomer_and_whose_certificate_has_ended_may_ask_an_issuer_alone() {
    let issues = || OwnFederation {
        issues: true,
        ..own()
    };
    let ended = member(NOW.minus(10 * DAY));
    for hello in [hello(None), ended] {
        let judged = in_one(issues()).judge(&node(2), &hello, NOW);
        assert_eq!(judged, Judgement::Joining);
        let judged = in_one(own()).judge(&node(2), &hello, NOW);
        assert!(matches!(judged, Judgement::Refused(_)), "{judged:?}");
    }
    // A forged one is not asked in.
    let judged = in_one(issues()).judge(&node(3), &member(NOW), NOW);
    assert!(matches!(judged, Judgement::Refused(_)), "{judged:?}");
}

#[test]
fn hello_shows_only_what_the_peer_may_hear_of() {
    let both = OwnFederations(BTreeMap::from([
        (federation(), own()),
        (
            other_federation(),
            OwnFederation {
                membership: None,
                ..own()
            },
        ),
    ]));
    let shown = both.hello(|id| *id == federation());
    assert_eq!(shown.0.len(), 1);
    assert_eq!(shown.0[0].federation, federation());
    let bytes = shown.to_bytes();
    let other = other_federation();
    let leaks = bytes.windows(32).any(|part| part == other.as_bytes());
    assert!(!leaks);
}

fn desk() -> (IssuerDesk, JoinSecret) {
    let secret = JoinSecret::from_bytes([9; 16]);
    let mut invites = OpenInvites::default();
    let hash = secret.hash(&federation(), &node(1));
    invites.open(hash, 1, NOW.plus(HOUR), NOW).unwrap();
    let desk = IssuerDesk {
        federation: federation(),
        issuer: Issuer::Root,
        invites,
        node: node(1),
    };
    (desk, secret)
}

fn with(secret: &JoinSecret) -> JoinRequest {
    JoinRequest::WithSecret {
        federation: federation(),
        secret: secret.clone(),
    }
}

#[test]
fn invite_is_exchanged_for_a_certificate_that_lets_in() {
    let (mut desk, secret) = desk();
    let none = Revocations::new(federation());
    let made = desk.decide(with(&secret), &node(2), &none, 5, NOW).unwrap();
    let signed = Verified::sign(&made, &root(), &[]).unwrap();
    let hello = hello(Some(Membership::new(&signed, None)));
    let judged = in_one(own()).judge(&node(2), &hello, NOW);
    assert!(matches!(judged, Judgement::Member(_)), "{judged:?}");
    let spent = desk.decide(with(&secret), &node(3), &none, 5, NOW);
    assert_eq!(spent, Err(JoinRefusal::SpentInvite));
    // The first one may ask again, as long as the invite lives.
    assert!(desk.decide(with(&secret), &node(2), &none, 5, NOW).is_ok());
    let late = desk.decide(with(&secret), &node(2), &none, 5, NOW.plus(HOUR));
    assert_eq!(late, Err(JoinRefusal::ExpiredInvite));
}

#[test]
fn wrong_secrets_federations_and_excluded_nodes_get_no_certificate() {
    let (mut desk, secret) = desk();
    let none = Revocations::new(federation());
    let wrong = JoinSecret::from_bytes([8; 16]);
    let refused = desk.decide(with(&wrong), &node(2), &none, 5, NOW);
    assert_eq!(refused, Err(JoinRefusal::UnknownInvite));
    let elsewhere = JoinRequest::WithSecret {
        federation: other_federation(),
        secret: secret.clone(),
    };
    let refused = desk.decide(elsewhere, &node(2), &none, 5, NOW);
    assert_eq!(refused, Err(JoinRefusal::NotIssuer));
    let refused = desk.decide(with(&secret), &node(2), &excluding(2), 5, NOW);
    assert_eq!(refused, Err(JoinRefusal::Excluded));
    // None of them has used the invite up.
    assert!(desk.decide(with(&secret), &node(3), &none, 5, NOW).is_ok());
}

#[test]
fn certificate_is_renewed_for_its_node_by_its_issuer_for_a_while() {
    let (mut desk, _) = desk();
    let none = Revocations::new(federation());
    let renewal = || JoinRequest::Renewal {
        certificate: certified(2, NOW).to_signed(),
    };
    let end = NOW.plus(limits::CERTIFICATE_LIFE_MAX);
    let last = end.plus(limits::RENEWAL_GRACE);
    for now in [NOW, end, last] {
        let made = desk.decide(renewal(), &node(2), &none, 5, now).unwrap();
        assert_eq!(made.expires, now.plus(limits::CERTIFICATE_LIFE_MAX));
    }
    let refused = Err(JoinRefusal::NotRenewable);
    let late = last.plus(Duration::from_secs(1));
    assert_eq!(desk.decide(renewal(), &node(2), &none, 5, late), refused);
    assert_eq!(desk.decide(renewal(), &node(3), &none, 5, NOW), refused);
    let excluded = desk.decide(renewal(), &node(2), &excluding(2), 5, NOW);
    assert_eq!(excluded, Err(JoinRefusal::Excluded));
    desk.issuer = Issuer::Node(node(1));
    assert_eq!(desk.decide(renewal(), &node(2), &none, 5, NOW), refused);
}
