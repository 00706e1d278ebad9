//! What holds for all tokens: a longer chain allows less, and no input does harm.
//!
//! A grant is compared with the naive reading of its caveats, one by one.

use aither_protocol::{
    Amount, CAPABILITY_TOKEN_PREFIX, Capability, CapabilitySet, CapabilityToken, Caveat, Grant,
    MemoryTier, MemoryTierSet, Tier, limits,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{Parts, SKILLS, grant, mint, raw, read, root, text_of};

fn any_caveat() -> impl Strategy<Value = Caveat> {
    let capabilities = any::<u32>().prop_map(|bits| {
        let known = bits & CapabilitySet::all().bits();
        Caveat::Capabilities(CapabilitySet::from_bits(known).unwrap())
    });
    let memory_tiers =
        (0_u8..32).prop_map(|bits| Caveat::MemoryTiers(MemoryTierSet::from_bits(bits).unwrap()));
    let skills = vec(select(SKILLS), 0..4)
        .prop_map(|ids| Caveat::Skills(ids.into_iter().map(str::to_owned).collect()));
    let spend =
        (0..=Amount::MAX.micros()).prop_map(|micros| Caveat::MaxSpend(Amount::from_micros(micros)));
    prop_oneof![
        capabilities,
        "[a-z0-9-]{1,8}".prop_map(Caveat::Agent),
        select(Tier::ALL).prop_map(Caveat::Tier),
        any::<u64>().prop_map(Caveat::Expires),
        memory_tiers,
        "[ab/]{1,3}".prop_map(Caveat::KeyPrefix),
        spend,
        skills,
        any::<u128>().prop_map(Caveat::Id),
    ]
}

/// At most as many as may all be bounds on spending.
fn any_caveats() -> impl Strategy<Value = Vec<Caveat>> {
    vec(any_caveat(), 0..=limits::CAPABILITY_ALLOWANCES_MAX / 2)
}

/// Whether one caveat, taken alone, lets something through: the naive reading of all of them.
fn lets_through(caveat: &Caveat, asked: &Asked) -> bool {
    match caveat {
        Caveat::Capabilities(set) => set.contains(asked.capability),
        Caveat::Tier(tier) => asked.capability.tier() <= *tier && asked.memory_tier.tier() <= *tier,
        Caveat::Expires(at_ms) => asked.now_ms < *at_ms,
        Caveat::MemoryTiers(set) => set.contains(asked.memory_tier),
        Caveat::KeyPrefix(prefix) => asked.key.starts_with(prefix),
        Caveat::Skills(skills) => skills.iter().any(|skill| skill == asked.skill),
        _ => true,
    }
}

/// Something that a holder wants to do, all at once.
#[derive(Debug)]
struct Asked {
    capability: Capability,
    memory_tier: MemoryTier,
    now_ms: u64,
    key: String,
    skill: &'static str,
}

fn anything_asked() -> impl Strategy<Value = Asked> {
    let capability = select(Capability::ALL);
    let memory_tier = select(MemoryTier::ALL);
    let rest = (any::<u64>(), "[ab/]{0,5}", select(SKILLS));
    (capability, memory_tier, rest).prop_map(|(capability, memory_tier, rest)| Asked {
        capability,
        memory_tier,
        now_ms: rest.0,
        key: rest.1,
        skill: rest.2,
    })
}

fn allows(grant: &Grant, asked: &Asked) -> bool {
    grant.capabilities.contains(asked.capability)
        && grant.memory_tiers.contains(asked.memory_tier)
        && !grant.is_expired(asked.now_ms)
        && grant.allows_key(&asked.key)
        && grant.allows_skill(asked.skill)
}

/// Asserts that one grant allows no more than another that it came from.
fn check_within(narrow: &Grant, wide: &Grant) {
    assert_eq!(narrow.id, wide.id);
    assert!(narrow.ids.starts_with(&wide.ids));
    assert!(narrow.capabilities.is_subset(wide.capabilities));
    let memory_tiers = narrow.memory_tiers.intersection(wide.memory_tiers);
    assert_eq!(memory_tiers, narrow.memory_tiers);
    assert!(wide.tier.is_none() || (narrow.tier.is_some() && narrow.tier <= wide.tier));
    let end = |grant: &Grant| grant.expires_ms.unwrap_or(u64::MAX);
    assert!(end(narrow) <= end(wide));
    assert!(wide.expires_ms.is_none() || narrow.expires_ms.is_some());
    for prefix in &wide.key_prefixes {
        assert!(
            narrow
                .key_prefixes
                .iter()
                .any(|longer| longer.starts_with(prefix))
        );
    }
    if let Some(skills) = &wide.skills {
        assert!(
            narrow
                .skills
                .as_ref()
                .is_some_and(|left| left.is_subset(skills))
        );
    }
    assert!(narrow.allowances.starts_with(&wide.allowances));
}

proptest! {
    #[test]
    fn narrowing_only_takes_away(before in any_caveats(), after in any_caveats()) {
        let parent = mint(&before);
        let child = parent.narrow(&after).unwrap();
        let parent = parent.verify(&root()).unwrap();
        check_within(&child.verify(&root()).unwrap(), &parent);
    }

    #[test]
    fn a_grant_allows_what_each_caveat_lets_through(
        caveats in any_caveats(),
        asked in anything_asked(),
    ) {
        let expected = caveats.iter().all(|caveat| lets_through(caveat, &asked));
        prop_assert_eq!(allows(&grant(&caveats), &asked), expected);
    }

    #[test]
    fn every_bound_on_spending_is_an_allowance(caveats in any_caveats()) {
        let bounds = caveats.iter().filter_map(|caveat| match caveat {
            Caveat::MaxSpend(max) => Some(*max),
            _ => None,
        });
        let found = grant(&caveats).allowances;
        let maxima = found.iter().map(|allowance| allowance.max);
        prop_assert_eq!(maxima.collect::<Vec<_>>(), bounds.collect::<Vec<_>>());
        let ids = found.iter().map(|allowance| allowance.id);
        let distinct = ids.collect::<std::collections::BTreeSet<_>>();
        prop_assert_eq!(distinct.len(), found.len());
    }

    #[test]
    fn narrowing_one_by_one_is_minting_at_once(caveats in any_caveats()) {
        let mut narrowed = mint(&[]);
        for caveat in &caveats {
            let text = narrowed.narrow(std::slice::from_ref(caveat)).unwrap().to_text();
            narrowed = CapabilityToken::parse(&text).unwrap();
        }
        prop_assert_eq!(&*narrowed.to_text(), &*mint(&caveats).to_text());
    }

    #[test]
    fn random_bytes_are_refused(bytes in vec(any::<u8>(), 0..400), text in ".{0,200}") {
        prop_assert!(read(&text).is_err());
        let prefixed = format!("{CAPABILITY_TOKEN_PREFIX}{text}");
        prop_assert!(read(&prefixed).is_err());
        prop_assert!(read(&text_of(&bytes)).is_err());
        // Past the version, so that what follows is looked at.
        prop_assert!(read(&text_of(&[&[1], &*bytes].concat())).is_err());
    }

    #[test]
    fn a_genuine_caveat_of_any_bytes_is_refused_or_takes_away(
        before in any_caveats(),
        kind in 0_u8..12,
        value in prop_oneof![vec(any::<u8>(), 0..20), vec(0_u8..4, 0..20)],
        loose in vec(any::<u8>(), 0..8),
    ) {
        let parent = mint(&before);
        let wide = parent.verify(&root()).unwrap();
        for appended in [raw(kind, &value), loose] {
            let mut parts = Parts::of(&parent);
            parts.append(appended);
            if let Ok(narrow) = read(&parts.text()) {
                check_within(&narrow, &wide);
            }
        }
    }
}
