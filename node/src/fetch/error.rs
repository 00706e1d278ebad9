//! Why something was not fetched.

use std::time::Duration;

use aither_protocol::ErrorCode;

/// Why something was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The operator has not said what may be fetched.
    #[error(
        "nothing may be fetched from this node: its operator has to name the hosts in the \
         configuration, section [fetch]: allow = [\"api.example.org\"]"
    )]
    NotConfigured,
    /// A field of the request that is wrong.
    #[error("{field}: {message}")]
    Invalid {
        /// The field, with its path.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// An address that may not be asked.
    #[error("{url} may not be fetched: {reason}")]
    Forbidden {
        /// The address, without its query, which may hold secrets.
        url: String,
        /// Why not.
        reason: String,
    },
    /// More redirects than are followed.
    #[error("the address was redirected more than {} times", super::REDIRECTS_MAX)]
    TooManyRedirects,
    /// The other side failed.
    #[error("cannot fetch {url}: {reason}")]
    Upstream {
        /// The address, without its query.
        url: String,
        /// What happened.
        reason: String,
    },
    /// It took longer than allowed.
    #[error("it was not fetched within {} s", timeout.as_secs_f32())]
    TimedOut {
        /// What was allowed.
        timeout: Duration,
    },
    /// The account has as much under way as it may.
    #[error("the account has {max} fetches under way already; wait until one has ended")]
    AccountBusy {
        /// As many as it may have.
        max: usize,
    },
    /// The node has as much under way as it may.
    #[error("this node has as many fetches under way as it allows")]
    Busy,
    /// A defect, or a machine without certificates.
    #[error("fetching is broken: {0}")]
    Internal(String),
}

impl FetchError {
    /// Returns which kind it is to the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotConfigured => ErrorCode::NotConfigured,
            Self::Invalid { .. } => ErrorCode::ValidationFailed,
            Self::Forbidden { .. } => ErrorCode::TargetForbidden,
            Self::TooManyRedirects | Self::Upstream { .. } => ErrorCode::UpstreamFailed,
            Self::TimedOut { .. } => ErrorCode::TimedOut,
            Self::AccountBusy { .. } => ErrorCode::RateLimited,
            Self::Busy => ErrorCode::Overloaded,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// A field that is wrong.
    pub(super) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            message: message.into(),
        }
    }
}
