//! What the directory takes, keeps, finds and forgets.

use std::{net::IpAddr, sync::Arc, time::Duration};

use aither_federation::{
    AddressPrefix, Directory, DirectorySettings, Query, Reason, Source, Standing, Verdict, Via,
};
use aither_protocol::{Ad, Signed, SkillHash, SubjectKind, UnixTime, Verified, limits};
use proptest::prelude::*;

use super::{HOUR, MINUTE, NOW, ad, directory, gossip, later, node, sign, tombstone, with};

const SECOND: Duration = Duration::from_secs(1);

fn all(limit: usize) -> Query<'static> {
    Query {
        limit,
        ..Query::default()
    }
}

fn names(directory: &Directory, query: &Query<'_>, now: UnixTime) -> Vec<String> {
    let found = directory.find(query, now).into_iter();
    found.map(|ad| ad.name.clone()).collect()
}

#[test]
fn newer_ad_takes_the_place_of_an_older_one_and_never_the_other_way() {
    let old = sign(1, &ad(1, "a"));
    let new = sign(1, &later(&ad(1, "a"), 2, HOUR));
    let now = new.issued;
    let mut directory = with(&[Arc::clone(&old), Arc::clone(&new)]);
    let ignored = directory.offer(&old, gossip(2), now);
    assert_eq!(ignored, Verdict::Ignore(Reason::Stale));
    let ignored = directory.offer(&new, gossip(2), now);
    assert_eq!(ignored, Verdict::Ignore(Reason::Known));
    // A node that was restored begins a later epoch, with a lower sequence.
    let mut restored = ad(1, "a");
    restored.epoch += 5;
    assert_eq!(
        directory.offer(&sign(1, &restored), gossip(2), now),
        Verdict::Accept
    );
    assert_eq!(directory.len(), 1);
}

#[test]
fn ad_is_found_until_its_last_second() {
    let ad = sign(1, &ad(1, "a"));
    let end = ad.expires;
    let mut directory = with(&[Arc::clone(&ad)]);
    assert_eq!(names(&directory, &all(9), end.minus(SECOND)), ["a"]);
    assert!(names(&directory, &all(9), end).is_empty());
    assert_eq!(directory.next_expiry(), Some(end));
    assert_eq!(directory.expire(end.minus(SECOND)), []);
    assert_eq!(directory.expire(end), [ad.subject()]);
    assert!(directory.is_empty());
    let ignored = directory.offer(&ad, gossip(2), end);
    assert_eq!(ignored, Verdict::Ignore(Reason::Expired));
}

#[test]
fn ads_from_further_ahead_than_clocks_are_apart_are_ignored() {
    let skew = limits::CLOCK_SKEW_MAX;
    let ahead = |epoch_ahead: Duration, issued_ahead: Duration| {
        let mut ad = later(&ad(1, "a"), 1, issued_ahead);
        ad.epoch += epoch_ahead.as_secs();
        directory().offer(&sign(1, &ad), gossip(2), NOW)
    };
    let nothing = Duration::ZERO;
    assert_eq!(ahead(skew, skew), Verdict::Accept);
    assert_eq!(
        ahead(skew + SECOND, nothing),
        Verdict::Ignore(Reason::Future)
    );
    assert_eq!(
        ahead(nothing, skew + SECOND),
        Verdict::Ignore(Reason::Future)
    );
}

#[test]
fn tombstone_buries_and_outlives_what_it_buries() {
    let living = ad(1, "a");
    let grave = sign(1, &tombstone(&living, 2));
    for ads in [
        vec![sign(1, &living), Arc::clone(&grave)],
        vec![Arc::clone(&grave)],
    ] {
        let mut directory = with(&ads);
        assert!(names(&directory, &all(9), NOW).is_empty());
        // What was said before, however long it may live, does not come back.
        let mut late = later(&living, 1, limits::CLOCK_SKEW_MAX);
        late.epoch -= 1;
        let replayed = sign(1, &late);
        let last = replayed.expires.minus(SECOND);
        directory.expire(last);
        let ignored = directory.offer(&replayed, gossip(2), last);
        assert_eq!(ignored, Verdict::Ignore(Reason::Stale));
        assert_eq!(directory.expire(grave.expires), [grave.subject()]);
    }
}

