//! Why something about events is refused.

use std::time::Duration;

use aither_protocol::ErrorCode;

use super::limits::DATA_BYTES_MAX;
use crate::accounts::StoreError;

/// When to ask again where too much waits.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request about events is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// A field does not fit.
    #[error("{field}: {message}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// The data is larger than any may be.
    #[error("the data has {bytes} bytes, and {DATA_BYTES_MAX} is the most that an event may have")]
    DataTooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// Too much waits to be written, of this account or of all.
    #[error("too many events wait to be written; try again in a moment")]
    Busy,
    /// The account follows as often as it may.
    #[error("the account has {max} subscriptions, which is the most that one may have; end some")]
    TooManyOfAccount {
        /// How many it may have.
        max: usize,
    },
    /// As many follow as may.
    #[error("{max} subscriptions are open, which is the most that this node has; try again later")]
    TooMany {
        /// How many there may be.
        max: usize,
    },
    /// The writer has ended: the node is stopping.
    #[error("events are not taken any more; the node is stopping")]
    Stopped,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl EventError {
    /// Returns the code for the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::ValidationFailed,
            Self::DataTooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::TooManyOfAccount { .. } => ErrorCode::RateLimited,
            Self::Busy | Self::TooMany { .. } => ErrorCode::Overloaded,
            Self::Stopped => ErrorCode::NotReady,
            Self::Store(StoreError::Full { .. }) => ErrorCode::InsufficientStorage,
            Self::Store(_) | Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// Returns when the same request may pass.
    pub fn retry_after(&self) -> Option<Duration> {
        self.code().is_transient().then_some(RETRY_AFTER)
    }
}
