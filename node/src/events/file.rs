//! The redb file: what one transaction does to it, and what readers look for.
//!
//! Counters are read with each transaction, so that they are right also where the file was opened
//! anew after a failed write.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use aither_ledger::AccountId;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction,
};

use super::{
    Event, Filter, NewEvent, Viewer,
    limits::{AGENT_PAGE_BYTES_MAX, HANDED_BYTES_MAX, HANDED_LEN_MAX, SCANNED_MAX},
    records::{HeadV1, bytes_of},
    tables::{
        ACCOUNTS, BYTES, COUNTERS, EVENTS, OF_ACCOUNTS, OF_AGENTS, RESERVED, SCHEMA_VERSION, SWEPT,
        SWEPT_OF_ACCOUNTS, Tables,
    },
};
use crate::{
    accounts::StoreError,
    store_file::{Form, StoreFile, copy, corrupt},
};

/// A file up to this size is verified page by page at each start.
const VERIFIED_BYTES_MAX: u64 = 64 << 20;
/// What redb may keep in memory.
const CACHE_BYTES: usize = 32 << 20;

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Events.
    pub events: u64,
    /// What their rows take.
    pub bytes: u64,
}

/// A part of the log.
#[derive(Debug, Default)]
pub struct Page {
    /// What is shown, in the order of the numbers.
    pub events: Vec<Arc<Event>>,
    /// Up to this number everything was looked at.
    pub looked_at: u64,
    /// Up to this number retention has removed what there was.
    pub swept: u64,
    /// Up to this one nothing is left of anybody.
    pub swept_all: u64,
    /// What all events take in memory that were looked at.
    pub bytes: u64,
}

/// The last events of an agent.
#[derive(Debug, Default)]
pub struct AgentPage {
    /// The events, in the order of their numbers.
    pub events: Vec<Event>,
    /// Where there are more: they have lower numbers than this.
    pub before: Option<u64>,
}

/// The file.
#[derive(Debug)]
pub(super) struct LogFile {
    file: StoreFile,
}

/// An open write transaction.
pub(super) struct Edit<'tx> {
    tables: Tables<'tx>,
    bytes: u64,
    swept: u64,
    reserved: u64,
    pub(super) is_dirty: bool,
}