#[test]
fn older_ad_does_not_come_back_when_a_shorter_newer_one_ends() {
    let long = sign(1, &ad(1, "a"));
    let mut short = ad(1, "a");
    short.sequence = 2;
    short.expires = NOW.plus(HOUR);
    let short = sign(1, &short);
    let mut directory = with(&[Arc::clone(&long), short]);
    let after = NOW.plus(2 * HOUR);
    assert_eq!(directory.expire(after), []);
    assert!(names(&directory, &all(9), after).is_empty());
    assert!(directory.snapshot(after).is_empty());
    let ignored = directory.offer(&long, gossip(2), after);
    assert_eq!(ignored, Verdict::Ignore(Reason::Stale));
    // But a newer one does, and all is forgotten in the end.
    let newer = sign(1, &later(&ad(1, "a"), 3, 2 * HOUR));
    assert_eq!(directory.offer(&newer, gossip(2), after), Verdict::Accept);
    assert_eq!(names(&directory, &all(9), after), ["a"]);
    assert_eq!(directory.expire(newer.expires), [newer.subject()]);
    assert_eq!(directory.next_expiry(), None);
}

#[test]
fn partner_is_blamed_for_what_is_known_but_not_for_what_does_not_fit() {
    let known = sign(1, &ad(1, "a"));
    let settings = DirectorySettings {
        ads_per_node_max: 1,
        ..DirectorySettings::closed()
    };
    let burst = settings.useless_rate.burst;
    let mut directory = Directory::new(settings);
    let source = Source {
        via: Via::Exchange(node(2)),
        standing: Standing::Known,
    };
    assert_eq!(directory.offer(&known, source, NOW), Verdict::Accept);
    let one_more = sign(1, &ad(1, "b"));
    for _ in 0..2 * burst {
        let verdict = directory.offer(&one_more, source, NOW);
        assert_eq!(verdict, Verdict::Ignore(Reason::NodeFull));
    }
    for _ in 0..burst {
        let verdict = directory.offer(&known, source, NOW);
        assert_eq!(verdict, Verdict::Ignore(Reason::Known));
    }
    let verdict = directory.offer(&known, source, NOW);
    assert_eq!(verdict, Verdict::Reject(Reason::Known));
}

#[test]
fn excluded_nodes_ads_are_gone_at_once() {
    let ads = [
        sign(1, &ad(1, "a")),
        sign(1, &ad(1, "b")),
        sign(2, &ad(2, "c")),
    ];
    let mut directory = with(&ads);
    directory.snapshot(NOW);
    let mut forgotten = directory.forget_node(&node(1));
    forgotten.sort();
    let mut expected = [ads[0].subject(), ads[1].subject()];
    expected.sort();
    assert_eq!(forgotten, expected);
    assert_eq!(names(&directory, &all(9), NOW), ["c"]);
    assert_eq!((directory.len(), directory.snapshot(NOW).len()), (1, 1));
    // Its places are free again, and nothing of it is left to be forgotten later.
    assert_eq!(
        directory.offer(&sign(3, &ad(3, "d")), gossip(9), NOW),
        Verdict::Accept
    );
    assert_eq!(directory.expire(ads[2].expires).len(), 2);
}

#[test]
fn subject_that_changes_too_often_is_ignored_for_a_while() {
    let rate = DirectorySettings::closed().subject_rate;
    let mut directory = directory();
    let mut change = |number: u64, now: UnixTime| {
        let mut ad = ad(1, "a");
        ad.sequence = number;
        directory.offer(&sign(1, &ad), gossip(2), now)
    };
    for number in 1..=u64::from(rate.burst) {
        assert_eq!(change(number, NOW), Verdict::Accept);
    }
    assert_eq!(change(100, NOW), Verdict::Ignore(Reason::TooOften));
    assert_eq!(change(100, NOW.plus(rate.interval)), Verdict::Accept);
}

#[test]
fn two_ads_of_one_number_leave_all_nodes_with_the_same() {
    let one = sign(1, &ad(1, "a"));
    let mut other = ad(1, "a");
    other.offer.as_mut().unwrap().price_micros += 1;
    let other = sign(1, &other);
    let held = |ads: [&Arc<Verified<Ad>>; 2]| {
        let mut directory = directory();
        for ad in ads {
            directory.offer(ad, gossip(2), NOW);
        }
        directory.get(&one.subject()).unwrap().id()
    };
    assert_eq!(held([&one, &other]), held([&other, &one]));
}

#[test]
fn replayed_ad_is_turned_away_before_its_signature_is_looked_at() {
    let new = sign(1, &later(&ad(1, "a"), 2, MINUTE));
    let mut directory = with(&[Arc::clone(&new)]);
    let mut screen = |ad: &Verified<Ad>| {
        let received = Signed::parse(ad.as_bytes()).unwrap();
        directory.screen(&received, gossip(2), new.issued)
    };
    assert_eq!(screen(&new), Some(Verdict::Ignore(Reason::Known)));
    let old = sign(1, &ad(1, "a"));
    assert_eq!(screen(&old), Some(Verdict::Ignore(Reason::Stale)));
    assert_eq!(screen(&sign(1, &later(&ad(1, "a"), 3, MINUTE))), None);
    assert_eq!(screen(&sign(1, &ad(1, "b"))), None);
    assert_eq!(directory.len(), 1);
}

