//! Git repositories of the operator's, as agents read and write them.
//!
//! Objects and references alone are touched, never a working tree or an index: a path is looked up
//! in a tree object, where links and `..` mean nothing. Configuration outside of the repository
//! and the environment are not looked at, and no program is run. An agent writes to branches below
//! `aither/AGENT-ACCOUNT/`, and not to one that somebody has checked out.
//!
//! Synchronous, and told the time; [`crate::services::CodeService`] says who may do what.

mod answer;
mod error;
mod paths;
mod read;
mod repository;
mod tree;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    answer::{
        ChangeKind, ChangedPath, CodeAnswer, CommitAnswer, CommitLine, DiffAnswer, Encoding,
        EntryKind, FileAnswer, ListAnswer, ListedEntry, LogAnswer, NamedCommit, NamesAnswer,
        Person,
    },
    error::CodeError,
    read::{CodeQuery, read},
    write::{Author, Edit, FileChange, NewCommit, Written, write},
};

/// Bytes of a file that are answered.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Largest file that is looked into at all.
pub const BLOB_BYTES_MAX: u64 = 64 << 20;
/// Largest folder and largest commit, in bytes of their objects.
pub const OBJECT_BYTES_MAX: u64 = 8 << 20;
/// Entries, commits, changes or names that are answered where the request does not say how many.
pub const ITEMS_DEFAULT: usize = 100;
/// Most of them.
pub const ITEMS_MAX: usize = 1000;
/// Commits that are gone through for the history of a path.
pub const COMMITS_WALKED_MAX: usize = 10_000;
/// Folders that are read for one answer.
pub const TREES_READ_MAX: usize = 20_000;
/// Longest path.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest path that is written, and its deepest.
pub const WRITTEN_PATH_BYTES_MAX: usize = 1024;
/// Folders in a written path.
pub const WRITTEN_PATH_DEPTH_MAX: usize = 32;
/// Files that one commit changes.
pub const FILES_MAX: usize = 256;
/// Bytes of one of them.
pub const WRITTEN_FILE_BYTES_MAX: usize = 2 << 20;
/// Bytes of a commit's message.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Branches that one writer has in a repository.
pub const BRANCHES_MAX: usize = 1000;
/// Bytes of a branch's name below the agent's folder, and of a reference that is read.
pub const NAME_BYTES_MAX: usize = 200;

/// Cuts a name that a caller wrote to what is told of it.
pub(crate) fn cut_name(name: &str) -> &str {
    repository::cut(name, NAME_BYTES_MAX)
}
