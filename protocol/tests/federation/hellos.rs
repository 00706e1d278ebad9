//! Hellos, and what a newcomer and its issuer say to each other.

use aither_protocol::{
    RecordError, limits,
    membership::{
        Hello, Introduction, Issuer, JoinAnswer, JoinRefusal, JoinRequest, JoinSecret, Membership,
        RevocationSummary, Rights,
    },
};

use super::{certificate, certify, federation, issuer_certificate, node};

fn membership() -> Membership {
    let member = certify(&certificate(2, Some(1), Rights::MEMBER));
    Membership::new(&member, Some(&issuer_certificate()))
}

fn introduction(membership: Option<Membership>, signers: usize) -> Introduction {
    let seen = (0..signers).map(|number| match number {
        0 => (Issuer::Root, u64::MAX),
        number => (Issuer::Node(node(number as u8)), u64::MAX),
    });
    Introduction {
        federation: federation(),
        membership,
        revocations: RevocationSummary(seen.collect()),
    }
}

#[test]
fn hellos_survive_the_wire() {
    let sent = Hello(vec![
        introduction(Some(membership()), 2),
        introduction(None, 0),
    ]);
    let received = Hello::parse(&sent.to_bytes()).unwrap();
    assert_eq!(received.to_bytes(), sent.to_bytes());
    let [member, newcomer] = &received.0[..] else {
        panic!("{received:?}");
    };
    let shown = member.membership.as_ref().unwrap();
    assert_eq!(shown.to_bytes(), membership().to_bytes());
    assert_eq!(member.revocations, sent.0[0].revocations);
    assert!(newcomer.membership.is_none() && newcomer.federation == federation());
    assert!(
        Hello::parse(&Hello::default().to_bytes())
            .unwrap()
            .0
            .is_empty()
    );
}

#[test]
fn longest_hello_fits_and_a_longer_one_is_refused() {
    let signers = limits::REVOKING_ISSUERS_MAX + 1;
    let longest = vec![introduction(Some(membership()), signers); limits::HELLO_FEDERATIONS_MAX];
    let mut hello = Hello(longest);
    assert!(Hello::parse(&hello.to_bytes()).is_ok());
    // Even where certificates are as long as they may become.
    let left = limits::MEMBERSHIP_BYTES_MAX - membership().to_bytes().len();
    let longest = hello.to_bytes().len() + left * limits::HELLO_FEDERATIONS_MAX;
    assert!(longest <= limits::HELLO_BYTES_MAX, "{longest}");
    hello.0.push(introduction(None, 0));
    assert!(Hello::parse(&hello.to_bytes()).is_err());
    let refused = Hello::parse(&vec![0; limits::HELLO_BYTES_MAX + 1]).err();
    assert_eq!(refused, Some(RecordError::TooLong(limits::HELLO_BYTES_MAX)));
}

#[test]
fn requests_to_join_survive_the_wire() {
    let secret = JoinSecret::from_bytes([9; 16]);
    let federation = federation();
    let sent = JoinRequest::WithSecret { federation, secret };
    let received = JoinRequest::parse(&sent.to_bytes()).unwrap();
    assert!(matches!(&received, JoinRequest::WithSecret { secret, .. }
        if secret.as_bytes() == &[9; 16]));
    assert_eq!(*received.federation(), federation);
    let certificate = certify(&certificate(2, Some(1), Rights::MEMBER)).to_signed();
    let sent = JoinRequest::Renewal { certificate };
    let received = JoinRequest::parse(&sent.to_bytes()).unwrap();
    assert_eq!(received.to_bytes(), sent.to_bytes());
    for len in 0..sent.to_bytes().len() {
        assert!(JoinRequest::parse(&sent.to_bytes()[..len]).is_err());
    }
    assert!(!format!("{received:?} {:?}", JoinSecret::from_bytes([9; 16])).contains("[9, 9"));
}

#[test]
fn answers_to_newcomers_survive_the_wire() {
    let granted = JoinAnswer::Granted(Box::new(membership())).to_bytes();
    let Ok(JoinAnswer::Granted(read)) = JoinAnswer::parse(&granted) else {
        panic!("{granted:?}");
    };
    assert_eq!(read.to_bytes(), membership().to_bytes());
    let refusals = [
        JoinRefusal::NotIssuer,
        JoinRefusal::UnknownInvite,
        JoinRefusal::ExpiredInvite,
        JoinRefusal::SpentInvite,
        JoinRefusal::Excluded,
        JoinRefusal::NotRenewable,
        JoinRefusal::Other,
    ];
    for refusal in refusals {
        let bytes = JoinAnswer::Refused(refusal).to_bytes();
        let read = JoinAnswer::parse(&bytes).unwrap();
        assert!(matches!(read, JoinAnswer::Refused(read) if read == refusal));
    }
    // A newer issuer has more reasons.
    let newer = JoinAnswer::parse(&[0x82, 2, 23]).unwrap();
    assert!(matches!(newer, JoinAnswer::Refused(JoinRefusal::Other)));
    assert!(JoinAnswer::parse(&[0x82, 3, 0]).is_err());
}
