//! Every table of `events.redb`. The log's one writer writes all of them.
//!
//! The version in a name changes when the key's form does; values carry a version of their own
//! (see [`super::records`]).

use redb::{Table, TableDefinition, TableError, WriteTransaction};

/// The version that this build writes, and the newest that it reads.
pub(super) const SCHEMA_VERSION: u64 = 1;

/// The highest number that may have been given out.
pub(super) const RESERVED: &str = "reserved";
/// Up to this number retention has removed events.
pub(super) const SWEPT: &str = "swept";
/// The highest that went because its account had told too much.
pub(super) const SWEPT_OF_ACCOUNTS: &str = "swept_of_accounts";
/// What all rows together count for.
pub(super) const BYTES: &str = "bytes";

/// Counters by name.
pub(super) const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters-1");
/// Number → [`super::records::HeadV1`] and the data.
pub(super) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events-1");
/// An agent's name, and the number of an event that is about it or of it.
pub(super) const OF_AGENTS: TableDefinition<'_, (&str, u64), ()> =
    TableDefinition::new("of-agents-1");

/// An account, and the number of an event that it emitted.
pub(super) const OF_ACCOUNTS: TableDefinition<'_, (u128, u64), ()> =
    TableDefinition::new("of-accounts-1");
/// Account → what the rows of its own events count for, and up to which number some of them were
/// removed because they were too many.
pub(super) const ACCOUNTS: TableDefinition<'_, u128, (u64, u64)> =
    TableDefinition::new("accounts-1");

/// The tables of a write transaction, each opened once.
pub(super) struct Tables<'tx> {
    pub(super) counters: Table<'tx, &'static str, u64>,
    pub(super) events: Table<'tx, u64, &'static [u8]>,
    pub(super) of_agents: Table<'tx, (&'static str, u64), ()>,
    pub(super) of_accounts: Table<'tx, (u128, u64), ()>,
    pub(super) accounts: Table<'tx, u128, (u64, u64)>,
}

impl<'tx> Tables<'tx> {
    pub(super) fn open(tx: &'tx WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            counters: tx.open_table(COUNTERS)?,
            events: tx.open_table(EVENTS)?,
            of_agents: tx.open_table(OF_AGENTS)?,
            of_accounts: tx.open_table(OF_ACCOUNTS)?,
            accounts: tx.open_table(ACCOUNTS)?,
        })
    }
}
