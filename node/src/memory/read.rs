//! What readers ask: entries, lists, scopes, counts. Each looks at one snapshot.
//!
//! Reads are done on the thread that asks. A look-up goes through a handful of pages that are
//! nearly always in memory, and takes some microseconds; to hand it to another thread would cost
//! more.

use std::ops::ControlFlow;

use redb::{ReadTransaction, ReadableTable};

use super::{
    Entry, EntryInfo, MemoryError, Owner, ScopeId, ScopeKey, Serial,
    edit::{counter, owner_of},
    file::MemoryFile,
    records::{HeadV1, ScopeV1, UsageV1},
    tables::{COUNTERS, ENTRIES, EXPIRY, PURGES, SCOPE_KEYS, SCOPES, USAGE},
};
use crate::{
    accounts::{Record, StoreError},
    store_file::corrupt,
};

/// Which entries of a scope are listed.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// How their keys begin.
    pub prefix: String,
    /// Keys up to this one were listed before.
    pub after: Option<String>,
    /// Most entries.
    pub limit: usize,
}

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries.
    pub entries: u64,
    /// Bytes of their keys, values and tags.
    pub bytes: u64,
}

impl MemoryFile {
    pub(super) fn scope_id(&self, key: &ScopeKey) -> Result<Option<ScopeId>, MemoryError> {
        Ok(self.read(|tx| Ok(scope(tx, key)?.map(|scope| ScopeId(scope.id))))?)
    }

    pub(super) fn scope_key(&self, ScopeId(id): ScopeId) -> Result<Option<ScopeKey>, MemoryError> {
        let key = self.read(|tx| {
            let row = tx.open_table(SCOPE_KEYS)?.get(id)?;
            row.map(|row| ScopeKey::from_bytes(row.value())).transpose()
        });
        Ok(key?)
    }

    pub(super) fn entry(
        &self,
        key: &ScopeKey,
        name: &str,
        now_ms: u64,
    ) -> Result<Option<Entry>, MemoryError> {
        let entry = self.read(|tx| {
            let Some(scope) = scope(tx, key)? else {
                return Ok(None);
            };
            entry(&tx.open_table(ENTRIES)?, scope.id, name, now_ms)
        });
        Ok(entry?)
    }

    pub(super) fn entries_by_key(
        &self,
        ScopeId(scope): ScopeId,
        keys: &[String],
        now_ms: u64,
    ) -> Result<Vec<Option<Entry>>, MemoryError> {
        let entries = self.read(|tx| {
            let table = tx.open_table(ENTRIES)?;
            let found = keys.iter().map(|key| entry(&table, scope, key, now_ms));
            found.collect()
        });
        Ok(entries?)
    }

    pub(super) fn entry_by_key(
        &self,
        ScopeId(scope): ScopeId,
        key: &str,
        now_ms: u64,
    ) -> Result<Option<Entry>, MemoryError> {
        Ok(self.read(|tx| entry(&tx.open_table(ENTRIES)?, scope, key, now_ms))?)
    }

    pub(super) fn last_serial(&self) -> Result<Serial, MemoryError> {
        let next = self.read(|tx| {
            let row = tx.open_table(COUNTERS)?.get(counter::NEXT_SERIAL)?;
            Ok(row.map_or(0, |row| row.value()))
        });
        Ok(Serial(next?.saturating_sub(1)))
    }

    pub(super) fn list(
        &self,
        key: &ScopeKey,
        query: &ListQuery,
        now_ms: u64,
    ) -> Result<Vec<EntryInfo>, MemoryError> {
        let listed = self.read(|tx| {
            let Some(scope) = scope(tx, key)? else {
                return Ok(Vec::new());
            };
            let mut listed = Vec::new();
            each_from(tx, scope.id, query, |key, head, value_bytes| {
                if listed.len() >= query.limit || !key.starts_with(&query.prefix) {
                    return ControlFlow::Break(());
                }
                if !head.is_expired(now_ms) {
                    listed.push(head.info(ScopeId(scope.id), key, value_bytes));
                }
                ControlFlow::Continue(())
            })?;
            Ok(listed)
        });
        Ok(listed?)
    }

    pub(super) fn usage(&self, account: u128) -> Result<Counts, MemoryError> {
        let usage = self.read(|tx| {
            let row = tx.open_table(USAGE)?.get(account)?;
            row.map(|row| UsageV1::decode(row.value())).transpose()
        });
        Ok(usage?.unwrap_or_default().into())
    }

    pub(super) fn counts(&self) -> Result<Counts, MemoryError> {
        Ok(self.read(total)?)
    }

    pub(super) fn purges(&self) -> Result<Vec<Owner>, StoreError> {
        self.read(|tx| {
            let table = tx.open_table(PURGES)?;
            let owners = table.iter()?.map(|row| owner_of(row?.0.value()));
            owners.collect()
        })
    }

    /// Reads every row, and verifies that they fit together.
    pub(super) fn check(&self) -> Result<Counts, StoreError> {
        self.check_derived()?;
        self.read(|tx| {
            let counted = check_scopes(tx)?;
            check_usage(tx)?;
            check_expiry(tx)?;
            if counted != total(tx)? {
                return Err(corrupt("there are not as many entries as it counts"));
            }
            Ok(counted)
        })
    }
}

