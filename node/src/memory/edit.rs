//! A transaction of the writer: what commands do to the tables.
//!
//! Whether a command is refused is decided before its first change, so a refusal leaves no trace
//! but what had expired anyway. Rows of scopes, owners and accounts, which many commands of one
//! transaction share, are kept aside and written once, at its end.

use std::collections::{BTreeMap, HashMap, HashSet};

use redb::{ReadableTable, WriteTransaction};

use super::{
    Change, DeleteEntry, Measure, MemoryError, Owner, Quota, ScopeId, ScopeKey, Serial, WriteEntry,
    WrittenEntry,
    limits::bytes_of,
    records::{HeadV1, OwnerV1, ScopeV1, SignatureV1, UsageV1},
    tables::Tables,
};
use crate::{accounts::Record, store_file::corrupt};

/// Names of the counters.
pub(super) mod counter {
    /// Number of the next scope.
    pub(crate) const NEXT_SCOPE: &str = "next_scope";
    /// Serial of the next write.
    pub(crate) const NEXT_SERIAL: &str = "next_serial";
    /// Entries of all.
    pub(crate) const ENTRIES: &str = "entries";
    /// Bytes of all.
    pub(crate) const BYTES: &str = "bytes";
}

/// What a command comes to: a refusal is a value, an error is the store's.
pub(super) type Decided<T> = Result<Result<T, MemoryError>, redb::Error>;

/// An open transaction.
pub(super) struct Edit<'tx> {
    pub(super) tables: Tables<'tx>,
    pub(super) changes: Vec<Change>,
    /// Whether there is anything to commit.
    pub(super) is_dirty: bool,
    now_ms: u64,
    next_scope: u64,
    next_serial: u64,
    total: UsageV1,
    scopes: HashMap<Vec<u8>, Option<ScopeV1>>,
    usage: BTreeMap<u128, UsageV1>,
}

impl<'tx> Edit<'tx> {
    pub(super) fn begin(tx: &'tx WriteTransaction, now_ms: u64) -> Result<Self, redb::Error> {
        let tables = Tables::open(tx)?;
        let counter = |name| -> Result<u64, redb::Error> {
            Ok(tables.counters.get(name)?.map_or(0, |row| row.value()))
        };
        let (next_scope, next_serial) = (
            counter(counter::NEXT_SCOPE)?,
            counter(counter::NEXT_SERIAL)?,
        );
        let total = UsageV1 {
            entries: counter(counter::ENTRIES)?,
            bytes: counter(counter::BYTES)?,
        };
        Ok(Self {
            tables,
            changes: Vec::new(),
            is_dirty: false,
            now_ms,
            next_scope: next_scope.max(1),
            next_serial: next_serial.max(1),
            total,
            scopes: HashMap::new(),
            usage: BTreeMap::new(),
        })
    }

    /// Writes what was kept aside, and ends scopes that have nothing left.
    pub(super) fn finish(&mut self) -> Result<(), redb::Error> {
        let scopes: Vec<_> = self.scopes.drain().collect();
        for (key, scope) in scopes {
            match scope {
                Some(scope) if scope.entries == 0 => self.end_scope(&key, scope)?,
                Some(scope) => {
                    let row = scope.encode();
                    self.tables.scopes.insert(&key[..], &row[..])?;
                    self.tables.scope_keys.insert(scope.id, &key[..])?;
                }
                None => {}
            }
        }
        for (account, usage) in std::mem::take(&mut self.usage) {
            if usage == UsageV1::default() {
                self.tables.usage.remove(account)?;
            } else {
                let row = usage.encode();
                self.tables.usage.insert(account, &row[..])?;
            }
        }
        for (name, value) in [
            (counter::NEXT_SCOPE, self.next_scope),
            (counter::NEXT_SERIAL, self.next_serial),
            (counter::ENTRIES, self.total.entries),
            (counter::BYTES, self.total.bytes),
        ] {
            self.tables.counters.insert(name, value)?;
        }
        Ok(())
    }

    /// Leaves a scope's floor to its owner.
    fn end_scope(&mut self, key: &[u8], scope: ScopeV1) -> Result<(), redb::Error> {
        self.tables.scopes.remove(key)?;
        self.tables.scope_keys.remove(scope.id)?;
        let owner = ScopeKey::from_bytes(key)?.owner;
        let before = self.owner(owner)?.unwrap_or_default();
        let floor = before.version_floor.max(scope.version_floor);
        let row = OwnerV1 {
            version_floor: floor,
        };
        let row = row.encode();
        self.tables.owners.insert(&owner.to_bytes()[..], &row[..])?;
        let scope = ScopeId(scope.id);
        self.changes.push(Change::ScopeGone { scope });
        Ok(())
    }

