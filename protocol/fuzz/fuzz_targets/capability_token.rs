//! Feeds the reader of capability tokens with arbitrary texts, and with arbitrary bytes in the
//! encoding that tokens have.
//!
//! A text may be refused; it must not panic, hang or allocate beyond a multiple of its size (run
//! with `-rss_limit_mb`). What is accepted has no other text, stays readable when it is narrowed,
//! and is verified by nobody who does not have the key that it was minted with.

#![no_main]

use aither_protocol::{CAPABILITY_TOKEN_PREFIX, CapabilityToken, Caveat, RootKey, Tier};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        check(text);
    }
    let encoded = Base64UrlUnpadded::encode_string(bytes);
    check(&format!("{CAPABILITY_TOKEN_PREFIX}{encoded}"));
});

fn check(text: &str) {
    let Ok(read) = CapabilityToken::parse(text) else {
        return;
    };
    assert_eq!(read.to_text().as_str(), text);
    let root = RootKey::from_bytes([7; 32]);
    assert!(read.verify(&root).is_err(), "nobody has said the key");
    if let Ok(narrowed) = read.narrow(&[Caveat::Tier(Tier::Reflex)]) {
        let text = narrowed.to_text();
        let again = CapabilityToken::parse(&text).expect("a narrowed token can be read");
        assert_eq!(again.id(), read.id());
    }
}
