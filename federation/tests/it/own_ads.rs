//! What a node says of itself, after starts, restores and in company of its own copy.

use std::time::Duration;

use aither_federation::{OwnAds, Query, Verdict};
use aither_protocol::{Ad, SubjectKind, UnixTime, ad::Offer, limits};

use super::{HOUR, MINUTE, NOW, directory, gossip, key, node, sign};

fn offer(price_micros: u64) -> Offer {
    Offer {
        card_hash: Some([7; 32]),
        price_micros,
        ..Offer::default()
    }
}

fn announce(own: &mut OwnAds, name: &str, price_micros: u64, now: UnixTime) -> Option<Ad> {
    let offer = offer(price_micros);
    own.announce(SubjectKind::Agent, name, offer, now).unwrap()
}

fn start(stored: Option<u64>) -> OwnAds {
    OwnAds::start(node(1), stored, NOW)
}

#[test]
fn epoch_is_above_what_was_stored_and_not_below_the_time() {
    assert_eq!(start(None).epoch(), NOW.seconds());
    assert_eq!(start(Some(5)).epoch(), NOW.seconds());
    assert_eq!(start(Some(NOW.seconds() + 3)).epoch(), NOW.seconds() + 4);
}

#[test]
fn change_is_said_once_with_a_higher_sequence() {
    let mut own = start(None);
    let first = announce(&mut own, "a", 1, NOW).unwrap();
    assert_eq!(announce(&mut own, "a", 1, NOW), None);
    let second = announce(&mut own, "a", 2, NOW).unwrap();
    assert!(second.sequence > first.sequence);
    assert_eq!(second.expires, NOW.plus(limits::AD_LIFE_MAX));
    // What it makes can be signed.
    assert_eq!(**sign(1, &second), second);
}

#[test]
fn withdrawn_subject_is_buried_once() {
    let mut own = start(None);
    assert_eq!(own.withdraw(SubjectKind::Agent, "a", NOW), None);
    announce(&mut own, "a", 1, NOW);
    let grave = own.withdraw(SubjectKind::Agent, "a", NOW).unwrap();
    assert!(grave.is_tombstone() && **sign(1, &grave) == grave);
    assert_eq!(own.withdraw(SubjectKind::Agent, "a", NOW), None);
    // It may live again, and is not said again while it does not.
    assert!(own.due(NOW.plus(30 * HOUR)).is_empty());
    assert_eq!(own.next_due(), None);
    assert!(announce(&mut own, "a", 1, NOW).is_some());
}

#[test]
fn ads_are_said_again_every_six_hours_or_so_and_not_all_at_once() {
    let mut own = start(None);
    for number in 0..100 {
        announce(&mut own, &number.to_string(), 1, NOW);
    }
    let (first, last) = (
        NOW.plus(5 * HOUR + 30 * MINUTE),
        NOW.plus(6 * HOUR + 30 * MINUTE),
    );
    assert!(own.next_due().unwrap() >= first);
    assert!(own.due(first).len() < 5);
    let half = own.due(first.plus(30 * MINUTE)).len();
    assert!((30..70).contains(&half), "{half}");
    own.due(last);
    assert!(own.next_due().unwrap() > last);
}

#[test]
fn restored_node_goes_above_what_it_said_after_the_backup() {
    let mut before = OwnAds::start(node(1), None, NOW.plus(5 * MINUTE));
    let newer = announce(&mut before, "a", 9, NOW).unwrap();
    let mut own = start(None);
    announce(&mut own, "a", 1, NOW);
    let said = own.observe(&sign(1, &newer), NOW);
    assert_eq!(own.epoch(), newer.epoch + 1);
    assert_eq!(said.len(), 1);
    assert!((said[0].epoch, said[0].offer.as_ref()) == (own.epoch(), Some(&offer(1))));
    // Its own ads come back too, and change nothing.
    assert!(own.observe(&sign(1, &said[0]), NOW).is_empty());
}

