//! The one encoding of everything, and the limits, each at its edge.

use aither_protocol::{
    Amount, CAPABILITY_TOKEN_PREFIX, CapabilityToken, CapabilityTokenError as Error, Caveat, limits,
};

use super::{ID, Parts, appended, grant, mint, raw, read, root};

#[test]
fn other_versions_are_refused_by_their_number() {
    for version in [0, 2, 255] {
        let mut parts = Parts::of(&mint(&[]));
        parts.header[0] = version;
        assert_eq!(read(&parts.text()), Err(Error::UnknownVersion(version)));
    }
}

#[test]
fn texts_that_are_almost_a_token_are_refused() {
    let text = mint(&[Caveat::Id(1)]).to_text();
    let encoded = text.strip_prefix(CAPABILITY_TOKEN_PREFIX).unwrap();
    let cases = [
        String::new(),
        CAPABILITY_TOKEN_PREFIX.to_owned(),
        encoded.to_owned(),
        format!("aither_sk_{encoded}"),
        format!("AITHER_CT_{encoded}"),
        format!(" {}", *text),
        format!("{}\n", *text),
        format!("{}=", *text),
        format!("{}==", *text),
        format!("{CAPABILITY_TOKEN_PREFIX}+{}", &encoded[1..]),
    ];
    for case in cases {
        assert!(matches!(read(&case), Err(Error::Malformed(_))), "{case:?}");
    }
}

#[test]
fn unused_bits_of_the_last_character_must_be_zero() {
    // Of every length modulo three, for the last character holds 6, 4 or 2 bits that count.
    for length in 1..=3 {
        let text = mint(&[Caveat::Agent("x".repeat(length))]).to_text();
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let accepted = alphabet.chars().filter(|last| {
            let changed = format!("{}{last}", &text[..text.len() - 1]);
            read(&changed).is_ok()
        });
        assert_eq!(accepted.count(), 1, "{}", *text);
    }
}

#[test]
fn values_of_a_wrong_shape_are_refused_though_genuine() {
    let fixed = [(1, 4), (3, 1), (4, 8), (5, 1), (7, 8), (9, 16)];
    for (kind, length) in fixed {
        for wrong in [0, length - 1, length + 1, 300] {
            let refused = appended(kind, &vec![1; wrong]);
            if wrong != length {
                assert!(
                    matches!(refused, Err(Error::Malformed(_))),
                    "{kind} {wrong}"
                );
            }
        }
    }
    let invalid = |kind, value: &[u8]| match appended(kind, value) {
        Err(Error::InvalidCaveat { kind, .. }) => kind,
        other => panic!("{kind} {value:?}: {other:?}"),
    };
    assert_eq!(invalid(1, &[0, 1, 0, 0]), "capabilities");
    assert_eq!(invalid(5, &[0b10_0000]), "memory_tiers");
    assert_eq!(invalid(3, &[0]), "tier");
    assert_eq!(invalid(3, &[5]), "tier");
    for name in ["", "Scout", "a b", "ä", "a/b", "a\0"] {
        assert_eq!(invalid(2, name.as_bytes()), "agent");
    }
    assert_eq!(invalid(6, b""), "key_prefix");
    assert_eq!(invalid(8, b"\x00"), "skills");
    assert_eq!(invalid(8, b"\x02a\n"), "skills");
    for kind in [2, 6] {
        assert!(matches!(appended(kind, b"\xff"), Err(Error::Malformed(_))));
    }
}

#[test]
fn skills_have_one_order_and_no_repetition() {
    assert!(appended(8, b"\x01a\x01b").is_ok());
    for value in [
        &b"\x01b\x01a"[..],
        b"\x01a\x01a",
        b"\x01a\x02b",
        b"\x01\xff",
    ] {
        assert!(
            matches!(appended(8, value), Err(Error::Malformed(_))),
            "{value:?}"
        );
    }
    let skills = |ids: &[&str]| Caveat::Skills(ids.iter().map(|id| (*id).to_owned()).collect());
    let tidied = mint(&[skills(&["b", "a", "b"])]).to_text();
    assert_eq!(*tidied, *mint(&[skills(&["a", "b"])]).to_text());
    assert!(!grant(&[skills(&[])]).allows_skill("a"));
}

