//! What can go wrong between a source's name and a file in the store.
//!
//! Each variant knows its [`ErrorCode`], so that the API need not read the words, and its words
//! name the remedy.

use std::path::PathBuf;

use aither_protocol::ErrorCode;

use crate::{config::units::rounded_size, files::FileError};

/// Why a model could not be pulled, imported, found or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelStoreError {
    /// A name that could not stand in a URL.
    #[error(
        "{name:?} is no model name: letters, digits and . _ - / : only, at most 128, beginning \
         and ending with a letter or digit"
    )]
    InvalidName {
        /// The name, cut to its bound.
        name: String,
    },
    /// Nothing of that name is stored.
    #[error("model {name:?} is not in the store; {remedy}")]
    NotFound {
        /// The name.
        name: String,
        /// How to get it.
        remedy: String,
    },
    /// The name is not in the catalogue and is no source either.
    #[error("{given:?} is no source of models: {message}")]
    InvalidSource {
        /// What was given.
        given: String,
        /// What it should be.
        message: String,
    },
    /// The same source is being pulled.
    #[error("{given} is already being pulled")]
    AlreadyPulling {
        /// The source.
        given: String,
    },
    /// A file that is no GGUF file that can be served.
    #[error("{} is not a usable GGUF file: {message}", path.display())]
    InvalidModel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The manifest cannot be understood.
    #[error(
        "the model store is corrupt: {} {message}; move that file away, start again and pull or \
         import the models anew",
        path.display()
    )]
    Corrupt {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not enough room.
    #[error(
        "no room in {}: {} needed, {} free; free some space or choose another --data-dir",
        path.display(), rounded_size(*needed_bytes), rounded_size(*free_bytes)
    )]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// What is missing on the disk, in bytes.
        needed_bytes: u64,
        /// What is free, in bytes.
        free_bytes: u64,
    },
    /// More bytes than allowed, or than the source announced.
    #[error("{given} is larger than {}: {message}", rounded_size(*bytes_max))]
    TooLarge {
        /// The source.
        given: String,
        /// The cap.
        bytes_max: u64,
        /// Where the cap comes from.
        message: String,
    },
    /// The bytes are not the ones that were promised.
    #[error(
        "the checksum of {given} is wrong: SHA-256 {actual} instead of {expected}; what was \
         downloaded has been deleted"
    )]
    WrongChecksum {
        /// The source.
        given: String,
        /// What was promised.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The server refused, or could not be reached, or stopped sending.
    #[error("downloading {given} failed: {message}")]
    Download {
        /// The source.
        given: String,
        /// What happened, and what helps.
        message: String,
    },
    /// The package index or its client failed.
    #[error("finding the package {package} failed: {message}")]
    Package {
        /// The package and its version.
        package: String,
        /// What happened, and what helps.
        message: String,
    },
    /// A background thread panicked.
    #[error("internal error in the model store: {message}")]
    Internal {
        /// What broke.
        message: String,
    },
}

impl ModelStoreError {
    /// Returns the code for the API.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidName { .. } | Self::InvalidSource { .. } | Self::InvalidModel { .. } => {
                ErrorCode::ValidationFailed
            }
            Self::NotFound { .. } => ErrorCode::ModelNotFound,
            Self::AlreadyPulling { .. } => ErrorCode::Conflict,
            Self::NoSpace { .. } => ErrorCode::InsufficientStorage,
            Self::TooLarge { .. }
            | Self::WrongChecksum { .. }
            | Self::Download { .. }
            | Self::Package { .. } => ErrorCode::UpstreamFailed,
            Self::File(_) | Self::Corrupt { .. } | Self::Internal { .. } => ErrorCode::Internal,
        }
    }

    /// The error of a task that did not come to its end.
    pub(crate) fn joined(error: tokio::task::JoinError) -> Self {
        Self::Internal {
            message: error.to_string(),
        }
    }
}