#[test]
fn what_an_earlier_life_had_and_this_one_has_not_is_buried() {
    let mut earlier = OwnAds::start(node(1), None, NOW.minus(HOUR));
    let old = sign(
        1,
        &announce(&mut earlier, "old", 1, NOW.minus(HOUR)).unwrap(),
    );
    let mut own = start(None);
    announce(&mut own, "a", 1, NOW);
    let said = own.observe(&old, NOW);
    assert_eq!(said.len(), 1);
    assert!(said[0].is_tombstone() && said[0].name == "old" && said[0].epoch > old.epoch);
    assert!(own.observe(&old, NOW).is_empty());
}

#[test]
fn ads_of_others_and_from_the_future_change_nothing() {
    let mut own = start(None);
    announce(&mut own, "a", 1, NOW);
    let epoch = own.epoch();
    let others = OwnAds::start(node(2), Some(epoch + 60), NOW);
    let mut others = others;
    let others = sign(2, &announce(&mut others, "a", 1, NOW).unwrap());
    assert!(own.observe(&others, NOW).is_empty());
    let mut future = OwnAds::start(key(1).verifying_key().into(), Some(epoch + 3600), NOW);
    let future = sign(1, &announce(&mut future, "a", 1, NOW).unwrap());
    assert!(own.observe(&future, NOW).is_empty());
    assert_eq!(own.epoch(), epoch);
}

#[test]
fn two_nodes_with_one_key_do_not_outrun_the_clock() {
    let (mut one, mut other) = (start(None), start(Some(NOW.seconds())));
    let mut said = announce(&mut other, "a", 2, NOW)
        .into_iter()
        .collect::<Vec<_>>();
    announce(&mut one, "a", 1, NOW);
    for turn in 0..1000 {
        let listener = if turn % 2 == 0 { &mut one } else { &mut other };
        let answer = said
            .iter()
            .flat_map(|ad| listener.observe(&sign(1, ad), NOW));
        said = answer.collect();
    }
    let ahead = one.epoch().max(other.epoch()) - NOW.seconds();
    assert!(ahead < limits::CLOCK_SKEW_MAX.as_secs() / 10, "{ahead} s");
}

#[test]
fn subject_that_changes_all_the_time_is_always_taken_and_ends_as_it_is() {
    let mut own = start(None);
    let mut directory = directory();
    let mut said = 0;
    let mut take = |ads: Vec<Ad>, now: UnixTime| {
        for ad in ads {
            said += 1;
            let verdict = directory.offer(&sign(1, &ad), gossip(2), now);
            assert_eq!(verdict, Verdict::Accept);
        }
    };
    let mut now = NOW;
    for number in 0..2000 {
        now = now.plus(Duration::from_secs(1));
        let ads = if number % 3 == 2 {
            own.withdraw(SubjectKind::Agent, "a", now)
        } else {
            announce(&mut own, "a", number, now)
        };
        take(ads.into_iter().collect(), now);
        let due = own.due(now);
        take(due, now);
    }
    // It is gone, and that is said within minutes.
    own.withdraw(SubjectKind::Agent, "a", now);
    let later = now.plus(7 * MINUTE);
    let due = own.due(later);
    assert!(due.iter().all(Ad::is_tombstone));
    take(due, later);
    assert!((9..20).contains(&said), "{said}");
    let all = Query {
        limit: 9,
        ..Query::default()
    };
    assert!(directory.find(&all, later).is_empty());
    assert!(own.due(later.plus(30 * HOUR)).is_empty());
}

#[test]
fn subjects_of_a_node_are_bounded() {
    let mut own = start(None);
    for number in 0..aither_federation::own_ads::OWN_SUBJECTS_MAX {
        announce(&mut own, &number.to_string(), 1, NOW);
    }
    let one_more = own.announce(SubjectKind::Agent, "more", offer(1), NOW);
    assert!(one_more.is_err());
    assert!(announce(&mut own, "7", 2, NOW).is_some());
}
