//! Whose memory something is, and where in it.
//!
//! A scope is all that one lookup can reach: a task's, a session's, an agent's, or what the node
//! knows. Its key begins with its owner, so that an owner's scopes lie together; nothing that a
//! client sends can make a key of another owner.

use aither_protocol::MemoryTier;

use crate::store_file::corrupt;

/// The name of the scope of requests that name no task or session, and of tiers that have one
/// scope for each owner.
pub const DEFAULT_SCOPE: &str = "default";
/// An owner as bytes: its kind, and its number.
const OWNER_BYTES: usize = 17;

/// Whose a scope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The node: what all of its agents share.
    Node,
    /// The holder of the admin key.
    Operator,
    /// An account, apart from its agents.
    Account(u128),
    /// An agent, with its sub-agents.
    Agent(u128),
}

/// Names a scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeKey {
    /// Whose it is.
    pub owner: Owner,
    /// The part of memory.
    pub tier: MemoryTier,
    /// The task or session, or [`DEFAULT_SCOPE`].
    pub name: Box<str>,
}

impl Owner {
    /// Returns the owner as it stands before keys.
    pub(super) fn to_bytes(self) -> [u8; OWNER_BYTES] {
        let (kind, number) = match self {
            Self::Node => (0, 0),
            Self::Operator => (1, 0),
            Self::Account(number) => (2, number),
            Self::Agent(number) => (3, number),
        };
        let mut bytes = [kind; OWNER_BYTES];
        bytes[1..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    /// Reads an owner back.
    pub(super) fn from_bytes(bytes: [u8; OWNER_BYTES]) -> Result<Self, redb::Error> {
        let [kind, number @ ..] = bytes;
        let number = u128::from_be_bytes(number);
        match (kind, number) {
            (0, 0) => Ok(Self::Node),
            (1, 0) => Ok(Self::Operator),
            (2, _) => Ok(Self::Account(number)),
            (3, _) => Ok(Self::Agent(number)),
            _ => Err(corrupt("a scope has an owner that is none")),
        }
    }
}

impl ScopeKey {
    /// Returns the scope of a tier for an owner. What the node knows has one for all.
    pub fn new(owner: Owner, tier: MemoryTier, name: Option<&str>) -> Self {
        let (owner, name) = match tier {
            MemoryTier::Working | MemoryTier::Active => (owner, name.unwrap_or(DEFAULT_SCOPE)),
            MemoryTier::Spirit | MemoryTier::Codegraph => (owner, DEFAULT_SCOPE),
            MemoryTier::Knowledge => (Owner::Node, DEFAULT_SCOPE),
        };
        Self {
            owner,
            tier,
            name: name.into(),
        }
    }

    /// Returns the key's bytes: those of its owner, the tier, the name.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Self::prefix(self.owner, self.tier);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// Returns how the keys of an owner's scopes of a tier begin.
    pub(super) fn prefix(owner: Owner, tier: MemoryTier) -> Vec<u8> {
        let mut bytes = owner.to_bytes().to_vec();
        bytes.push(tier_code(tier));
        bytes
    }

    /// Reads a key back.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, redb::Error> {
        let wrong = || corrupt("a scope's key is none");
        let (owner, rest) = bytes.split_first_chunk().ok_or_else(wrong)?;
        let (code, name) = rest.split_first().ok_or_else(wrong)?;
        let known = MemoryTier::ALL.iter().copied();
        let tier = known.into_iter().find(|tier| tier_code(*tier) == *code);
        Ok(Self {
            owner: Owner::from_bytes(*owner)?,
            tier: tier.ok_or_else(wrong)?,
            name: std::str::from_utf8(name).map_err(|_| wrong())?.into(),
        })
    }
}

/// Returns the byte that stands for a tier on the disk; never another's.
const fn tier_code(tier: MemoryTier) -> u8 {
    match tier {
        MemoryTier::Working => 1,
        MemoryTier::Active => 2,
        MemoryTier::Spirit => 3,
        MemoryTier::Codegraph => 4,
        MemoryTier::Knowledge => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_begin_with_their_owners() {
        let owners = [
            Owner::Node,
            Owner::Operator,
            Owner::Account(7),
            Owner::Agent(u128::MAX),
        ];
        for owner in owners {
            assert_eq!(Owner::from_bytes(owner.to_bytes()).unwrap(), owner);
            for tier in MemoryTier::ALL {
                let key = ScopeKey::new(owner, *tier, Some("t\u{e4}sk"));
                assert_eq!(ScopeKey::from_bytes(&key.to_bytes()).unwrap(), key);
                assert!(key.to_bytes().starts_with(&key.owner.to_bytes()));
            }
        }
        assert!(ScopeKey::from_bytes(&[3; 17]).is_err());
        assert!(ScopeKey::from_bytes(&[9; 30]).is_err());
    }

    #[test]
    fn tiers_have_the_scopes_of_the_platform() {
        let of = |tier, name| {
            let key = ScopeKey::new(Owner::Agent(1), tier, name);
            (key.owner, key.name.to_string())
        };
        let agent = Owner::Agent(1);
        assert_eq!(of(MemoryTier::Working, Some("a")), (agent, "a".into()));
        assert_eq!(of(MemoryTier::Working, None), (agent, "default".into()));
        assert_eq!(of(MemoryTier::Active, Some("s")), (agent, "s".into()));
        assert_eq!(of(MemoryTier::Spirit, Some("s")), (agent, "default".into()));
        let knowledge = of(MemoryTier::Knowledge, Some("s"));
        assert_eq!(knowledge, (Owner::Node, "default".into()));
    }
}
