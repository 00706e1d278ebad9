//! What an agent may do: capabilities, the tiers they need, and sets of them.
//!
//! Words and tiers are those of the agent platform, so that an agent's card means the same here as
//! in its cloud. They are written into cards, tokens and stores, so they are never renamed; a bit
//! of a [`CapabilitySet`] is never used for something else.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How much an agent is trusted with, from least to most. A card names it `billing.category`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Answers by rule.
    Reflex,
    /// Acts for somebody.
    Agent,
    /// Works on code and with the outside.
    Reasoning,
    /// Directs others.
    Orchestrator,
}

/// A part of memory.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MemoryTier {
    /// Of one task.
    Working,
    /// Of one conversation.
    Active,
    /// What makes an agent what it is.
    Spirit,
    /// Code and how it hangs together.
    Codegraph,
    /// Shared by all agents of a node.
    Knowledge,
}

/// Something that an agent may be allowed to do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Send prompts to language models.
    LlmInference,
    /// Turn text into vectors.
    LlmEmbed,
    /// Read memory.
    MemoryRead,
    /// Write memory.
    MemoryWrite,
    /// Search the web.
    WebSearch,
    /// Have documents read.
    DocumentAnalysis,
    /// Read repositories.
    CodeRead,
    /// Write to repositories, on a branch.
    CodeWrite,
    /// Call other agents.
    AgentCall,
    /// Make sub-agents.
    AgentSpawn,
    /// Emit events.
    EventEmit,
    /// Follow events.
    EventSubscribe,
    /// Take files from users.
    FileUpload,
    /// Call the outside over HTTP.
    ExternalApi,
    /// Have pictures made.
    ImageGeneration,
    /// Have text spoken.
    VoiceSynthesis,
}

/// A word that is no tier, memory tier or capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", .0.join(", "))]
pub struct UnknownWord(Vec<&'static str>);

/// A set of capabilities: a bit each, in JSON their words in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapabilitySet(u32);

/// A set of memory tiers, like [`CapabilitySet`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MemoryTierSet(u8);

impl Tier {
    /// Every tier, the lowest first.
    pub const ALL: &'static [Self] = &[
        Self::Reflex,
        Self::Agent,
        Self::Reasoning,
        Self::Orchestrator,
    ];

    /// Returns the tier's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reflex => "reflex",
            Self::Agent => "agent",
            Self::Reasoning => "reasoning",
            Self::Orchestrator => "orchestrator",
        }
    }

    /// Returns the capabilities that an agent of this tier may have.
    pub fn capabilities(self) -> CapabilitySet {
        let all = Capability::ALL.iter().copied();
        all.filter(|capability| capability.tier() <= self).collect()
    }

    /// Returns the memory tiers that an agent of this tier may touch.
    pub fn memory_tiers(self) -> MemoryTierSet {
        let all = MemoryTier::ALL.iter().copied();
        all.filter(|memory| memory.tier() <= self).collect()
    }
}