    pub(super) fn write(&mut self, write: &WriteEntry, total_max: Quota) -> Decided<WrittenEntry> {
        let scope = self.scope(&write.scope)?;
        let old = match scope {
            Some(scope) => self.current(&write.scope, scope.id, &write.key)?,
            None => None,
        };
        let current = old.as_ref().map_or(0, |old| old.version);
        if write.if_version.is_some_and(|wanted| wanted != current) {
            return Ok(Err(MemoryError::VersionConflict { current }));
        }
        let bytes = bytes_of(&write.key, &write.value, &write.tags);
        if let Some(refusal) = self.no_room(write, old.as_ref(), bytes, total_max)? {
            return Ok(Err(refusal));
        }
        let (key, mut scope) = self.scope_for_write(&write.scope)?;
        if let Some(old) = &old {
            self.unlink(&key, &mut scope, &write.key, old)?;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let head = HeadV1 {
            version: match &old {
                Some(old) => old.version + 1,
                None => scope.version_floor + 1,
            },
            serial,
            account: write.account,
            bytes,
            created_ms: old.as_ref().map_or(self.now_ms, |old| old.created_ms),
            updated_ms: self.now_ms,
            expires_ms: write.expires_ms,
            writer: write.writer.clone(),
            tags: write.tags.clone(),
            signature: write.signature.as_ref().map(|signature| SignatureV1 {
                public_key: signature.public_key,
                value: signature.value.clone(),
            }),
        };
        self.link(&key, scope, write, &head)?;
        Ok(Ok(WrittenEntry {
            version: head.version,
            serial: Serial(serial),
        }))
    }

    /// Puts an entry into every table that has something of it.
    fn link(
        &mut self,
        scope_key: &[u8],
        mut scope: ScopeV1,
        write: &WriteEntry,
        head: &HeadV1,
    ) -> Result<(), redb::Error> {
        let key = write.key.as_str();
        let row = head.row(&write.value);
        self.tables.entries.insert((scope.id, key), &row[..])?;
        self.tables.pending.insert((scope.id, head.serial), key)?;
        if let Some(expires_ms) = head.expires_ms {
            self.tables.expiry.insert((expires_ms, scope.id, key), ())?;
        }
        scope.entries += 1;
        scope.bytes += head.bytes;
        self.total.entries += 1;
        self.total.bytes += head.bytes;
        let usage = self.usage(head.account)?;
        usage.entries += 1;
        usage.bytes += head.bytes;
        self.scopes.insert(scope_key.to_vec(), Some(scope));
        self.changes.push(Change::Written {
            scope: ScopeId(scope.id),
            serial: Serial(head.serial),
            key: write.key.clone(),
        });
        self.is_dirty = true;
        Ok(())
    }

    pub(super) fn delete(&mut self, delete: &DeleteEntry) -> Decided<()> {
        let Some(scope) = self.scope(&delete.scope)? else {
            return Ok(Err(absent(delete.if_version)));
        };
        let Some(head) = self.current(&delete.scope, scope.id, &delete.key)? else {
            return Ok(Err(absent(delete.if_version)));
        };
        let current = head.version;
        if delete.if_version.is_some_and(|wanted| wanted != current) {
            return Ok(Err(MemoryError::VersionConflict { current }));
        }
        self.remove(&delete.scope.to_bytes(), &delete.key, &head)?;
        Ok(Ok(()))
    }

    /// Removes all of a scope whose keys begin with `prefix`, and returns how much could be seen.
    pub(super) fn clear(&mut self, scope: &ScopeKey, prefix: &str) -> Result<u64, redb::Error> {
        let scope_key = scope.to_bytes();
        let Some(found) = self.scope(scope)? else {
            return Ok(0);
        };
        let mut heads = Vec::new();
        for row in self.tables.entries.range((found.id, prefix)..)? {
            let (key, row) = row?;
            let (id, key) = key.value();
            if id != found.id || !key.starts_with(prefix) {
                break;
            }
            heads.push((key.to_owned(), HeadV1::read_head(row.value())?.0));
        }
        let mut seen = 0;
        for (key, head) in heads {
            seen += u64::from(!head.is_expired(self.now_ms));
            self.remove(&scope_key, &key, &head)?;
        }
        Ok(seen)
    }

    /// Removes all that an owner has, and what is known of it.
    pub(super) fn purge(&mut self, owner: Owner) -> Result<(), redb::Error> {
        for key in self.scope_keys_of(owner)? {
            self.clear(&ScopeKey::from_bytes(&key)?, "")?;
        }
        self.is_dirty = true;
        self.finish()
    }

    /// Returns whether anything may be left of an owner, if only in the file's unused parts: its
    /// own row goes only with the file that has them.
    pub(super) fn has_written(&self, owner: Owner) -> Result<bool, redb::Error> {
        Ok(self.owner(owner)?.is_some())
    }

    fn scope_keys_of(&self, owner: Owner) -> Result<Vec<Vec<u8>>, redb::Error> {
        let prefix = owner.to_bytes();
        let mut keys = Vec::new();
        for row in self.tables.scopes.range(&prefix[..]..)? {
            let (key, _) = row?;
            if !key.value().starts_with(&prefix) {
                break;
            }
            keys.push(key.value().to_vec());
        }
        Ok(keys)
    }

    /// Removes up to `count_max` entries whose time is over, and returns how many there were.
    pub(super) fn sweep(&mut self, count_max: usize) -> Result<usize, redb::Error> {
        let mut due = Vec::new();
        let until = (self.now_ms.saturating_add(1), 0, "");
        for row in self.tables.expiry.range(..until)?.take(count_max) {
            let (key, _) = row?;
            let (_, scope, key) = key.value();
            due.push((scope, key.to_owned()));
        }
        for (scope, key) in &due {
            let scope_key = self.tables.scope_keys.get(*scope)?;
            let scope_key = scope_key.map(|row| row.value().to_vec());
            let head = self.head(*scope, key)?;
            let (Some(scope_key), Some(head)) = (scope_key, head) else {
                return Err(corrupt("an entry expires that is not there"));
            };
            self.remove(&scope_key, key, &head)?;
        }
        Ok(due.len())
    }

    /// Returns an entry's head, unless its time is over; then it is removed.
    fn current(
        &mut self,
        scope: &ScopeKey,
        id: u64,
        key: &str,
    ) -> Result<Option<HeadV1>, redb::Error> {
        match self.head(id, key)? {
            Some(head) if head.is_expired(self.now_ms) => {
                self.remove(&scope.to_bytes(), key, &head)?;
                Ok(None)
            }
            found => Ok(found),
        }
    }

    fn head(&self, scope: u64, key: &str) -> Result<Option<HeadV1>, redb::Error> {
        let row = self.tables.entries.get((scope, key))?;
        let head = row.map(|row| Ok::<_, redb::Error>(HeadV1::read_head(row.value())?.0));
        head.transpose()
    }

    /// Removes an entry. Its version is a floor from now on.
    fn remove(&mut self, scope_key: &[u8], key: &str, head: &HeadV1) -> Result<(), redb::Error> {
        let mut scope = self
            .scope_of(scope_key)?
            .ok_or_else(|| corrupt("an entry has no scope"))?;
        self.tables.entries.remove((scope.id, key))?;
        scope.version_floor = scope.version_floor.max(head.version);
        self.unlink(scope_key, &mut scope, key, head)
    }

    /// Takes a state of an entry out of all tables but that of entries.
    fn unlink(
        &mut self,
        scope_key: &[u8],
        scope: &mut ScopeV1,
        key: &str,
        head: &HeadV1,
    ) -> Result<(), redb::Error> {
        let state = (scope.id, head.serial);
        self.tables.pending.remove(state)?;
        self.tables.awaiting.remove(state)?;
        self.tables.index.remove(state)?;
        self.tables.vectors.remove(state)?;
        if let Some(expires_ms) = head.expires_ms {
            self.tables.expiry.remove((expires_ms, scope.id, key))?;
        }
        let less = |count: u64, part| {
            let left = u64::checked_sub(count, part);
            left.ok_or_else(|| corrupt("a count is below what it counts"))
        };
        scope.entries = less(scope.entries, 1)?;
        scope.bytes = less(scope.bytes, head.bytes)?;
        self.total.entries = less(self.total.entries, 1)?;
        self.total.bytes = less(self.total.bytes, head.bytes)?;
        let usage = self.usage(head.account)?;
        usage.entries = less(usage.entries, 1)?;
        usage.bytes = less(usage.bytes, head.bytes)?;
        self.scopes.insert(scope_key.to_vec(), Some(*scope));
        self.changes.push(Change::Removed {
            scope: ScopeId(scope.id),
            serial: Serial(head.serial),
        });
        self.is_dirty = true;
        Ok(())
    }

    /// Returns why an entry does not fit, if it does not.
    fn no_room(
        &mut self,
        write: &WriteEntry,
        old: Option<&HeadV1>,
        bytes: u64,
        total_max: Quota,
    ) -> Result<Option<MemoryError>, redb::Error> {
        let freed = |head: &HeadV1| (1, head.bytes);
        let (old_entries, old_bytes) = old.map_or((0, 0), freed);
        let total = self.total;
        let exceeds = |used: u64, freed: u64, more: u64, max: u64| {
            // What shrinks, or stays, may do so in a full memory too.
            more > freed && used.saturating_sub(freed).saturating_add(more) > max
        };
        if exceeds(total.entries, old_entries, 1, total_max.entries)
            || exceeds(total.bytes, old_bytes, bytes, total_max.bytes)
        {
            return Ok(Some(MemoryError::NodeFull));
        }
        let own = old.filter(|old| old.account == write.account);
        let (old_entries, old_bytes) = own.map_or((0, 0), freed);
        let usage = *self.usage(write.account)?;
        let quota = write.quota;
        let refused = |measure, used, allowed| MemoryError::QuotaExceeded {
            measure,
            used,
            allowed,
        };
        Ok(if exceeds(usage.entries, old_entries, 1, quota.entries) {
            Some(refused(Measure::Entries, usage.entries, quota.entries))
        } else if exceeds(usage.bytes, old_bytes, bytes, quota.bytes) {
            Some(refused(Measure::Bytes, usage.bytes, quota.bytes))
        } else {
            None
        })
    }

    fn scope(&mut self, key: &ScopeKey) -> Result<Option<ScopeV1>, redb::Error> {
        self.scope_of(&key.to_bytes())
    }

    fn scope_of(&mut self, key: &[u8]) -> Result<Option<ScopeV1>, redb::Error> {
        if let Some(known) = self.scopes.get(key) {
            return Ok(*known);
        }
        let row = self.tables.scopes.get(key)?;
        let scope = row.map(|row| ScopeV1::decode(row.value())).transpose()?;
        self.scopes.insert(key.to_vec(), scope);
        Ok(scope)
    }

    /// Returns a scope that is there from now on.
    fn scope_for_write(&mut self, scope: &ScopeKey) -> Result<(Vec<u8>, ScopeV1), redb::Error> {
        let key = scope.to_bytes();
        if let Some(known) = self.scope_of(&key)? {
            return Ok((key, known));
        }
        let owner = match self.owner(scope.owner)? {
            Some(owner) => owner,
            None => {
                let owner = OwnerV1::default();
                let row = owner.encode();
                let bytes = scope.owner.to_bytes();
                self.tables.owners.insert(&bytes[..], &row[..])?;
                owner
            }
        };
        let made = ScopeV1 {
            id: self.next_scope,
            entries: 0,
            bytes: 0,
            version_floor: owner.version_floor,
        };
        self.next_scope += 1;
        // Of use to a sweep in this very transaction, which knows scopes by their numbers.
        self.tables.scope_keys.insert(made.id, &key[..])?;
        Ok((key, made))
    }

    fn owner(&self, owner: Owner) -> Result<Option<OwnerV1>, redb::Error> {
        let row = self.tables.owners.get(&owner.to_bytes()[..])?;
        row.map(|row| OwnerV1::decode(row.value())).transpose()
    }

    fn usage(&mut self, account: u128) -> Result<&mut UsageV1, redb::Error> {
        use std::collections::btree_map::Entry;
        match self.usage.entry(account) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                let row = self.tables.usage.get(account)?;
                let usage = row.map(|row| UsageV1::decode(row.value())).transpose()?;
                Ok(place.insert(usage.unwrap_or_default()))
            }
        }
    }

    /// Returns the owners of whom nothing is to be left.
    pub(super) fn purges(&self) -> Result<HashSet<Owner>, redb::Error> {
        let mut owners = HashSet::new();
        for row in self.tables.purges.iter()? {
            owners.insert(owner_of(row?.0.value())?);
        }
        Ok(owners)
    }

    /// Notes that nothing is to be left of an owner, or forgets that.
    pub(super) fn note_purge(&mut self, owner: Owner, wanted: bool) -> Result<(), redb::Error> {
        let key = owner.to_bytes();
        if wanted {
            self.tables.purges.insert(&key[..], self.now_ms)?;
        } else {
            self.tables.purges.remove(&key[..])?;
        }
        self.is_dirty = true;
        Ok(())
    }
}

/// Reads the key of a purge.
pub(super) fn owner_of(key: &[u8]) -> Result<Owner, redb::Error> {
    let bytes = key.try_into().map_err(|_| corrupt("an owner is none"))?;
    Owner::from_bytes(bytes)
}

/// What a delete of what is not there is told.
fn absent(if_version: Option<u64>) -> MemoryError {
    match if_version {
        Some(wanted) if wanted != 0 => MemoryError::VersionConflict { current: 0 },
        _ => MemoryError::UnknownKey,
    }
}
