//! Every table of `accounts.redb`.
//!
//! The version in a name changes when the key's form does; values carry a version of their own
//! (see [`super::records`]). Keys are of fixed width and big-endian, so they sort as numbers.
//! The store's one writer writes all of them.

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableDatabase, Table, TableDefinition, TableError,
    WriteTransaction,
};

/// The version that this build writes, and the newest that it reads.
pub(super) const SCHEMA_VERSION: u64 = 1;

/// Account id → [`super::records::AccountV1`].
pub(super) const ACCOUNTS: TableDefinition<'_, [u8; 16], &[u8]> =
    TableDefinition::new("accounts-1");
/// E-mail address in lower case → account id.
pub(super) const EMAILS: TableDefinition<'_, &str, [u8; 16]> = TableDefinition::new("emails-1");
/// SHA-256 of an API key → [`super::records::KeyV1`].
pub(super) const KEYS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("keys-1");
/// SHA-256 of a login's handle → [`super::records::FamilyV1`].
pub(super) const FAMILIES: TableDefinition<'_, [u8; 32], &[u8]> =
    TableDefinition::new("families-1");

/// The tables of a write transaction, each opened once.
pub(super) struct Tables<'tx> {
    pub(super) accounts: Table<'tx, [u8; 16], &'static [u8]>,
    pub(super) emails: Table<'tx, &'static str, [u8; 16]>,
    pub(super) keys: Table<'tx, [u8; 32], &'static [u8]>,
    pub(super) families: Table<'tx, [u8; 32], &'static [u8]>,
}

impl<'tx> Tables<'tx> {
    pub(super) fn open(tx: &'tx WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            accounts: tx.open_table(ACCOUNTS)?,
            emails: tx.open_table(EMAILS)?,
            keys: tx.open_table(KEYS)?,
            families: tx.open_table(FAMILIES)?,
        })
    }
}

/// The tables of a read transaction.
pub(super) struct ReadTables {
    pub(super) accounts: ReadOnlyTable<[u8; 16], &'static [u8]>,
    pub(super) emails: ReadOnlyTable<&'static str, [u8; 16]>,
    pub(super) keys: ReadOnlyTable<[u8; 32], &'static [u8]>,
    pub(super) families: ReadOnlyTable<[u8; 32], &'static [u8]>,
}

impl ReadTables {
    pub(super) fn open(database: &redb::Database) -> Result<Self, redb::Error> {
        let tx: ReadTransaction = database.begin_read()?;
        Ok(Self {
            accounts: tx.open_table(ACCOUNTS)?,
            emails: tx.open_table(EMAILS)?,
            keys: tx.open_table(KEYS)?,
            families: tx.open_table(FAMILIES)?,
        })
    }
}
