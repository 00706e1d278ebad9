//! Why something about an agent is refused.

use aither_protocol::{
    Capability, ErrorCode, Plan, Tier, agent_card::FieldError,
    capability_token::CapabilityTokenError,
};

use super::Rank;
use crate::{accounts::StoreError, memory::MemoryError};

/// Why a capability token does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefusal {
    /// It is no token, or not one of this node's.
    #[error("the capability token is not one of this node's: {0}")]
    Invalid(CapabilityTokenError),
    /// Its root key is not there any more, or its agent.
    #[error("the capability token is not one of this node's, or its agent has left")]
    Unknown,
    /// Its time is over.
    #[error("the capability token has expired; ask for a new one")]
    Expired,
    /// It was revoked, or its agent's keys were rotated since.
    #[error("the capability token was revoked")]
    Revoked,
}

/// Why a request about an agent is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The card is wrong; all that is wrong with it is here.
    #[error("the agent card is not valid: {}", words_of(.0))]
    InvalidCard(Vec<FieldError>),
    /// The card asks for what its tier must not have.
    #[error(
        "the card asks for {}, and an agent of tier {tier} may not have {}; raise \
         billing.category, ask for less, or send \"partial\": true",
        words(.capabilities),
        if .capabilities.len() == 1 { "it" } else { "them" }
    )]
    TierForbids {
        /// The card's tier.
        tier: Tier,
        /// What the tier forbids; never empty.
        capabilities: Vec<Capability>,
    },
    /// The card's tier is above its account's plan.
    #[error(
        "the plan {plan} has agents up to tier {}, and the card asks for {tier}",
        plan.tier_max()
    )]
    PlanForbids {
        /// The account's plan.
        plan: Plan,
        /// The card's tier.
        tier: Tier,
    },
    /// The account has as many agents as its plan allows.
    #[error("the account's plan allows {agents_max} agents; tear one down, or change the plan")]
    TooManyAgents {
        /// How many it allows.
        agents_max: u32,
    },
    /// Somebody else's agent has the name.
    #[error("the name {0} is taken; choose another")]
    NameTaken(String),
    /// The card is older than the one that is known.
    #[error(
        "the card's version {offered} must be {} {known}",
        if *.must_rise { "above" } else { "at least" }
    )]
    VersionTooLow {
        /// The version that came.
        offered: String,
        /// The version that is known.
        known: String,
        /// Whether the same version will not do.
        must_rise: bool,
    },
    /// A card's update names another agent.
    #[error("the card is of {0}, and an agent's name stays")]
    OtherName(String),
    /// Where the agent answers is not for this node to ask.
    #[error("agent_url: {0}")]
    Address(String),
    /// The sub-agent would have more than its parent.
    #[error("a sub-agent may have no more than its parent, which has no {}", words(.0))]
    Wider(Vec<Capability>),
    /// The token cannot be made as asked for.
    #[error("the token cannot be narrowed so: {0}")]
    Caveats(#[from] CapabilityTokenError),
    /// Too many tokens were revoked one by one.
    #[error("too many tokens of this agent were revoked one by one; rotate its keys instead")]
    TooManyRevoked,
    /// The key that asked has ended meanwhile.
    #[error("the key has ended while the request was under way")]
    KeyEnded,
    /// There is no such agent, or it is not the caller's to know more about.
    #[error("there is no agent {0}")]
    Unknown(String),
    /// The agent was torn down; its owner may bring it back.
    #[error("the agent {0} was torn down; onboard it again to bring it back")]
    TornDown(String),
    /// Somebody of a higher rank has set the agent aside.
    #[error(
        "the agent was suspended by its {}, who alone takes it back or lets it go",
        .0.as_str()
    )]
    SuspendedBy(Rank),
    /// The node does not run agents itself.
    #[error(
        "this node does not run agents itself; run yours, and onboard it with mode \"hybrid\" or \
         \"remote\""
    )]
    ManagedNotAvailable,
    /// Too many others are being served.
    #[error("too many requests of this kind at the moment; try again in a moment")]
    Overloaded {
        /// When it may pass.
        retry_after: std::time::Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its memory cannot be removed with it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl AgentError {
    /// Returns the code for the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidCard(_) => ErrorCode::InvalidSpec,
            Self::TierForbids { .. }
            | Self::PlanForbids { .. }
            | Self::Wider(_)
            | Self::SuspendedBy(_) => ErrorCode::CapabilityMissing,
            Self::TooManyAgents { .. } => ErrorCode::PlanLimit,
            Self::NameTaken(_)
            | Self::VersionTooLow { .. }
            | Self::TooManyRevoked
            | Self::TornDown(_) => ErrorCode::Conflict,
            Self::OtherName(_) | Self::Address(_) | Self::Caveats(_) => ErrorCode::ValidationFailed,
            Self::KeyEnded => ErrorCode::Unauthorized,
            Self::Unknown(_) => ErrorCode::UnknownAgent,
            Self::ManagedNotAvailable => ErrorCode::NotAvailable,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::Store(StoreError::Full { .. }) => ErrorCode::InsufficientStorage,
            Self::Memory(error) => error.code(),
            Self::Store(_) | Self::Internal(_) => ErrorCode::Internal,
        }
    }
}

fn words(capabilities: &[Capability]) -> String {
    let words: Vec<_> = capabilities.iter().map(|c| c.as_str()).collect();
    words.join(", ")
}

fn words_of(errors: &[FieldError]) -> String {
    let words: Vec<_> = errors
        .iter()
        .map(|error| match error.field.as_str() {
            "" => error.message.clone(),
            field => format!("{field} {}", error.message),
        })
        .collect();
    words.join("; ")
}
