//! Why something about files is refused or fails.

use std::{io, time::Duration};

use aither_protocol::ErrorCode;

use super::{path::PathFault, usage::Measure};

/// Why something about files was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The path could leave the workspace, or is no path.
    #[error("{0}")]
    Path(#[from] PathFault),
    /// There is no such file.
    #[error("there is no file {path:?} here")]
    NotFound {
        /// What was asked for.
        path: String,
    },
    /// Something else is where a file or a folder was expected.
    #[error("{path:?} is {what}")]
    Unfit {
        /// What was asked for.
        path: String,
        /// What is there, and what helps.
        what: &'static str,
    },
    /// The account's plan has no room for it.
    #[error(
        "the account's files would take more {} than its plan allows: {used} of {allowed} are \
         taken; delete some",
        measure.as_str()
    )]
    QuotaExceeded {
        /// What there would be too much of.
        measure: Measure,
        /// What is taken.
        used: u64,
        /// What the plan gives.
        allowed: u64,
    },
    /// More bytes than one file may have here.
    #[error("the file is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// No more artifacts can be told apart in memory.
    #[error("this node keeps {0} artifacts already, as many as it can; delete some")]
    TooMany(usize),
    /// The account has its share of the artifacts that this node can keep.
    #[error("an account can have {0} artifacts on this node, and has them; delete some")]
    TooManyOfAccount(usize),
    /// The file was asked for as text, and is none.
    #[error("the file is not UTF-8 text; read it with encoding=base64")]
    NotText,
    /// There is no such artifact, or none that the caller may see.
    #[error("there is no artifact {0} here")]
    UnknownArtifact(String),
    /// Whoever it belonged to has left.
    #[error("whoever the file belonged to has left this node")]
    Gone,
    /// Too many such requests wait already.
    #[error("too many requests for files wait already")]
    Overloaded {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The disk is full.
    #[error("no room on the disk: {message}")]
    Full {
        /// The operating system's words.
        message: String,
    },
    /// The disk cannot be read or written.
    #[error("cannot {what}: {message}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The operating system's words.
        message: String,
    },
    /// The bytes of an artifact are not those that were stored.
    #[error(
        "the checksum of artifact {id} is wrong; bring its file in the folder \"artifacts\" back, \
         or remove it"
    )]
    Damaged {
        /// Which.
        id: String,
    },
    /// A defect of this node.
    #[error("{0}")]
    Internal(&'static str),
}

impl FilesError {
    /// For `map_err` on a use of the disk.
    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| {
            let message = error.to_string();
            match error.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge => Self::Full { message },
                _ => Self::Io { what, message },
            }
        }
    }

    /// Returns which kind of error it is to the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Path(_) | Self::NotText => ErrorCode::ValidationFailed,
            Self::NotFound { .. } | Self::UnknownArtifact(_) | Self::Gone => ErrorCode::NotFound,
            Self::Unfit { .. } => ErrorCode::Conflict,
            Self::QuotaExceeded { .. } | Self::TooManyOfAccount(_) => ErrorCode::QuotaExceeded,
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::Full { .. } | Self::TooMany(_) => ErrorCode::InsufficientStorage,
            Self::Io { .. } | Self::Damaged { .. } | Self::Internal(_) => ErrorCode::Internal,
        }
    }
}
