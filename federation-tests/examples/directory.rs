//! Measures one directory with a hundred thousand ads: queries, a reconciliation with somebody who
//! has nothing, and a flood of a million replayed ads. Usage:
//!
//! ```sh
//! cargo run --release -p aither-federation-tests --example directory -- [ADS]
//! ```

#![allow(clippy::print_stdout, reason = "what it measures is its output")]

use std::{
    env, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use aither_federation::{
    Directory, DirectorySettings, Query, Session, Snapshot, Source, Standing, Verdict, Via,
};
use aither_protocol::{
    Ad, FederationId, NodeId, Signed, SkillHash, SubjectKind, UnixTime, Verified, ad::Offer, limits,
};
use ed25519_dalek::SigningKey;

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
const ADS: usize = 100_000;
const FLOOD: usize = 1_000_000;
const QUERIES: usize = 2001;
/// Agents of a node, and skills in all.
const AGENTS: usize = 10;
const SKILLS: usize = 500;

fn main() {
    let count = env::args().nth(1).and_then(|text| text.parse().ok());
    let federation = FederationId::from(key(usize::MAX).verifying_key());
    let before = resident_mb();
    let begun = Instant::now();
    let ads: Vec<_> = (0..count.unwrap_or(ADS))
        .map(|number| ad(number, &federation))
        .collect();
    println!("{} ads signed in {:.1?}", ads.len(), begun.elapsed());

    let mut directory = Directory::new(DirectorySettings::closed());
    let peer = NodeId::from(key(1).verifying_key());
    let source = Source {
        via: Via::Gossip(peer),
        standing: Standing::Known,
    };
    let begun = Instant::now();
    for ad in &ads {
        assert_eq!(directory.offer(ad, source, NOW), Verdict::Accept);
    }
    println!(
        "taken in {:.1?}, resident {} MB more",
        begun.elapsed(),
        resident_mb() - before
    );
    query(&directory);

    let begun = Instant::now();
    let snapshot = directory.snapshot(NOW);
    println!("snapshot in {:.1?}", begun.elapsed());
    exchange(
        &snapshot,
        &Arc::new(Snapshot::default()),
        "with somebody who has nothing",
    );
    exchange(&snapshot, &snapshot, "with somebody who has the same");
    flood(&mut directory, &ads, source);
}

/// By skill, as most are asked.
fn query(directory: &Directory) {
    let mut took: Vec<Duration> = (0..QUERIES)
        .map(|number| {
            let query = Query {
                kind: Some(SubjectKind::Agent),
                skill: Some(skill(number)),
                limit: 50,
                ..Query::default()
            };
            let begun = Instant::now();
            let found = directory.find(&query, NOW);
            assert!(!found.is_empty());
            begun.elapsed()
        })
        .collect();
    took.sort();
    let (p50, p99) = (took[QUERIES / 2], took[QUERIES * 99 / 100]);
    println!("query by skill: p50 {p50:.1?}, p99 {p99:.1?}");
}

fn exchange(ours: &Arc<Snapshot>, theirs: &Arc<Snapshot>, with: &str) {
    let begun = Instant::now();
    let (mut one, first) = Session::begin(Arc::clone(ours), true);
    let mut other = Session::answer(Arc::clone(theirs), true);
    let (mut messages, mut bytes, mut records) = (0, 0, 0);
    let mut sent = Some(first);
    while let Some(message) = sent {
        let session = if messages % 2 == 0 {
            &mut other
        } else {
            &mut one
        };
        messages += 1;
        bytes += message.len();
        let turn = session.on_message(&message).expect("both are honest");
        records += turn.records.len();
        sent = turn.reply;
    }
    let took = begun.elapsed();
    println!("reconciled {with}: {messages} messages, {bytes} B, {records} ads, {took:.1?}");
}

fn flood(directory: &mut Directory, ads: &[Arc<Verified<Ad>>], source: Source) {
    let before = resident_mb();
    let (begun, mut rejected) = (Instant::now(), 0);
    for number in 0..FLOOD {
        let received = Signed::parse(ads[number % ads.len()].as_bytes()).expect("it is an ad");
        let verdict = directory.screen(&received, source, NOW);
        rejected += usize::from(matches!(verdict, Some(Verdict::Reject(_))));
    }
    let each = begun.elapsed() / FLOOD as u32;
    let more = resident_mb() - before;
    println!("{FLOOD} replayed ads: {each:.1?} each, {rejected} held against the peer");
    println!("resident {more} MB more");
}

fn ad(number: usize, federation: &FederationId) -> Arc<Verified<Ad>> {
    let key = key(number / AGENTS);
    let mut skills: Vec<_> = (0..5).map(|at| skill(number * 7 + at * 31)).collect();
    skills.sort();
    let ad = Ad {
        node: key.verifying_key().into(),
        kind: SubjectKind::Agent,
        name: format!("research-assistant-{number}"),
        epoch: NOW.seconds(),
        sequence: 1,
        issued: NOW,
        expires: NOW.plus(limits::AD_LIFE_MAX),
        offer: Some(Offer {
            card_hash: Some([7; 32]),
            skills,
            price_micros: (number * 37 % 5000) as u64,
            ..Offer::default()
        }),
    };
    Arc::new(ad.sign(&key, federation).expect("it is as it must be"))
}

fn skill(number: usize) -> SkillHash {
    SkillHash::of(&format!("skill-{}", number % SKILLS))
}

fn key(number: usize) -> SigningKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    SigningKey::from_bytes(&bytes)
}

/// What the process has in memory, where the system says so.
fn resident_mb() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes
        .and_then(|text| text.parse::<i64>().ok())
        .unwrap_or(0)
        / 1000
}
