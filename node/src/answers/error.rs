//! Why the store of answers cannot be used, or takes no further request.

use std::{io, path::PathBuf};

use crate::{
    billing::BillingError,
    files::{FileError, remedy},
};

/// Why the store cannot do what it is asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AnswersError {
    /// What is in it is not what was written.
    #[error(
        "the store of answers {} is corrupt ({message}); restore it from a backup, or move it away \
         to begin without answers to idempotency keys",
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
        "the store of answers {} has schema version {found}, and this build knows up to {known}; \
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
    #[error("the store of answers {} is open in another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("cannot use the store of answers {}: {message}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened, and what helps.
        message: String,
    },
    /// Its thread has ended.
    #[error("the store of answers has stopped")]
    Stopped,
    /// The caller has used too many keys.
    #[error("more than {max} idempotency keys of one caller within 24 hours")]
    CallerFull {
        /// How many there may be.
        max: u64,
    },
    /// All callers together have.
    #[error("more than {max} idempotency keys within 24 hours")]
    Full {
        /// How many there may be.
        max: u64,
    },
    /// The ledger cannot say what was charged.
    #[error(transparent)]
    Billing(#[from] BillingError),
}

impl AnswersError {
    /// Sorts an error of the database by what can be done about it.
    pub(super) fn of(path: &std::path::Path, error: redb::Error) -> Self {
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

    pub(super) fn of_io(path: PathBuf, error: &io::Error) -> Self {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        if matches!(error.kind(), InvalidData | UnexpectedEof) {
            let message = error.to_string();
            return Self::Corrupt { path, message };
        }
        let message = format!("{error}{}", remedy(error));
        Self::Io { path, message }
    }

    /// Returns whether the file's content is at fault, not the machine around it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Newer { .. })
    }
}

impl From<FileError> for AnswersError {
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
