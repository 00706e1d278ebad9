//! What the tables' values hold: a version byte, then postcard.
//!
//! A type is named by the version that introduced it and never changes. Beside its signed card an
//! agent's record has what memory keeps of it, so that a start reads no JSON: a hundred thousand
//! cards would take seconds.

use std::time::Duration;

use aither_protocol::{AgentCard, CapabilitySet, Skill, Tier};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::{Agent, AgentId, AgentState, Mode, Probe, SkillSummary};
use crate::{
    accounts::{Record, time_of},
    store_file::corrupt,
};

/// An agent.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AgentV1 {
    pub(super) owner: u128,
    pub(super) mode: String,
    pub(super) state: String,
    pub(super) is_suspended: bool,
    /// Bits of a [`CapabilitySet`].
    pub(super) granted: u32,
    /// Its ed25519 secret key.
    pub(super) seed: [u8; 32],
    pub(super) public_key: [u8; 32],
    pub(super) tokens_since_ms: u64,
    pub(super) created_ms: u64,
    pub(super) updated_ms: u64,
    pub(super) summary: SummaryV1,
    /// The card as its owner sent it, with defaults filled in and the node's signature, in JSON.
    pub(super) card: String,
}

/// What memory keeps of a card.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SummaryV1 {
    pub(super) name: Box<str>,
    pub(super) version: Box<str>,
    pub(super) tier: String,
    pub(super) price: u32,
    pub(super) model: Option<Box<str>>,
    pub(super) skills: Box<[SkillV1]>,
    pub(super) probe: Option<ProbeV1>,
}

/// What memory keeps of a skill.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SkillV1 {
    id: Box<str>,
    name: Box<str>,
    description: Box<str>,
    tags: Box<[Box<str>]>,
}

/// How an agent's health is asked for.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ProbeV1 {
    url: Box<str>,
    interval_ms: u64,
    is_a2a: bool,
}

/// A key of an agent.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AgentKeyV1 {
    pub(super) agent: u128,
    pub(super) prefix: String,
    pub(super) made_ms: u64,
}

/// A root key of capability tokens.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RootKeyV1 {
    pub(super) bytes: [u8; 32],
    pub(super) made_ms: u64,
}

/// Something that happened to an agent.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AuditV1 {
    pub(super) time_ms: u64,
    pub(super) action: String,
    pub(super) detail: String,
}

impl Record for AgentV1 {
    const VERSION: u8 = 1;
}

impl Record for AgentKeyV1 {
    const VERSION: u8 = 1;
}

impl Record for RootKeyV1 {
    const VERSION: u8 = 1;
}

impl Record for AuditV1 {
    const VERSION: u8 = 1;
}

impl Drop for AgentV1 {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl Drop for RootKeyV1 {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl AgentV1 {
    /// Returns what memory keeps.
    pub(super) fn agent(&self, id: AgentId) -> Result<Agent, redb::Error> {
        let mode = [Mode::Managed, Mode::Remote, Mode::Hybrid];
        let mode = mode.into_iter().find(|mode| mode.as_str() == self.mode);
        let state = [AgentState::Boot, AgentState::Live, AgentState::Stop];
        let state = state.into_iter().find(|state| state.as_str() == self.state);
        let granted = CapabilitySet::from_bits(self.granted);
        let tier: Option<Tier> = self.summary.tier.parse().ok();
        let (Some(mode), Some(state), Some(granted), Some(tier)) = (mode, state, granted, tier)
        else {
            return Err(corrupt(
                "an agent has a mode, state, capability or tier that is none",
            ));
        };
        let summary = self.summary.clone();
        Ok(Agent {
            id,
            name: summary.name,
            owner: aither_ledger::AccountId(self.owner),
            mode,
            state,
            is_suspended: self.is_suspended,
            version: summary.version,
            tier,
            granted,
            price: summary.price,
            model: summary.model,
            skills: summary.skills.into_iter().map(SkillV1::summary).collect(),
            probe: summary.probe.map(|probe| Probe {
                url: probe.url,
                interval: Duration::from_millis(probe.interval_ms),
                is_a2a: probe.is_a2a,
            }),
            public_key: self.public_key,
            tokens_since_ms: self.tokens_since_ms,
            created: time_of(self.created_ms),
            updated: time_of(self.updated_ms),
        })
    }
}

impl SummaryV1 {
    /// Takes from a card what memory keeps.
    pub(super) fn of(card: &AgentCard) -> Self {
        let probe = card.agent_url.as_ref().map(|url| {
            let base = url.as_str().trim_end_matches('/');
            let interval_ms = u64::try_from(card.health.interval.as_millis());
            ProbeV1 {
                url: format!("{base}{}", card.health.endpoint).into(),
                interval_ms: interval_ms.unwrap_or(u64::MAX),
                is_a2a: card.a2a.is_some(),
            }
        });
        Self {
            name: card.name.as_str().into(),
            version: card.version.to_string().into(),
            tier: card.billing.category.as_str().to_owned(),
            price: card.billing.token_cost_per_request,
            model: card.resources.model.as_deref().map(Into::into),
            skills: card.skills.iter().map(SkillV1::of).collect(),
            probe,
        }
    }
}

impl SkillV1 {
    fn of(skill: &Skill) -> Self {
        Self {
            id: skill.id.as_str().into(),
            name: skill.name.as_str().into(),
            description: skill.description.as_str().into(),
            tags: skill.tags.iter().map(|tag| tag.as_str().into()).collect(),
        }
    }

    fn summary(self) -> SkillSummary {
        SkillSummary {
            id: self.id,
            name: self.name,
            description: self.description,
            tags: self.tags,
        }
    }
}
