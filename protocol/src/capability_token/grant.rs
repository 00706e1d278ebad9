//! What a verified token allows: its caveats, put together.
//!
//! Everything here only ever takes away, so a longer chain never allows more than a shorter one.

use std::collections::BTreeSet;

use super::{CapabilityTokenError, Caveat, TokenId, chain::Chain, wire::RawCaveat};
use crate::{Amount, CapabilitySet, MemoryTier, MemoryTierSet, Tier};

/// What all caveats of a verified token leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What the token was minted with.
    pub id: TokenId,
    /// The serial and every [`Caveat::Id`]: the token is void when one of them was revoked.
    pub ids: Vec<u128>,
    /// The name of the sub-agent that it was last given to, as its holders say.
    pub agent: Option<String>,
    /// What it may do, all where nothing bounds it; within the tier, if there is one.
    pub capabilities: CapabilitySet,
    /// The lowest tier that was named.
    pub tier: Option<Tier>,
    /// The earliest end, in Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// The memory that it may touch, all where nothing bounds it; within the tier, if there is one.
    pub memory_tiers: MemoryTierSet,
    /// What memory keys must start with: all of these. None is implied by another.
    pub key_prefixes: Vec<String>,
    /// The skills that may be called, all where it is `None`.
    pub skills: Option<BTreeSet<String>>,
    /// What may be spent, the outermost first. Every payment counts against each of them.
    pub allowances: Vec<Allowance>,
}

/// A bound on all that is spent with a token and with those narrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The same in all tokens that have this caveat from the same token, and in no others.
    pub id: u128,
    /// The most that is ever spent.
    pub max: Amount,
}

/// A caveat of a verified chain.
pub(super) struct Link<'a> {
    pub(super) caveat: RawCaveat<'a>,
    /// The chain up to it and with it.
    pub(super) chain: Chain,
}

impl Grant {
    /// Returns whether a memory key starts with all that it must start with.
    pub fn allows_key(&self, key: &str) -> bool {
        self.key_prefixes
            .iter()
            .all(|prefix| key.starts_with(prefix))
    }

    /// Returns whether a skill may be called.
    pub fn allows_skill(&self, skill: &str) -> bool {
        let skills = self.skills.as_ref();
        skills.is_none_or(|skills| skills.contains(skill))
    }

    /// Returns whether it has ended at a time in Unix milliseconds.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|at_ms| now_ms >= at_ms)
    }

    /// Puts the caveats of a chain together that was found genuine.
    pub(super) fn of(id: TokenId, links: &[Link<'_>]) -> Result<Self, CapabilityTokenError> {
        let mut grant = Self {
            id,
            ids: vec![id.serial],
            agent: None,
            capabilities: CapabilitySet::all(),
            tier: None,
            expires_ms: None,
            memory_tiers: MemoryTier::ALL.iter().copied().collect(),
            key_prefixes: Vec::new(),
            skills: None,
            allowances: Vec::new(),
        };
        for link in links {
            grant.take_away(Caveat::decode(link.caveat)?, &link.chain);
        }
        Ok(grant)
    }

    fn take_away(&mut self, caveat: Caveat, chain: &Chain) {
        match caveat {
            Caveat::Capabilities(set) => self.capabilities = self.capabilities.intersection(set),
            Caveat::Agent(name) => self.agent = Some(name),
            Caveat::Tier(tier) => self.take_tier(tier),
            Caveat::Expires(at_ms) => {
                self.expires_ms = Some(self.expires_ms.map_or(at_ms, |other| other.min(at_ms)));
            }
            Caveat::MemoryTiers(set) => self.memory_tiers = self.memory_tiers.intersection(set),
            Caveat::KeyPrefix(prefix) => self.take_prefix(prefix),
            Caveat::MaxSpend(max) => {
                let id = chain.allowance_id();
                self.allowances.push(Allowance { id, max });
            }
            Caveat::Skills(skills) => self.take_skills(skills.into_iter().collect()),
            Caveat::Id(id) => self.ids.push(id),
        }
    }

    /// A tier bounds what its agents may do, whatever else was granted.
    fn take_tier(&mut self, tier: Tier) {
        self.tier = Some(self.tier.map_or(tier, |other| other.min(tier)));
        self.capabilities = self.capabilities.intersection(tier.capabilities());
        self.memory_tiers = self.memory_tiers.intersection(tier.memory_tiers());
    }

    fn take_prefix(&mut self, prefix: String) {
        if self
            .key_prefixes
            .iter()
            .any(|longer| longer.starts_with(&prefix))
        {
            return;
        }
        self.key_prefixes
            .retain(|shorter| !prefix.starts_with(shorter));
        self.key_prefixes.push(prefix);
    }

    fn take_skills(&mut self, skills: BTreeSet<String>) {
        self.skills = Some(match self.skills.take() {
            None => skills,
            Some(others) => others.intersection(&skills).cloned().collect(),
        });
    }
}
