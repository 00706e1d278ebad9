//! Files of agents and accounts: workspaces and artifacts, synchronous.
//!
//! A workspace is a folder that its holder names files in by relative paths; an artifact is a file
//! with a number that says what it is. Both count against what the plan of an account gives, for
//! the account and its agents together.
//!
//! No path leaves its workspace: [`path`] refuses what could, before anything is opened, and what
//! is left is opened folder by folder through a [`cap_std::fs::Dir`], which reaches nothing outside
//! of itself. Links are not followed, whoever placed them; only regular files are read or replaced.
//!
//! A file is written beside its place and moved there whole, so readers and crashes meet the old
//! one or the new one. Only an append grows a file in place; one that fails is taken back.

pub mod artifacts;
pub mod error;
mod folder;
pub mod path;
mod store;
#[cfg(test)]
mod tests;
pub mod usage;

pub use self::{
    artifacts::{Artifact, ArtifactDraft, ArtifactStore, ArtifactWriter},
    error::FilesError,
    path::FilePath,
    store::{FileInfo, Files, ListFiles, Piece, WorkspaceStore, WriteFile},
    usage::{Measure, Payer, Quota, Usage, Used},
};

use ulid::Ulid;

/// Begins the folder of an account.
const ACCOUNT_PREFIX: &str = "account-";

/// Whose files: each has a workspace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// An agent's.
    Agent(u128),
    /// An account's own.
    Account(u128),
}

impl Holder {
    /// Returns the name of its folder.
    fn folder(self) -> String {
        match self {
            Self::Agent(id) => Ulid(id).to_string(),
            Self::Account(id) => format!("{ACCOUNT_PREFIX}{}", Ulid(id)),
        }
    }

    /// Takes a holder back from the name of a folder.
    fn of_folder(name: &str) -> Option<Self> {
        let (number, holder): (_, fn(u128) -> Self) = match name.strip_prefix(ACCOUNT_PREFIX) {
            Some(number) => (number, Self::Account),
            None => (name, Self::Agent),
        };
        let found = holder(Ulid::from_string(number).ok()?.0);
        // Ids are read in more forms than they are written in.
        (found.folder() == name).then_some(found)
    }
}
