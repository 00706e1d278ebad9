//! What ends the process, and the exit code that says so.
//!
//! 0 is a clean stop, 2 bad usage or configuration, 3 a data directory in use, 4 a corrupt store,
//! 1 anything else. Each error is one readable line.

use std::{io, net::SocketAddr};

use crate::{
    accounts::StoreError,
    answers::AnswersError,
    backup::BackupError,
    billing::{BillingError, PriceBookError},
    config::load::ConfigError,
    data_dir::DataDirError,
    files::FileError,
    identity::IdentityError,
    memory::MemoryError,
    models::ModelStoreError,
    services::ToolsError,
    workspaces::FilesError,
};

/// Why a command, or the node, did not come to a good end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The command line asks for something that makes no sense.
    #[error("{message}")]
    Usage {
        /// What, and what helps.
        message: String,
    },
    /// A flag or command whose feature comes later.
    #[error("{what}: {message}")]
    NotInThisBuild {
        /// The flag or command.
        what: String,
        /// Words on it.
        message: String,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A key cannot be read, made or stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The model store refuses.
    #[error(transparent)]
    Models(#[from] ModelStoreError),
    /// The account store refuses.
    #[error(transparent)]
    Accounts(#[from] StoreError),
    /// The agents' memory refuses.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The files of agents cannot be opened.
    #[error("files of agents: {0}")]
    Files(#[from] FilesError),
    /// The store of answers refuses.
    #[error(transparent)]
    Answers(#[from] AnswersError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Billing(#[from] BillingError),
    /// The prices cannot be read.
    #[error(transparent)]
    Prices(#[from] PriceBookError),
    /// What agents use of the world cannot be had.
    #[error(transparent)]
    Tools(#[from] ToolsError),
    /// There is no backup, or none is restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// `check` found damage.
    #[error("{message}")]
    Damaged {
        /// What, and what helps.
        message: String,
    },
    /// A file outside the store cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The HTTP address cannot be bound.
    #[error("cannot listen on {address}: {source}{}", bind_remedy(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        source: io::Error,
    },
    /// The engine does not start.
    #[error("cannot start the inference engine: {0}")]
    Engine(#[from] aither_inference::Error),
    /// A part of the running node failed.
    #[error("the node stopped because {part} failed: {message}")]
    PartFailed {
        /// Which part.
        part: &'static str,
        /// What happened.
        message: String,
    },
    /// A running node refused what a command asked of it.
    #[error("the running node refused: {message}")]
    RefusedByNode {
        /// Its words.
        message: String,
    },
    /// The running node cannot be asked.
    #[error("cannot ask the running node at {url}: {message}")]
    NodeUnreachable {
        /// Its base URL.
        url: String,
        /// What happened.
        message: String,
    },
    /// The operating system refuses something elementary.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its words.
        source: io::Error,
    },
    /// The user interrupted.
    #[error("interrupted{hint}")]
    Interrupted {
        /// What can be done next.
        hint: &'static str,
    },
}

impl NodeError {
    /// Returns the process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage { .. } | Self::NotInThisBuild { .. } => 2,
            Self::Engine(aither_inference::Error::BackendUnavailable { .. }) => 2,
            Self::Models(
                ModelStoreError::InvalidName { .. }
                | ModelStoreError::InvalidSource { .. }
                | ModelStoreError::InvalidModel { .. },
            ) => 2,
            Self::DataDir(DataDirError::InUse { .. }) => 3,
            Self::Accounts(error) if error.is_damage() => 4,
            Self::Memory(MemoryError::Store(error)) if error.is_damage() => 4,
            Self::Answers(error) if error.is_damage() => 4,
            Self::Billing(error) if error.is_damage() => 4,
            Self::Prices(PriceBookError::Malformed { .. }) => 4,
            Self::Damaged { .. } | Self::Models(ModelStoreError::Corrupt { .. }) => 4,
            Self::Identity(
                IdentityError::InvalidIdentity { .. } | IdentityError::InvalidAdminKey { .. },
            ) => 4,
            _ => 1,
        }
    }
}

fn bind_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has that port: stop it, or choose another with --http ADDR:PORT \
             (port 0 takes any free one)"
        }
        io::ErrorKind::PermissionDenied => "; choose a port from 1024 up with --http ADDR:PORT",
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: choose another with --http ADDR:PORT"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_the_kinds_apart() {
        let usage = NodeError::Usage {
            message: "x".into(),
        };
        let in_use = NodeError::DataDir(DataDirError::InUse {
            path: "/d".into(),
            pid: None,
        });
        let corrupt = NodeError::Models(ModelStoreError::Corrupt {
            path: "/d".into(),
            message: "x".into(),
        });
        let other = NodeError::Interrupted { hint: "" };
        let codes = [usage, in_use, corrupt, other].map(|error| error.exit_code());
        assert_eq!(codes, [2, 3, 4, 1]);
    }
}
