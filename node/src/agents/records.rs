//! What the tables' values hold: a version byte, then postcard.
//!
//! A type is named by the version that introduced it and never changes. An agent's record has what
//! memory keeps of it and what it is found by; its signed card is a row of another table, so that a
//! start reads none of it: a hundred thousand cards would take seconds.

use std::time::Duration;

use aither_protocol::{AgentCard, CapabilitySet, Skill, Tier};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::{Agent, AgentId, AgentState, Mode, Probe, Rank, SkillSummary};
use crate::{
    accounts::{Record, time_of},
    store_file::corrupt,
};

/// An agent, as schema version 1 had it: with its card.
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

/// An agent, as schema version 2 had it: with where it is in its life.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AgentV2 {
    pub(super) owner: u128,
    pub(super) mode: String,
    pub(super) state: String,
    /// A [`Rank`].
    pub(super) suspended_by: Option<String>,
    pub(super) is_torn_down: bool,
    /// Bits of a [`CapabilitySet`].
    pub(super) granted: u32,
    /// Its ed25519 secret key.
    pub(super) seed: [u8; 32],
    pub(super) public_key: [u8; 32],
    pub(super) tokens_since_ms: u64,
    pub(super) created_ms: u64,
    pub(super) updated_ms: u64,
    pub(super) summary: SummaryV1,
}

/// An agent.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AgentV3 {
    pub(super) owner: u128,
    pub(super) mode: String,
    /// A [`Rank`].
    pub(super) suspended_by: Option<String>,
    pub(super) is_torn_down: bool,
    /// Bits of a [`CapabilitySet`].
    pub(super) granted: u32,
    /// Its ed25519 secret key.
    pub(super) seed: [u8; 32],
    pub(super) public_key: [u8; 32],
    pub(super) tokens_since_ms: u64,
    pub(super) created_ms: u64,
    pub(super) updated_ms: u64,
    pub(super) summary: SummaryV1,
}

/// Where an agent is in its life.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StateV1 {
    pub(super) state: String,
    pub(super) since_ms: u64,
    /// In words.
    pub(super) reason: String,
}

/// A move in an agent's life.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct MoveV1 {
    pub(super) time_ms: u64,
    pub(super) from: String,
    pub(super) to: String,
    /// In words.
    pub(super) reason: String,
}

/// What is known of an agent from its calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CallStats {
    /// Calls that were answered, failed or took too long.
    pub calls: u64,
    /// Those of them that were not answered.
    pub failed: u64,
    /// What its owner has earned, in micro-tokens.
    pub earned_micros: u128,
    /// A moving mean of what answers took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Answered calls, those of long ago counting less.
    pub recent_answered: f64,
    /// All calls, likewise.
    pub recent: f64,
    /// Day by day, the oldest first.
    pub days: Vec<CallDay>,
}

/// An agent's calls of a day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallDay {
    /// Days since 1970, in UTC.
    pub day: u32,
    /// Calls that were answered, failed or took too long.
    pub calls: u64,
    /// Those of them that were not answered.
    pub failed: u64,
    /// What its owner has earned, in micro-tokens.
    pub earned_micros: u128,
}

/// [`CallStats`], as the first version of its table has them.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct CallStatsV1(pub(super) CallStats);

/// The card of an agent.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct CardV1 {
    /// As its owner sent it, with defaults filled in and the node's signature, in JSON.
    pub(super) json: String,
}

/// What lists show of a card, and what it is found by.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SummaryV1 {
    pub(super) name: Box<str>,
    pub(super) version: Box<str>,
    pub(super) tier: String,
    pub(super) price: u32,
    pub(super) model: Option<Box<str>>,
    pub(super) skills: Box<[SkillV1]>,
    pub(super) probe: Option<ProbeV1>,
}

/// What lists show of a skill.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SkillV1 {
    pub(super) id: Box<str>,
    pub(super) name: Box<str>,
    pub(super) description: Box<str>,
    pub(super) tags: Box<[Box<str>]>,
}

/// How an agent's health is asked for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// What is offered of an agent.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ListingV1 {
    pub(super) price_micros: u128,
    pub(super) description: Option<Box<str>>,
    pub(super) listed_ms: u64,
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

impl Record for AgentV2 {
    const VERSION: u8 = 2;
}

impl Record for AgentV3 {
    const VERSION: u8 = 3;
}

impl Record for StateV1 {
    const VERSION: u8 = 1;
}

impl Record for MoveV1 {
    const VERSION: u8 = 1;
}

impl Record for CallStatsV1 {
    const VERSION: u8 = 1;
}

