//! Reconciliations: what they cost, that they end with both sides equal, and what a partner that
//! means harm gets.

use std::{collections::BTreeMap, sync::Arc};

use aither_federation::{
    Directory, Misbehaviour, Session, Snapshot, Source, Standing, Verdict, Via,
};
use aither_protocol::{
    Ad, RecordId, Signed, SubjectId, Verified, limits,
    reconciliation::{Bound, Claim, Fingerprint, ListedAd, Message, Range},
};
use proptest::prelude::*;

use super::{
    HOUR, MINUTE, NOW, ad, directory, federation, gossip, later, node, sign, tombstone, with,
};

type Ads = BTreeMap<SubjectId, Arc<Verified<Ad>>>;

/// What a reconciliation cost.
#[derive(Debug, Default)]
struct Cost {
    messages: usize,
    bytes: usize,
    largest: usize,
    records: usize,
}

fn snapshot(ads: &Ads) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(ads.values().cloned()))
}

/// Takes a record as a directory does.
fn take(ads: &mut Ads, record: &[u8]) {
    let ad = Signed::<Ad>::parse(record).unwrap().verify(&federation());
    let ad = Arc::new(ad.unwrap());
    let held = ads.entry(ad.subject()).or_insert_with(|| Arc::clone(&ad));
    if Ad::order(&ad, held).is_gt() {
        *held = ad;
    }
}

/// Lets two sides talk until they are done. The first one begins.
fn reconcile(sides: [&mut Ads; 2], take_new: [bool; 2]) -> Cost {
    let (mut begun, mut message) = Session::begin(snapshot(sides[0]), take_new[0]);
    let mut answering = Session::answer(snapshot(sides[1]), take_new[1]);
    let mut cost = Cost::default();
    let mut turn = 1;
    loop {
        cost.messages += 1;
        cost.bytes += message.len();
        cost.largest = cost.largest.max(message.len());
        assert!(message.len() <= limits::RECONCILIATION_BYTES_MAX);
        let session = if turn == 0 {
            &mut begun
        } else {
            &mut answering
        };
        let next = session.on_message(&message).unwrap();
        cost.records += next.records.len();
        for record in &next.records {
            take(sides[turn], record);
        }
        let Some(reply) = next.reply else {
            return cost;
        };
        message = reply;
        turn = 1 - turn;
    }
}

fn ads(names: impl IntoIterator<Item = u32>) -> Ads {
    let signed = names
        .into_iter()
        .map(|name| sign(1, &ad(1, &name.to_string())));
    signed.map(|ad| (ad.subject(), ad)).collect()
}

fn ids(ads: &Ads) -> Vec<RecordId> {
    ads.values().map(|ad| ad.id()).collect()
}

#[track_caller]
fn check(one: &Ads, other: &Ads) -> Cost {
    let (mut one, mut other) = (one.clone(), other.clone());
    let mut united = one.clone();
    other
        .values()
        .for_each(|ad| take(&mut united, ad.as_bytes()));
    let cost = reconcile([&mut one, &mut other], [true, true]);
    assert_eq!(ids(&one), ids(&united));
    assert_eq!(ids(&other), ids(&united));
    cost
}

#[test]
fn equal_sets_cost_next_to_nothing() {
    for count in [0, 1, 20, 1000] {
        let cost = check(&ads(0..count), &ads(0..count));
        assert!(cost.bytes < 100, "{count}: {cost:?}");
    }
}

#[test]
fn node_that_has_nothing_gets_all_of_it() {
    let all = ads(0..3000);
    for (one, other) in [(&ads([]), &all), (&all, &ads([]))] {
        let cost = check(one, other);
        assert_eq!(cost.records, 3000);
        let records: usize = all.values().map(|ad| ad.as_bytes().len()).sum();
        assert!(
            cost.bytes < records + records / 20,
            "{cost:?} for {records} bytes"
        );
    }
}

#[test]
fn small_difference_costs_little() {
    let mut one = ads(0..5000);
    let changed = sign(1, &later(&ad(1, "77"), 2, MINUTE));
    one.insert(changed.subject(), changed);
    let cost = check(&one, &ads(0..5000));
    assert!(cost.bytes < 8000 && cost.records == 1, "{cost:?}");
}

#[test]
fn after_a_partition_both_sides_have_the_newer_of_each() {
    let (mut one, mut other) = (ads(0..1500), ads(500..2000));
    for name in 500..1500 {
        let ads = if name % 2 == 0 { &mut one } else { &mut other };
        let newer = if name % 10 == 0 {
            sign(1, &tombstone(&ad(1, &name.to_string()), 2))
        } else {
            sign(1, &later(&ad(1, &name.to_string()), 2, MINUTE))
        };
        ads.insert(newer.subject(), newer);
    }
    let cost = check(&one, &other);
    // Each that only one side had, or had newer, was sent once.
    assert_eq!(cost.records, 2000);
}

