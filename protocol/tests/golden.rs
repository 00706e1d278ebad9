//! Golden vectors: what is on the wire today must be read for ever.
//!
//! `testdata/v1/` only ever grows. Each folder is of one format and has its reader here; a file
//! that no reader took is a failure, so none is forgotten. Where a file is not what the code makes
//! of it, what it makes is written beside it as `*.new`, to be looked at: a vector that has been
//! published is right, and the code is wrong.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use aither_protocol::{
    Amount, CapabilitySet, CapabilityToken, Caveat, Grant, MemoryTierSet, RootKey, Tier, TokenId,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[test]
fn every_folder_of_vectors_has_its_reader() {
    // The files beside the folders are read, all of them, by the tests of cards.
    let folders = entries(&testdata())
        .into_iter()
        .filter(|entry| entry.is_dir());
    let folders: Vec<_> = folders.collect();
    let names = folders.iter().map(|folder| folder.file_name().unwrap());
    // All but those of capability tokens are read beside the tests of what they hold.
    let expected = [
        "ad",
        "capability-token",
        "certificate",
        "hello",
        "invite",
        "join",
        "reconciliation",
        "revocation",
    ];
    assert_eq!(names.collect::<Vec<_>>(), expected);
}

#[test]
fn capability_tokens_are_those_of_the_vectors() {
    let (mut minted, mut refused) = (0, 0);
    for file in entries(&testdata().join("capability-token")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name == "refused.json" {
            check(&file, RefusedTokens::made);
            refused += 1;
        } else if name.ends_with(".json") {
            check(&file, MintedToken::made);
            minted += 1;
        } else {
            panic!(
                "{} was not read; move it over its vector, or delete it",
                file.display()
            );
        }
    }
    assert!(minted >= 4 && refused == 1, "{minted} and {refused} files");
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths = entries
        .map(|entry| entry.unwrap().path())
        .collect::<Vec<_>>();
    paths.sort();
    paths
}

/// Compares a file with what the code makes of it, to the letter.
#[track_caller]
fn check<T: Serialize + DeserializeOwned>(file: &Path, made: impl Fn(T) -> T) {
    let written = fs::read_to_string(file).unwrap();
    let vector = serde_json::from_str(&written)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let made = serde_json::to_string_pretty(&made(vector)).unwrap() + "\n";
    if made != written {
        let new = file.with_extension("json.new");
        fs::write(&new, made).unwrap();
        panic!(
            "{} is not what is made today; see {}",
            file.display(),
            new.display()
        );
    }
}

/// A token by what goes into it, with the text that comes out and what that grants.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MintedToken {
    about: String,
    root_key: String,
    id: VectorId,
    caveats: Vec<VectorCaveat>,
    text: String,
    grant: VectorGrant,
}

/// Texts that must be refused, with the error's name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusedTokens {
    about: String,
    root_key: String,
    tokens: Vec<RefusedToken>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusedToken {
    about: String,
    text: String,
    error: String,
}

/// Numbers of 128 bits are 32 hexadecimal digits, which every JSON reader keeps.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorId {
    key_id: u32,
    serial: String,
    agent: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum VectorCaveat {
    Capabilities(CapabilitySet),
    Agent(String),
    Tier(Tier),
    Expires(u64),
    MemoryTiers(MemoryTierSet),
    KeyPrefix(String),
    MaxSpend(Amount),
    Skills(Vec<String>),
    Id(String),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct VectorGrant {
    ids: Vec<String>,
    agent: Option<String>,
    capabilities: CapabilitySet,
    tier: Option<Tier>,
    expires_ms: Option<u64>,
    memory_tiers: MemoryTierSet,
    key_prefixes: Vec<String>,
    skills: Option<Vec<String>>,
    allowances: Vec<VectorAllowance>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorAllowance {
    id: String,
    max: Amount,
}

impl MintedToken {
    fn made(self) -> Self {
        let root = root_key(&self.root_key);
        let caveats = self.caveats.iter().map(VectorCaveat::caveat);
        let caveats = caveats.collect::<Vec<_>>();
        let minted = CapabilityToken::mint(&root, self.id.token_id(), &caveats).unwrap();
        let text = minted.to_text().to_string();
        let read = CapabilityToken::parse(&text).unwrap();
        let grant = read.verify(&root).unwrap();
        assert_eq!(grant.id, self.id.token_id());
        Self {
            text,
            grant: VectorGrant::of(grant),
            ..self
        }
    }
}

impl RefusedTokens {
    fn made(mut self) -> Self {
        let root = root_key(&self.root_key);
        for refused in &mut self.tokens {
            let result = CapabilityToken::parse(&refused.text).and_then(|read| read.verify(&root));
            let error = format!("{:?}", result.expect_err(&refused.about));
            let name = error.split(|char: char| !char.is_alphanumeric()).next();
            refused.error = name.unwrap().to_owned();
        }
        self
    }
}

impl VectorId {
    fn token_id(&self) -> TokenId {
        TokenId {
            key_id: self.key_id,
            serial: number(&self.serial),
            agent: number(&self.agent),
        }
    }
}

impl VectorCaveat {
    fn caveat(&self) -> Caveat {
        match self {
            Self::Capabilities(set) => Caveat::Capabilities(*set),
            Self::Agent(name) => Caveat::Agent(name.clone()),
            Self::Tier(tier) => Caveat::Tier(*tier),
            Self::Expires(at_ms) => Caveat::Expires(*at_ms),
            Self::MemoryTiers(set) => Caveat::MemoryTiers(*set),
            Self::KeyPrefix(prefix) => Caveat::KeyPrefix(prefix.clone()),
            Self::MaxSpend(amount) => Caveat::MaxSpend(*amount),
            Self::Skills(skills) => Caveat::Skills(skills.clone()),
            Self::Id(id) => Caveat::Id(number(id)),
        }
    }
}

impl VectorGrant {
    fn of(grant: Grant) -> Self {
        let allowances = grant.allowances.iter().map(|allowance| VectorAllowance {
            id: digits(allowance.id),
            max: allowance.max,
        });
        Self {
            ids: grant.ids.iter().copied().map(digits).collect(),
            agent: grant.agent,
            capabilities: grant.capabilities,
            tier: grant.tier,
            expires_ms: grant.expires_ms,
            memory_tiers: grant.memory_tiers,
            key_prefixes: grant.key_prefixes,
            skills: grant.skills.map(|skills| skills.into_iter().collect()),
            allowances: allowances.collect(),
        }
    }
}

fn root_key(hex: &str) -> RootKey {
    assert_eq!(hex.len(), 64);
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    }
    RootKey::from_bytes(key)
}

fn number(hex: &str) -> u128 {
    assert_eq!(hex.len(), 32);
    u128::from_str_radix(hex, 16).unwrap()
}

fn digits(number: u128) -> String {
    format!("{number:032x}")
}
