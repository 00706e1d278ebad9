//! Why a repository was not read or written.

use std::time::Duration;

use aither_protocol::ErrorCode;

/// Why a repository was not read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// The operator has not named any repository.
    #[error(
        "this node has no repositories: its operator has to name them in the configuration, \
         section [code.repositories]: site = {{ path = \"/srv/git/site.git\", write = true }}"
    )]
    NotConfigured,
    /// No repository of that name, or none that the caller has.
    #[error("there is no repository {0:?} for this key")]
    UnknownRepository(String),
    /// The repository is only read.
    #[error(
        "the repository {0:?} is only read here; its operator can allow more with write = true"
    )]
    ReadOnly(String),
    /// A field that is wrong.
    #[error("{field}: {message}")]
    Invalid {
        /// The field, with its path.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// Something that the repository does not have.
    #[error("{0}")]
    NotFound(String),
    /// Something that is larger than what is read.
    #[error("{0}")]
    TooLarge(String),
    /// The branch is not as the caller believed, or cannot be written now.
    #[error("{message}")]
    Conflict {
        /// What stands against it.
        message: String,
        /// Where the branch is, if that is what differs.
        head: Option<String>,
    },
    /// The writer has as many branches as he may have.
    #[error("there are {0} branches of yours in this repository, as many as there may be")]
    TooManyBranches(usize),
    /// The account has written what it may write in a day.
    #[error("an account and its agents may write {bytes_max} bytes to repositories in a day")]
    TooMuchToday {
        /// The bound.
        bytes_max: u64,
        /// When the next day begins.
        retry_after: Duration,
    },
    /// Too much is asked at once.
    #[error("this node has too many repositories to read at the moment")]
    Overloaded {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The repository cannot be opened, or holds what cannot be read. The words are for the log.
    #[error("the repository cannot be used: {0}")]
    Broken(String),
    /// A defect.
    #[error("internal error: {0}")]
    Internal(String),
}

impl CodeError {
    /// Returns which kind it is to the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotConfigured => ErrorCode::NotConfigured,
            Self::UnknownRepository(_) | Self::NotFound(_) => ErrorCode::NotFound,
            Self::ReadOnly(_) => ErrorCode::CapabilityMissing,
            Self::Invalid { .. } => ErrorCode::ValidationFailed,
            Self::TooLarge(_) => ErrorCode::PayloadTooLarge,
            Self::Conflict { .. } => ErrorCode::Conflict,
            Self::TooManyBranches(_) => ErrorCode::QuotaExceeded,
            Self::TooMuchToday { .. } => ErrorCode::RateLimited,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::Broken(_) | Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// A field that is wrong.
    pub(super) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Something that the repository does not have.
    pub(super) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound(what.into())
    }
}

impl From<gix::Error> for CodeError {
    fn from(error: gix::Error) -> Self {
        Self::Broken(error.to_string())
    }
}
