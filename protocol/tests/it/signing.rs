//! The vectors of RFC 8785, and what makes a signed card valid or not.

use aither_protocol::{
    CanonicalError, SignedCardError, canonical_json, limits, sign_card, verify_card,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

fn canonical(value: &Value) -> String {
    String::from_utf8(canonical_json(value).unwrap()).unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn card() -> Value {
    json!({ "name": "bot", "version": "1.0.0", "nested": { "b": [1, 2.5], "a": null } })
}

#[test]
fn numbers_are_those_of_rfc_8785_appendix_b() {
    let rows = [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7fefffffffffffff, "1.7976931348623157e+308"),
        (0xffefffffffffffff, "-1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0xc340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44b52d02c7e14af5, "9.999999999999997e+22"),
        (0x44b52d02c7e14af6, "1e+23"),
        (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
        (0x444b1ae4d6e2ef4e, "999999999999999700000"),
        (0x444b1ae4d6e2ef4f, "999999999999999900000"),
        (0x444b1ae4d6e2ef50, "1e+21"),
        (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
        (0x3eb0c6f7a0b5ed8d, "0.000001"),
        (0x41b3de4355555553, "333333333.3333332"),
        (0x41b3de4355555554, "333333333.33333325"),
        (0x41b3de4355555555, "333333333.3333333"),
        (0x41b3de4355555556, "333333333.3333334"),
        (0x41b3de4355555557, "333333333.33333343"),
        (0xbecbf647612f3696, "-0.0000033333333333333333"),
        (0x43143ff3c1cb0959, "1424953923781206.2"),
    ];
    for (bits, text) in rows {
        assert_eq!(canonical(&json!(f64::from_bits(bits))), text);
        // A document's own digits say the same double.
        assert_eq!(canonical(&serde_json::from_str(text).unwrap()), text);
    }
}

#[test]
fn documents_are_those_of_rfc_8785_section_3_2() {
    let text = r#"{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    let expected = concat!(
        r#"{"literals":[null,true,false],"#,
        r#""numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
        r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
    );
    assert_eq!(canonical(&serde_json::from_str(text).unwrap()), expected);

    let text = r#"{
        "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis"
    }"#;
    let expected = concat!(
        r#"{"\r":"Carriage Return","1":"One","#,
        "\"\u{80}\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",",
        "\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",",
        "\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}"
    );
    assert_eq!(canonical(&serde_json::from_str(text).unwrap()), expected);
}

#[test]
fn canonical_form_is_its_own() {
    let value = json!({ "b": { "z": 1, "a": [] }, "a": {}, "\u{1}\u{7f}": "\u{8}\u{c}\u{2028}" });
    let once = canonical(&value);
    assert_eq!(
        once,
        "{\"\\u0001\u{7f}\":\"\\b\\f\u{2028}\",\"a\":{},\"b\":{\"a\":[],\"z\":1}}"
    );
    assert_eq!(canonical(&serde_json::from_str(&once).unwrap()), once);
}

#[test]
fn whole_numbers_that_would_be_rounded_have_no_canonical_form() {
    for exact in [
        json!(1_u64 << 53),
        json!(1_u64 << 63),
        json!(i64::MIN),
        json!(-(1_i64 << 53)),
    ] {
        assert!(canonical_json(&exact).is_ok(), "{exact}");
    }
    for rounded in [
        json!((1_u64 << 53) + 1),
        json!(u64::MAX),
        json!(i64::MAX),
        json!(i64::MIN + 1),
    ] {
        let error = canonical_json(&json!({ "a": [rounded] })).unwrap_err();
        assert_eq!(error, CanonicalError::InexactNumber);
    }
}

#[test]
fn deep_documents_have_no_canonical_form() {
    let nested = |depth: usize| (1..depth).fold(json!(1), |value, _| json!([value]));
    assert!(canonical_json(&nested(128)).is_ok());
    assert_eq!(canonical_json(&nested(129)), Err(CanonicalError::TooDeep));
}

#[test]
fn signed_card_is_verified_whatever_its_order() {
    let signed = sign_card(&card(), &key(), "12D3KooWExample").unwrap();
    assert_eq!(verify_card(&signed, &key().verifying_key()), Ok(()));
    let header = signed["signatures"][0]["protected"].as_str().unwrap();
    let header: Value = serde_json::from_slice(&BASE64.decode(header).unwrap()).unwrap();
    assert_eq!(
        header,
        json!({ "alg": "EdDSA", "typ": "JOSE", "kid": "12D3KooWExample" })
    );

    let mut turned = json!({ "signatures": signed["signatures"] });
    turned["version"] = json!("1.0.0");
    turned["nested"] = json!({ "a": null, "b": [1.0, 2.5] });
    turned["name"] = json!("bot");
    assert_eq!(verify_card(&turned, &key().verifying_key()), Ok(()));
    // Signing again replaces.
    assert_eq!(sign_card(&signed, &key(), "12D3KooWExample"), Ok(signed));
}

#[test]
fn changed_cards_and_other_keys_are_refused() {
    let signed = sign_card(&card(), &key(), "a").unwrap();
    let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
    assert_eq!(
        verify_card(&signed, &other),
        Err(SignedCardError::NoneValid)
    );
    let changes: [(&str, Value); 5] = [
        ("/name", json!("bot2")),
        ("/nested/b/0", json!(2)),
        ("/nested/a", json!(0)),
        (
            "/signatures/0/protected",
            json!(BASE64.encode(r#"{"alg":"EdDSA"}"#)),
        ),
        ("/signatures/0/signature", json!("A".repeat(86))),
    ];
    for (pointer, value) in changes {
        let mut changed = signed.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        let error = verify_card(&changed, &key().verifying_key());
        assert_eq!(error, Err(SignedCardError::NoneValid), "{pointer}");
    }
    let mut more = signed;
    more["unknown"] = Value::Null;
    assert_eq!(
        verify_card(&more, &key().verifying_key()),
        Err(SignedCardError::NoneValid)
    );
}

#[test]
fn one_valid_signature_among_few_is_enough() {
    let mut signed = sign_card(&card(), &key(), "a").unwrap();
    let good = signed["signatures"][0].clone();
    let bad = json!({ "protected": "", "signature": "" });
    signed["signatures"] = json!([bad, good]);
    assert_eq!(verify_card(&signed, &key().verifying_key()), Ok(()));
    signed["signatures"] = vec![good; limits::CARD_SIGNATURES_MAX + 1].into();
    let error = verify_card(&signed, &key().verifying_key());
    assert_eq!(error, Err(SignedCardError::Malformed));
}

#[test]
fn malformed_signatures_are_refused() {
    let rows = [
        (json!([]), SignedCardError::Unsigned),
        (json!({}), SignedCardError::Malformed),
        (json!(null), SignedCardError::Malformed),
        (json!([1]), SignedCardError::Malformed),
        (json!([{ "protected": "e30" }]), SignedCardError::Malformed),
        (
            json!([{ "protected": "e30", "signature": 1 }]),
            SignedCardError::Malformed,
        ),
        (
            json!([{ "protected": "e30", "signature": "" }]),
            SignedCardError::NoneValid,
        ),
        (
            json!([{ "protected": "e30=", "signature": "x" }]),
            SignedCardError::NoneValid,
        ),
    ];
    for (signatures, expected) in rows {
        let mut card = card();
        card["signatures"] = signatures.clone();
        let error = verify_card(&card, &key().verifying_key());
        assert_eq!(error, Err(expected), "{signatures}");
    }
    let key = key().verifying_key();
    assert_eq!(verify_card(&card(), &key), Err(SignedCardError::Unsigned));
    assert_eq!(
        verify_card(&json!("x"), &key),
        Err(SignedCardError::NotAnObject)
    );
}

#[test]
fn header_must_say_eddsa_and_nothing_that_must_be_understood() {
    let payload = BASE64.encode(canonical(&card()));
    let with = |header: &str| {
        let protected = BASE64.encode(header);
        let signature = key().sign(format!("{protected}.{payload}").as_bytes());
        let mut card = card();
        let signature = BASE64.encode(signature.to_bytes());
        card["signatures"] = json!([{ "protected": protected, "signature": signature }]);
        verify_card(&card, &key().verifying_key())
    };
    assert_eq!(with(r#"{"alg":"EdDSA"}"#), Ok(()));
    assert_eq!(with(r#"{"jku":"https://x/keys","alg":"EdDSA"}"#), Ok(()));
    let long = format!(r#"{{"alg":"EdDSA","x":"{}"}}"#, "x".repeat(2000));
    let wrong = [
        r#"{"alg":"none"}"#,
        r#"{"alg":"HS256"}"#,
        r#"{}"#,
        r#"["EdDSA"]"#,
        r#"{"alg":["EdDSA"]}"#,
        r#"{"alg":"EdDSA","crit":null}"#,
        r#"{"alg":"EdDSA","crit":["exp"],"exp":1}"#,
        r#"{"alg":"EdDSA","b64":false,"crit":["b64"]}"#,
        r#"{"alg":"EdDSA","b64":false}"#,
        "not json",
        &long,
    ];
    for header in wrong {
        assert_eq!(with(header), Err(SignedCardError::NoneValid), "{header}");
    }
}

#[test]
fn signature_has_one_spelling() {
    let signed = sign_card(&card(), &key(), "a").unwrap();
    let text = signed["signatures"][0]["signature"].as_str().unwrap();
    let last = text.chars().last().unwrap();
    // The last character carries two bits more than the signature has.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    let twin = &alphabet[place + 1..=place + 1];
    for other in [
        format!("{}{twin}", &text[..85]),
        format!("{text}=="),
        format!("{text} "),
    ] {
        let mut changed = signed.clone();
        changed["signatures"][0]["signature"] = json!(other);
        let error = verify_card(&changed, &key().verifying_key());
        assert_eq!(error, Err(SignedCardError::NoneValid), "{other}");
    }
}
