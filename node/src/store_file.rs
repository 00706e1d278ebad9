//! What the node's redb files have in common: how one is opened, that its owner alone reads it, and
//! one writer at a time.
//!
//! Every file has a table `meta` with the version of its schema. A later one is refused, an older
//! one is brought up step by step, and a database of something else is not made into ours.

use std::{
    fmt,
    fs::OpenOptions,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError, WriteTransaction,
};

use crate::{
    accounts::StoreError,
    files::{self, FileError},
};

/// Facts about the database itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The key of the schema's version in [`META`].
const SCHEMA_VERSION_KEY: &str = "schema_version";

/// Brings the tables of one version up to the next.
pub(crate) type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;

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
        self.open_with(path, &[])
    }

    /// Opens the file, which may be of an earlier version: the first of `steps` makes version 2 of
    /// version 1, and so on. All that are needed are one transaction, so the file is wholly old or
    /// wholly new whenever the power fails.
    pub(crate) fn open_with(&self, path: &Path, steps: &[Step]) -> Result<Database, StoreError> {
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
            Some(found) => {
                let older = usize::try_from(found).ok().and_then(|at| at.checked_sub(1));
                let Some(steps) = older.and_then(|older| steps.get(older..)) else {
                    return Err(failed(corrupt("its schema version never existed")));
                };
                self.raise(&database, steps).map_err(failed)?;
            }
        }
        Ok(database)
    }

    fn raise(&self, database: &Database, steps: &[Step]) -> Result<(), redb::Error> {
        let tx = database.begin_write()?;
        for step in steps {
            step(&tx)?;
        }
        tx.open_table(META)?
            .insert(SCHEMA_VERSION_KEY, self.schema_version)?;
        Ok(tx.commit()?)
    }

    fn make(&self, database: &Database) -> Result<(), redb::Error> {
        let tx = database.begin_write()?;
        tx.open_table(META)?
            .insert(SCHEMA_VERSION_KEY, self.schema_version)?;
        (self.make_tables)(&tx)?;
        Ok(tx.commit()?)
    }
}

/// An open file with one writer at a time, whom readers do not wait for.
pub(crate) struct StoreFile {
    path: PathBuf,
    reopen: fn(&Path) -> Result<Database, StoreError>,
    /// `None` after a failed write, until it is opened anew: redb wants that.
    database: Mutex<Option<Arc<Database>>>,
    writing: Mutex<()>,
}

impl StoreFile {
    /// Takes a file over that `reopen` has opened.
    pub(crate) fn new(
        path: &Path,
        database: Database,
        reopen: fn(&Path) -> Result<Database, StoreError>,
    ) -> Self {
        Self {
            path: path.to_owned(),
            reopen,
            database: Mutex::new(Some(Arc::new(database))),
            writing: Mutex::new(()),
        }
    }

    /// Looks into the file as it is at the moment.
    pub(crate) fn read<T>(
        &self,
        look: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        look(&*self.opened()?).map_err(|error| StoreError::of(&self.path, error))
    }

    /// Runs one transaction. What `change` says has changed, if anything has, is committed and
    /// then handed to `committed`, before the next writer has its turn.
    pub(crate) fn write<T, C>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(T, Option<C>), redb::Error>,
        committed: impl FnOnce(C),
    ) -> Result<T, StoreError> {
        self.write_as(Durability::Immediate, change, committed)
    }

    /// Runs one transaction, for which the disk is waited or is not: then what it does is durable
    /// with the next that waits, and a crash before that undoes it.
    pub(crate) fn write_as<T, C>(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<(T, Option<C>), redb::Error>,
        committed: impl FnOnce(C),
    ) -> Result<T, StoreError> {
        let _turn = lock(&self.writing);
        match transact(&*self.opened()?, durability, change) {
            Ok((outcome, changed)) => {
                changed.map(committed);
                Ok(outcome)
            }
            Err(error) => {
                if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                    *lock(&self.database) = None;
                }
                Err(StoreError::of(&self.path, error))
            }
        }
    }

    /// Returns the database, opened anew where an earlier write failed.
    fn opened(&self) -> Result<Arc<Database>, StoreError> {
        let mut slot = lock(&self.database);
        let database = match slot.take() {
            Some(database) => database,
            None => Arc::new((self.reopen)(&self.path)?),
        };
        Ok(Arc::clone(slot.insert(database)))
    }
}

impl fmt::Debug for StoreFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.path, f)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock is a defect, and the transaction it was in is rolled back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn transact<T, C>(
    database: &Database,
    durability: Durability,
    change: impl FnOnce(&WriteTransaction) -> Result<(T, Option<C>), redb::Error>,
) -> Result<(T, Option<C>), redb::Error> {
    let mut tx = database.begin_write()?;
    tx.set_durability(durability)?;
    let (outcome, changed) = change(&tx)?;
    if changed.is_some() {
        tx.commit()?;
    } else {
        tx.abort()?;
    }
    Ok((outcome, changed))
}

/// Writes all rows of a table to another.
pub(crate) fn copy<K: redb::Key + 'static, V: redb::Value + 'static>(
    from: &redb::ReadOnlyTable<K, V>,
    to: &mut redb::Table<'_, K, V>,
) -> Result<(), redb::Error> {
    for row in from.iter()? {
        let (key, value) = row?;
        to.insert(key.value(), value.value())?;
    }
    Ok(())
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
