//! The redb file: opened, opened again after a failed write, checked, copied, written anew.
//!
//! Readers hold the database as long as they look at it, so it can be exchanged under them: they
//! see the old file to their end. **Written anew** is how nothing is left of somebody: redb keeps
//! deleted rows in pages that it has not used again, in the unused ends of others, and as borders
//! in its trees. A file made of the rows that are left has none of that.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use super::{
    Owner,
    tables::{self, SCHEMA_VERSION, Tables},
};
use crate::{
    accounts::StoreError,
    files::{self, FileError},
    store_file::Form,
};

/// A file up to this size is verified page by page at each start.
const VERIFIED_BYTES_MAX: u64 = 64 << 20;
/// What redb may keep in memory.
const CACHE_BYTES: usize = 64 << 20;

/// How often a file is tried to be opened anew that a reader of before has not let go of, and how
/// long is waited in between: reads take microseconds.
const REOPENED_MAX: u32 = 100;
const REOPENED_AFTER: Duration = Duration::from_millis(1);
/// How often a read is tried that a failed write took the database away from.
const READ_TRIES: u32 = 3;

/// The file and its database.
#[derive(Debug)]
pub(super) struct MemoryFile {
    path: PathBuf,
    /// `None` after a failed write, until somebody needs it.
    slot: RwLock<Option<Arc<Database>>>,
}

impl MemoryFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read or written.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        // Of a rewriting that was cut off.
        let unfinished = unfinished_path(path);
        if unfinished.exists() {
            fs::remove_file(&unfinished).map_err(FileError::write(&unfinished))?;
        }
        Ok(Self {
            path: path.to_owned(),
            slot: RwLock::new(Some(Arc::new(open_database(path)?))),
        })
    }

    /// Opens what a backend holds, which cannot be opened anew.
    #[cfg(test)]
    pub(super) fn over(backend: impl redb::StorageBackend) -> Result<Self, redb::Error> {
        Self::over_until_opened_anew(backend, "/proc/nowhere/memory.redb".into())
    }

    /// Opens what a backend holds; it is opened anew at a path.
    #[cfg(test)]
    pub(super) fn over_until_opened_anew(
        backend: impl redb::StorageBackend,
        path: PathBuf,
    ) -> Result<Self, redb::Error> {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(1 << 20);
        let database = builder.create_with_backend(backend)?;
        let tx = database.begin_write()?;
        Tables::open(&tx)?;
        tx.commit()?;
        Ok(Self {
            path,
            slot: RwLock::new(Some(Arc::new(database))),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at a snapshot, on the caller's thread.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(super) fn read<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut tries = 0;
        loop {
            let database = self.database()?;
            let looked = database
                .begin_read()
                .map_err(redb::Error::from)
                .and_then(|tx| look(&tx));
            tries += 1;
            match looked {
                Err(redb::Error::PreviousIo | redb::Error::DatabaseClosed)
                    if tries < READ_TRIES =>
                {
                    self.let_go(&database);
                }
                looked => return looked.map_err(|error| self.failed(error)),
            }
        }
    }

    /// Runs one transaction, which says itself whether there is anything to commit.
    ///
    /// # Errors
    /// The file cannot be written, or is damaged. Nothing was done then.
    pub(super) fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(T, bool), redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database()?;
        let done = transact(&database, change);
        done.map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                self.let_go(&database);
            }
            self.failed(error)
        })
    }

    /// Has a database that is of no more use opened anew by the next who needs one.
    fn let_go(&self, database: &Arc<Database>) {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        let is_current = slot
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, database));
        if is_current {
            *slot = None;
        }
    }

    /// Puts a file in its place that has what there is now and nothing else, and in which it is
    /// not noted any more that `purged` are to be forgotten.
    ///
    /// # Errors
    /// There is no room for a second file beside it, or one of both fails. The old one stays.
    pub(super) fn rewrite(&self, purged: &[Owner]) -> Result<(), StoreError> {
        let unfinished = unfinished_path(&self.path);
        let made = self.copy_to(&unfinished, purged).and_then(|database| {
            fs::rename(&unfinished, &self.path).map_err(FileError::write(&self.path))?;
            let folder = files::parent(&self.path);
            files::sync_directory(folder).map_err(FileError::write(folder))?;
            Ok(database)
        });
        match made {
            Ok(database) => {
                let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
                *slot = Some(Arc::new(database));
                Ok(())
            }
            Err(error) => {
                // It may be what fills the disk. Where it cannot go now, the next start sees to it.
                let _ = fs::remove_file(&unfinished);
                Err(error)
            }
        }
    }

    /// Writes every row into a file that is not there yet, but for notes about `purged`.
    ///
    /// # Errors
    /// One of both files fails.
    pub(super) fn copy_to(&self, path: &Path, purged: &[Owner]) -> Result<Database, StoreError> {
        let to = open_database(path)?;
        let database = self.database()?;
        let copied = || -> Result<(), redb::Error> {
            let from = database.begin_read()?;
            let tx = to.begin_write()?;
            copy_rows(&from, &mut Tables::open(&tx)?, purged)?;
            Ok(tx.commit()?)
        };
        copied().map_err(|error| self.failed(error))?;
        Ok(to)
    }

    /// Returns the database, opened anew where an earlier write failed.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*slot {
            return Ok(Arc::clone(database));
        }
        drop(slot);
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => Arc::new(self.reopen()?),
        };
        Ok(Arc::clone(slot.insert(database)))
    }

    fn reopen(&self) -> Result<Database, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match open_database(&self.path) {
                Err(StoreError::InUse { .. }) if tries < REOPENED_MAX => {
                    thread::sleep(REOPENED_AFTER);
                }
                opened => return opened,
            }
        }
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        StoreError::of(&self.path, error)
    }
}

