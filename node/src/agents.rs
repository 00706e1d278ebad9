//! Agents that are aboard: the store `DIR/registry.redb` and what is kept of it in memory.
//!
//! Synchronous and without a clock, as [`crate::accounts`]; [`crate::services::AgentService`] is
//! the face for async callers. An agent belongs to an account, has a card that its node has
//! signed, an ed25519 key pair of its own, keys by which it is known (as hashes), and capability
//! tokens, of which nothing is kept but the root keys that they were minted with and the numbers
//! of those that were revoked. Nothing is acknowledged before it is durable; requests are answered
//! from the [`Directory`], and what is only shown is read from the disk.

mod directory;
mod error;
pub mod lifecycle;
mod listing;
mod records;
mod store;
mod tables;

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use aither_ledger::AccountId;
use aither_protocol::{
    AgentCard, CapabilitySet, CapabilityToken, Grant, MemoryTierSet, Plan, Tier,
};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

pub use self::{
    directory::{AgentFilter, Directory, Moved},
    error::{AgentError, TokenRefusal},
    listing::{LISTING_DESCRIPTION_BYTES_MAX, Listing},
    records::{CallDay, CallStats},
    store::{AgentStore, CardChange, LifeStory, NewAgent, Onboarded, TORN_DOWN_MAX, Transition},
};
use crate::accounts::SecretText;

/// Names an agent for good; sorts by when it came aboard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(Ulid);

/// A text that is no agent's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no agent id")]
pub struct AgentIdError;

/// Who runs an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The node.
    Managed,
    /// Its owner, elsewhere.
    Remote,
    /// Its owner, with this node's inference and memory.
    Hybrid,
}

/// Where an agent is in its life; [`lifecycle`] says how it gets from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AgentState {
    /// Its card is looked at.
    Deploy,
    /// Its keys are made.
    Init,
    /// Aboard, and not found healthy yet.
    Boot,
    /// Takes calls.
    Live,
    /// Takes calls, and fails often or has more than it can do.
    Pain,
    /// Has gone on failing: only trials get through to it, until they succeed.
    Heal,
    /// Finishes the calls that it has, and takes no more.
    Drain,
    /// Set aside, torn down without being forgotten, or aboard of a node that has stopped.
    Stop,
}

/// Who has done something to an agent, the least first: what a higher one has ordered, a lower one
/// does not undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The agent itself.
    Agent,
    /// The account that it belongs to.
    Owner,
    /// The node's operator.
    Operator,
}

/// What memory keeps of an agent. Its card and its skills are on the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: Box<str>,
    /// The account that pays for it and earns from it.
    pub owner: AccountId,
    /// Who runs it.
    pub mode: Mode,
    /// Where it is in its life.
    pub state: AgentState,
    /// Who has set it aside, if anybody has: its keys open nothing but its own management.
    pub suspended_by: Option<Rank>,
    /// Whether it was ended: nothing is left for its owner but its name.
    pub is_torn_down: bool,
    /// Its card's version.
    pub version: Box<str>,
    /// How much it is trusted with.
    pub tier: Tier,
    /// What it may do.
    pub granted: CapabilitySet,
    /// What a request to it costs, in whole tokens.
    pub price: u32,
    /// The model that answers where it names none.
    pub model: Option<Box<str>>,
    /// Where its health is asked for; `None` where it has no address.
    pub probe: Option<Probe>,
    /// Its ed25519 public key.
    pub public_key: [u8; 32],
    /// Capability tokens that were minted before this, in milliseconds since 1970, are void.
    pub tokens_since_ms: u64,
    /// When it came aboard.
    pub created: SystemTime,
    /// When its card last changed.
    pub updated: SystemTime,
}

/// What of a skill lists show. Read from the disk for those that are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkillSummary {
    /// By what it is asked for.
    pub id: Box<str>,
    /// For people.
    pub name: Box<str>,
    /// What it does.
    pub description: Box<str>,
    /// Words by which it is found.
    pub tags: Box<[Box<str>]>,
}

/// How an agent's health is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The whole address.
    pub url: Box<str>,
    /// Time between two probes.
    pub interval: std::time::Duration,
    /// Whether it speaks A2A itself, where status 200 is all that is asked for.
    pub is_a2a: bool,
}

/// Something that happened to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What, in one word.
    pub action: String,
    /// More about it; never a secret.
    pub detail: String,
}

/// A new key of an agent. It is shown this once.
#[derive(Debug)]
pub struct AgentKey(pub SecretText);

/// An agent that asks for something, and what it may.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentCaller {
    /// The agent.
    pub agent: Arc<Agent>,
    /// The plan of its owner.
    pub plan: Plan,
    /// The narrowed token that it came with; `None` for its key.
    pub token_grant: Option<Arc<TokenGrant>>,
    /// What it may do: of what was granted what its token, its tier and its owner's plan leave.
    pub capabilities: CapabilitySet,
    /// The memory that it may touch.
    pub memory_tiers: MemoryTierSet,
    /// How much it is trusted with.
    pub tier: Tier,
}