impl From<UsageV1> for Counts {
    fn from(usage: UsageV1) -> Self {
        Self {
            entries: usage.entries,
            bytes: usage.bytes,
        }
    }
}

fn scope(tx: &ReadTransaction, key: &ScopeKey) -> Result<Option<ScopeV1>, redb::Error> {
    let row = tx.open_table(SCOPES)?.get(&key.to_bytes()[..])?;
    row.map(|row| ScopeV1::decode(row.value())).transpose()
}

fn entry(
    entries: &impl ReadableTable<(u64, &'static str), &'static [u8]>,
    scope: u64,
    key: &str,
    now_ms: u64,
) -> Result<Option<Entry>, redb::Error> {
    let Some(row) = entries.get((scope, key))? else {
        return Ok(None);
    };
    let (head, value) = HeadV1::read(row.value())?;
    if head.is_expired(now_ms) {
        return Ok(None);
    }
    Ok(Some(head.entry(ScopeId(scope), key, value)))
}

/// Hands out a scope's entries in the order of their keys, from where a list goes on.
fn each_from(
    tx: &ReadTransaction,
    scope: u64,
    query: &ListQuery,
    mut take: impl FnMut(&str, HeadV1, usize) -> ControlFlow<()>,
) -> Result<(), redb::Error> {
    let after = query.after.as_deref().unwrap_or_default();
    let from = after.max(query.prefix.as_str());
    for row in tx.open_table(ENTRIES)?.range((scope, from)..)? {
        let (key, row) = row?;
        let (id, key) = key.value();
        if id != scope {
            break;
        }
        if query.after.as_deref() == Some(key) {
            continue;
        }
        let (head, value_bytes) = HeadV1::read_head(row.value())?;
        if take(key, head, value_bytes).is_break() {
            break;
        }
    }
    Ok(())
}

fn total(tx: &ReadTransaction) -> Result<Counts, redb::Error> {
    let counters = tx.open_table(COUNTERS)?;
    let counter =
        |name| -> Result<u64, redb::Error> { Ok(counters.get(name)?.map_or(0, |row| row.value())) };
    Ok(Counts {
        entries: counter(counter::ENTRIES)?,
        bytes: counter(counter::BYTES)?,
    })
}

/// Verifies that every scope has what it counts, and every entry a scope.
fn check_scopes(tx: &ReadTransaction) -> Result<Counts, redb::Error> {
    let mut counted = std::collections::HashMap::<u64, Counts>::new();
    let mut all = Counts::default();
    for row in tx.open_table(ENTRIES)?.iter()? {
        let (key, row) = row?;
        let (head, value) = HeadV1::read(row.value())?;
        if serde_json::from_str::<serde::de::IgnoredAny>(value).is_err() {
            return Err(corrupt("a value is no JSON"));
        }
        for counts in [counted.entry(key.value().0).or_default(), &mut all] {
            counts.entries += 1;
            counts.bytes += head.bytes;
        }
    }
    let keys = tx.open_table(SCOPE_KEYS)?;
    for row in tx.open_table(SCOPES)?.iter()? {
        let (key, row) = row?;
        ScopeKey::from_bytes(key.value())?;
        let scope = ScopeV1::decode(row.value())?;
        let found = counted.remove(&scope.id).unwrap_or_default();
        let named = keys.get(scope.id)?;
        if (found.entries, found.bytes) != (scope.entries, scope.bytes)
            || named.is_none_or(|named| named.value() != key.value())
        {
            return Err(corrupt("a scope has not what it counts"));
        }
    }
    match counted.is_empty() {
        true => Ok(all),
        false => Err(corrupt("an entry has no scope")),
    }
}

/// Verifies that every account has what it counts.
fn check_usage(tx: &ReadTransaction) -> Result<(), redb::Error> {
    let mut counted = std::collections::HashMap::<u128, Counts>::new();
    for row in tx.open_table(ENTRIES)?.iter()? {
        let (head, _) = HeadV1::read_head(row?.1.value())?;
        let counts = counted.entry(head.account).or_default();
        counts.entries += 1;
        counts.bytes += head.bytes;
    }
    for row in tx.open_table(USAGE)?.iter()? {
        let (account, row) = row?;
        let usage = Counts::from(UsageV1::decode(row.value())?);
        if counted.remove(&account.value()) != Some(usage) {
            return Err(corrupt("an account has not what it counts"));
        }
    }
    match counted.is_empty() {
        true => Ok(()),
        false => Err(corrupt("an entry counts against nobody")),
    }
}

/// Verifies that what expires is there, and that what is to expire will.
fn check_expiry(tx: &ReadTransaction) -> Result<(), redb::Error> {
    let entries = tx.open_table(ENTRIES)?;
    let expiry = tx.open_table(EXPIRY)?;
    let mut expiring = 0_u64;
    for row in entries.iter()? {
        let (key, row) = row?;
        let (scope, key) = key.value();
        if let Some(at_ms) = HeadV1::read_head(row.value())?.0.expires_ms {
            expiring += 1;
            if expiry.get((at_ms, scope, key))?.is_none() {
                return Err(corrupt("an entry would not expire"));
            }
        }
    }
    match redb::ReadableTableMetadata::len(&expiry)? == expiring {
        true => Ok(()),
        false => Err(corrupt("an entry expires that is not there")),
    }
}
