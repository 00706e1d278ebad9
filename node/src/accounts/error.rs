//! Why the accounts' store, or a request about an account, is refused.
//!
//! [`StoreError`] is about the file and ends the process or the request as a defect;
//! [`AccountError`] is about what somebody asked for.

use std::{io, path::PathBuf, time::Duration};

use aither_protocol::ErrorCode;

use crate::files::{FileError, remedy};

/// Why the database cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// What is in it is not what was written.
    #[error(
        "the database {} is corrupt ({message}); restore it from a backup, or move it \
         away to begin without what is in it",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        message: String,
    },
    /// A later version of the node wrote it.
    #[error(
        "the database {} has schema version {found}, and this build knows up to {known}; \
         run the version of aither-node that wrote it, or a newer one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version that this build knows.
        known: u64,
    },
    /// Another process has it open.
    #[error("the database {} is open in another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("no room for the database {}: {message}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        message: String,
    },
    /// It cannot be read or written.
    #[error("cannot use the database {}: {message}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened, and what helps.
        message: String,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

impl StoreError {
    /// Sorts an error of the database by what can be done about it.
    pub(crate) fn of(path: &std::path::Path, error: redb::Error) -> Self {
        let path = path.to_owned();
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::InUse { path },
            redb::Error::Io(error) => Self::of_io(path, &error),
            redb::Error::PreviousIo => Self::Io {
                path,
                message: "an earlier write failed".into(),
            },
            error => Self::Corrupt {
                path,
                message: error.to_string(),
            },
        }
    }

    fn of_io(path: PathBuf, error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidData, QuotaExceeded, StorageFull, UnexpectedEof};
        match error.kind() {
            InvalidData | UnexpectedEof => Self::Corrupt {
                path,
                message: error.to_string(),
            },
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full {
                path,
                message: format!("{error}{}", remedy(error)),
            },
            _ => Self::Io {
                path,
                message: format!("{error}{}", remedy(error)),
            },
        }
    }

    /// Returns whether the file's content is at fault, not the machine around it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Newer { .. })
    }
}

impl From<FileError> for StoreError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Read { path, source } | FileError::Write { path, source } => {
                Self::of_io(path, &source)
            }
            FileError::TooLarge { ref path, .. } => Self::Io {
                path: path.clone(),
                message: error.to_string(),
            },
        }
    }
}

/// A field of a request that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// Its name.
    pub field: &'static str,
    /// What it must be.
    pub message: String,
}

/// Why a request about an account is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// Fields do not fit; all of them are named.
    #[error("{}", words_of(.0))]
    Invalid(Vec<InvalidField>),
    /// The address has an account.
    #[error("there is an account with this e-mail address; log in instead")]
    EmailTaken,
    /// Accounts are made by the operator only.
    #[error("this node takes no registrations; ask its operator for an account")]
    RegistrationClosed,
    /// No such account, or another password: which of both is not told.
    #[error("wrong e-mail address or password")]
    WrongCredentials,
    /// The refresh token is unknown, expired or was used before.
    #[error("this refresh token does not work any more; log in again")]
    WrongRefreshToken,
    /// The operator has switched the account off.
    #[error("this account is disabled; ask the node's operator")]
    Disabled,
    /// No account has this id.
    #[error("there is no such account")]
    UnknownAccount,
    /// The account has no such key.
    #[error("there is no such key")]
    UnknownKey,
    /// Too often.
    #[error("{message}; try again in {} s", retry_after.as_secs().max(1))]
    RateLimited {
        /// What there was too much of.
        message: String,
        /// When it may pass.
        retry_after: Duration,
    },
    /// Too many others are being served.
    #[error("too many requests of this kind at the moment; try again in a moment")]
    Overloaded {
        /// When it may pass.
        retry_after: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl AccountError {
    /// Returns the code for the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::ValidationFailed,
            Self::EmailTaken => ErrorCode::Conflict,
            Self::RegistrationClosed => ErrorCode::RegistrationClosed,
            Self::WrongCredentials | Self::WrongRefreshToken | Self::Disabled => {
                ErrorCode::Unauthorized
            }
            Self::UnknownAccount | Self::UnknownKey => ErrorCode::NotFound,
            Self::RateLimited { .. } => ErrorCode::RateLimited,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::Store(StoreError::Full { .. }) => ErrorCode::InsufficientStorage,
            Self::Store(_) | Self::Internal(_) => ErrorCode::Internal,
        }
    }
}

fn words_of(fields: &[InvalidField]) -> String {
    let words: Vec<_> = fields
        .iter()
        .map(|invalid| format!("{} {}", invalid.field, invalid.message))
        .collect();
    words.join("; ")
}