impl MemoryTier {
    /// Every memory tier.
    pub const ALL: &'static [Self] = &[
        Self::Working,
        Self::Active,
        Self::Spirit,
        Self::Codegraph,
        Self::Knowledge,
    ];

    /// Returns the memory tier's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Active => "active",
            Self::Spirit => "spirit",
            Self::Codegraph => "codegraph",
            Self::Knowledge => "knowledge",
        }
    }

    /// Returns what it is for, in words.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Working => "The state of one task; cleared when the task is done",
            Self::Active => "The state of one session; kept from request to request",
            Self::Spirit => "What makes an agent what it is; kept across sessions",
            Self::Codegraph => "Code and how its parts hang together",
            Self::Knowledge => "What all agents of the node know",
        }
    }

    /// Returns the lowest tier that may touch it.
    pub const fn tier(self) -> Tier {
        match self {
            Self::Working => Tier::Reflex,
            Self::Active => Tier::Agent,
            Self::Spirit | Self::Codegraph => Tier::Reasoning,
            Self::Knowledge => Tier::Orchestrator,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Capability {
    /// Every capability, in the order of their bits.
    pub const ALL: &'static [Self] = &[
        Self::LlmInference,
        Self::LlmEmbed,
        Self::MemoryRead,
        Self::MemoryWrite,
        Self::WebSearch,
        Self::DocumentAnalysis,
        Self::CodeRead,
        Self::CodeWrite,
        Self::AgentCall,
        Self::AgentSpawn,
        Self::EventEmit,
        Self::EventSubscribe,
        Self::FileUpload,
        Self::ExternalApi,
        Self::ImageGeneration,
        Self::VoiceSynthesis,
    ];

    /// Returns the capability's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LlmInference => "llm_inference",
            Self::LlmEmbed => "llm_embed",
            Self::MemoryRead => "memory_read",
            Self::MemoryWrite => "memory_write",
            Self::WebSearch => "web_search",
            Self::DocumentAnalysis => "document_analysis",
            Self::CodeRead => "code_read",
            Self::CodeWrite => "code_write",
            Self::AgentCall => "agent_call",
            Self::AgentSpawn => "agent_spawn",
            Self::EventEmit => "event_emit",
            Self::EventSubscribe => "event_subscribe",
            Self::FileUpload => "file_upload",
            Self::ExternalApi => "external_api",
            Self::ImageGeneration => "image_generation",
            Self::VoiceSynthesis => "voice_synthesis",
        }
    }

    /// Returns what it allows, in words.
    pub const fn description(self) -> &'static str {
        match self {
            Self::LlmInference => "Send prompts to the node's language models",
            Self::LlmEmbed => "Turn texts into embedding vectors",
            Self::MemoryRead => "Read and search memory",
            Self::MemoryWrite => "Write and delete memory",
            Self::WebSearch => "Search the web or the node's index",
            Self::DocumentAnalysis => "Extract text from documents",
            Self::CodeRead => "Read code repositories and their history",
            Self::CodeWrite => "Write to code repositories on a branch of its own",
            Self::AgentCall => "Call other agents",
            Self::AgentSpawn => "Give sub-agents narrowed tokens",
            Self::EventEmit => "Emit events",
            Self::EventSubscribe => "Follow events",
            Self::FileUpload => "Accept files from users",
            Self::ExternalApi => "Call external APIs through the node",
            Self::ImageGeneration => "Have images generated",
            Self::VoiceSynthesis => "Have speech synthesized",
        }
    }

    /// Returns the lowest tier that may have it.
    pub const fn tier(self) -> Tier {
        match self {
            Self::LlmInference | Self::LlmEmbed | Self::MemoryRead | Self::EventEmit => {
                Tier::Reflex
            }
            Self::MemoryWrite
            | Self::WebSearch
            | Self::DocumentAnalysis
            | Self::AgentCall
            | Self::EventSubscribe
            | Self::FileUpload
            | Self::ImageGeneration
            | Self::VoiceSynthesis => Tier::Agent,
            Self::CodeRead | Self::CodeWrite | Self::ExternalApi => Tier::Reasoning,
            Self::AgentSpawn => Tier::Orchestrator,
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl CapabilitySet {
    /// The set of none.
    pub const EMPTY: Self = Self(0);

    /// Returns the set of all.
    pub fn all() -> Self {
        Capability::ALL.iter().copied().collect()
    }

    /// Returns whether the capability is in it.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// Returns whether all of it is in `other`.
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Returns whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns what is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns what is in it and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns the set with a capability more.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | capability.bit())
    }

    /// Returns the capabilities in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        let all = Capability::ALL.iter().copied();
        all.filter(move |capability| self.contains(*capability))
    }

    /// Returns the bits: capability number n of [`Capability::ALL`] is bit n.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Takes a set back from its bits; `None` where one stands for no capability.
    pub fn from_bits(bits: u32) -> Option<Self> {
        Self(bits).is_subset(Self::all()).then_some(Self(bits))
    }
}

impl MemoryTierSet {
    /// Returns whether the memory tier is in it.
    pub const fn contains(self, memory: MemoryTier) -> bool {
        self.0 & memory.bit() != 0
    }

    /// Returns what is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the memory tiers in it, in order.
    pub fn iter(self) -> impl Iterator<Item = MemoryTier> {
        let all = MemoryTier::ALL.iter().copied();
        all.filter(move |memory| self.contains(*memory))
    }

    /// Returns the bits: memory tier number n of [`MemoryTier::ALL`] is bit n.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Takes a set back from its bits; `None` where one stands for no memory tier.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let all = MemoryTier::ALL.iter().copied().collect::<Self>();
        (bits & !all.0 == 0).then_some(Self(bits))
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        let all = capabilities.into_iter();
        all.fold(Self::EMPTY, Self::with)
    }
}

impl FromIterator<MemoryTier> for MemoryTierSet {
    fn from_iter<I: IntoIterator<Item = MemoryTier>>(tiers: I) -> Self {
        Self(tiers.into_iter().fold(0, |bits, tier| bits | tier.bit()))
    }
}

