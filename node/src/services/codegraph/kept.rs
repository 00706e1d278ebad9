//! Repositories that were put together, while there is room for them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::Loaded;
use crate::memory::ScopeKey;

/// Bytes that the repositories in memory may take.
pub(super) const KEPT_BYTES_MAX: usize = 384 << 20;
/// Repositories in memory.
pub(super) const KEPT_MAX: usize = 256;
/// What one takes that is empty: its tables, and its row among the others.
const KEPT_BYTES_EACH: usize = 4 << 10;

/// A scope, and how the keys within reach begin.
pub(super) type Name = (ScopeKey, String);

/// Repositories in memory, those of the last questions.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) repositories: HashMap<Name, (u64, Arc<Loaded>)>,
    /// Counts questions, so that the least recently asked about is known.
    clock: u64,
}

impl Kept {
    pub(super) fn get(&mut self, name: &Name, states: &[(String, u64)]) -> Option<Arc<Loaded>> {
        self.clock += 1;
        let (used, loaded) = self.repositories.get_mut(name)?;
        if loaded.states != states {
            self.repositories.remove(name);
            return None;
        }
        *used = self.clock;
        Some(Arc::clone(loaded))
    }

    pub(super) fn keep(&mut self, name: Name, loaded: Arc<Loaded>) {
        self.clock += 1;
        self.repositories.insert(name, (self.clock, loaded));
        self.trim();
    }

    /// Lets the least recently used go until the others fit. What one takes grows with the first
    /// question by words.
    pub(super) fn trim(&mut self) {
        while self.repositories.len() > 1
            && (self.repositories.len() > KEPT_MAX || self.bytes() > KEPT_BYTES_MAX)
        {
            let rows = self.repositories.iter();
            let oldest = rows.min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                return;
            };
            self.repositories.remove(&oldest);
        }
    }

    /// Lets those go whose scopes are not to stay.
    pub(super) fn retain(&mut self, stays: impl Fn(&ScopeKey) -> bool) {
        self.repositories.retain(|(scope, _), _| stays(scope));
    }

    pub(super) fn scopes(&self) -> HashSet<ScopeKey> {
        let names = self.repositories.keys();
        names.map(|(scope, _)| scope.clone()).collect()
    }

    fn bytes(&self) -> usize {
        let kept = self.repositories.values();
        let bytes = kept
            .map(|(_, loaded)| KEPT_BYTES_EACH + loaded.bytes + loaded.repository.index_bytes());
        bytes.sum()
    }
}
