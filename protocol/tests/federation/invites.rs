//! Invites as people copy them, and the secrets in them as their issuer keeps them.

use std::time::Duration;

use aither_protocol::{
    RecordError, UnixTime, limits,
    membership::{
        BootstrapAddress, INVITE_PREFIX, Invite, InviteError, JoinSecret, OpenInvites,
        OpenInvitesError, RedeemError,
    },
};
use proptest::prelude::*;

use super::{NOW, federation, key, node};

const HOUR: Duration = Duration::from_secs(3600);

fn invite() -> Invite {
    let address = |way, number| BootstrapAddress::new(way, node(number)).unwrap();
    Invite {
        federation: federation(),
        issuer: node(1),
        secret: JoinSecret::from_bytes([9; 16]),
        expires: NOW.plus(HOUR),
        addresses: vec![
            address("/ip4/192.0.2.7/udp/4200/quic-v1", 1),
            address("/dns/relay.example.org/tcp/4200", 2),
        ],
    }
}

fn text() -> String {
    invite().to_text().unwrap().to_string()
}

fn parse(text: &str) -> Result<Invite, InviteError> {
    Invite::parse(text, NOW)
}

#[test]
fn invite_is_one_line_that_can_be_read_again() {
    let text = text();
    assert!(text.starts_with(INVITE_PREFIX) && !text.contains(char::is_whitespace));
    assert!(text.len() < 300, "{} characters", text.len());
    assert_eq!(parse(&text), Ok(invite()));
}

#[test]
fn space_and_line_breaks_are_passed_over() {
    let text = text();
    let wrapped: Vec<_> = text
        .as_bytes()
        .chunks(40)
        .map(String::from_utf8_lossy)
        .collect();
    assert_eq!(
        parse(&format!("  {}\r\n", wrapped.join("\n  "))),
        Ok(invite())
    );
}

#[test]
fn every_cut_is_told() {
    let text = text();
    for len in INVITE_PREFIX.len()..text.len() {
        let refused = parse(&text[..len]);
        let told = matches!(refused, Err(InviteError::Cut { missing, .. }) if missing > 0);
        assert!(told, "{len}: {refused:?}");
    }
    let whole = parse(&text[..text.len() - 7]);
    let length = text.len();
    assert_eq!(whole, Err(InviteError::Cut { length, missing: 7 }));
    assert_eq!(
        parse(&format!("{text}abc")),
        Err(InviteError::Extra { extra: 3 })
    );
}

#[test]
fn every_mistyped_character_is_found() {
    let text = text();
    for at in INVITE_PREFIX.len()..text.len() {
        for wrong in ['A', 'b', '7', '_', '!'] {
            let mut typed: Vec<char> = text.chars().collect();
            if typed[at] == wrong {
                continue;
            }
            typed[at] = wrong;
            let typed: String = typed.into_iter().collect();
            let refused = parse(&typed).unwrap_err();
            // Of the first characters, some say another version or length.
            let in_header = at < INVITE_PREFIX.len() + 4;
            assert!(
                refused == InviteError::Mistyped || in_header,
                "{at} {wrong}: {refused}"
            );
        }
    }
}

#[test]
fn other_texts_are_no_invites() {
    let peer = node(1).to_string();
    let long = "a".repeat(100_000);
    for text in ["", "hello", "aither_ct_AQID", &peer, &long] {
        assert_eq!(parse(text), Err(InviteError::NotAnInvite));
    }
}

#[test]
fn newer_invite_asks_for_an_update() {
    // Version 2, and a length.
    let newer = format!("{INVITE_PREFIX}AgAA");
    assert_eq!(parse(&newer), Err(InviteError::NewerVersion(2)));
}

#[test]
fn expired_invite_says_so() {
    let expires = invite().expires;
    let refused = Invite::parse(&text(), expires);
    assert_eq!(refused, Err(InviteError::Expired(expires)));
    assert_eq!(Invite::read(&text()), Ok(invite()));
}

#[test]
fn invite_out_of_bounds_is_not_made() {
    let mut none = invite();
    none.addresses.clear();
    assert_eq!(
        none.to_text().err(),
        Some(RecordError::Missing("addresses").into())
    );
    let mut many = invite();
    many.addresses = vec![many.addresses[0].clone(); limits::INVITE_ADDRESSES_MAX + 1];
    assert!(many.to_text().is_err());
    let mut long = invite();
    let way = format!("/dns/{}a/tcp/1", "abcdefg.".repeat(31));
    long.addresses = vec![BootstrapAddress::new(&way, node(2)).unwrap(); 8];
    let expected = RecordError::TooLong(limits::INVITE_BYTES_MAX).into();
    assert_eq!(long.to_text().err(), Some(expected));
}

