//! Why the store of answers cannot be used, or takes no further request.

use std::path::PathBuf;

use crate::{accounts::StoreError, billing::BillingError};

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
        Self::of_store(path, StoreError::of(path, error))
    }

    /// Says in words of this store why its file cannot be opened.
    pub(super) fn of_store(path: &std::path::Path, error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { path, message } => Self::Corrupt { path, message },
            StoreError::Newer { path, found, known } => Self::Newer { path, found, known },
            StoreError::InUse { path } => Self::InUse { path },
            StoreError::Full { path, message } | StoreError::Io { path, message } => {
                Self::Io { path, message }
            }
            StoreError::NoRandomness => Self::Io {
                path: path.to_owned(),
                message: error.to_string(),
            },
        }
    }

    /// Returns whether the file's content is at fault, not the machine around it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Newer { .. })
    }
}
