//! What can go wrong beside refusals.

use std::{path::PathBuf, sync::Arc};

/// Why the ledger cannot answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The file cannot be opened or made.
    #[error("cannot open the ledger {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The store's words.
        source: Arc<redb::Error>,
    },
    /// Reading or writing failed. After a failed write nothing more is taken until the ledger is
    /// opened anew: what reached the disk is not known.
    #[error("the ledger's store failed: {0}; free disk space if it is full, then restart the node")]
    Storage(Arc<redb::Error>),
    /// The store holds something that the ledger did not write.
    #[error("the ledger is damaged: {what}; restore it from a backup")]
    Corrupt {
        /// What is wrong.
        what: String,
    },
    /// A newer program wrote it.
    #[error("the ledger has schema version {found}, this program knows {known}; use a newer one")]
    NewerSchema {
        /// The version of the file.
        found: u64,
        /// The version of this program.
        known: u64,
    },
    /// More waits to be written than is kept.
    #[error("the ledger has more to write than it takes; try again soon")]
    Busy,
    /// An earlier write failed, or the ledger is closed.
    #[error("the ledger has stopped: {why}")]
    Stopped {
        /// What happened.
        why: Arc<str>,
    },
}

impl LedgerError {
    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}

/// Damage is told apart from what a restart may cure.
pub(crate) fn from_redb(error: redb::Error) -> LedgerError {
    match error {
        redb::Error::Corrupted(what) => LedgerError::Corrupt { what },
        other => LedgerError::Storage(Arc::new(other)),
    }
}

macro_rules! from_redb_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for LedgerError {
            fn from(error: $error) -> Self {
                from_redb(error.into())
            }
        })*
    };
}

from_redb_errors!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);
