//! Opening the database, and reading all of it once.
//!
//! What the tables say of each other is checked too.

use std::{collections::HashSet, path::Path};

use redb::{Database, ReadableTable};
use ulid::Ulid;

use super::Record;
use crate::{
    accounts::{
        AccountId, StoreError,
        key_ring::RingChange,
        records::{AccountV1, FamilyV1, KeyV1},
        tables::{ReadTables, SCHEMA_VERSION, Tables},
    },
    store_file::{Form, corrupt},
};

/// The account database. Requests are served from the ring, so little is read twice.
const FORM: Form = Form {
    schema_version: SCHEMA_VERSION,
    cache_bytes: 4 << 20,
    verify_pages: true,
    make_tables: |tx| {
        Tables::open(tx)?;
        Ok(())
    },
};

/// Opens the file, or makes it with its tables.
pub(super) fn open_database(path: &Path) -> Result<Database, StoreError> {
    FORM.open(path)
}

/// Reads every row, checks that they fit together, and returns what memory keeps.
pub(super) fn read_all(path: &Path, database: &Database) -> Result<Vec<RingChange>, StoreError> {
    let read = || -> Result<Vec<RingChange>, redb::Error> {
        let tables = ReadTables::open(database)?;
        let mut changes = Vec::new();
        let mut known = HashSet::new();
        for row in tables.accounts.iter()? {
            let (id, value) = row?;
            let id = AccountId(Ulid::from_bytes(id.value()));
            let record = AccountV1::decode(value.value())?;
            let listed = tables.emails.get(record.email.as_str())?;
            if listed.is_none_or(|listed| listed.value() != id.0.to_bytes()) {
                return Err(corrupt("an account's address does not lead to it"));
            }
            known.insert(id.as_u128());
            changes.push(RingChange::Account {
                id,
                plan: record.account(id)?.plan,
                is_disabled: record.is_disabled,
                is_announced: record.is_announced,
            });
        }
        if tables.emails.iter()?.count() != known.len() {
            return Err(corrupt("an address leads to no account"));
        }
        for row in tables.families.iter()? {
            let (name, value) = row?;
            let record = FamilyV1::decode(value.value())?;
            if !known.contains(&record.account) {
                return Err(corrupt("a login belongs to no account"));
            }
            changes.push(RingChange::Login(name.value(), record));
        }
        for row in tables.keys.iter()? {
            let (hash, value) = row?;
            let record = KeyV1::decode(value.value())?;
            if !known.contains(&record.account) {
                return Err(corrupt("a key belongs to no account"));
            }
            changes.push(RingChange::Key(hash.value(), record));
        }
        Ok(changes)
    };
    read().map_err(|error| StoreError::of(path, error))
}
