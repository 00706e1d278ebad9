//! Caveats: what each takes away, and its value as bytes.
//!
//! Encoding and decoding share the checks, so whatever can be written can be read and the other
//! way round. A value that could be written in two ways is refused in all but one.

use super::{
    CapabilityTokenError as Error,
    wire::{self, RawCaveat, kind},
};
use crate::{Amount, CapabilitySet, MemoryTierSet, Tier, limits};

/// Something that a token takes away from what it would allow without.
///
/// A token may hold several of a kind; all of them hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caveat {
    /// At most these capabilities.
    Capabilities(CapabilitySet),
    /// The name of the sub-agent that it was given to: lower-case letters, digits and hyphens.
    ///
    /// The last one names who acts. Any holder can write any name, so it is for records and
    /// grants nothing; who answers for the token is [`TokenId::agent`](super::TokenId::agent).
    Agent(String),
    /// At most this tier, and the capabilities and memory tiers that it may have.
    Tier(Tier),
    /// Not from this time on, in Unix milliseconds.
    Expires(u64),
    /// At most these memory tiers.
    MemoryTiers(MemoryTierSet),
    /// Memory keys must start with this, compared byte by byte: `team/` does not let `team2/x`
    /// through, where `team` would.
    KeyPrefix(String),
    /// All that is ever spent with this token and those narrowed from it.
    MaxSpend(Amount),
    /// The agent skills that may be called, at most these. The order and repetitions are lost.
    Skills(Vec<String>),
    /// Names a narrowed token, so that it can be revoked by itself.
    Id(u128),
}

impl Caveat {
    /// Returns its bytes, after checking that it is within bounds.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        let bytes = match self {
            Self::Capabilities(set) => wire::caveat(kind::CAPABILITIES, &set.bits().to_be_bytes()),
            Self::Agent(name) => wire::caveat(kind::AGENT, checked_agent(name)?.as_bytes()),
            Self::Tier(tier) => wire::caveat(kind::TIER, &[tier_number(*tier)]),
            Self::Expires(at_ms) => wire::caveat(kind::EXPIRES, &at_ms.to_be_bytes()),
            Self::MemoryTiers(set) => wire::caveat(kind::MEMORY_TIERS, &[set.bits()]),
            Self::KeyPrefix(prefix) => {
                wire::caveat(kind::KEY_PREFIX, checked_prefix(prefix)?.as_bytes())
            }
            Self::MaxSpend(amount) => {
                wire::caveat(kind::MAX_SPEND, &checked_micros(*amount)?.to_be_bytes())
            }
            Self::Skills(skills) => wire::caveat(kind::SKILLS, &encode_skills(skills)?),
            Self::Id(id) => wire::caveat(kind::ID, &id.to_be_bytes()),
        };
        bytes.ok_or(Error::TooLong)
    }

    /// Reads a caveat; the one encoding of each only.
    pub(super) fn decode(raw: RawCaveat<'_>) -> Result<Self, Error> {
        let value = raw.value;
        match raw.kind {
            kind::CAPABILITIES => {
                let bits = u32::from_be_bytes(fixed(value)?);
                let set = CapabilitySet::from_bits(bits).ok_or(UNKNOWN_CAPABILITY)?;
                Ok(Self::Capabilities(set))
            }
            kind::AGENT => Ok(Self::Agent(checked_agent(utf8(value)?)?.to_owned())),
            kind::TIER => {
                let [number] = fixed(value)?;
                numbered_tier(number).map(Self::Tier)
            }
            kind::EXPIRES => Ok(Self::Expires(u64::from_be_bytes(fixed(value)?))),
            kind::MEMORY_TIERS => {
                let [bits] = fixed(value)?;
                let set = MemoryTierSet::from_bits(bits).ok_or(UNKNOWN_MEMORY_TIER)?;
                Ok(Self::MemoryTiers(set))
            }
            kind::KEY_PREFIX => Ok(Self::KeyPrefix(checked_prefix(utf8(value)?)?.to_owned())),
            kind::MAX_SPEND => {
                let micros = u64::from_be_bytes(fixed(value)?);
                let amount = Amount::from_micros(micros.into());
                checked_micros(amount)?;
                Ok(Self::MaxSpend(amount))
            }
            kind::SKILLS => decode_skills(value).map(Self::Skills),
            kind::ID => Ok(Self::Id(u128::from_be_bytes(fixed(value)?))),
            unknown => Err(Error::UnknownCaveat(unknown)),
        }
    }
}

