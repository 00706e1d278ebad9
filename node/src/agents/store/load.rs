//! Opening the agents' database, and reading all of it once.

use std::{path::Path, sync::Arc};

use aither_protocol::RootKey;
use redb::{Database, ReadableTable};
use ulid::Ulid;

use crate::{
    accounts::{Record, StoreError},
    agents::{
        AgentId,
        directory::Change,
        records::{AgentKeyV1, AgentV1, RootKeyV1},
        tables::{ReadTables, SCHEMA_VERSION, Tables},
    },
    store_file::{Form, corrupt},
};

/// A file up to this size is verified page by page at each start.
const VERIFIED_BYTES_MAX: u64 = 64 << 20;

/// Opens the file, or makes it with its tables.
pub(super) fn open_database(path: &Path) -> Result<Database, StoreError> {
    let len = path.metadata().map_or(0, |metadata| metadata.len());
    let form = Form {
        schema_version: SCHEMA_VERSION,
        cache_bytes: 16 << 20,
        verify_pages: len <= VERIFIED_BYTES_MAX,
        make_tables: |tx| {
            Tables::open(tx)?;
            Ok(())
        },
    };
    form.open(path)
}

/// Reads every row that memory keeps, and checks that they fit together.
pub(super) fn read_all(path: &Path, database: &Database) -> Result<Vec<Change>, StoreError> {
    let read = || -> Result<Vec<Change>, redb::Error> {
        let tables = ReadTables::open(database)?;
        let mut changes = Vec::new();
        for row in tables.agents.iter()? {
            let (id, value) = row?;
            let id = AgentId(Ulid::from_bytes(id.value()));
            let record = AgentV1::decode(value.value())?;
            changes.push(Change::Agent(record.agent(id)?));
        }
        for row in tables.keys.iter()? {
            let (hash, value) = row?;
            let record = AgentKeyV1::decode(value.value())?;
            if tables.agents.get(record.agent.to_be_bytes())?.is_none() {
                return Err(corrupt("a key belongs to no agent"));
            }
            let agent = AgentId::from_u128(record.agent);
            changes.push(Change::Key(hash.value(), agent, record.made_ms));
        }
        for row in tables.revoked.iter()? {
            let (agent, token) = row?.0.value();
            let agent = AgentId(Ulid::from_bytes(agent));
            changes.push(Change::Revoked(agent, u128::from_be_bytes(token)));
        }
        for row in tables.root_keys.iter()? {
            let (number, value) = row?;
            let record = RootKeyV1::decode(value.value())?;
            let key = Arc::new(RootKey::from_bytes(record.bytes));
            changes.push(Change::RootKey(number.value(), key));
        }
        Ok(changes)
    };
    read().map_err(|error| StoreError::of(path, error))
}
