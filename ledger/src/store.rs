//! The ledger's redb file: opening it, reading rows, writing what a batch changed.
//!
//! [`tables`] names every table with its key and value, [`codec`] turns rows into bytes and back,
//! [`migrate`] brings older files up to date. Entries of the journal are packed into blocks of
//! almost a page, because a row of the store for each would double their size.

mod codec;
mod copy;
mod migrate;
pub(crate) mod read;
pub(crate) mod tables;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Builder, Database, Durability, ReadableTable, StorageBackend, WriteTransaction};

pub(crate) use self::read::ReadTables;
use self::tables::Tables;
use crate::{
    Time,
    account::{Account, AccountId},
    entry::{Entry, Movement},
    error::LedgerError,
    ledger::LedgerOptions,
    operation::TransferId,
    state::{Changes, HoldChange, HoldKey, Rows, TransferState},
    usage::{self, UsageCounts},
    writer::Promise,
};

/// A block of the journal grows up to this size: with its key it fits a page of 4096 bytes.
const BLOCK_BYTES_MAX: usize = 4000;
/// Entries between two checkpoints of all balances.
const CHECKPOINT_ENTRIES: u64 = 65_536;

/// The file, and what its writer keeps in memory of it.
#[derive(Debug)]
pub(crate) struct Store {
    database: Arc<Database>,
    head: Head,
    encoder: codec::Encoder,
}

/// Where the journal ends.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// Number of the next entry.
    pub(crate) next_sequence: u64,
    /// The latest time that was told.
    pub(crate) now: Time,
    /// The highest name of any transfer: a higher one cannot have been used.
    transfer_max: Option<TransferId>,
    /// The last block: its first entry, and its bytes.
    block: (u64, Vec<u8>),
    /// The entry up to which the last checkpoint goes.
    checkpoint: u64,
    /// Accounts that changed since.
    touched: BTreeSet<AccountId>,
}

/// What the rows of a batch are read from: tables of an open transaction.
pub(crate) struct WriteRows<'t> {
    tables: Tables<'t>,
    transfer_max: Option<TransferId>,
}

impl Store {
    /// Opens a file, making it where there is none.
    ///
    /// # Errors
    /// It cannot be opened, is damaged, or a newer program wrote it.
    pub(crate) fn open(path: &Path, options: LedgerOptions) -> Result<Self, LedgerError> {
        let failed = |source: redb::Error| LedgerError::Open {
            path: path.to_owned(),
            source: Arc::new(source),
        };
        if !path.exists() {
            make(path).map_err(failed)?;
        }
        let database = Builder::new()
            .set_cache_size(options.cache_bytes)
            .set_check_integrity_on_open(options.verify_pages)
            .open(path);
        Self::with_database(database.map_err(|error| failed(error.into()))?)
    }

    /// Opens what a backend holds.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(crate) fn open_backend(
        backend: impl StorageBackend,
        cache_bytes: usize,
    ) -> Result<Self, LedgerError> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        Self::with_database(builder.create_with_backend(backend)?)
    }

    fn with_database(database: Database) -> Result<Self, LedgerError> {
        migrate::migrate(&database)?;
        let database = Arc::new(database);
        let head = ReadTables::open(&database)?.head()?;
        let encoder = codec::Encoder::default();
        Ok(Self {
            database,
            head,
            encoder,
        })
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Begins a batch.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn begin(&self, promise: Promise) -> Result<WriteTransaction, LedgerError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(match promise {
            Promise::Durable => Durability::Immediate,
            Promise::Volatile => Durability::None,
        })?;
        Ok(transaction)
    }

    /// Opens the rows of a batch.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn rows<'t>(
        &self,
        transaction: &'t WriteTransaction,
    ) -> Result<WriteRows<'t>, LedgerError> {
        Ok(WriteRows {
            tables: Tables::open(transaction)?,
            transfer_max: self.head.transfer_max,
        })
    }

    /// Writes what a batch changed. Unless the transaction is then committed, this store is of no
    /// more use: it knows of a journal that the file does not have.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn write(
        &mut self,
        rows: &mut WriteRows<'_>,
        changes: &Changes,
        now: Time,
    ) -> Result<(), LedgerError> {
        let tables = &mut rows.tables;
        let (head, encoder) = (&mut self.head, &mut self.encoder);
        head.now = now;
        tables.meta.insert(tables::META_NOW, now.0)?;
        let highest = write_transfers(tables, changes, encoder)?;
        head.transfer_max = head.transfer_max.max(highest);
        write_accounts(tables, changes, &mut head.touched, encoder)?;
        write_holds(tables, changes, encoder)?;
        write_entries(tables, changes, head, encoder)?;
        write_usage(tables, changes, now, encoder)?;
        write_notes(tables, changes)?;
        let last = head.next_sequence.saturating_sub(1);
        if last.saturating_sub(head.checkpoint) >= CHECKPOINT_ENTRIES {
            write_checkpoint(tables, &mut head.touched)?;
            tables.meta.insert(tables::META_CHECKPOINT, last)?;
            head.checkpoint = last;
        }
        Ok(())
    }
}