impl LogFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read or written.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open_database(path)?;
        Ok(Self {
            file: StoreFile::new(path, database, open_database),
        })
    }

    /// Opens a file and verifies the checksum of every page.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn open_verified(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            file: StoreFile::new(path, form(true).open(path)?, open_database),
        })
    }

    /// Returns the next number that was never given out.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn next(&self) -> Result<u64, StoreError> {
        self.file.read(|database| {
            let tx = database.begin_read()?;
            let reserved = tx.open_table(COUNTERS)?.get(RESERVED)?;
            let reserved = reserved.map_or(0, |row| row.value());
            let events = tx.open_table(EVENTS)?;
            let last = events.last()?.map_or(0, |(id, _)| id.value());
            Ok(reserved.max(last) + 1)
        })
    }

    /// Runs one transaction; what changes nothing is not committed.
    ///
    /// # Errors
    /// The file's. Nothing was done then.
    pub(super) fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Edit<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let changed = |tx: &WriteTransaction| {
            let mut edit = Edit::begin(tx)?;
            let outcome = change(&mut edit)?;
            let is_dirty = edit.is_dirty;
            edit.finish()?;
            Ok((outcome, is_dirty.then_some(())))
        };
        self.file.write_as(durability, changed, |()| {})
    }

    /// Looks for events after a number. `through` is the number of one that was written before.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn after(
        &self,
        filter: &Filter,
        after: u64,
        through: u64,
    ) -> Result<Page, StoreError> {
        self.file.read(|database| {
            let tx = database.begin_read()?;
            let swept = tx.open_table(COUNTERS)?.get(SWEPT)?;
            let swept = swept.map_or(0, |row| row.value());
            let own_swept = match filter.viewer {
                Viewer::Account(account) => {
                    let row = tx.open_table(ACCOUNTS)?.get(account.0)?;
                    row.map(|row| row.value().1)
                }
                Viewer::Operator => {
                    let row = tx.open_table(COUNTERS)?.get(SWEPT_OF_ACCOUNTS)?;
                    row.map(|row| row.value())
                }
            };
            let mut page = Page {
                looked_at: after,
                swept: swept.max(own_swept.unwrap_or(0)),
                swept_all: swept,
                ..Page::default()
            };
            let events = tx.open_table(EVENTS)?;
            let mut rows = events.range(after.saturating_add(1)..)?;
            let mut bytes = 0;
            for _ in 0..SCANNED_MAX {
                let Some(row) = rows.next() else {
                    // Numbers that were given to nothing have no rows.
                    page.looked_at = page.looked_at.max(through);
                    break;
                };
                let (id, row) = row?;
                page.looked_at = id.value();
                let (head, data) = HeadV1::read(row.value())?;
                let event = head.event(id.value(), data)?;
                page.bytes += u64::try_from(event.weight()).unwrap_or(u64::MAX);
                if !filter.admits(&event) {
                    continue;
                }
                bytes += event.data.len();
                page.events.push(Arc::new(event));
                if page.events.len() >= HANDED_LEN_MAX || bytes >= HANDED_BYTES_MAX {
                    break;
                }
            }
            Ok(page)
        })
    }

    /// Returns the last events of an agent whose numbers are lower than `before`.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn of_agent(
        &self,
        (viewer, agent): (Viewer, &str),
        before: u64,
        limit: usize,
    ) -> Result<AgentPage, StoreError> {
        self.file.read(|database| {
            let tx = database.begin_read()?;
            let (index, events) = (tx.open_table(OF_AGENTS)?, tx.open_table(EVENTS)?);
            let mut rows = index.range((agent, 0)..(agent, before))?.rev();
            let mut page = AgentPage::default();
            let (mut looked_at, mut bytes) = (0, 0);
            for row in rows.by_ref() {
                let (_, id) = row?.0.value();
                looked_at += 1;
                let row = events.get(id)?;
                let row = row.ok_or_else(|| corrupt("an agent's event is not there"))?;
                let (head, data) = HeadV1::read(row.value())?;
                let event = head.event(id, data)?;
                if viewer.may_see(&event.audience) {
                    bytes += event.data.len();
                    page.events.push(event);
                }
                if page.events.len() >= limit
                    || bytes >= AGENT_PAGE_BYTES_MAX
                    || looked_at >= SCANNED_MAX
                {
                    page.before = Some(id);
                    break;
                }
            }
            if rows.next().is_none() {
                page.before = None;
            }
            page.events.reverse();
            Ok(page)
        })
    }

    /// Returns how much there is.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn counts(&self) -> Result<LogCounts, StoreError> {
        self.file.read(|database| {
            let tx = database.begin_read()?;
            let bytes = tx.open_table(COUNTERS)?.get(BYTES)?;
            Ok(LogCounts {
                events: tx.open_table(EVENTS)?.len()?,
                bytes: bytes.map_or(0, |row| row.value()),
            })
        })
    }

    /// Reads every row, and checks that the tables fit together.
    ///
    /// # Errors
    /// Something is damaged.
    pub(super) fn check(&self) -> Result<LogCounts, StoreError> {
        let counts = self.counts()?;
        self.file.read(|database| {
            let tx = database.begin_read()?;
            let (index, events) = (tx.open_table(OF_AGENTS)?, tx.open_table(EVENTS)?);
            let own = tx.open_table(OF_ACCOUNTS)?;
            let (mut bytes, mut of_agents) = (0, 0);
            let mut of_accounts = BTreeMap::<u128, u64>::new();
            let mut of_accounts_len = 0;
            for row in events.iter()? {
                let (id, row) = row?;
                let (head, data) = HeadV1::read(row.value())?;
                if let Some(account) = head.source {
                    *of_accounts.entry(account).or_default() += bytes_of(row.value());
                    of_accounts_len += 1;
                    if own.get((account, id.value()))?.is_none() {
                        return Err(corrupt("an event is not among those of its account"));
                    }
                }
                let event = head.event(id.value(), data)?;
                bytes += bytes_of(row.value());
                if let Some(agent) = event.agent.as_deref() {
                    of_agents += 1;
                    if index.get((agent, event.id))?.is_none() {
                        return Err(corrupt("an event is not among those of its agent"));
                    }
                }
            }
            for row in tx.open_table(ACCOUNTS)?.iter()? {
                let (account, row) = row?;
                if of_accounts.remove(&account.value()).unwrap_or_default() != row.value().0 {
                    return Err(corrupt(
                        "an account's events are not those that were counted",
                    ));
                }
            }
            let is_counted = of_accounts.is_empty() && of_accounts_len == own.len()?;
            if !is_counted || bytes != counts.bytes || of_agents != index.len()? {
                return Err(corrupt("the events are not those that were counted"));
            }
            Ok(counts)
        })
    }

    /// Writes all of it as a log of its own, in a file that is not there yet.
    ///
    /// # Errors
    /// The file cannot be made, or one of both fails.
    pub(super) fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let to = open_database(path)?;
        self.file.read(|database| {
            let from = database.begin_read()?;
            let tx = to.begin_write()?;
            {
                let mut tables = Tables::open(&tx)?;
                copy(&from.open_table(COUNTERS)?, &mut tables.counters)?;
                copy(&from.open_table(EVENTS)?, &mut tables.events)?;
                copy(&from.open_table(OF_AGENTS)?, &mut tables.of_agents)?;
                copy(&from.open_table(OF_ACCOUNTS)?, &mut tables.of_accounts)?;
                copy(&from.open_table(ACCOUNTS)?, &mut tables.accounts)?;
            }
            Ok(tx.commit()?)
        })
    }
}

