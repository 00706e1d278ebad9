//! Every table of `registry.redb`. The store's one writer writes all of them.
//!
//! The version in a name changes when the key's form does; values carry a version of their own
//! (see [`super::records`]). Ids are big-endian, so they sort by when an agent came aboard.

use redb::{ReadOnlyTable, ReadableDatabase, Table, TableDefinition, TableError, WriteTransaction};

/// The version that this build writes, and the newest that it reads.
pub(super) const SCHEMA_VERSION: u64 = 3;

/// Agent id → [`super::records::AgentV3`]; [`super::records::AgentV2`] in schema version 2,
/// [`super::records::AgentV1`] in version 1.
const AGENTS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("agents-1");
/// Agent id → [`super::records::CardV1`], since schema version 2.
const CARDS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("cards-1");
/// SHA-256 of an agent's key → [`super::records::AgentKeyV1`].
const KEYS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("agent-keys-1");
/// Number of a root key of capability tokens → [`super::records::RootKeyV1`].
const ROOT_KEYS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("root-keys-1");
/// Agent id and number of a revoked token → when it was revoked, in milliseconds since 1970.
const REVOKED: TableDefinition<'_, ([u8; 16], [u8; 16]), u64> =
    TableDefinition::new("revoked-tokens-1");
/// Agent id and a rising number → [`super::records::AuditV1`].
const AUDIT: TableDefinition<'_, ([u8; 16], u64), &[u8]> = TableDefinition::new("audit-1");
/// Agent id → [`super::records::ListingV1`], since schema version 3.
const LISTINGS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("listings-1");
/// Agent id → [`super::records::StateV1`], where it is in its life; since schema version 3. Apart
/// from the rest of the agent, since it changes the most.
const STATES: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("states-1");
/// Agent id and a rising number → [`super::records::MoveV1`]; since schema version 3.
const MOVES: TableDefinition<'_, ([u8; 16], u64), &[u8]> = TableDefinition::new("moves-1");
/// Agent id → [`super::records::CallStatsV1`], of those that were called; since schema version 3.
const CALL_STATS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("call-stats-1");

/// The tables of a write transaction, each opened once.
pub(super) struct Tables<'tx> {
    pub(super) agents: Table<'tx, [u8; 16], &'static [u8]>,
    pub(super) cards: Table<'tx, [u8; 16], &'static [u8]>,
    pub(super) keys: Table<'tx, [u8; 32], &'static [u8]>,
    pub(super) root_keys: Table<'tx, u32, &'static [u8]>,
    pub(super) revoked: Table<'tx, ([u8; 16], [u8; 16]), u64>,
    pub(super) audit: Table<'tx, ([u8; 16], u64), &'static [u8]>,
    pub(super) listings: Table<'tx, [u8; 16], &'static [u8]>,
    pub(super) states: Table<'tx, [u8; 16], &'static [u8]>,
    pub(super) moves: Table<'tx, ([u8; 16], u64), &'static [u8]>,
    pub(super) call_stats: Table<'tx, [u8; 16], &'static [u8]>,
}

impl<'tx> Tables<'tx> {
    pub(super) fn open(tx: &'tx WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            agents: tx.open_table(AGENTS)?,
            cards: tx.open_table(CARDS)?,
            keys: tx.open_table(KEYS)?,
            root_keys: tx.open_table(ROOT_KEYS)?,
            revoked: tx.open_table(REVOKED)?,
            audit: tx.open_table(AUDIT)?,
            listings: tx.open_table(LISTINGS)?,
            states: tx.open_table(STATES)?,
            moves: tx.open_table(MOVES)?,
            call_stats: tx.open_table(CALL_STATS)?,
        })
    }
}

/// The tables of a read transaction.
pub(super) struct ReadTables {
    pub(super) agents: ReadOnlyTable<[u8; 16], &'static [u8]>,
    pub(super) cards: ReadOnlyTable<[u8; 16], &'static [u8]>,
    pub(super) keys: ReadOnlyTable<[u8; 32], &'static [u8]>,
    pub(super) root_keys: ReadOnlyTable<u32, &'static [u8]>,
    pub(super) revoked: ReadOnlyTable<([u8; 16], [u8; 16]), u64>,
    pub(super) audit: ReadOnlyTable<([u8; 16], u64), &'static [u8]>,
    pub(super) listings: ReadOnlyTable<[u8; 16], &'static [u8]>,
    pub(super) states: ReadOnlyTable<[u8; 16], &'static [u8]>,
    pub(super) moves: ReadOnlyTable<([u8; 16], u64), &'static [u8]>,
    pub(super) call_stats: ReadOnlyTable<[u8; 16], &'static [u8]>,
}

impl ReadTables {
    pub(super) fn open(database: &redb::Database) -> Result<Self, redb::Error> {
        let tx = database.begin_read()?;
        Ok(Self {
            agents: tx.open_table(AGENTS)?,
            cards: tx.open_table(CARDS)?,
            keys: tx.open_table(KEYS)?,
            root_keys: tx.open_table(ROOT_KEYS)?,
            revoked: tx.open_table(REVOKED)?,
            audit: tx.open_table(AUDIT)?,
            listings: tx.open_table(LISTINGS)?,
            states: tx.open_table(STATES)?,
            moves: tx.open_table(MOVES)?,
            call_stats: tx.open_table(CALL_STATS)?,
        })
    }
}
