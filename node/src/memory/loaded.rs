//! The indexes of scopes that are in memory: made when a scope is first searched, kept up to date
//! while they are there, let go of when others need the room.
//!
//! An index is of all keys of a scope that begin alike: whoever reaches only some keys has an index
//! of those alone, so that not even how rare a word is tells of the others.
//!
//! The store's writer tells what changed ([`LoadedIndexes::changed`]) and must not wait for a
//! search, so a change is only noted there; whoever searches next applies what was noted. What is
//! noted from before the rows are read until the index is made is applied afterwards: applying a
//! change twice does nothing, and the number of a state never comes again, so an index is never
//! behind what was acknowledged.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{
    Change, ScopeId, Serial,
    index::{EmbeddingModel, IndexRow, ScopeIndex},
};

/// Changes of one index that are noted at most, and what they may take. With more it is let go of:
/// to make it again takes hardly longer.
const NOTED_MAX: usize = 16_384;
const NOTED_BYTES_MAX: usize = 1 << 20;
/// Indexes of one scope: each of its changes is noted for all of them.
const PREFIXES_MAX: usize = 16;
/// What an index takes beside what it says itself.
const OVERHEAD_BYTES: usize = 1024;
/// When there are too many, so many parts of the room are kept: to find the oldest takes a look at
/// all of them.
const KEPT_PARTS: (usize, usize) = (7, 8);

/// Which index: of a scope, the keys that begin like this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IndexName {
    /// The scope.
    pub scope: ScopeId,
    /// How keys begin.
    pub prefix: Box<str>,
}

/// Indexes by name.
#[derive(Debug)]
pub struct LoadedIndexes {
    all: Mutex<All>,
    /// What all of them may take. One that is larger by itself is alone.
    bytes_max: usize,
    /// What all of them take.
    bytes: Arc<AtomicUsize>,
    clock: AtomicU64,
}

#[derive(Debug, Default)]
struct All {
    by_name: HashMap<IndexName, Arc<Loaded>>,
    /// How keys begin in the indexes of a scope.
    prefixes: HashMap<ScopeId, Vec<Box<str>>>,
}

/// One of them.
#[derive(Debug)]
struct Loaded {
    prefix: Box<str>,
    /// `None` until it is made.
    index: RwLock<Option<ScopeIndex>>,
    noted: Mutex<AllNoted>,
    /// What it counts for in the total.
    bytes: AtomicUsize,
    total: Arc<AtomicUsize>,
    used: AtomicU64,
}

/// Changes that an index does not know yet.
#[derive(Debug, Default)]
struct AllNoted {
    changes: Vec<Noted>,
    bytes: usize,
}

#[derive(Debug, Clone)]
enum Noted {
    Put(Serial, Arc<[u8]>),
    Removed(Serial),
}

impl LoadedIndexes {
    /// Returns room for indexes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            all: Mutex::default(),
            bytes_max,
            bytes: Arc::default(),
            clock: AtomicU64::new(0),
        }
    }

    /// Notes what changed. Never waits for a search or for the disk.
    pub fn changed(&self, changes: &[Change]) {
        let mut all = lock(&self.all);
        if all.by_name.is_empty() {
            return;
        }
        for change in changes {
            let (scope, noted) = match change {
                Change::Indexed { scope, serial, row } => {
                    (*scope, Noted::Put(*serial, Arc::clone(row)))
                }
                Change::Removed { scope, serial } => (*scope, Noted::Removed(*serial)),
                Change::ScopeGone { scope } => {
                    all.forget_scope(*scope);
                    continue;
                }
                Change::Written { .. } => continue,
            };
            all.note(scope, &noted);
        }
        self.make_room(&mut all, None);
    }

    /// Lets go of all of them.
    pub fn clear(&self) {
        *lock(&self.all) = All::default();
    }

    /// Returns what all of them take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Asks an index, which `make` makes where it is not there, or is of another model.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn ask<T, E>(
        &self,
        name: &IndexName,
        model: Option<EmbeddingModel>,
        make: impl FnOnce() -> Result<ScopeIndex, E>,
        ask: impl FnOnce(&ScopeIndex) -> T,
    ) -> Result<T, E> {
        let loaded = lock(&self.all).get(name, &self.bytes);
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        loaded.used.store(now, Ordering::Relaxed);
        if let Err(error) = loaded.bring_up_to_date(model, make) {
            lock(&self.all).forget(name);
            return Err(error);
        }
        self.make_room(&mut lock(&self.all), Some(name));
        let index = read(&loaded.index);
        // It was made above, and nobody takes it back.
        let empty = ScopeIndex::new();
        Ok(ask(index.as_ref().unwrap_or(&empty)))
    }

    /// Lets go of what was not asked for longest, but for `kept`.
    fn make_room(&self, all: &mut All, kept: Option<&IndexName>) {
        if self.bytes() <= self.bytes_max {
            return;
        }
        let (parts, of) = KEPT_PARTS;
        let wanted = self.bytes_max / of * parts;
        let others = all.by_name.iter().filter(|(name, _)| Some(*name) != kept);
        let mut others: Vec<_> = others
            .map(|(name, one)| (one.used.load(Ordering::Relaxed), name.clone()))
            .collect();
        others.sort_unstable_by_key(|(used, _)| *used);
        for (_, name) in others {
            if self.bytes() <= wanted {
                return;
            }
            all.forget(&name);
        }
    }
}

