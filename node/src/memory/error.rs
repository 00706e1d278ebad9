//! Why something about memory is refused.

use std::time::Duration;

use aither_protocol::{ErrorCode, MemoryTier, Tier};

use super::{indexer::EmbeddingFailure, limits::VALUE_BYTES_MAX};
use crate::accounts::StoreError;

/// When to ask again where too many others are being served.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Entries.
    Entries,
    /// Bytes of keys, values and tags.
    Bytes,
}

/// Why a request about memory is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A field does not fit.
    #[error("{field}: {message}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// The value is larger than any may be.
    #[error("the value has {bytes} bytes, and {VALUE_BYTES_MAX} is the most that one may have")]
    ValueTooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// There is no such key, or none that the caller can see.
    #[error("there is no such key in this scope")]
    UnknownKey,
    /// The entry is at another version than the caller believed.
    #[error(
        "the entry is at version {current}, not at the one of if_version; read it again \
         (version 0 means that there is none)"
    )]
    VersionConflict {
        /// Its version; 0 where there is none.
        current: u64,
    },
    /// The account's plan has no room left.
    #[error(
        "the account's memory holds {used} {}, and its plan allows {allowed}; delete some, or \
         change the plan",
        .measure.as_str()
    )]
    QuotaExceeded {
        /// What there is too much of.
        measure: Measure,
        /// How much there is.
        used: u64,
        /// How much there may be.
        allowed: u64,
    },
    /// The node has no room left.
    #[error("this node's memory is full; its operator can raise memory.bytes_max or entries_max")]
    NodeFull,
    /// The caller's tier may not touch this part of memory.
    #[error("memory tier {memory} needs an agent of tier {}", .memory.tier())]
    TierForbidden {
        /// The part.
        memory: MemoryTier,
        /// What the caller has.
        tier: Tier,
    },
    /// The capability token is for other keys.
    #[error("the capability token does not reach this key; it must begin with {prefix:?}")]
    KeyForbidden {
        /// How keys must begin.
        prefix: String,
    },
    /// The agent was torn down while it asked.
    #[error("the agent was torn down, and its memory with it")]
    Purged,
    /// Meaning is asked for, and nothing here knows any.
    #[error(
        "this node has no embedding model, so memory is searched by words alone; its operator can \
         fetch one: aither-node models pull all-minilm:l6-v2"
    )]
    NoEmbeddingModel,
    /// The embedding model failed.
    #[error(transparent)]
    Embedding(#[from] EmbeddingFailure),
    /// What was written is not found yet, and waiting for it took too long.
    #[error("what was written is still being indexed; ask again, or without \"consistent\"")]
    NotIndexedYet,
    /// Too many others are being served.
    #[error("too many requests wait for memory; try again in a moment")]
    Busy,
    /// The writer has ended: the node is stopping.
    #[error("memory is not written any more; the node is stopping")]
    Stopped,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl Measure {
    /// Returns its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Bytes => "bytes",
        }
    }
}

impl MemoryError {
    /// Returns the code for the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::ValidationFailed,
            Self::ValueTooLarge { .. } => ErrorCode::ValueTooLarge,
            Self::NoEmbeddingModel => ErrorCode::NotConfigured,
            Self::Embedding(EmbeddingFailure::Failed(_)) => ErrorCode::Internal,
            Self::NotIndexedYet => ErrorCode::TimedOut,
            Self::UnknownKey => ErrorCode::UnknownKey,
            Self::VersionConflict { .. } => ErrorCode::VersionConflict,
            Self::QuotaExceeded { .. } => ErrorCode::QuotaExceeded,
            Self::TierForbidden { .. } => ErrorCode::TierForbidden,
            Self::KeyForbidden { .. } => ErrorCode::CapabilityMissing,
            Self::Purged => ErrorCode::Unauthorized,
            Self::Busy | Self::Embedding(EmbeddingFailure::Busy) => ErrorCode::Overloaded,
            Self::Stopped => ErrorCode::NotReady,
            Self::NodeFull | Self::Store(StoreError::Full { .. }) => ErrorCode::InsufficientStorage,
            Self::Store(_) | Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// Returns when the same request may pass.
    pub fn retry_after(&self) -> Option<Duration> {
        self.code().is_transient().then_some(RETRY_AFTER)
    }
}
