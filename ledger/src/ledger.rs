//! The ledger's handle: what everybody else calls.

use std::{path::Path, sync::Arc, sync::mpsc, time::Duration};

use redb::{Database, StorageBackend};

use crate::{
    account::{Account, AccountId},
    audit::{self, Audit, Depth},
    entry::{Entry, EntryKind, Movement},
    error::LedgerError,
    operation::{Outcome, TransferId, Unit, Verdict},
    state::End,
    store::{ReadTables, Store},
    time::Time,
    usage::{Usage, UsageQuery, UsageSum},
    writer::{Command, Promise, Request, Writer},
};

/// Limits of a ledger.
#[derive(Debug, Clone, Copy)]
pub struct LedgerOptions {
    /// Units that wait to be written; further ones are refused.
    pub queue_len_max: usize,
    /// How long what is volatile waits for something durable to take it along; then it is made
    /// durable by itself.
    pub volatile_for: Duration,
    /// Memory that the store keeps of its file.
    pub cache_bytes: usize,
    /// Whether the checksum of every page is verified when a file is opened. It takes as long as
    /// reading the file; without it damage shows when it is met.
    pub verify_pages: bool,
}

/// An open ledger. Clones share it; the last one that goes waits for what is queued.
#[derive(Debug, Clone)]
pub struct Ledger {
    writer: Arc<Writer>,
    database: Arc<Database>,
}

/// The ledger as it was at one moment, however much is written meanwhile.
pub struct View {
    tables: ReadTables,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            queue_len_max: 8192,
            volatile_for: Duration::from_millis(50),
            cache_bytes: 64 * 1024 * 1024,
            verify_pages: false,
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens a ledger's file, making it where there is none, and checks what was written since the
    /// last checkpoint.
    ///
    /// # Errors
    /// It cannot be opened, is damaged, or a newer program wrote it.
    pub fn open(path: &Path, options: LedgerOptions) -> Result<Self, LedgerError> {
        Self::start(Store::open(path, options)?, options)
    }

    /// Opens a ledger on a backend of the store.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_backend(
        backend: impl StorageBackend,
        options: LedgerOptions,
    ) -> Result<Self, LedgerError> {
        Self::start(Store::open_backend(backend, options.cache_bytes)?, options)
    }

    fn start(store: Store, options: LedgerOptions) -> Result<Self, LedgerError> {
        let database = Arc::clone(store.database());
        audit::journal(&ReadTables::open(&database)?, Depth::SinceCheckpoint)?;
        let writer = Arc::new(Writer::start(store, options)?);
        Ok(Self { writer, database })
    }

    /// Queues a unit. `reply` is called exactly once: when the unit is durable or refused, on the
    /// thread that writes; or at once, where it cannot be queued. It must hand on what it is told,
    /// and not wait.
    pub fn submit(
        &self,
        unit: Unit,
        now: Time,
        reply: impl FnOnce(Result<Verdict, LedgerError>) + Send + 'static,
    ) {
        self.send(Command::new(unit, now, Promise::Durable, Box::new(reply)));
    }

    /// As [`submit`](Self::submit), for what is worth little once the process is dead, such as a
    /// hold for a request that it is at work on: the disk is not waited for. A crash may undo it as
    /// long as nothing durable was answered after it, and no longer than
    /// [`LedgerOptions::volatile_for`]; never in part, and never what came before.
    pub fn submit_volatile(
        &self,
        unit: Unit,
        now: Time,
        reply: impl FnOnce(Result<Verdict, LedgerError>) + Send + 'static,
    ) {
        self.send(Command::new(unit, now, Promise::Volatile, Box::new(reply)));
    }

    fn send(&self, command: Command) {
        let command = Box::new(command);
        if let Err((Request::Apply(command), error)) = self.writer.send(Request::Apply(command)) {
            command.answer(Err(error));
        }
    }

    /// Does a unit and waits until it is durable, or refused.
    ///
    /// # Errors
    /// The queue is full, the store failed, or the ledger has stopped.
    pub fn apply(&self, unit: Unit, now: Time) -> Result<Verdict, LedgerError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(unit, now, move |verdict| {
            // The receiver waits below.
            let _ = sender.send(verdict);
        });
        receiver.recv().map_err(|_| LedgerError::Stopped {
            why: "its thread ended".into(),
        })?
    }

    /// Has holds end whose time is over. They also end before any unit is done.
    ///
    /// # Errors
    /// The queue is full or the ledger has stopped.
    pub fn expire(&self, now: Time) -> Result<(), LedgerError> {
        let sent = self.writer.send(Request::Expire(now));
        sent.map_err(|(_, error)| error)
    }

    /// Has notes forgotten, the lowest name first, as long as there are such below `below` or
    /// together more than `bytes_max`.
    ///
    /// # Errors
    /// The queue is full or the ledger has stopped.
    pub fn forget_notes(&self, below: u128, bytes_max: u64) -> Result<(), LedgerError> {
        let sent = self.writer.send(Request::ForgetNotes { below, bytes_max });
        sent.map_err(|(_, error)| error)
    }

    /// Whether it still takes what it is asked.
    ///
    /// # Errors
    /// It has stopped; the error says why.
    pub fn check_writable(&self) -> Result<(), LedgerError> {
        self.writer.check()
    }

    /// Returns the ledger as it is now. Writing goes on beside it.
    ///
    /// # Errors
    /// The store failed.
    pub fn view(&self) -> Result<View, LedgerError> {
        let tables = ReadTables::open(&self.database)?;
        Ok(View { tables })
    }
}

