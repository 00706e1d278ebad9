//! Opening the database, and reading all of it once.
//!
//! The checksum of every page is verified, since a file that something else has changed would
//! otherwise make the database library panic somewhere later. What the tables say of each other
//! is checked too.

use std::{collections::HashSet, fs::OpenOptions, path::Path};

use redb::{Database, ReadableDatabase, ReadableTable, TableError};
use ulid::Ulid;

use super::{Record, corrupt};
use crate::{
    accounts::{
        AccountId, StoreError,
        key_ring::RingChange,
        records::{AccountV1, FamilyV1, KeyV1},
        tables::{META, ReadTables, SCHEMA_VERSION, SCHEMA_VERSION_KEY, Tables},
    },
    files::{self, FileError},
};

/// What redb may keep in memory: requests are served from the ring, so little is read twice.
const CACHE_BYTES: usize = 4 << 20;

/// Opens the file, or makes it with its tables.
pub(super) fn open_database(path: &Path) -> Result<Database, StoreError> {
    make_private(path)?;
    let failed = |error: redb::Error| StoreError::of(path, error);
    let database = redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create(path)
        .map_err(|error| failed(error.into()))?;
    match schema_version(&database).map_err(failed)? {
        None => make_tables(&database).map_err(failed)?,
        Some(SCHEMA_VERSION) => {}
        Some(found) if SCHEMA_VERSION < found => {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found,
                known: SCHEMA_VERSION,
            });
        }
        Some(_) => return Err(failed(corrupt("its schema version never existed"))),
    }
    Ok(database)
}

/// Makes an empty file for the owner alone, where there is none.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path).map_err(FileError::write(path))?;
    let directory = files::parent(path);
    files::sync_directory(directory).map_err(FileError::write(directory))?;
    Ok(())
}

fn schema_version(database: &Database) -> Result<Option<u64>, redb::Error> {
    let tx = database.begin_read()?;
    let meta = match tx.open_table(META) {
        Ok(meta) => meta,
        // A database of something else is not made into ours.
        Err(TableError::TableDoesNotExist(_)) if tx.list_tables()?.next().is_none() => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let version = meta.get(SCHEMA_VERSION_KEY)?.map(|row| row.value());
    version
        .map(Some)
        .ok_or_else(|| corrupt("it has no schema version"))
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let tx = database.begin_write()?;
    tx.open_table(META)?
        .insert(SCHEMA_VERSION_KEY, SCHEMA_VERSION)?;
    drop(Tables::open(&tx)?);
    Ok(tx.commit()?)
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