#[test]
fn texts_over_the_limit_are_refused_before_they_are_decoded() {
    let prefix = |length| Caveat::KeyPrefix("k".repeat(length));
    let mut caveats = vec![prefix(limits::CAPABILITY_KEY_PREFIX_BYTES_MAX); 5];
    caveats.push(prefix(417));
    let longest = mint(&caveats).to_text();
    assert_eq!(longest.len(), limits::CAPABILITY_TOKEN_BYTES_MAX);
    assert!(read(&longest).is_ok());
    caveats[5] = prefix(418);
    let refused = CapabilityToken::mint(&root(), ID, &caveats);
    assert_eq!(refused.unwrap_err(), Error::TooLong);
    let long = format!("{}!", *longest);
    assert_eq!(read(&long), Err(Error::TooLong));
}

#[test]
fn caveats_over_the_limit_are_refused() {
    let caveats = vec![Caveat::Id(1); limits::CAPABILITY_CAVEATS_MAX];
    let full = mint(&caveats);
    assert_eq!(
        full.narrow(&[Caveat::Id(2)]).unwrap_err(),
        Error::TooManyCaveats
    );
    let many = vec![Caveat::Id(1); limits::CAPABILITY_CAVEATS_MAX + 1];
    let refused = CapabilityToken::mint(&root(), ID, &many);
    assert_eq!(refused.unwrap_err(), Error::TooManyCaveats);
    let mut parts = Parts::of(&full);
    parts.append(raw(9, &[0; 16]));
    assert_eq!(read(&parts.text()), Err(Error::TooManyCaveats));
}

#[test]
fn allowances_over_the_limit_are_refused() {
    let spend = Caveat::MaxSpend(Amount::ZERO);
    let full = mint(&vec![spend.clone(); limits::CAPABILITY_ALLOWANCES_MAX]);
    assert_eq!(full.narrow(&[spend]).unwrap_err(), Error::TooManyAllowances);
    let mut parts = Parts::of(&full);
    parts.append(raw(7, &[0; 8]));
    assert_eq!(read(&parts.text()), Err(Error::TooManyAllowances));
}

#[test]
fn caveats_that_are_too_large_are_refused_when_written_and_when_read() {
    let longest = |length| "a".repeat(length);
    let agent = limits::CAPABILITY_AGENT_BYTES_MAX;
    let prefix = limits::CAPABILITY_KEY_PREFIX_BYTES_MAX;
    let skill = limits::CAPABILITY_SKILL_BYTES_MAX;
    let over = Amount::from_micros(Amount::MAX.micros() + 1);
    let written = [
        Caveat::Agent(longest(agent + 1)),
        Caveat::KeyPrefix(longest(prefix + 1)),
        Caveat::MaxSpend(over),
        Caveat::MaxSpend(Amount::from_micros(u128::MAX)),
        Caveat::Skills(vec![longest(skill + 1)]),
        Caveat::Skills(vec!["a".into(); limits::CAPABILITY_SKILLS_MAX + 1]),
    ];
    for caveat in written {
        let refused = mint(&[]).narrow(std::slice::from_ref(&caveat));
        let error = refused.unwrap_err();
        assert!(
            matches!(error, Error::BoundTooLarge(_)),
            "{caveat:?}: {error}"
        );
    }
    let micros = u64::try_from(over.micros()).unwrap().to_be_bytes();
    let too_long_skill = [&[65][..], longest(65).as_bytes()].concat();
    let skills = (0..=limits::CAPABILITY_SKILLS_MAX).flat_map(|n| [1, b'!' + n as u8]);
    let read = [
        (2, longest(agent + 1).into_bytes()),
        (6, longest(prefix + 1).into_bytes()),
        (7, micros.to_vec()),
        (8, too_long_skill),
        (8, skills.collect()),
    ];
    for (kind, value) in read {
        let error = appended(kind, &value).unwrap_err();
        assert!(matches!(error, Error::BoundTooLarge(_)), "{kind}: {error}");
    }
    // And just within.
    mint(&[
        Caveat::Agent(longest(agent)),
        Caveat::KeyPrefix(longest(prefix)),
        Caveat::MaxSpend(Amount::MAX),
        Caveat::Skills(vec![longest(skill)]),
    ]);
}
