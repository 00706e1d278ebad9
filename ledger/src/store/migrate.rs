//! Brings a file up to the schema of this program, one version at a time.
//!
//! All steps are one transaction: a file is wholly old or wholly new, whenever the power fails.

use redb::{Database, ReadableDatabase, WriteTransaction};

use super::tables::{self, Tables};
use crate::error::LedgerError;

/// The version of this program's tables.
pub(super) const SCHEMA_VERSION: u64 = 3;

/// Makes the tables of a new file, or changes those of an old one.
///
/// # Errors
/// The file is newer than this program, or the store failed.
pub(super) fn migrate(database: &Database) -> Result<(), LedgerError> {
    let found = version_of(database)?;
    match found {
        Some(SCHEMA_VERSION) => return Ok(()),
        Some(found) if found > SCHEMA_VERSION => {
            return Err(LedgerError::NewerSchema {
                found,
                known: SCHEMA_VERSION,
            });
        }
        _ => {}
    }
    let transaction = database.begin_write()?;
    match found {
        None => {
            Tables::open(&transaction)?;
        }
        Some(1) => {
            to_version_2(&transaction)?;
            to_version_3(&transaction)?;
        }
        Some(2) => to_version_3(&transaction)?,
        Some(found) => {
            let what = format!("there never was a schema version {found}");
            return Err(LedgerError::corrupt(what));
        }
    }
    let mut meta = transaction.open_table(tables::META)?;
    meta.insert(tables::META_SCHEMA, SCHEMA_VERSION)?;
    drop(meta);
    transaction.commit()?;
    Ok(())
}

/// Version 2 adds checkpoints. The first one is written when the next is due; until then what the
/// accounts say is checked against the whole journal.
fn to_version_2(transaction: &WriteTransaction) -> Result<(), LedgerError> {
    transaction.open_table(tables::CHECKPOINT)?;
    Ok(())
}

/// Version 3 adds notes.
fn to_version_3(transaction: &WriteTransaction) -> Result<(), LedgerError> {
    transaction.open_table(tables::NOTES)?;
    Ok(())
}

fn version_of(database: &Database) -> Result<Option<u64>, LedgerError> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(tables::META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let version = meta.get(tables::META_SCHEMA)?.map(|row| row.value());
    match version {
        Some(version) => Ok(Some(version)),
        None => Err(LedgerError::corrupt("the schema version is missing")),
    }
}
