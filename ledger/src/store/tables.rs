//! Every table of the ledger's file, and what its keys and values are.
//!
//! The writer's thread alone writes. The number in a name is the version of its rows, which begin
//! with a version byte of their own; see `codec`.

use redb::{Table, TableDefinition, TableError, WriteTransaction};

/// Numbers about the whole file, by name.
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The version of all tables together.
pub(crate) const META_SCHEMA: &str = "schema_version";
/// The latest time that was told, in milliseconds since 1970.
pub(crate) const META_NOW: &str = "now";
/// Bytes of all [`NOTES`] together.
pub(crate) const META_NOTE_BYTES: &str = "note_bytes";
/// The last entry that [`CHECKPOINT`] takes in.
pub(crate) const META_CHECKPOINT: &str = "checkpoint";

/// Account → `Account`.
pub(crate) const ACCOUNTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("accounts-1");
/// First entry of a block → its entries, one behind the other.
pub(crate) const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal-1");
/// Transfer or hold → `TransferState`.
pub(crate) const TRANSFERS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("transfers-1");
/// When it expires, and its name → `Movement`, of open holds alone.
pub(crate) const HOLDS: TableDefinition<'_, (u64, u128), &[u8]> = TableDefinition::new("holds-1");
/// Account, time, entry → `Usage`.
pub(crate) const USAGE: TableDefinition<'_, (u128, u64, u64), &[u8]> =
    TableDefinition::new("usage-1");
/// Account, beginning of the hour, agent, model → `UsageCounts`.
pub(crate) const USAGE_SUMS: TableDefinition<'_, (u128, u64, &str, &str), &[u8]> =
    TableDefinition::new("usage-sums-1");
/// Account → `Account`, as it was at the last checkpoint. Since schema version 2.
pub(crate) const CHECKPOINT: TableDefinition<'_, u128, &[u8]> =
    TableDefinition::new("checkpoint-1");
/// The caller's name → bytes of the caller's. Since schema version 3.
pub(crate) const NOTES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("notes-1");

/// All tables of a write transaction.
pub(crate) struct Tables<'t> {
    pub(crate) meta: Table<'t, &'static str, u64>,
    pub(crate) accounts: Table<'t, u128, &'static [u8]>,
    pub(crate) journal: Table<'t, u64, &'static [u8]>,
    pub(crate) transfers: Table<'t, u128, &'static [u8]>,
    pub(crate) holds: Table<'t, (u64, u128), &'static [u8]>,
    pub(crate) usage: Table<'t, (u128, u64, u64), &'static [u8]>,
    pub(crate) usage_sums: Table<'t, (u128, u64, &'static str, &'static str), &'static [u8]>,
    pub(crate) checkpoint: Table<'t, u128, &'static [u8]>,
    pub(crate) notes: Table<'t, u128, &'static [u8]>,
}

impl<'t> Tables<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            accounts: transaction.open_table(ACCOUNTS)?,
            journal: transaction.open_table(JOURNAL)?,
            transfers: transaction.open_table(TRANSFERS)?,
            holds: transaction.open_table(HOLDS)?,
            usage: transaction.open_table(USAGE)?,
            usage_sums: transaction.open_table(USAGE_SUMS)?,
            checkpoint: transaction.open_table(CHECKPOINT)?,
            notes: transaction.open_table(NOTES)?,
        })
    }
}
