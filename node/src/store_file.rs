//! What the node's redb files have in common: how one is opened, and that its owner alone reads it.
//!
//! Every file has a table `meta` with the version of its schema. A later one is refused, and a
//! database of something else is not made into ours.

use std::{fs::OpenOptions, path::Path};

use redb::{
    Database, ReadableDatabase, StorageError, TableDefinition, TableError, WriteTransaction,
};

use crate::{
    accounts::StoreError,
    files::{self, FileError},
};

/// Facts about the database itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The key of the schema's version in [`META`].
const SCHEMA_VERSION_KEY: &str = "schema_version";

/// How a file of one kind is opened.
pub(crate) struct Form {
    /// The version that this build writes, and the newest that it reads.
    pub(crate) schema_version: u64,
    /// What redb may keep in memory.
    pub(crate) cache_bytes: usize,
    /// Whether the checksum of every page is verified: a file that something else has changed
    /// would otherwise make redb panic somewhere later.
    pub(crate) verify_pages: bool,
    /// Makes the tables of a new file.
    pub(crate) make_tables: fn(&WriteTransaction) -> Result<(), redb::Error>,
}

impl Form {
    /// Opens the file, or makes it with its tables.
    pub(crate) fn open(&self, path: &Path) -> Result<Database, StoreError> {
        make_private(path)?;
        let failed = |error: redb::Error| StoreError::of(path, error);
        let database = redb::Builder::new()
            .set_cache_size(self.cache_bytes)
            .set_check_integrity_on_open(self.verify_pages)
            .create(path)
            .map_err(|error| failed(error.into()))?;
        match schema_version(&database).map_err(failed)? {
            None => self.make(&database).map_err(failed)?,
            Some(found) if found == self.schema_version => {}
            Some(found) if self.schema_version < found => {
                return Err(StoreError::Newer {
                    path: path.to_owned(),
                    found,
                    known: self.schema_version,
                });
            }
            Some(_) => return Err(failed(corrupt("its schema version never existed"))),
        }
        Ok(database)
    }

    fn make(&self, database: &Database) -> Result<(), redb::Error> {
        let tx = database.begin_write()?;
        tx.open_table(META)?
            .insert(SCHEMA_VERSION_KEY, self.schema_version)?;
        (self.make_tables)(&tx)?;
        Ok(tx.commit()?)
    }
}

/// Says what is wrong with what a file holds.
pub(crate) fn corrupt(message: &str) -> redb::Error {
    StorageError::Corrupted(message.to_owned()).into()
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