#[test]
fn peer_that_replays_without_end_is_rejected_and_others_are_not() {
    let known = sign(1, &ad(1, "a"));
    let mut directory = with(&[Arc::clone(&known)]);
    let burst = DirectorySettings::closed().useless_rate.burst;
    for _ in 0..burst {
        let verdict = directory.offer(&known, gossip(2), NOW);
        assert_eq!(verdict, Verdict::Ignore(Reason::Known));
    }
    let verdict = directory.offer(&known, gossip(2), NOW);
    assert_eq!(verdict, Verdict::Reject(Reason::Known));
    let other = directory.offer(&known, gossip(3), NOW);
    assert_eq!(other, Verdict::Ignore(Reason::Known));
    // An hour later it is forgiven.
    let verdict = directory.offer(&known, gossip(2), NOW.plus(HOUR));
    assert_eq!(verdict, Verdict::Ignore(Reason::Known));
}

/// Agents and models of three nodes.
fn catalogue() -> Directory {
    use SubjectKind::{Agent, Model};
    let entries: [(u32, &str, SubjectKind, &[&str], u64); 6] = [
        (1, "dear", Agent, &["translate", "search"], 50),
        (1, "cheap", Agent, &["translate"], 5),
        (2, "middle", Agent, &["translate"], 20),
        (2, "other", Agent, &["search"], 1),
        (2, "smollm2:135m", Model, &[], 3),
        (3, "smollm2:135m", Model, &[], 2),
    ];
    let ads = entries.map(|(number, name, kind, skills, price_micros)| {
        let mut ad = ad(number, name);
        ad.kind = kind;
        let offer = ad.offer.as_mut().unwrap();
        offer.skills = skills.iter().map(|skill| SkillHash::of(skill)).collect();
        offer.skills.sort();
        offer.price_micros = price_micros;
        sign(number, &ad)
    });
    with(&ads)
}

#[test]
fn answers_fit_all_that_is_asked_cheapest_first() {
    let directory = catalogue();
    let check = |query: Query<'_>, expected: &[&str]| {
        assert_eq!(names(&directory, &query, NOW), expected, "{query:?}");
    };
    let skill = |skill| Query {
        skill: Some(SkillHash::of(skill)),
        ..all(9)
    };
    check(skill("translate"), &["cheap", "middle", "dear"]);
    check(skill("unknown"), &[]);
    let mut query = skill("translate");
    query.limit = 1;
    check(query, &["cheap"]);
    query.limit = 9;
    query.price_micros_max = Some(20);
    check(query, &["cheap", "middle"]);
    let mut query = skill("search");
    query.node = Some(node(1));
    check(query, &["dear"]);
    query.name = Some("middle");
    check(query, &[]);
    let mut query = all(9);
    query.node = Some(node(7));
    check(query, &[]);
}

#[test]
fn models_are_found_by_name_and_kind() {
    let directory = catalogue();
    let mut query = all(9);
    query.name = Some("smollm2:135m");
    assert_eq!(
        names(&directory, &query, NOW),
        ["smollm2:135m", "smollm2:135m"]
    );
    let mut query = all(2);
    query.kind = Some(SubjectKind::Model);
    let found = directory.find(&query, NOW);
    assert_eq!((found[0].node, found[1].node), (node(3), node(2)));
    query.kind = Some(SubjectKind::Agent);
    assert_eq!(names(&directory, &query, NOW), ["other", "cheap"]);
}

