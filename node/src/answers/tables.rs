//! Every table of `answers.redb`.
//!
//! The version in a name changes when the key's form does; values carry a version of their own.
//! The store's one thread writes all of them.

use redb::{Table, TableDefinition, TableError, WriteTransaction};

/// The version that this build writes, and the newest that it reads.
pub(super) const SCHEMA_VERSION: u64 = 1;

/// When a row was made, in milliseconds since 1970, and its key: the oldest stand first.
pub(super) type Age = (u64, [u8; 32]);

/// Row key → [`super::records::RowV1`].
pub(super) const ROWS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("rows-1");
/// Age → nothing, for every row.
pub(super) const AGES: TableDefinition<'_, Age, ()> = TableDefinition::new("ages-1");
/// Age → a version byte and an answer's body, for every row that has one.
pub(super) const BODIES: TableDefinition<'_, Age, &[u8]> = TableDefinition::new("bodies-1");

/// The tables of a write transaction, each opened once.
pub(super) struct Tables<'tx> {
    pub(super) rows: Table<'tx, [u8; 32], &'static [u8]>,
    pub(super) ages: Table<'tx, Age, ()>,
    pub(super) bodies: Table<'tx, Age, &'static [u8]>,
}

impl<'tx> Tables<'tx> {
    pub(super) fn open(tx: &'tx WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            rows: tx.open_table(ROWS)?,
            ages: tx.open_table(AGES)?,
            bodies: tx.open_table(BODIES)?,
        })
    }
}
