//! What a token grants, and what it must not print.

use aither_protocol::{Amount, Capability, CapabilitySet, Caveat, MemoryTier, Tier};

use super::{ID, Parts, grant, mint, one_of_each, read, root};

#[test]
fn a_bare_token_allows_everything() {
    let grant = grant(&[]);
    assert_eq!((grant.id, &*grant.ids), (ID, &[ID.serial][..]));
    assert_eq!(grant.capabilities, CapabilitySet::all());
    assert_eq!(grant.memory_tiers.iter().count(), MemoryTier::ALL.len());
    assert_eq!(
        (grant.tier, grant.expires_ms, &grant.agent),
        (None, None, &None)
    );
    assert!(grant.allows_key("") && grant.allows_skill("any") && !grant.is_expired(u64::MAX));
    assert!(grant.allowances.is_empty());
}

#[test]
fn caveats_of_all_kinds_come_through() {
    let text = mint(&one_of_each()).to_text();
    let grant = read(&text).unwrap();
    assert_eq!(grant.ids, [ID.serial, 7]);
    assert_eq!(grant.agent.as_deref(), Some("scout-2"));
    assert_eq!(grant.capabilities, Tier::Agent.capabilities());
    assert_eq!(grant.tier, Some(Tier::Agent));
    assert_eq!(grant.memory_tiers, Tier::Agent.memory_tiers());
    assert!(grant.allows_key("team/x") && !grant.allows_key("team2/x"));
    assert!(grant.allows_skill("search") && !grant.allows_skill("translate"));
    assert!(!grant.is_expired(1_799_999_999_999) && grant.is_expired(1_800_000_000_000));
    let [allowance] = grant.allowances[..] else {
        panic!("{:?}", grant.allowances)
    };
    assert_eq!(allowance.max, Amount::from_tokens(25));
}

#[test]
fn a_tier_takes_what_only_higher_tiers_may_have() {
    let grant = grant(&[Caveat::Tier(Tier::Reflex)]);
    assert_eq!(grant.capabilities, Tier::Reflex.capabilities());
    assert_eq!(grant.memory_tiers, Tier::Reflex.memory_tiers());
    assert!(!grant.capabilities.contains(Capability::AgentSpawn));
}

#[test]
fn only_prefixes_that_say_something_are_kept() {
    let prefix = |text: &str| Caveat::KeyPrefix(text.into());
    let nested = grant(&[prefix("a/"), prefix("a/b/"), prefix("a/")]);
    assert_eq!(nested.key_prefixes, ["a/b/"]);
    let apart = grant(&[prefix("a/"), prefix("b/")]);
    assert_eq!(apart.key_prefixes, ["a/", "b/"]);
    assert!(!apart.allows_key("a/x") && !apart.allows_key("b/x"));
}

#[test]
fn allowances_are_shared_by_what_was_narrowed_from_the_same_token() {
    let parent = mint(&[Caveat::MaxSpend(Amount::from_tokens(9))]);
    let child = |id| {
        let spend = Caveat::MaxSpend(Amount::from_tokens(2));
        let narrowed = parent.narrow(&[Caveat::Id(id), spend]).unwrap();
        narrowed.verify(&root()).unwrap().allowances
    };
    let parent = parent.verify(&root()).unwrap().allowances;
    assert_eq!(child(1)[0], parent[0]);
    assert_eq!(child(2)[0], parent[0]);
    assert_eq!(child(1), child(1));
    assert_ne!(child(1)[1].id, child(2)[1].id);
}

#[test]
fn nothing_secret_is_printed() {
    assert_eq!(format!("{:?}", root()), "RootKey(***)");
    let minted = mint(&one_of_each());
    let printed = format!("{minted:?}");
    assert!(printed.contains("scout-2"), "{printed}");
    let mac = Parts::of(&minted).mac;
    assert!(!printed.contains(&format!("{}, {}, {}", mac[0], mac[1], mac[2])));
    assert!(!printed.contains("mac"), "{printed}");
}