#[test]
fn secret_is_not_shown() {
    let shown = format!("{:?} {}", invite(), invite());
    assert!(!shown.contains("[9, 9") && shown.contains("***"), "{shown}");
}

#[test]
fn hash_of_a_secret_is_of_one_issuer_in_one_federation() {
    let secret = JoinSecret::from_bytes([9; 16]);
    let hash = secret.hash(&federation(), &node(1));
    assert_ne!(hash, secret.hash(&federation(), &node(2)));
    assert_ne!(hash, secret.hash(&key(9).verifying_key().into(), &node(1)));
    assert_ne!(
        hash,
        JoinSecret::from_bytes([8; 16]).hash(&federation(), &node(1))
    );
}

fn opened(uses: u32) -> (OpenInvites, aither_protocol::membership::JoinSecretHash) {
    let secret = JoinSecret::from_bytes([9; 16]).hash(&federation(), &node(1));
    let mut invites = OpenInvites::default();
    invites.open(secret, uses, NOW.plus(HOUR), NOW).unwrap();
    (invites, secret)
}

#[test]
fn invite_lets_in_as_many_as_it_says() {
    let (mut invites, secret) = opened(2);
    assert_eq!(invites.redeem(&secret, &node(2), NOW).unwrap().uses_left, 1);
    // The answer was lost, and the same node asks again.
    assert_eq!(invites.redeem(&secret, &node(2), NOW).unwrap().uses_left, 1);
    assert_eq!(invites.redeem(&secret, &node(3), NOW).unwrap().uses_left, 0);
    assert_eq!(
        invites.redeem(&secret, &node(4), NOW),
        Err(RedeemError::Spent)
    );
    assert!(invites.redeem(&secret, &node(3), NOW).is_ok());
    let stored: Vec<_> = invites
        .iter()
        .map(|(hash, open)| (*hash, open.clone()))
        .collect();
    let mut restored = OpenInvites::restore(stored);
    assert_eq!(
        restored.redeem(&secret, &node(4), NOW),
        Err(RedeemError::Spent)
    );
}

#[test]
fn other_ended_and_closed_invites_let_nobody_in() {
    let (mut invites, secret) = opened(5);
    let other = JoinSecret::from_bytes([1; 16]).hash(&federation(), &node(1));
    assert_eq!(
        invites.redeem(&other, &node(2), NOW),
        Err(RedeemError::Unknown)
    );
    let end = NOW.plus(HOUR);
    assert_eq!(
        invites.redeem(&secret, &node(2), end),
        Err(RedeemError::Expired)
    );
    assert_eq!(invites.forget_expired(end), [secret]);
    assert_eq!(
        invites.redeem(&secret, &node(2), NOW),
        Err(RedeemError::Unknown)
    );
    let (mut invites, secret) = opened(5);
    assert!(invites.close(&secret) && !invites.close(&secret));
    assert_eq!(
        invites.redeem(&secret, &node(2), NOW),
        Err(RedeemError::Unknown)
    );
    let (mut invites, secret) = opened(5);
    assert_eq!(invites.void_all(), [secret]);
    assert_eq!(
        invites.redeem(&secret, &node(2), NOW),
        Err(RedeemError::Unknown)
    );
}

#[test]
fn invites_out_of_bounds_are_not_opened() {
    let (mut invites, secret) = opened(1);
    let mut open = |uses, expires: UnixTime| invites.open(secret, uses, expires, NOW);
    assert_eq!(open(0, NOW.plus(HOUR)), Err(OpenInvitesError::Uses));
    let many = limits::INVITE_USES_MAX + 1;
    assert_eq!(open(many, NOW.plus(HOUR)), Err(OpenInvitesError::Uses));
    assert_eq!(open(1, NOW), Err(OpenInvitesError::Expiry));
    let late = NOW.plus(limits::INVITE_LIFE_MAX + HOUR);
    assert_eq!(open(1, late), Err(OpenInvitesError::Expiry));
    for number in 1..limits::OPEN_INVITES_MAX {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        let secret = JoinSecret::from_bytes(bytes).hash(&federation(), &node(1));
        assert_eq!(invites.open(secret, 1, NOW.plus(HOUR), NOW), Ok(()));
    }
    assert_eq!(
        invites.open(secret, 1, NOW.plus(HOUR), NOW),
        Err(OpenInvitesError::TooMany)
    );
    // The old ones make room once they have ended.
    let later = NOW.plus(HOUR);
    assert_eq!(invites.open(secret, 1, later.plus(HOUR), later), Ok(()));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", encoded in "[A-Za-z0-9_-]{0,200}") {
        prop_assert!(parse(&text).is_err());
        let prefixed = format!("{INVITE_PREFIX}{encoded}");
        prop_assert!(parse(&prefixed).is_err());
    }
}