#[test]
fn strangers_share_what_is_for_strangers_and_each_network_its_part() {
    let settings = DirectorySettings {
        strangers_max: 6,
        ads_per_stranger_max: 2,
        strangers_per_prefix_max: 4,
        ..DirectorySettings::open()
    };
    let mut directory = Directory::new(settings);
    let mut offer = |number: u32, name: &str, address: Option<&str>| {
        let prefix = address.map(|address| AddressPrefix::of(address.parse::<IpAddr>().unwrap()));
        let source = Source {
            via: Via::Gossip(node(9)),
            standing: prefix.map_or(Standing::Known, Standing::Stranger),
        };
        directory.offer(&sign(number, &ad(number, name)), source, NOW)
    };
    let (here, there) = (Some("192.0.2.7"), Some("2001:db8:1::5"));
    assert_eq!(offer(1, "a", here), Verdict::Accept);
    assert_eq!(offer(1, "b", here), Verdict::Accept);
    assert_eq!(offer(1, "c", here), Verdict::Ignore(Reason::NodeFull));
    assert_eq!(offer(2, "a", Some("192.0.2.99")), Verdict::Accept);
    assert_eq!(offer(3, "a", Some("::ffff:192.0.2.1")), Verdict::Accept);
    let full = Verdict::Ignore(Reason::StrangersFull);
    assert_eq!(offer(4, "a", here), full);
    assert_eq!(offer(4, "a", there), Verdict::Accept);
    assert_eq!(offer(5, "a", Some("2001:db8:1:2::")), Verdict::Accept);
    assert_eq!(offer(6, "a", Some("198.51.100.1")), full);
    // Whom somebody vouches for has a place of his own.
    assert_eq!(offer(6, "a", None), Verdict::Accept);
    assert!(!directory.takes_new());
    directory.expire(NOW.plus(25 * HOUR));
    assert!(directory.is_empty() && directory.takes_new());
}

#[test]
fn full_directory_takes_only_what_is_newer_of_what_it_has() {
    let settings = DirectorySettings {
        ads_max: 2,
        ads_per_node_max: 2,
        ..DirectorySettings::closed()
    };
    let mut directory = Directory::new(settings);
    let mut offer = |ad: &Ad| directory.offer(&sign(1, ad), gossip(9), NOW);
    assert_eq!(offer(&ad(1, "a")), Verdict::Accept);
    assert_eq!(offer(&ad(1, "b")), Verdict::Accept);
    assert_eq!(offer(&ad(1, "c")), Verdict::Ignore(Reason::Full));
    let mut newer = ad(1, "a");
    newer.sequence = 2;
    assert_eq!(offer(&newer), Verdict::Accept);
    let own = Source {
        via: Via::Own,
        standing: Standing::Known,
    };
    assert_eq!(
        directory.offer(&sign(5, &ad(5, "own")), own, NOW),
        Verdict::Accept
    );
}

#[test]
fn snapshot_has_what_lives_on_in_the_order_of_subjects() {
    let mut directory = directory();
    for name in ["a", "b", "c", "d"] {
        directory.offer(&sign(1, &ad(1, name)), gossip(9), NOW);
    }
    let mut short = ad(1, "short");
    short.expires = NOW.plus(2 * MINUTE);
    directory.offer(&sign(1, &short), gossip(9), NOW);
    directory.offer(&sign(2, &tombstone(&ad(2, "gone"), 1)), gossip(9), NOW);
    let first = directory.snapshot(NOW);
    let subjects: Vec<_> = first.items().iter().map(|item| item.subject).collect();
    assert!(subjects.len() == 6 && subjects.is_sorted());
    // It is the same one until something changes, or ends soon.
    assert!(Arc::ptr_eq(&first, &directory.snapshot(NOW.plus(SECOND))));
    assert_eq!(directory.snapshot(NOW.plus(MINUTE)).len(), 5);
    directory.offer(&sign(1, &ad(1, "e")), gossip(9), NOW);
    assert_eq!(directory.snapshot(NOW).len(), 7);
}

/// What a directory is asked to do in the property below: an ad of one of a few subjects.
fn any_ads() -> impl Strategy<Value = Vec<Ad>> {
    let any_ad = (0..3_u32, 0..4_u64, 0..3_u64, any::<bool>(), 1..24_u32);
    let any_ad = any_ad.prop_map(|(name, epoch, sequence, gone, hours)| {
        let mut ad = ad(1, &name.to_string());
        ad.epoch += epoch;
        ad.sequence = sequence;
        ad.expires = NOW.plus(HOUR * hours);
        if gone { tombstone(&ad, sequence) } else { ad }
    });
    prop::collection::vec(any_ad, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_of_arrival_makes_no_difference(
        (sent, shuffled) in any_ads()
            .prop_flat_map(|sent| (Just(sent.clone()), Just(sent).prop_shuffle())),
        hours in 0..30_u32,
    ) {
        let held = |ads: &[Ad]| {
            let mut directory = directory();
            for ad in ads {
                directory.offer(&sign(1, ad), gossip(9), NOW);
            }
            let now = NOW.plus(HOUR * hours);
            directory.expire(now);
            let snapshot = directory.snapshot(now);
            let ids: Vec<_> = snapshot.items().iter().map(|item| item.id).collect();
            (ids, names(&directory, &all(99), now).len())
        };
        prop_assert_eq!(held(&sent), held(&shuffled));
    }
}