impl WriteRows<'_> {
    /// Forgets notes, the lowest name first, as long as there are such below `below` or together
    /// more than `bytes_max`, and `count_max` at most. Returns how many.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn forget_notes(
        &mut self,
        below: u128,
        bytes_max: u64,
        count_max: usize,
    ) -> Result<usize, LedgerError> {
        let tables = &mut self.tables;
        let mut bytes = note_bytes(tables)?;
        let mut count = 0;
        while count < count_max {
            let Some((id, row)) = tables.notes.first()? else {
                break;
            };
            if id.value() >= below && bytes <= bytes_max {
                break;
            }
            bytes = bytes.saturating_sub(len_of(row.value()));
            drop((id, row));
            tables.notes.pop_first()?;
            count = count.saturating_add(1);
        }
        tables.meta.insert(tables::META_NOTE_BYTES, bytes)?;
        Ok(count)
    }
}

impl Rows for WriteRows<'_> {
    fn account(&self, id: AccountId) -> Result<Option<Account>, LedgerError> {
        read::account(&self.tables.accounts, id)
    }

    fn transfer(&self, id: TransferId) -> Result<Option<TransferState>, LedgerError> {
        if self.transfer_max.is_none_or(|max| id > max) {
            return Ok(None);
        }
        read::transfer(&self.tables.transfers, id)
    }

    fn hold(&self, key: HoldKey) -> Result<Option<Movement>, LedgerError> {
        let row = self.tables.holds.get((key.expires.0, key.id.0))?;
        row.map(|row| codec::decode("a hold", row.value()))
            .transpose()
    }

    fn due(&self, now: Time, count_max: usize) -> Result<Vec<HoldKey>, LedgerError> {
        let mut due = Vec::new();
        for row in self
            .tables
            .holds
            .range(..=(now.0, u128::MAX))?
            .take(count_max)
        {
            let (expires, id) = row?.0.value();
            due.push(HoldKey {
                expires: Time(expires),
                id: TransferId(id),
            });
        }
        Ok(due)
    }

    fn entry(&self, sequence: u64) -> Result<Option<Entry>, LedgerError> {
        read::entry(&self.tables.journal, sequence)
    }
}

/// Makes an empty file under another name and moves it to its place, so that a power cut leaves no
/// half of one there.
fn make(path: &Path) -> Result<(), redb::Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let unfinished = PathBuf::from(name);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    drop(Database::create(&unfinished)?);
    fs::rename(&unfinished, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    // The name is as durable as what it names. Not every system can open a folder for that.
    if let Ok(folder) = fs::File::open(folder.unwrap_or(Path::new("."))) {
        folder.sync_all()?;
    }
    Ok(())
}

fn write_accounts(
    tables: &mut Tables<'_>,
    changes: &Changes,
    touched: &mut BTreeSet<AccountId>,
    encoder: &mut codec::Encoder,
) -> Result<(), LedgerError> {
    let changed = changes.accounts.iter().filter(|(_, seen)| seen.is_changed);
    let mut changed: Vec<_> = changed.collect();
    // Neighbours in the file one after another.
    changed.sort_unstable_by_key(|(id, _)| **id);
    for (id, seen) in changed {
        if let Some(account) = &seen.account {
            touched.insert(*id);
            tables.accounts.insert(id.0, encoder.row(account)?)?;
        }
    }
    Ok(())
}