#[test]
fn difference_that_no_message_holds_takes_several() {
    let newer = (0..6000).map(|name| sign(1, &later(&ad(1, &name.to_string()), 2, MINUTE)));
    let newer: Ads = newer.map(|ad| (ad.subject(), ad)).collect();
    let cost = check(&ads(0..6000), &newer);
    assert_eq!(cost.records, 6000);
    let least = newer.values().map(|ad| ad.as_bytes().len()).sum::<usize>();
    assert!(
        cost.messages > least / limits::RECONCILIATION_BYTES_MAX,
        "{cost:?}"
    );
    // Beside the ads there are lists of 56 bytes an ad, 20 to ask for it, and the way to them.
    assert!(cost.bytes < least + 6000 * 90, "{cost:?} for {least} bytes");
}

#[test]
fn two_ads_of_one_number_end_as_the_same_on_both_sides() {
    let one = ads(0..40);
    let mut other = ads(0..40);
    let mut twin = ad(1, "7");
    twin.offer.as_mut().unwrap().price_micros += 1;
    let twin = sign(1, &twin);
    other.insert(twin.subject(), twin);
    check(&one, &other);
    check(&other, &one);
}

#[test]
fn full_side_is_sent_only_what_is_newer_of_what_it_has() {
    let (mut full, mut other) = (ads(0..200), ads(100..400));
    let newer = sign(1, &later(&ad(1, "150"), 2, MINUTE));
    other.insert(newer.subject(), Arc::clone(&newer));
    for begins in [true, false] {
        let (mut full, mut other) = (full.clone(), other.clone());
        let cost = if begins {
            reconcile([&mut full, &mut other], [false, true])
        } else {
            reconcile([&mut other, &mut full], [true, false])
        };
        assert_eq!((full.len(), other.len()), (200, 400));
        assert_eq!(full[&newer.subject()].id(), newer.id());
        assert_eq!(cost.records, 101);
    }
    reconcile([&mut full, &mut other], [false, false]);
    assert_eq!((full.len(), other.len()), (200, 300));
}

#[test]
fn ads_that_change_hands_while_a_session_runs_do_no_harm() {
    let (mut one, mut other) = (ads(0..300), ads(200..500));
    let (mut begun, first) = Session::begin(snapshot(&one), true);
    let mut answering = Session::answer(snapshot(&other), true);
    // Gossip brings each side everything while they are talking.
    ads(0..500).values().for_each(|ad| {
        take(&mut one, ad.as_bytes());
        take(&mut other, ad.as_bytes());
    });
    let mut message = Some(first);
    let mut turns = 0;
    while let Some(sent) = message {
        let session = if turns % 2 == 0 {
            &mut answering
        } else {
            &mut begun
        };
        message = session.on_message(&sent).unwrap().reply;
        turns += 1;
        assert!(turns < 20);
    }
}

#[test]
fn node_that_was_away_for_a_week_knows_everything_after_one_exchange() {
    let week = 7 * 24 * HOUR;
    let now = NOW.plus(week);
    let mut away = with(&ads(0..700).into_values().collect::<Vec<_>>());
    let mut present = directory();
    for name in 200..1200 {
        let fresh = sign(1, &later(&ad(1, &name.to_string()), 9, week));
        assert_eq!(present.offer(&fresh, gossip(3), now), Verdict::Accept);
    }
    away.expire(now);
    let source = Source {
        via: Via::Exchange(node(3)),
        standing: Standing::Known,
    };
    let (mut begun, first) = Session::begin(away.snapshot(now), away.takes_new());
    let mut answering = Session::answer(present.snapshot(now), present.takes_new());
    let mut message = Some(first);
    let mut turns = 0;
    while let Some(sent) = message {
        let here = turns % 2 == 1;
        let session = if here { &mut begun } else { &mut answering };
        let turn = session.on_message(&sent).unwrap();
        for record in turn.records {
            assert!(here, "the one that was away has nothing to tell");
            let ad = Signed::<Ad>::parse(&record).unwrap().verify(&federation());
            let verdict = away.offer(&Arc::new(ad.unwrap()), source, now);
            assert_eq!(verdict, Verdict::Accept);
        }
        message = turn.reply;
        turns += 1;
    }
    let ids = |directory: &mut Directory| -> Vec<_> {
        let snapshot = directory.snapshot(now);
        snapshot.items().iter().map(|item| item.id).collect()
    };
    assert_eq!(ids(&mut away), ids(&mut present));
    assert_eq!(ids(&mut away).len(), 1000);
}

