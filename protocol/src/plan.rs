//! What an account may use: its plan.
//!
//! Plans are words of the interface and are stored by them, so they are never renamed. Their
//! numbers stand here because clients are told them, too.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Tier;

/// What an account was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Plan {
    /// To look around.
    Explorer,
    /// To build with.
    Builder,
    /// Without bounds.
    Enterprise,
}

/// A word that is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be explorer, builder or enterprise")]
pub struct UnknownPlan;

impl Plan {
    /// Every plan, the smallest first.
    pub const ALL: &'static [Self] = &[Self::Explorer, Self::Builder, Self::Enterprise];

    /// Returns the plan's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Explorer => "explorer",
            Self::Builder => "builder",
            Self::Enterprise => "enterprise",
        }
    }

    /// Returns how many paid requests a minute may bring; `None` is no bound.
    pub const fn requests_per_minute(self) -> Option<u32> {
        match self {
            Self::Explorer => Some(10),
            Self::Builder => Some(100),
            Self::Enterprise => None,
        }
    }

    /// Returns how many paid requests may run at once; `None` is no bound.
    pub const fn concurrent_max(self) -> Option<u32> {
        match self {
            Self::Explorer => Some(1),
            Self::Builder => Some(5),
            Self::Enterprise => None,
        }
    }

    /// Returns how many agents the account may have; `None` is no bound.
    pub const fn agents_max(self) -> Option<u32> {
        match self {
            Self::Explorer => Some(1),
            Self::Builder => Some(5),
            Self::Enterprise => None,
        }
    }
}

impl Plan {
    /// Returns the highest tier that the account's agents may have.
    pub const fn tier_max(self) -> Tier {
        match self {
            Self::Explorer => Tier::Agent,
            Self::Builder => Tier::Reasoning,
            Self::Enterprise => Tier::Orchestrator,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Plan {
    type Err = UnknownPlan;

    fn from_str(word: &str) -> Result<Self, UnknownPlan> {
        let found = Self::ALL.iter().find(|plan| plan.as_str() == word);
        found.copied().ok_or(UnknownPlan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_its_word_everywhere() {
        for plan in Plan::ALL {
            assert_eq!(plan.as_str().parse(), Ok(*plan));
            let json = serde_json::to_string(plan).unwrap();
            assert_eq!(json, format!("\"{plan}\""));
        }
        assert_eq!("Explorer".parse::<Plan>(), Err(UnknownPlan));
    }

    #[test]
    fn plans_grow() {
        for pair in Plan::ALL.windows(2) {
            let grows = |bound: fn(Plan) -> Option<u32>| {
                bound(pair[0]).unwrap_or(u32::MAX) < bound(pair[1]).unwrap_or(u32::MAX)
            };
            assert!(grows(Plan::requests_per_minute) && grows(Plan::concurrent_max));
            assert!(grows(Plan::agents_max));
            assert!(pair[0].tier_max() < pair[1].tier_max());
        }
    }
}