impl<'tx> Edit<'tx> {
    fn begin(tx: &'tx WriteTransaction) -> Result<Self, redb::Error> {
        let tables = Tables::open(tx)?;
        let counter = |name| -> Result<u64, redb::Error> {
            Ok(tables.counters.get(name)?.map_or(0, |row| row.value()))
        };
        let (bytes, swept, reserved) = (counter(BYTES)?, counter(SWEPT)?, counter(RESERVED)?);
        Ok(Self {
            tables,
            bytes,
            swept,
            reserved,
            is_dirty: false,
        })
    }

    fn finish(mut self) -> Result<(), redb::Error> {
        if self.is_dirty {
            self.tables.counters.insert(BYTES, self.bytes)?;
            self.tables.counters.insert(SWEPT, self.swept)?;
            self.tables.counters.insert(RESERVED, self.reserved)?;
        }
        Ok(())
    }

    /// Notes up to which number some may have been given out.
    pub(super) fn reserve(&mut self, up_to: u64) {
        self.reserved = up_to;
        self.is_dirty = true;
    }

    /// Writes an event.
    pub(super) fn append(&mut self, id: u64, event: &NewEvent) -> Result<(), redb::Error> {
        let row = HeadV1::row(event);
        self.tables.events.insert(id, &row[..])?;
        if let Some(agent) = event.agent.as_deref() {
            self.tables.of_agents.insert((agent, id), ())?;
        }
        if let Some(account) = event.source {
            self.tables.of_accounts.insert((account.0, id), ())?;
            let (bytes, swept) = self.of_account(account.0)?;
            let row = (bytes + bytes_of(&row), swept);
            self.tables.accounts.insert(account.0, row)?;
        }
        self.bytes += bytes_of(&row);
        self.is_dirty = true;
        Ok(())
    }