/// Returns the highest name among them.
fn write_transfers(
    tables: &mut Tables<'_>,
    changes: &Changes,
    encoder: &mut codec::Encoder,
) -> Result<Option<TransferId>, LedgerError> {
    let changed = changes.transfers.iter();
    let mut changed: Vec<_> = changed
        .filter_map(|(id, state)| Some((id, state.as_ref()?)))
        .collect();
    changed.sort_unstable_by_key(|(id, _)| **id);
    for (id, state) in &changed {
        tables.transfers.insert(id.0, encoder.row(*state)?)?;
    }
    Ok(changed.last().map(|(id, _)| **id))
}

fn write_holds(
    tables: &mut Tables<'_>,
    changes: &Changes,
    encoder: &mut codec::Encoder,
) -> Result<(), LedgerError> {
    for (key, change) in &changes.holds {
        let key = (key.expires.0, key.id.0);
        match change {
            HoldChange::Opened(movement) => {
                tables.holds.insert(key, encoder.row(movement)?)?;
            }
            HoldChange::Ended => {
                tables.holds.remove(key)?;
            }
        }
    }
    Ok(())
}

/// Appends entries to the last block as long as it has room, then begins new ones.
fn write_entries(
    tables: &mut Tables<'_>,
    changes: &Changes,
    head: &mut Head,
    encoder: &mut codec::Encoder,
) -> Result<(), LedgerError> {
    if changes.entries.is_empty() {
        return Ok(());
    }
    for entry in &changes.entries {
        let bytes = encoder.entry(entry)?;
        let (first, block) = &mut head.block;
        let len = block.len().saturating_add(bytes.len());
        if block.is_empty() || len > BLOCK_BYTES_MAX {
            if !block.is_empty() {
                tables.journal.insert(*first, block.as_slice())?;
            }
            *first = head.next_sequence;
            *block = codec::new_block();
        }
        block.extend_from_slice(bytes);
        let next = head.next_sequence.checked_add(1);
        head.next_sequence = next.ok_or_else(|| LedgerError::corrupt("the journal is full"))?;
    }
    tables
        .journal
        .insert(head.block.0, head.block.1.as_slice())?;
    Ok(())
}

fn write_usage(
    tables: &mut Tables<'_>,
    changes: &Changes,
    now: Time,
    encoder: &mut codec::Encoder,
) -> Result<(), LedgerError> {
    for (sequence, record) in &changes.usage {
        let account = record.account.0;
        let row = encoder.row(record)?;
        tables.usage.insert((account, now.0, *sequence), row)?;
        let span = usage::span_of(now).0;
        let key = (account, span, record.agent.as_str(), record.model.as_str());
        let before: Option<UsageCounts> = match tables.usage_sums.get(key)? {
            Some(row) => Some(codec::decode("a sum of usage", row.value())?),
            None => None,
        };
        let counts = before.unwrap_or_default().plus(record.counts());
        let row = encoder.row(&counts)?;
        tables.usage_sums.insert(key, row)?;
    }
    Ok(())
}

fn write_notes(tables: &mut Tables<'_>, changes: &Changes) -> Result<(), LedgerError> {
    if changes.notes.is_empty() {
        return Ok(());
    }
    let mut bytes = note_bytes(tables)?;
    for note in &changes.notes {
        let before = tables.notes.insert(note.id, note.bytes.as_slice())?;
        let before = before.map_or(0, |row| len_of(row.value()));
        bytes = bytes
            .saturating_sub(before)
            .saturating_add(len_of(&note.bytes));
    }
    tables.meta.insert(tables::META_NOTE_BYTES, bytes)?;
    Ok(())
}

fn note_bytes(tables: &Tables<'_>) -> Result<u64, LedgerError> {
    let row = tables.meta.get(tables::META_NOTE_BYTES)?;
    Ok(row.map_or(0, |row| row.value()))
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Copies the accounts that changed since the last checkpoint.
fn write_checkpoint(
    tables: &mut Tables<'_>,
    touched: &mut BTreeSet<AccountId>,
) -> Result<(), LedgerError> {
    for id in std::mem::take(touched) {
        if let Some(row) = tables.accounts.get(id.0)? {
            tables.checkpoint.insert(id.0, row.value())?;
        }
    }
    Ok(())
}
