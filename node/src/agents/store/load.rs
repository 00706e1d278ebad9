//! Opening the agents' database, and reading all of it once.

use std::{mem, path::Path, sync::Arc};

use aither_protocol::{AgentCard, RootKey};
use redb::{Database, ReadableTable, ReadableTableMetadata};
use ulid::Ulid;

use super::migrate;
use crate::{
    accounts::{Record, StoreError},
    agents::{
        AgentId, Directory,
        directory::{Change, Listed},
        lifecycle,
        records::{
            AgentKeyV1, AgentV3, AuditV1, CallStatsV1, CardV1, ListingV1, MoveV1, RootKeyV1,
            StateV1, state_of,
        },
        tables::{ReadTables, SCHEMA_VERSION, Tables},
    },
    store_file::{Form, corrupt},
};

/// A file up to this size is verified page by page at each start.
const VERIFIED_BYTES_MAX: u64 = 64 << 20;

/// Opens the file, or makes it with its tables.
pub(super) fn open_database(path: &Path) -> Result<Database, StoreError> {
    let len = path.metadata().map_or(0, |metadata| metadata.len());
    form(len <= VERIFIED_BYTES_MAX).open_with(path, &migrate::STEPS)
}

/// Opens the file and verifies the checksum of every page.
pub(super) fn open_verified(path: &Path) -> Result<Database, StoreError> {
    form(true).open_with(path, &migrate::STEPS)
}

fn form(verify_pages: bool) -> Form {
    Form {
        schema_version: SCHEMA_VERSION,
        cache_bytes: 16 << 20,
        verify_pages,
        make_tables: |tx| {
            Tables::open(tx)?;
            Ok(())
        },
    }
}

/// Reads all cards and audit trails, which a start leaves alone.
pub(super) fn check_cards(path: &Path, database: &Database) -> Result<(), StoreError> {
    let read = || -> Result<(), redb::Error> {
        let tables = ReadTables::open(database)?;
        for row in tables.cards.iter()? {
            let (id, card) = row?;
            if tables.agents.get(id.value())?.is_none() {
                return Err(corrupt("a card belongs to no agent"));
            }
            let record = CardV1::decode(card.value())?;
            let card = serde_json::from_str(&record.json).ok();
            if card.is_none_or(|card| AgentCard::from_json(&card).is_err()) {
                return Err(corrupt("a card is not valid"));
            }
        }
        if tables.cards.len()? != tables.agents.len()? {
            return Err(corrupt("an agent has no card"));
        }
        for row in tables.audit.iter()? {
            AuditV1::decode(row?.1.value())?;
        }
        for row in tables.moves.iter()? {
            let (key, row) = row?;
            let record = MoveV1::decode(row.value())?;
            state_of(&record.from)?;
            state_of(&record.to)?;
            if tables.agents.get(key.value().0)?.is_none() {
                return Err(corrupt("a move belongs to no agent"));
            }
        }
        for row in tables.call_stats.iter()? {
            CallStatsV1::decode(row?.1.value())?;
        }
        Ok(())
    };
    read().map_err(|error| StoreError::of(path, error))
}

/// Reads every row that memory keeps, and checks that they fit together.
pub(super) fn read_all(path: &Path, database: &Database) -> Result<Directory, StoreError> {
    let read = |take: &mut dyn FnMut(Change) -> bool| -> Result<(), redb::Error> {
        let tables = ReadTables::open(database)?;
        let nowhere = || corrupt("an agent is nowhere in its life, or a state is of no agent");
        // In the same order, and one for each.
        let mut states = tables.states.iter()?;
        for row in tables.agents.iter()? {
            let (id, value) = row?;
            let (of, state) = states.next().ok_or_else(nowhere)??;
            if of.value() != id.value() {
                return Err(nowhere());
            }
            let was = StateV1::decode(state.value())?.state()?;
            let id = AgentId(Ulid::from_bytes(id.value()));
            let mut record = AgentV3::decode(value.value())?;
            let is_set_aside = record.suspended_by.is_some() || record.is_torn_down;
            let state = lifecycle::at_start(was, is_set_aside, record.summary.probe.is_some());
            take(Change::Agent(Box::new(Listed {
                agent: record.agent(id, state)?,
                found_by: mem::take(&mut record.summary),
                was_found_by: None,
                moves: Vec::new(),
            })));
        }
        for row in tables.keys.iter()? {
            let (hash, value) = row?;
            let record = AgentKeyV1::decode(value.value())?;
            let agent = AgentId::from_u128(record.agent);
            if !take(Change::Key(hash.value(), agent, record.made_ms)) {
                return Err(corrupt("a key belongs to no agent"));
            }
        }
        for row in tables.revoked.iter()? {
            let (agent, serial) = row?.0.value();
            let agent = AgentId(Ulid::from_bytes(agent));
            take(Change::Revoked(agent, u128::from_be_bytes(serial)));
        }
        for row in tables.listings.iter()? {
            let (id, value) = row?;
            let id = AgentId(Ulid::from_bytes(id.value()));
            let listing = ListingV1::decode(value.value())?.listing();
            if !take(Change::Offered(id, Arc::new(listing))) {
                return Err(corrupt("an offer belongs to no agent"));
            }
        }
        for row in tables.root_keys.iter()? {
            let (number, value) = row?;
            let record = RootKeyV1::decode(value.value())?;
            let key = Arc::new(RootKey::from_bytes(record.bytes));
            take(Change::RootKey(number.value(), key));
        }
        Ok(())
    };
    Directory::load(read).map_err(|error| StoreError::of(path, error))
}