/// Opens a file and verifies the checksum of every page.
///
/// # Errors
/// As [`MemoryFile::open`].
pub(super) fn open_verified(path: &Path) -> Result<MemoryFile, StoreError> {
    Ok(MemoryFile {
        path: path.to_owned(),
        slot: RwLock::new(Some(Arc::new(form(true).open(path)?))),
    })
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    let len = path.metadata().map_or(0, |metadata| metadata.len());
    form(len <= VERIFIED_BYTES_MAX).open(path)
}

fn form(verify_pages: bool) -> Form {
    Form {
        schema_version: SCHEMA_VERSION,
        cache_bytes: CACHE_BYTES,
        verify_pages,
        make_tables: |tx| {
            Tables::open(tx)?;
            Ok(())
        },
    }
}

fn unfinished_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn transact<T>(
    database: &Database,
    change: impl FnOnce(&WriteTransaction) -> Result<(T, bool), redb::Error>,
) -> Result<T, redb::Error> {
    let tx = database.begin_write()?;
    let (outcome, is_dirty) = change(&tx)?;
    if is_dirty {
        tx.commit()?;
    } else {
        tx.abort()?;
    }
    Ok(outcome)
}

fn copy_rows(
    from: &ReadTransaction,
    to: &mut Tables<'_>,
    purged: &[Owner],
) -> Result<(), redb::Error> {
    copy(&from.open_table(tables::COUNTERS)?, &mut to.counters)?;
    copy(&from.open_table(tables::SCOPES)?, &mut to.scopes)?;
    copy(&from.open_table(tables::SCOPE_KEYS)?, &mut to.scope_keys)?;
    copy(&from.open_table(tables::OWNERS)?, &mut to.owners)?;
    copy(&from.open_table(tables::USAGE)?, &mut to.usage)?;
    copy(&from.open_table(tables::ENTRIES)?, &mut to.entries)?;
    copy(&from.open_table(tables::EXPIRY)?, &mut to.expiry)?;
    copy(&from.open_table(tables::PENDING)?, &mut to.pending)?;
    copy(&from.open_table(tables::AWAITING)?, &mut to.awaiting)?;
    copy(&from.open_table(tables::INDEX)?, &mut to.index)?;
    copy(&from.open_table(tables::VECTORS)?, &mut to.vectors)?;
    copy(&from.open_table(tables::PURGES)?, &mut to.purges)?;
    for owner in purged {
        to.purges.remove(&owner.to_bytes()[..])?;
        to.owners.remove(&owner.to_bytes()[..])?;
    }
    Ok(())
}

fn copy<K: redb::Key + 'static, V: redb::Value + 'static>(
    from: &redb::ReadOnlyTable<K, V>,
    to: &mut redb::Table<'_, K, V>,
) -> Result<(), redb::Error> {
    for row in from.iter()? {
        let (key, value) = row?;
        to.insert(key.value(), value.value())?;
    }
    Ok(())
}
