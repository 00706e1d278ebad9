//! The handle: reads at once, writes through the queue of the one writer.

use std::{
    path::Path,
    sync::{Arc, mpsc},
};

use super::{
    Counts, DeleteEntry, Entry, EntryInfo, IndexPut, ListQuery, MemoryError, MemoryLimits,
    Observer, Owner, Pending, ScopeId, ScopeKey, Serial, Unindexed, WriteEntry, WrittenEntry,
    file::{self, MemoryFile},
    writer::{Command, Message, Reply, Writer},
};
use crate::accounts::StoreError;

/// What a command holds of memory beside its texts.
const COMMAND_BYTES: usize = 512;

/// The store. Clones share it; with the last one the writer ends.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    file: Arc<MemoryFile>,
    writer: Arc<Writer>,
}

impl MemoryStore {
    /// Opens the file, or makes it, and starts its writer.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read or written.
    pub fn open(
        path: &Path,
        limits: MemoryLimits,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StoreError> {
        Self::over(MemoryFile::open(path)?, limits, observer)
    }

    pub(super) fn over(
        file: MemoryFile,
        limits: MemoryLimits,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StoreError> {
        let file = Arc::new(file);
        let writer = Writer::start(Arc::clone(&file), limits, observer)?;
        Ok(Self {
            file,
            writer: Arc::new(writer),
        })
    }

    /// Verifies every page and every row of a file that nobody has open.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read.
    pub fn check(path: &Path) -> Result<Counts, StoreError> {
        file::open_verified(path)?.check()
    }

    /// Writes an entry. `reply` is called on the writer's thread, once the write is durable or
    /// refused; where it is dropped uncalled the writer has ended.
    ///
    /// # Errors
    /// Too much waits, or the writer has ended.
    pub fn write(
        &self,
        write: WriteEntry,
        now_ms: u64,
        reply: impl FnOnce(Result<WrittenEntry, MemoryError>) + Send + 'static,
    ) -> Result<(), MemoryError> {
        self.write_by(write.scope.owner, write, now_ms, reply)
    }

    /// Writes an entry as [`write`](Self::write) does, for an owner whose scope it need not be in:
    /// one who is purged leaves nothing in those that all share, either.
    ///
    /// # Errors
    /// As there.
    pub fn write_by(
        &self,
        by: Owner,
        write: WriteEntry,
        now_ms: u64,
        reply: impl FnOnce(Result<WrittenEntry, MemoryError>) + Send + 'static,
    ) -> Result<(), MemoryError> {
        let bytes = write.value.len() + COMMAND_BYTES;
        let command = Command::Write(by, Box::new(write), Box::new(reply));
        self.send(command, bytes, now_ms)
    }

    /// Deletes an entry, as [`write`](Self::write) writes one.
    ///
    /// # Errors
    /// As there.
    pub fn delete(
        &self,
        delete: DeleteEntry,
        now_ms: u64,
        reply: impl FnOnce(Result<(), MemoryError>) + Send + 'static,
    ) -> Result<(), MemoryError> {
        let command = Command::Delete(Box::new(delete), Box::new(reply));
        self.send(command, COMMAND_BYTES, now_ms)
    }

    /// Deletes all entries of a scope whose keys begin with `prefix`, and tells how many there
    /// were.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn clear(
        &self,
        scope: ScopeKey,
        prefix: String,
        now_ms: u64,
        reply: impl FnOnce(Result<u64, MemoryError>) + Send + 'static,
    ) -> Result<(), MemoryError> {
        let command = Command::Clear(scope, prefix, Box::new(reply));
        self.send(command, COMMAND_BYTES, now_ms)
    }

    /// Removes entries whose time is over. They cannot be seen any more anyway.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn sweep(&self, now_ms: u64) -> Result<(), MemoryError> {
        self.send(Command::Sweep(Box::new(|_| {})), COMMAND_BYTES, now_ms)
    }

