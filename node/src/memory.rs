//! What agents remember: the store `DIR/memory.redb`, synchronous and without a clock.
//!
//! An entry has a key within a *scope*: a task's, a session's, an agent's, or what the node knows
//! ([`scope`]). A caller reaches only the scopes of its own [`Owner`] and what all share, so that
//! nothing here can tell about another's. [`store`] is the handle: reads look at a snapshot, on the
//! caller's thread; writes go to one thread ([`writer`]), which makes all that waits one durable
//! transaction, tells an [`Observer`] what changed, and answers.
//!
//! Versions of an entry begin at 1 and rise by one with each write. An entry that is deleted leaves
//! its version as a floor for new entries of its scope, and a scope that ends leaves it to its
//! owner: a version that somebody remembers never comes again with another content.
//!
//! What search needs is derived: `pending-1` has what it does not know yet, `awaiting-1` that of
//! which it has only words; `index-1` and `vectors-1` have what it made of the rest, in a form of
//! its own ([`derived`]). Each goes with its entry, in the same transaction. The [`indexer`] makes
//! all of it behind writes, by what [`index`] does to a text; [`search`] asks the indexes that are
//! in memory ([`loaded`]).
//!
//! Bounds: [`limits`]; of an account by its plan ([`Quota`]), of all by the configuration.

pub mod ids;
pub mod index;
pub mod indexer;
pub mod limits;
pub mod loaded;
pub mod scope;
pub mod search;

mod derived;
mod edit;
mod error;
mod file;
mod read;
mod records;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::{fmt, sync::Arc};

pub use self::{
    derived::{IndexPut, Pending, Unindexed},
    error::{Measure, MemoryError},
    ids::{ScopeId, Serial},
    limits::{MemoryLimits, Quota},
    read::{Counts, ListQuery},
    scope::{Owner, ScopeKey},
    store::MemoryStore,
};

/// An entry without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryInfo {
    /// Where it is.
    pub scope: ScopeId,
    /// Its key there.
    pub key: String,
    /// The number of this state of it.
    pub serial: Serial,
    /// How often it was written.
    pub version: u64,
    /// When it was written first, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was written last.
    pub updated_ms: u64,
    /// When it ends by itself.
    pub expires_ms: Option<u64>,
    /// Who wrote it last.
    pub writer: String,
    /// Words by which it is found.
    pub tags: Vec<String>,
    /// The writer's signature.
    pub signature: Option<EntrySignature>,
    /// Length of its value.
    pub value_bytes: usize,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// All but the value.
    pub info: EntryInfo,
    /// The JSON text as it was written.
    pub value: String,
}

/// A signature that was found good when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntrySignature {
    /// The ed25519 key that made it.
    pub public_key: [u8; 32],
    /// Its 64 bytes.
    pub value: Vec<u8>,
}

/// An entry to be written. Its texts were checked ([`limits`]).
#[derive(Debug, Clone)]
pub struct WriteEntry {
    /// Where.
    pub scope: ScopeKey,
    /// Whose quota it counts against.
    pub account: u128,
    /// What that account may have.
    pub quota: Quota,
    /// The key.
    pub key: String,
    /// The value as JSON text.
    pub value: String,
    /// Words by which it is found.
    pub tags: Vec<String>,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// The version that it must have now; 0 for none.
    pub if_version: Option<u64>,
    /// Who writes.
    pub writer: String,
    /// The writer's signature, verified.
    pub signature: Option<EntrySignature>,
}

/// An entry to be deleted.
#[derive(Debug, Clone)]
pub struct DeleteEntry {
    /// Where.
    pub scope: ScopeKey,
    /// The key.
    pub key: String,
    /// The version that it must have.
    pub if_version: Option<u64>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenEntry {
    /// The entry's version now.
    pub version: u64,
    /// The number of this state of it.
    pub serial: Serial,
}

/// Something that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An entry has a new state. Its old one, if any, was [`Removed`](Self::Removed) before.
    Written {
        /// Where.
        scope: ScopeId,
        /// The state's number.
        serial: Serial,
        /// Its key.
        key: String,
    },
    /// A state of an entry is no more.
    Removed {
        /// Where.
        scope: ScopeId,
        /// The state's number.
        serial: Serial,
    },
    /// Search has put a row to a state of an entry.
    Indexed {
        /// Where.
        scope: ScopeId,
        /// The state's number.
        serial: Serial,
        /// The row.
        row: Arc<[u8]>,
    },
    /// A scope has ended; all in it was removed before.
    ScopeGone {
        /// Which.
        scope: ScopeId,
    },
}

/// Who is told of each change after its commit and before it is acknowledged, in the order of the
/// commits, on the writer's thread. It must not wait, nor use the store.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Takes the changes of one transaction.
    fn changed(&self, changes: &[Change]);
}

/// Nobody who wants to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn changed(&self, _changes: &[Change]) {}
}