#[test]
fn partner_that_sends_more_than_a_directory_holds_is_stopped() {
    let mut session = session(&ads([]));
    let sending = Message {
        takes_new: true,
        records: vec![Vec::new(); limits::RECONCILIATION_RECORDS_MAX],
        ..Message::default()
    };
    let sending = sending.to_bytes();
    let mut taken = 0;
    while let Ok(turn) = session.on_message(&sending) {
        taken += turn.records.len();
    }
    assert!(taken <= limits::RECONCILIATION_TAKEN_MAX, "{taken}");
    assert!(taken > limits::RECONCILIATION_TAKEN_MAX - sending.len());
}

fn session(ads: &Ads) -> Session {
    Session::answer(snapshot(ads), true)
}

fn whole(claim: Claim) -> Vec<u8> {
    let end = Bound::End;
    let message = Message {
        takes_new: true,
        ranges: vec![Range { end, claim }],
        ..Message::default()
    };
    message.to_bytes()
}

#[test]
fn partner_that_never_agrees_is_stopped() {
    let mut session = session(&ads(0..500));
    let wrong = whole(Claim::Fingerprint(Fingerprint([9; 16])));
    let mut answered = 0;
    let stopped = loop {
        match session.on_message(&wrong) {
            Ok(turn) => answered += usize::from(turn.reply.is_some()),
            Err(misbehaviour) => break misbehaviour,
        }
    };
    assert_eq!(stopped, Misbehaviour::Endless);
    assert!(answered <= 32, "{answered}");
}

#[test]
fn partner_that_only_talks_is_stopped() {
    // There is nothing to hash, so the turns must end it.
    let mut session = session(&ads([]));
    let mut turns = 0;
    loop {
        let listed = ListedAd {
            subject: SubjectId::from_bytes([7; 20]),
            epoch: 1,
            sequence: 1,
            id: RecordId::from_bytes([turns as u8; 20]),
        };
        match session.on_message(&whole(Claim::List(vec![listed]))) {
            Ok(turn) => assert!(turn.reply.unwrap().len() < 100),
            Err(misbehaviour) => break assert_eq!(misbehaviour, Misbehaviour::Endless),
        }
        turns += 1;
        assert!(turns <= limits::RECONCILIATION_TURNS_MAX);
    }
}

#[test]
fn each_ad_is_sent_once_however_often_it_is_asked_for() {
    let ads = ads(0..100);
    let mut session = session(&ads);
    let asking = Message {
        takes_new: true,
        wanted: ads.keys().copied().cycle().take(1000).collect(),
        ..Message::default()
    };
    let mut sent = 0;
    for _ in 0..50 {
        let reply = session.on_message(&asking.to_bytes()).unwrap().reply;
        sent += reply.map_or(0, |reply| Message::parse(&reply).unwrap().records.len());
    }
    assert_eq!(sent, 100);
}

#[test]
fn list_outside_its_range_and_malformed_messages_end_the_session() {
    let listed = |number| ListedAd {
        subject: SubjectId::from_bytes([number; 20]),
        epoch: 1,
        sequence: 1,
        id: RecordId::from_bytes([1; 20]),
    };
    let ranges = |number| Message {
        takes_new: true,
        ranges: vec![
            Range {
                end: Bound::Before(vec![10]),
                claim: Claim::Skip,
            },
            Range {
                end: Bound::Before(vec![20]),
                claim: Claim::List(vec![listed(number)]),
            },
        ],
        ..Message::default()
    };
    for (number, inside) in [(9, false), (10, true), (19, true), (20, false), (30, false)] {
        let taken = session(&ads(0..5)).on_message(&ranges(number).to_bytes());
        let outside = taken == Err(Misbehaviour::Range);
        assert_eq!(outside, !inside, "{number}: {taken:?}");
    }
    let refused = session(&ads(0..5)).on_message(&[1, 2, 3]);
    assert!(matches!(refused, Err(Misbehaviour::Message(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_two_sets_become_one(
        held in prop::collection::vec((0..3_u8, 0..3_u8), 0..260),
    ) {
        // Of each subject either side has nothing, an old ad or a newer one.
        let (mut one, mut other) = (Ads::new(), Ads::new());
        for (name, (of_one, of_other)) in held.into_iter().enumerate() {
            let put = |ads: &mut Ads, age: u8| {
                if age > 0 {
                    let ad = sign(1, &later(&ad(1, &name.to_string()), age.into(), MINUTE));
                    ads.insert(ad.subject(), ad);
                }
            };
            put(&mut one, of_one);
            put(&mut other, of_other);
        }
        check(&one, &other);
    }
}