    /// Notes, durably, that nothing is to be left of an owner, whose writes are refused from now
    /// on. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn begin_purge(&self, owner: Owner, now_ms: u64) -> Result<(), MemoryError> {
        self.wait(now_ms, |reply| Command::NotePurge(owner, true, reply))
    }

    /// Takes [`begin_purge`](Self::begin_purge) back. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn cancel_purge(&self, owner: Owner, now_ms: u64) -> Result<(), MemoryError> {
        self.wait(now_ms, |reply| Command::NotePurge(owner, false, reply))
    }

    /// Leaves nothing of all owners of whom [`begin_purge`](Self::begin_purge) noted that: no row,
    /// and no trace in the file, which is written anew; where that took long a short while ago,
    /// with a later purge. Blocks for as long as that takes.
    ///
    /// # Errors
    /// The store's. What was noted stays so, and the next purge does it.
    pub fn purge(&self, now_ms: u64) -> Result<(), MemoryError> {
        self.wait(now_ms, Command::Purge)
    }

    /// Returns the owners of whom nothing is to be left, of a purge that was cut off.
    ///
    /// # Errors
    /// The store's.
    pub fn unfinished_purges(&self) -> Result<Vec<Owner>, MemoryError> {
        Ok(self.file.purges()?)
    }

    /// Returns a scope's number; `None` where nothing is in it.
    ///
    /// # Errors
    /// The store's.
    pub fn scope_id(&self, key: &ScopeKey) -> Result<Option<ScopeId>, MemoryError> {
        self.file.scope_id(key)
    }

    /// Returns which scope has a number.
    ///
    /// # Errors
    /// The store's.
    pub fn scope_key(&self, scope: ScopeId) -> Result<Option<ScopeKey>, MemoryError> {
        self.file.scope_key(scope)
    }

    /// Returns an entry.
    ///
    /// # Errors
    /// The store's.
    pub fn read(
        &self,
        scope: &ScopeKey,
        key: &str,
        now_ms: u64,
    ) -> Result<Option<Entry>, MemoryError> {
        self.file.entry(scope, key, now_ms)
    }

    /// Returns entries of a scope, each where it is there, in the order of `keys`.
    ///
    /// # Errors
    /// The store's.
    pub fn entries_by_key(
        &self,
        scope: ScopeId,
        keys: &[String],
        now_ms: u64,
    ) -> Result<Vec<Option<Entry>>, MemoryError> {
        self.file.entries_by_key(scope, keys, now_ms)
    }

    /// Lists entries in the order of their keys.
    ///
    /// # Errors
    /// The store's.
    pub fn list(
        &self,
        scope: &ScopeKey,
        query: &ListQuery,
        now_ms: u64,
    ) -> Result<Vec<EntryInfo>, MemoryError> {
        self.file.list(scope, query, now_ms)
    }

    /// Returns what an account has.
    ///
    /// # Errors
    /// The store's.
    pub fn usage(&self, account: u128) -> Result<Counts, MemoryError> {
        self.file.usage(account)
    }

    /// Returns what all have.
    ///
    /// # Errors
    /// The store's.
    pub fn counts(&self) -> Result<Counts, MemoryError> {
        self.file.counts()
    }

    /// Returns an entry of a scope; `None` where there is none, or it has expired.
    ///
    /// # Errors
    /// The store's.
    pub fn entry_by_key(
        &self,
        scope: ScopeId,
        key: &str,
        now_ms: u64,
    ) -> Result<Option<Entry>, MemoryError> {
        self.file.entry_by_key(scope, key, now_ms)
    }

    /// Returns the highest number that a state has.
    ///
    /// # Errors
    /// The store's.
    pub fn last_serial(&self) -> Result<Serial, MemoryError> {
        self.file.last_serial()
    }

    /// Returns entries that search does not know yet, after `after`, by scope and then as written.
    ///
    /// # Errors
    /// The store's.
    pub fn pending(
        &self,
        after: Option<(ScopeId, Serial)>,
        count_max: usize,
    ) -> Result<Vec<Pending>, MemoryError> {
        self.file.pending(after, count_max)
    }

    /// Returns states of which search has no vectors of the present model, after `after` and up to
    /// those of the scope `last`, by scope and then as written.
    ///
    /// # Errors
    /// The store's.
    pub fn awaiting(
        &self,
        after: Option<(ScopeId, Serial)>,
        last: Option<ScopeId>,
        count_max: usize,
    ) -> Result<Vec<(ScopeId, Serial)>, MemoryError> {
        self.file.awaiting(after, last, count_max)
    }

    /// Counts what search does not know of a scope's states up to `last`; each count ends at
    /// `count_max`.
    ///
    /// # Errors
    /// The store's.
    pub fn unindexed(
        &self,
        scope: ScopeId,
        last: Serial,
        count_max: usize,
    ) -> Result<Unindexed, MemoryError> {
        self.file.unindexed(scope, last, count_max)
    }

    /// Stores what search made of entries, leaving out those that have changed since, and tells how
    /// many were stored. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn put_index(&self, puts: Vec<IndexPut>, now_ms: u64) -> Result<usize, MemoryError> {
        self.wait(now_ms, |reply| Command::PutIndex(puts, reply))
    }

    /// Has search begin anew where another version of it, or another model, was at work. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn expect_index(
        &self,
        version: u64,
        model: Option<u64>,
        now_ms: u64,
    ) -> Result<(), MemoryError> {
        self.wait(now_ms, |reply| Command::ExpectIndex(version, model, reply))
    }

    /// Returns what search made of a scope, after `after`, in the order of the writes.
    ///
    /// # Errors
    /// The store's.
    pub fn index_rows(
        &self,
        scope: ScopeId,
        after: Option<Serial>,
        count_max: usize,
    ) -> Result<Vec<(Serial, Vec<u8>)>, MemoryError> {
        self.file.index_rows(scope, after, count_max)
    }

    /// Returns what search made of some states, where it is there.
    ///
    /// # Errors
    /// The store's.
    pub fn index_rows_of(
        &self,
        scope: ScopeId,
        serials: &[Serial],
    ) -> Result<Vec<Option<Vec<u8>>>, MemoryError> {
        self.file.index_rows_of(scope, serials)
    }

    /// Returns the vectors of some states, where they are there.
    ///
    /// # Errors
    /// The store's.
    pub fn vectors(
        &self,
        scope: ScopeId,
        serials: &[Serial],
    ) -> Result<Vec<Option<Vec<u8>>>, MemoryError> {
        self.file.vectors(scope, serials)
    }

    /// Returns how many entries search does not know yet, and how many it knows.
    ///
    /// # Errors
    /// The store's.
    pub fn index_counts(&self) -> Result<(u64, u64), MemoryError> {
        self.file.index_counts()
    }

    /// Writes all of it as a store of its own, in a file that is not there yet.
    ///
    /// # Errors
    /// The file cannot be made, or a store fails.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        self.file.copy_to(path, &[]).map(drop)
    }

    fn send(&self, command: Command, bytes: usize, now_ms: u64) -> Result<(), MemoryError> {
        self.writer.send(Message {
            now_ms,
            bytes,
            command,
        })
    }

    /// Gives a command and waits for what comes of it.
    fn wait<T: Send + 'static>(
        &self,
        now_ms: u64,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, MemoryError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let reply: Reply<T> = Box::new(move |outcome| {
            // It is waited for, until the process ends.
            let _ = sender.send(outcome);
        });
        self.send(command(reply), COMMAND_BYTES, now_ms)?;
        receiver.recv().unwrap_or(Err(MemoryError::Stopped))
    }
}