impl Record for CardV1 {
    const VERSION: u8 = 1;
}

impl Record for AgentKeyV1 {
    const VERSION: u8 = 1;
}

impl Record for RootKeyV1 {
    const VERSION: u8 = 1;
}

impl Record for ListingV1 {
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

impl Drop for AgentV2 {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl Drop for AgentV3 {
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
    /// Returns what schema version 2 keeps. Version 1 did not say who had suspended an agent:
    /// that its owner did is neither more nor less than it can have meant.
    pub(super) fn split(mut self) -> (AgentV2, CardV1) {
        let is_torn_down = self.state == AgentState::Stop.as_str() && !self.is_suspended;
        let agent = AgentV2 {
            owner: self.owner,
            mode: std::mem::take(&mut self.mode),
            state: std::mem::take(&mut self.state),
            suspended_by: self.is_suspended.then(|| Rank::Owner.as_str().to_owned()),
            is_torn_down,
            granted: self.granted,
            seed: self.seed,
            public_key: self.public_key,
            tokens_since_ms: self.tokens_since_ms,
            created_ms: self.created_ms,
            updated_ms: self.updated_ms,
            summary: self.summary.clone(),
        };
        let json = std::mem::take(&mut self.card);
        (agent, CardV1 { json })
    }
}

impl AgentV2 {
    /// Returns what the schema of today keeps, with the state apart.
    pub(super) fn split(mut self) -> (AgentV3, StateV1) {
        let agent = AgentV3 {
            owner: self.owner,
            mode: std::mem::take(&mut self.mode),
            suspended_by: self.suspended_by.take(),
            is_torn_down: self.is_torn_down,
            granted: self.granted,
            seed: self.seed,
            public_key: self.public_key,
            tokens_since_ms: self.tokens_since_ms,
            created_ms: self.created_ms,
            updated_ms: self.updated_ms,
            summary: std::mem::take(&mut self.summary),
        };
        let state = StateV1 {
            state: std::mem::take(&mut self.state),
            since_ms: self.updated_ms,
            reason: "it was so before reasons were kept".to_owned(),
        };
        (agent, state)
    }
}

impl AgentV3 {
    /// Returns what memory keeps.
    pub(super) fn agent(&self, id: AgentId, state: AgentState) -> Result<Agent, redb::Error> {
        let mode = [Mode::Managed, Mode::Remote, Mode::Hybrid];
        let mode = mode.into_iter().find(|mode| mode.as_str() == self.mode);
        let granted = CapabilitySet::from_bits(self.granted);
        let tier: Option<Tier> = self.summary.tier.parse().ok();
        let (Some(mode), Some(granted), Some(tier)) = (mode, granted, tier) else {
            return Err(corrupt(
                "an agent has a mode, capability or tier that is none",
            ));
        };
        Ok(Agent {
            id,
            name: self.summary.name.clone(),
            owner: aither_ledger::AccountId(self.owner),
            mode,
            state,
            suspended_by: self.suspended_by()?,
            is_torn_down: self.is_torn_down,
            version: self.summary.version.clone(),
            tier,
            granted,
            price: self.summary.price,
            model: self.summary.model.clone(),
            probe: self.summary.probe.as_ref().map(ProbeV1::probe),
            public_key: self.public_key,
            tokens_since_ms: self.tokens_since_ms,
            created: time_of(self.created_ms),
            updated: time_of(self.updated_ms),
        })
    }

    /// Returns who has set it aside.
    pub(super) fn suspended_by(&self) -> Result<Option<Rank>, redb::Error> {
        let Some(word) = &self.suspended_by else {
            return Ok(None);
        };
        let rank = Rank::ALL.into_iter().find(|rank| rank.as_str() == word);
        rank.map(Some)
            .ok_or_else(|| corrupt("an agent is suspended by a rank that is none"))
    }
}

impl StateV1 {
    /// Returns the state.
    pub(super) fn state(&self) -> Result<AgentState, redb::Error> {
        state_of(&self.state)
    }
}

/// Returns the state of a word that was written.
pub(super) fn state_of(word: &str) -> Result<AgentState, redb::Error> {
    AgentState::from_word(word).ok_or_else(|| corrupt("an agent has a state that is none"))
}

impl ProbeV1 {
    pub(super) fn probe(&self) -> Probe {
        Probe {
            url: self.url.clone(),
            interval: Duration::from_millis(self.interval_ms),
            is_a2a: self.is_a2a,
        }
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

    pub(super) fn summary(self) -> SkillSummary {
        SkillSummary {
            id: self.id,
            name: self.name,
            description: self.description,
            tags: self.tags,
        }
    }
}
