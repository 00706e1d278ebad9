//! What others have read from us once stays as it is: schemas, a canonical form, a signed card.
//!
//! A file that differs is written beside the old one as `*.new` for review, and the test fails; a
//! file that no test reads fails too.

use std::{collections::BTreeSet, fs, path::PathBuf};

use aither_protocol::{NodeId, canonical_json, card_schema, sign_card, spec_schema, verify_card};
use ed25519_dalek::SigningKey;
use serde_json::Value;

/// Every file of `testdata/v1`.
const FILES: [&str; 5] = [
    "a2a-card.canonical",
    "a2a-card.json",
    "a2a-card.signed.json",
    "agent-card.schema.json",
    "aither-agent.schema.json",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/v1")
}

fn read(name: &str) -> String {
    assert!(FILES.contains(&name), "{name}");
    fs::read_to_string(folder().join(name)).unwrap_or_default()
}

fn check(name: &str, made: &str) {
    if read(name) != made {
        let new = folder().join(format!("{name}.new"));
        fs::write(&new, made).unwrap();
        panic!("{name} has changed; review {}", new.display());
    }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap();
    text.push('\n');
    text
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

#[test]
fn schemas_stay_as_published() {
    check("agent-card.schema.json", &pretty(&card_schema()));
    check("aither-agent.schema.json", &pretty(&spec_schema()));
}

#[test]
fn card_is_signed_as_it_was() {
    let card: Value = serde_json::from_str(&read("a2a-card.json")).unwrap();
    let canonical = String::from_utf8(canonical_json(&card).unwrap()).unwrap();
    check("a2a-card.canonical", &canonical);
    let kid = NodeId::from(key().verifying_key()).to_string();
    check(
        "a2a-card.signed.json",
        &pretty(&sign_card(&card, &key(), &kid).unwrap()),
    );
}

#[test]
fn card_that_was_signed_is_verified() {
    let signed: Value = serde_json::from_str(&read("a2a-card.signed.json")).unwrap();
    assert_eq!(verify_card(&signed, &key().verifying_key()), Ok(()));
}

#[test]
fn every_file_is_read() {
    let found = fs::read_dir(folder()).unwrap();
    // The folders beside them have readers of their own.
    let found = found.map(|entry| entry.unwrap().path());
    let found = found.filter(|path| path.is_file());
    let found = found.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    let found: BTreeSet<_> = found.filter(|name| !name.ends_with(".new")).collect();
    assert_eq!(found, BTreeSet::from(FILES.map(str::to_owned)));
}