/// What a word of an enum with `ALL` and `as_str` has besides.
macro_rules! words {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                let found = Self::ALL.iter().find(|known| known.as_str() == word);
                let words = || Self::ALL.iter().map(|known| known.as_str()).collect();
                found.copied().ok_or_else(|| UnknownWord(words()))
            }
        }
    )*};
}

words!(Tier, MemoryTier, Capability);

/// How a set of words prints, and looks in JSON.
macro_rules! set_of_words {
    ($($set:ident of $word:ident),*) => {$(
        impl fmt::Debug for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_set().entries(self.iter().map($word::as_str)).finish()
            }
        }

        impl Serialize for $set {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.iter())
            }
        }

        impl<'de> Deserialize<'de> for $set {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Words;

                impl<'de> de::Visitor<'de> for Words {
                    type Value = $set;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a list of words")
                    }

                    fn visit_seq<A: de::SeqAccess<'de>>(
                        self,
                        mut words: A,
                    ) -> Result<$set, A::Error> {
                        // Collected as they come: a long list takes no memory.
                        std::iter::from_fn(|| words.next_element::<$word>().transpose()).collect()
                    }
                }

                deserializer.deserialize_seq(Words)
            }
        }
    )*};
}

set_of_words!(CapabilitySet of Capability, MemoryTierSet of MemoryTier);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_in_text_and_json() {
        for capability in Capability::ALL {
            assert_eq!(capability.as_str().parse(), Ok(*capability));
            let json = serde_json::to_string(capability).unwrap();
            assert_eq!(json, format!("\"{capability}\""));
        }
        for tier in Tier::ALL {
            assert_eq!(tier.as_str().parse(), Ok(*tier));
            assert_eq!(serde_json::to_string(tier).unwrap(), format!("\"{tier}\""));
        }
        for memory in MemoryTier::ALL {
            assert_eq!(memory.as_str().parse(), Ok(*memory));
        }
        let error = "boss".parse::<Tier>().unwrap_err();
        assert!(error.to_string().contains("orchestrator"), "{error}");
    }

    #[test]
    fn regression_bits_do_not_move() {
        for (number, capability) in Capability::ALL.iter().enumerate() {
            assert_eq!(capability.bit(), 1 << number, "{capability}");
        }
        for (number, memory) in MemoryTier::ALL.iter().enumerate() {
            assert_eq!(memory.bit(), 1 << number, "{memory}");
        }
        let set: CapabilitySet = [Capability::LlmInference, Capability::VoiceSynthesis]
            .into_iter()
            .collect();
        assert_eq!(set.bits(), 0x8001);
        assert_eq!(CapabilitySet::from_bits(0x8001), Some(set));
        assert_eq!(CapabilitySet::from_bits(0x1_0000), None);
        assert_eq!(MemoryTierSet::from_bits(0b10_0000), None);
    }

    #[test]
    fn tiers_have_what_the_platform_says() {
        let of = |tier: Tier| {
            let words = tier.capabilities().iter().map(Capability::as_str);
            words.collect::<Vec<_>>()
        };
        let reflex = ["llm_inference", "llm_embed", "memory_read", "event_emit"];
        assert_eq!(of(Tier::Reflex), reflex);
        assert_eq!(of(Tier::Agent).len(), 12);
        assert_eq!(of(Tier::Reasoning).len(), 15);
        assert_eq!(of(Tier::Orchestrator).len(), Capability::ALL.len());
        let memory = Tier::ALL
            .iter()
            .map(|tier| tier.memory_tiers().iter().count());
        assert_eq!(memory.collect::<Vec<_>>(), [1, 2, 4, 5]);
    }

    #[test]
    fn sets_are_lists_of_words() {
        let set: CapabilitySet = serde_json::from_str(r#"["event_emit","llm_inference"]"#).unwrap();
        assert_eq!(
            serde_json::to_string(&set).unwrap(),
            r#"["llm_inference","event_emit"]"#
        );
        assert!(serde_json::from_str::<CapabilitySet>(r#"["fly"]"#).is_err());
        assert!(set.is_subset(Tier::Reflex.capabilities()));
        assert!(!set.is_subset(CapabilitySet::EMPTY));
        let rest = set.difference(CapabilitySet::EMPTY.with(Capability::EventEmit));
        assert_eq!(rest.iter().collect::<Vec<_>>(), [Capability::LlmInference]);
    }
}