impl View {
    /// Returns an account.
    ///
    /// # Errors
    /// The store failed.
    pub fn account(&self, id: AccountId) -> Result<Option<Account>, LedgerError> {
        self.tables.account(id)
    }

    /// Returns all accounts in order of their names.
    ///
    /// # Errors
    /// The store failed.
    pub fn accounts(
        &self,
    ) -> Result<impl Iterator<Item = Result<(AccountId, Account), LedgerError>>, LedgerError> {
        self.tables.accounts()
    }

    /// Returns all open holds, with when they expire.
    ///
    /// # Errors
    /// The store failed.
    pub fn holds(
        &self,
    ) -> Result<impl Iterator<Item = Result<(Time, Movement), LedgerError>>, LedgerError> {
        self.tables.holds()
    }

    /// Returns what became of a transfer or hold, if there ever was one of this name.
    ///
    /// # Errors
    /// The store failed.
    pub fn outcome(&self, id: TransferId) -> Result<Option<Outcome>, LedgerError> {
        let Some(state) = self.tables.transfer(id)? else {
            return Ok(None);
        };
        let moved_by = |sequence| match self.tables.entry(sequence)?.map(|entry| entry.kind) {
            Some(EntryKind::Transferred { movement, .. }) => Ok(movement.amount.total),
            Some(EntryKind::Posted { amount, .. }) => Ok(amount.total),
            _ => Err(LedgerError::corrupt(format!(
                "entry {sequence} should move what the transfer {:032x} did",
                id.0
            ))),
        };
        Ok(Some(match state.end {
            End::Plain => Outcome::Plain(moved_by(state.begun)?),
            End::Open { .. } => Outcome::Open,
            End::Posted(sequence) => Outcome::Posted(moved_by(sequence)?),
            End::Voided(_) => Outcome::Voided,
            End::Expired(_) => Outcome::Expired,
        }))
    }

    /// Returns a note that came with a unit, unless it was forgotten.
    ///
    /// # Errors
    /// The store failed.
    pub fn note(&self, id: u128) -> Result<Option<Vec<u8>>, LedgerError> {
        self.tables.note(id)
    }

    /// Returns how many bytes of notes there are.
    ///
    /// # Errors
    /// The store failed.
    pub fn note_bytes(&self) -> Result<u64, LedgerError> {
        self.tables.note_bytes()
    }

    /// Returns an entry of the journal, the first being 1.
    ///
    /// # Errors
    /// The store failed.
    pub fn entry(&self, sequence: u64) -> Result<Option<Entry>, LedgerError> {
        self.tables.entry(sequence)
    }

    /// Returns the entry that began a transfer or hold.
    ///
    /// # Errors
    /// The store failed.
    pub fn begun(&self, id: TransferId) -> Result<Option<Entry>, LedgerError> {
        match self.tables.transfer(id)? {
            Some(state) => self.tables.entry(state.begun),
            None => Ok(None),
        }
    }

    /// Returns up to `count_max` entries that touched an account, with their numbers, the newest
    /// first: those before the entry `before`, or the last ones.
    ///
    /// # Errors
    /// The store failed.
    pub fn statement(
        &self,
        account: AccountId,
        before: Option<u64>,
        count_max: usize,
    ) -> Result<Vec<(u64, Entry)>, LedgerError> {
        let mut next = match before {
            // A number that the caller had from here, of an entry of this account.
            Some(before) => match self.tables.entry(before)? {
                Some(entry) => entry.before(account),
                None => None,
            },
            None => self.tables.account(account)?.map(|found| found.last_entry),
        };
        let mut entries = Vec::new();
        while let Some(sequence) = next.filter(|sequence| *sequence != 0) {
            if entries.len() >= count_max {
                break;
            }
            let entry = self.tables.entry(sequence)?;
            let entry = entry.ok_or_else(|| {
                LedgerError::corrupt(format!("the journal lacks entry {sequence}"))
            })?;
            next = entry.before(account);
            entries.push((sequence, entry));
        }
        Ok(entries)
    }

    /// Returns the sums of an account's usage by hour, agent and model, in order of time.
    ///
    /// # Errors
    /// The store failed.
    pub fn usage_sums(&self, query: &UsageQuery) -> Result<Vec<UsageSum>, LedgerError> {
        self.tables.usage_sums(query)
    }

    /// Returns up to `count_max` of an account's usage records, in order of time.
    ///
    /// # Errors
    /// The store failed.
    pub fn usage(
        &self,
        query: &UsageQuery,
        count_max: usize,
    ) -> Result<Vec<(Time, Usage)>, LedgerError> {
        self.tables.usage(query, count_max)
    }

    /// Writes all of it as a ledger of its own, in a file that is not there yet.
    ///
    /// # Errors
    /// The file cannot be made, or a store failed.
    pub fn copy_to(&self, path: &Path) -> Result<(), LedgerError> {
        self.tables.copy_to(path)
    }

    /// Checks sums, limits and open holds.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] says what does not hold.
    pub fn audit_balances(&self) -> Result<Audit, LedgerError> {
        audit::balances(&self.tables)
    }

    /// Checks everything against the whole journal. It takes as long as reading it.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] says what does not hold.
    pub fn audit(&self) -> Result<Audit, LedgerError> {
        audit::journal(&self.tables, Depth::Whole)
    }
}