impl All {
    fn get(&mut self, name: &IndexName, total: &Arc<AtomicUsize>) -> Arc<Loaded> {
        if let Some(loaded) = self.by_name.get(name) {
            return Arc::clone(loaded);
        }
        let prefixes = self.prefixes.entry(name.scope).or_default();
        prefixes.push(name.prefix.clone());
        if prefixes.len() > PREFIXES_MAX {
            let first = IndexName {
                scope: name.scope,
                prefix: prefixes[0].clone(),
            };
            self.forget(&first);
        }
        let loaded = Arc::new(Loaded::new(name.prefix.clone(), Arc::clone(total)));
        self.by_name.insert(name.clone(), Arc::clone(&loaded));
        loaded
    }

    fn note(&mut self, scope: ScopeId, noted: &Noted) {
        let Some(prefixes) = self.prefixes.get(&scope) else {
            return;
        };
        let names = prefixes.iter().map(|prefix| IndexName {
            scope,
            prefix: prefix.clone(),
        });
        for name in names.collect::<Vec<_>>() {
            let fits = self
                .by_name
                .get(&name)
                .is_none_or(|one| one.note(noted.clone()));
            if !fits {
                self.forget(&name);
            }
        }
    }

    fn forget(&mut self, name: &IndexName) {
        self.by_name.remove(name);
        if let Some(prefixes) = self.prefixes.get_mut(&name.scope) {
            prefixes.retain(|prefix| *prefix != name.prefix);
            if prefixes.is_empty() {
                self.prefixes.remove(&name.scope);
            }
        }
    }

    fn forget_scope(&mut self, scope: ScopeId) {
        for prefix in self.prefixes.remove(&scope).unwrap_or_default() {
            self.forget(&IndexName { scope, prefix });
        }
    }
}

impl Loaded {
    fn new(prefix: Box<str>, total: Arc<AtomicUsize>) -> Self {
        let loaded = Self {
            prefix,
            index: RwLock::default(),
            noted: Mutex::default(),
            bytes: AtomicUsize::new(0),
            total,
            used: AtomicU64::new(0),
        };
        loaded.count(OVERHEAD_BYTES);
        loaded
    }

    /// Notes a change, if there is room for it.
    fn note(&self, noted: Noted) -> bool {
        let bytes = size_of::<Noted>()
            + match &noted {
                Noted::Put(_, row) => row.len(),
                Noted::Removed(_) => 0,
            };
        let mut all = lock(&self.noted);
        all.bytes += bytes;
        all.changes.push(noted);
        self.count(self.bytes.load(Ordering::Relaxed) + bytes);
        all.changes.len() <= NOTED_MAX && all.bytes <= NOTED_BYTES_MAX
    }

    /// Says what it takes now.
    fn count(&self, bytes: usize) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        // The total may go round below nothing for a moment, and comes back.
        self.total
            .fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Makes the index where there is none, and applies what was noted.
    fn bring_up_to_date<E>(
        &self,
        model: Option<EmbeddingModel>,
        make: impl FnOnce() -> Result<ScopeIndex, E>,
    ) -> Result<(), E> {
        let is_made = read(&self.index)
            .as_ref()
            .is_some_and(|index| index.model() == model);
        if is_made && lock(&self.noted).changes.is_empty() {
            return Ok(());
        }
        let mut held = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|index| index.model() != model) {
            *held = None;
        }
        let index = match &mut *held {
            Some(index) => index,
            none => none.insert(make()?),
        };
        // Taken under the index's lock, so that nobody applies later changes first.
        for noted in std::mem::take(&mut *lock(&self.noted)).changes {
            match noted {
                Noted::Put(serial, row) => match IndexRow::from_bytes(&row) {
                    Ok(row) if row.key.starts_with(&*self.prefix) => index.insert(serial, &row),
                    Ok(_) => {}
                    // Made by this build a moment ago.
                    Err(error) => {
                        tracing::error!(%error, "a row of the search index is unreadable")
                    }
                },
                Noted::Removed(serial) => {
                    index.remove(serial);
                }
            }
        }
        self.count(index.bytes() + OVERHEAD_BYTES);
        Ok(())
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// A panic while it was held was a defect; what it guards is whole, since it only grows by pushes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
