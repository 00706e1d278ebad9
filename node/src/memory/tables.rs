//! Every table of `memory.redb`. The store's one writer writes all of them.
//!
//! The version in a name changes when the key's form does; values carry a version of their own
//! (see [`super::records`]). Numbers of scopes come first, so that a scope's rows lie together.

use redb::{Table, TableDefinition, TableError, WriteTransaction};

/// The version that this build writes, and the newest that it reads.
pub(super) const SCHEMA_VERSION: u64 = 1;

/// Number of a scope and of a written state.
pub(super) type Written = (u64, u64);

/// Counters by name: what is given out next, and what there is of all.
pub(super) const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters-1");
/// Scope key → [`super::records::ScopeV1`].
pub(super) const SCOPES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("scopes-1");
/// Number of a scope → its key.
pub(super) const SCOPE_KEYS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("scope-keys-1");
/// Owner → [`super::records::OwnerV1`]: whoever has ever written.
pub(super) const OWNERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("owners-1");
/// Account → [`super::records::UsageV1`].
pub(super) const USAGE: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("usage-1");
/// Number of a scope and key → [`super::records::Head`] and the value.
pub(super) const ENTRIES: TableDefinition<'_, (u64, &str), &[u8]> =
    TableDefinition::new("entries-1");
/// When an entry expires, its scope and key.
pub(super) const EXPIRY: TableDefinition<'_, (u64, u64, &str), ()> =
    TableDefinition::new("expiry-1");
/// Serial of an entry that search does not know yet → its scope and key.
pub(super) const PENDING: TableDefinition<'_, u64, (u64, &str)> = TableDefinition::new("pending-1");
/// What search knows of an entry, in its own form. Derived: it may be missing.
pub(super) const INDEX: TableDefinition<'_, Written, &[u8]> = TableDefinition::new("index-1");
/// An entry's vectors, in search's own form. Derived, too.
pub(super) const VECTORS: TableDefinition<'_, Written, &[u8]> = TableDefinition::new("vectors-1");
/// Owners of whom nothing is to be left, and when that was asked for, in milliseconds since 1970.
pub(super) const PURGES: TableDefinition<'_, &[u8], u64> = TableDefinition::new("purges-1");

/// The tables of a write transaction, each opened once.
pub(super) struct Tables<'tx> {
    pub(super) counters: Table<'tx, &'static str, u64>,
    pub(super) scopes: Table<'tx, &'static [u8], &'static [u8]>,
    pub(super) scope_keys: Table<'tx, u64, &'static [u8]>,
    pub(super) owners: Table<'tx, &'static [u8], &'static [u8]>,
    pub(super) usage: Table<'tx, u128, &'static [u8]>,
    pub(super) entries: Table<'tx, (u64, &'static str), &'static [u8]>,
    pub(super) expiry: Table<'tx, (u64, u64, &'static str), ()>,
    pub(super) pending: Table<'tx, u64, (u64, &'static str)>,
    pub(super) index: Table<'tx, Written, &'static [u8]>,
    pub(super) vectors: Table<'tx, Written, &'static [u8]>,
    pub(super) purges: Table<'tx, &'static [u8], u64>,
}

impl<'tx> Tables<'tx> {
    pub(super) fn open(tx: &'tx WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            counters: tx.open_table(COUNTERS)?,
            scopes: tx.open_table(SCOPES)?,
            scope_keys: tx.open_table(SCOPE_KEYS)?,
            owners: tx.open_table(OWNERS)?,
            usage: tx.open_table(USAGE)?,
            entries: tx.open_table(ENTRIES)?,
            expiry: tx.open_table(EXPIRY)?,
            pending: tx.open_table(PENDING)?,
            index: tx.open_table(INDEX)?,
            vectors: tx.open_table(VECTORS)?,
            purges: tx.open_table(PURGES)?,
        })
    }
}