    /// Removes the oldest events for as long as they came before `oldest_ms`, up to `count_max` of
    /// them. Returns whether there may be more.
    pub(super) fn sweep_old(
        &mut self,
        oldest_ms: u64,
        count_max: usize,
    ) -> Result<bool, redb::Error> {
        for _ in 0..count_max {
            let first = self.tables.events.first()?;
            let first = first.map(|(id, row)| -> Result<_, redb::Error> {
                Ok((id.value(), HeadV1::read(row.value())?.0))
            });
            match first.transpose()? {
                Some((id, head)) if head.time_ms() < oldest_ms => {
                    self.remove(id)?;
                    self.swept = id;
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Removes the oldest events until what is left takes no more than `bytes_max`, up to
    /// `count_max` of them. Returns whether there is more to remove.
    pub(super) fn sweep_large(
        &mut self,
        bytes_max: u64,
        count_max: usize,
    ) -> Result<bool, redb::Error> {
        for _ in 0..count_max {
            if self.bytes <= bytes_max {
                return Ok(false);
            }
            let first = self.tables.events.first()?.map(|(id, _)| id.value());
            let Some(id) = first else {
                return Ok(false);
            };
            self.remove(id)?;
            self.swept = id;
        }
        Ok(self.bytes > bytes_max)
    }

    /// Removes the oldest of an account's own events until what is left takes no more than
    /// `bytes_max`, up to `count_max` of them: what others have told stays.
    pub(super) fn sweep_account(
        &mut self,
        account: AccountId,
        bytes_max: u64,
        count_max: usize,
    ) -> Result<(), redb::Error> {
        for _ in 0..count_max {
            if self.of_account(account.0)?.0 <= bytes_max {
                break;
            }
            let first = (account.0, 0)..=(account.0, u64::MAX);
            let first = self.tables.of_accounts.range(first)?.next().transpose()?;
            let Some(id) = first.map(|(key, _)| key.value().1) else {
                return Err(corrupt("an account's event is not there"));
            };
            self.remove(id)?;
            let (bytes, _) = self.of_account(account.0)?;
            self.tables.accounts.insert(account.0, (bytes, id))?;
            let before = self.tables.counters.get(SWEPT_OF_ACCOUNTS)?;
            let before = before.map_or(0, |row| row.value());
            let last = before.max(id);
            self.tables.counters.insert(SWEPT_OF_ACCOUNTS, last)?;
        }
        Ok(())
    }

    /// Removes up to `count_max` events of an agent. Returns whether there may be more.
    pub(super) fn forget_agent(
        &mut self,
        agent: &str,
        count_max: usize,
    ) -> Result<bool, redb::Error> {
        let rows = self
            .tables
            .of_agents
            .range((agent, 0)..=(agent, u64::MAX))?;
        let ids = rows.take(count_max).map(|row| Ok(row?.0.value().1));
        let ids: Vec<_> = ids.collect::<Result<_, redb::Error>>()?;
        for id in &ids {
            self.remove(*id)?;
        }
        Ok(ids.len() == count_max)
    }

    fn remove(&mut self, id: u64) -> Result<(), redb::Error> {
        let Some(row) = self.tables.events.remove(id)? else {
            return Err(corrupt("an agent's event is not there"));
        };
        let (head, _) = HeadV1::read(row.value())?;
        if let Some(agent) = head.agent.as_deref() {
            self.tables.of_agents.remove((agent, id))?;
        }
        let freed = bytes_of(row.value());
        drop(row);
        if let Some(account) = head.source {
            self.tables.of_accounts.remove((account, id))?;
            let (bytes, swept) = self.of_account(account)?;
            // With its last event the account is forgotten, unless some would be missed.
            match (bytes.saturating_sub(freed), swept) {
                (0, swept) if swept <= self.swept => self.tables.accounts.remove(account)?,
                left => self.tables.accounts.insert(account, left)?,
            };
        }
        self.bytes = self.bytes.saturating_sub(freed);
        self.is_dirty = true;
        Ok(())
    }
}

impl Edit<'_> {
    /// Returns what an account's own events count for, and up to which number some were removed.
    fn of_account(&self, account: u128) -> Result<(u64, u64), redb::Error> {
        let row = self.tables.accounts.get(account)?;
        Ok(row.map_or((0, 0), |row| row.value()))
    }
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