const UNKNOWN_CAPABILITY: Error = invalid("capabilities", "names one that is not known here");
const UNKNOWN_MEMORY_TIER: Error = invalid("memory_tiers", "names one that is not known here");

const fn invalid(kind: &'static str, problem: &'static str) -> Error {
    Error::InvalidCaveat { kind, problem }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Error> {
    let wrong_length = |_| Error::Malformed("a caveat's value has a wrong length");
    value.try_into().map_err(wrong_length)
}

fn utf8(value: &[u8]) -> Result<&str, Error> {
    str::from_utf8(value).map_err(|_| Error::Malformed("a caveat's text is not UTF-8"))
}

/// Numbers of their own: the enum may get a tier in between.
fn tier_number(tier: Tier) -> u8 {
    match tier {
        Tier::Reflex => 1,
        Tier::Agent => 2,
        Tier::Reasoning => 3,
        Tier::Orchestrator => 4,
    }
}

fn numbered_tier(number: u8) -> Result<Tier, Error> {
    let mut all = Tier::ALL.iter().copied();
    all.find(|tier| tier_number(*tier) == number)
        .ok_or(invalid("tier", "is not known here"))
}

fn checked_agent(name: &str) -> Result<&str, Error> {
    if name.len() > limits::CAPABILITY_AGENT_BYTES_MAX {
        return Err(Error::BoundTooLarge("agent"));
    }
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || !name.bytes().all(is_allowed) {
        let problem = "must be of lower-case letters, digits and hyphens";
        return Err(invalid("agent", problem));
    }
    Ok(name)
}

fn checked_prefix(prefix: &str) -> Result<&str, Error> {
    if prefix.len() > limits::CAPABILITY_KEY_PREFIX_BYTES_MAX {
        return Err(Error::BoundTooLarge("key_prefix"));
    }
    if prefix.is_empty() {
        return Err(invalid("key_prefix", "must not be empty; leave it out"));
    }
    Ok(prefix)
}

fn checked_micros(amount: Amount) -> Result<u64, Error> {
    let micros = u64::try_from(amount.micros()).ok();
    micros
        .filter(|_| amount <= Amount::MAX)
        .ok_or(Error::BoundTooLarge("max_spend"))
}

fn checked_skill(skill: &str) -> Result<&str, Error> {
    if skill.len() > limits::CAPABILITY_SKILL_BYTES_MAX {
        return Err(Error::BoundTooLarge("skills"));
    }
    if skill.is_empty() || skill.chars().any(char::is_control) {
        let problem = "must be ids without control characters";
        return Err(invalid("skills", problem));
    }
    Ok(skill)
}

/// Each skill after its length in one byte, in the order of their bytes and once.
fn encode_skills(skills: &[String]) -> Result<Vec<u8>, Error> {
    if skills.len() > limits::CAPABILITY_SKILLS_MAX {
        return Err(Error::BoundTooLarge("skills"));
    }
    let mut sorted = skills.iter().map(String::as_str).collect::<Vec<_>>();
    sorted.sort_unstable();
    sorted.dedup();
    let mut bytes = Vec::new();
    for skill in sorted {
        let skill = checked_skill(skill)?;
        let length = u8::try_from(skill.len()).map_err(|_| Error::BoundTooLarge("skills"))?;
        bytes.push(length);
        bytes.extend_from_slice(skill.as_bytes());
    }
    Ok(bytes)
}

fn decode_skills(mut value: &[u8]) -> Result<Vec<String>, Error> {
    let mut skills = Vec::<String>::new();
    while let Some((&length, rest)) = value.split_first() {
        let (skill, rest) = rest
            .split_at_checked(length.into())
            .ok_or(Error::Malformed("a skill is cut short"))?;
        let skill = checked_skill(utf8(skill)?)?;
        if skills.last().is_some_and(|last| last.as_str() >= skill) {
            return Err(Error::Malformed("skills are not in order, or not once"));
        }
        if skills.len() == limits::CAPABILITY_SKILLS_MAX {
            return Err(Error::BoundTooLarge("skills"));
        }
        skills.push(skill.to_owned());
        value = rest;
    }
    Ok(skills)
}
