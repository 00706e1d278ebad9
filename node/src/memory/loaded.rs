//! The indexes of scopes that are in memory: made when a scope is first searched, kept up to date
//! while they are there, let go of when others need the room.
//!
//! The store's writer tells what changed ([`LoadedIndexes::changed`]) and must not wait for a
//! search, so a change is only noted there; whoever searches next applies what was noted. What is
//! noted from before the rows are read until the index is made is applied afterwards: applying a
//! change twice does nothing, and the number of a state never comes again, so an index is never
//! behind what was acknowledged.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{
    Change, ScopeId, Serial,
    index::{IndexRow, ScopeIndex},
};

/// Changes of one scope that are noted at most. With more the index is let go of: to make it again
/// takes hardly longer.
const NOTED_MAX: usize = 16_384;

/// Indexes by scope.
#[derive(Debug)]
pub struct LoadedIndexes {
    scopes: Mutex<HashMap<ScopeId, Arc<Loaded>>>,
    /// What all of them may take. One that is larger by itself is alone.
    bytes_max: usize,
    clock: AtomicU64,
}

/// One scope's.
#[derive(Debug, Default)]
struct Loaded {
    /// `None` until it is made.
    index: RwLock<Option<ScopeIndex>>,
    noted: Mutex<Vec<Noted>>,
    bytes: AtomicUsize,
    used: AtomicU64,
}

/// A change that the index does not know yet.
#[derive(Debug)]
enum Noted {
    Put(Serial, Arc<[u8]>),
    Removed(Serial),
}

impl LoadedIndexes {
    /// Returns room for indexes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            scopes: Mutex::default(),
            bytes_max,
            clock: AtomicU64::new(0),
        }
    }

    /// Notes what changed. Never waits for a search or for the disk.
    pub fn changed(&self, changes: &[Change]) {
        let mut scopes = lock(&self.scopes);
        if scopes.is_empty() {
            return;
        }
        for change in changes {
            let (scope, noted) = match change {
                Change::Indexed { scope, serial, row } => {
                    (scope, Noted::Put(*serial, Arc::clone(row)))
                }
                Change::Removed { scope, serial } => (scope, Noted::Removed(*serial)),
                Change::ScopeGone { scope } => {
                    scopes.remove(scope);
                    continue;
                }
                Change::Written { .. } => continue,
            };
            let Some(loaded) = scopes.get(scope) else {
                continue;
            };
            let mut all = lock(&loaded.noted);
            all.push(noted);
            if all.len() > NOTED_MAX {
                drop(all);
                scopes.remove(scope);
            }
        }
    }

    /// Lets go of all of them.
    pub fn clear(&self) {
        lock(&self.scopes).clear();
    }

    /// Returns what all of them take, in bytes.
    pub fn bytes(&self) -> usize {
        let scopes = lock(&self.scopes);
        let bytes = scopes.values().map(|one| one.bytes.load(Ordering::Relaxed));
        bytes.sum()
    }

    /// Asks a scope's index, which `make` makes where it is not there.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn ask<T, E>(
        &self,
        scope: ScopeId,
        make: impl FnOnce() -> Result<ScopeIndex, E>,
        ask: impl FnOnce(&ScopeIndex) -> T,
    ) -> Result<T, E> {
        let loaded = Arc::clone(lock(&self.scopes).entry(scope).or_default());
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        loaded.used.store(now, Ordering::Relaxed);
        if let Err(error) = loaded.bring_up_to_date(make) {
            lock(&self.scopes).remove(&scope);
            return Err(error);
        }
        self.make_room(scope);
        let index = read(&loaded.index);
        // It was made above, and nobody takes it back.
        let empty = ScopeIndex::new();
        Ok(ask(index.as_ref().unwrap_or(&empty)))
    }

    /// Lets go of what was not asked for longest, but for `kept`.
    fn make_room(&self, kept: ScopeId) {
        let mut scopes = lock(&self.scopes);
        let bytes = |one: &Arc<Loaded>| one.bytes.load(Ordering::Relaxed);
        let mut total: usize = scopes.values().map(bytes).sum();
        while total > self.bytes_max {
            let others = scopes.iter().filter(|(scope, _)| **scope != kept);
            let oldest = others.min_by_key(|(_, one)| one.used.load(Ordering::Relaxed));
            let Some(scope) = oldest.map(|(scope, _)| *scope) else {
                return;
            };
            total -= scopes.remove(&scope).as_ref().map_or(0, bytes);
        }
    }
}

impl Loaded {
    /// Makes the index where there is none, and applies what was noted.
    fn bring_up_to_date<E>(&self, make: impl FnOnce() -> Result<ScopeIndex, E>) -> Result<(), E> {
        if read(&self.index).is_some() && lock(&self.noted).is_empty() {
            return Ok(());
        }
        let mut held = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let index = match &mut *held {
            Some(index) => index,
            none => none.insert(make()?),
        };
        // Taken under the index's lock, so that nobody applies later changes first.
        for noted in std::mem::take(&mut *lock(&self.noted)) {
            match noted {
                Noted::Put(serial, row) => match IndexRow::from_bytes(&row) {
                    Ok(row) => index.insert(serial, &row),
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
        self.bytes.store(index.bytes(), Ordering::Relaxed);
        Ok(())
    }
}

/// A panic while it was held was a defect; what it guards is whole, since it only grows by pushes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