/// A verified capability token.
#[derive(Debug)]
pub struct TokenGrant {
    /// The token, to narrow it further.
    pub signed: CapabilityToken,
    /// What it allows.
    pub grant: Grant,
}

impl PartialEq for TokenGrant {
    fn eq(&self, other: &Self) -> bool {
        self.grant == other.grant
    }
}

impl AgentId {
    /// Returns the id as a number.
    pub const fn as_u128(self) -> u128 {
        self.0.0
    }

    /// Returns the id that sorts next after this one.
    pub(crate) const fn next(self) -> Self {
        Self(Ulid(self.0.0.saturating_add(1)))
    }

    /// Takes an id back from its number.
    pub const fn from_u128(number: u128) -> Self {
        Self(Ulid(number))
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentId({self})")
    }
}

impl FromStr for AgentId {
    type Err = AgentIdError;

    fn from_str(text: &str) -> Result<Self, AgentIdError> {
        let id = Ulid::from_string(text).map_err(|_| AgentIdError)?;
        Ok(Self(id))
    }
}

impl Serialize for AgentId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Mode {
    /// Returns the mode's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Remote => "remote",
            Self::Hybrid => "hybrid",
        }
    }
}

impl Rank {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Owner, Self::Operator];

    /// Returns the rank's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Owner => "owner",
            Self::Operator => "operator",
        }
    }
}

impl AgentState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Deploy,
        Self::Init,
        Self::Boot,
        Self::Live,
        Self::Pain,
        Self::Heal,
        Self::Drain,
        Self::Stop,
    ];

    /// Returns the state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "DEPLOY",
            Self::Init => "INIT",
            Self::Boot => "BOOT",
            Self::Live => "LIVE",
            Self::Pain => "PAIN",
            Self::Heal => "HEAL",
            Self::Drain => "DRAIN",
            Self::Stop => "STOP",
        }
    }

    /// Returns the state of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Returns whether calls are let through.
    pub const fn takes_calls(self) -> bool {
        matches!(self, Self::Live | Self::Pain)
    }
}

impl Agent {
    /// Returns whether somebody has set it aside.
    pub fn is_suspended(&self) -> bool {
        self.suspended_by.is_some()
    }

    /// Returns whether it takes requests.
    pub fn is_reachable(&self) -> bool {
        self.state.takes_calls()
    }

    /// Returns the agent as a caller, with what its owner's plan leaves of what it was granted.
    pub fn caller(self: Arc<Self>, plan: Plan) -> AgentCaller {
        let tier = self.tier.min(plan.tier_max());
        // One that is drained may need its keys to finish what it has.
        let is_set_aside = self.is_suspended() && self.state != AgentState::Drain;
        let granted = match is_set_aside {
            true => CapabilitySet::EMPTY,
            false => self.granted,
        };
        AgentCaller {
            plan,
            token_grant: None,
            capabilities: granted.intersection(tier.capabilities()),
            memory_tiers: tier.memory_tiers(),
            tier,
            agent: self,
        }
    }
}

impl AgentCaller {
    /// Returns the same agent with what a token leaves.
    #[must_use]
    pub fn with_token(mut self, token_grant: TokenGrant) -> Self {
        let grant = &token_grant.grant;
        self.capabilities = self.capabilities.intersection(grant.capabilities);
        self.memory_tiers = self.memory_tiers.intersection(grant.memory_tiers);
        self.tier = grant.tier.map_or(self.tier, |tier| tier.min(self.tier));
        self.token_grant = Some(Arc::new(token_grant));
        self
    }

    /// Returns the name by which others know it: a sub-agent's follows its parent's.
    pub fn full_name(&self) -> String {
        let token_grant = self.token_grant.as_ref();
        match token_grant.and_then(|token_grant| token_grant.grant.agent.as_deref()) {
            Some(sub_agent) => format!("{}/{sub_agent}", self.agent.name),
            None => self.agent.name.to_string(),
        }
    }

    /// Returns the name under which it is billed: a sub-agent's is its parent's. Whoever holds a
    /// token may give any number of sub-agents names, and usage is summed by name for good.
    pub fn billed_name(&self) -> String {
        self.agent.name.to_string()
    }
}

/// Returns what an agent of a tier is given of what its card asks for.
pub fn granted(card: &AgentCard) -> CapabilitySet {
    use aither_protocol::Capability::{AgentCall, EventEmit};
    let tier = card.billing.category;
    let mut granted = card.capabilities.with(EventEmit);
    if tier >= AgentCall.tier() {
        granted = granted.with(AgentCall);
    }
    granted.intersection(tier.capabilities())
}
