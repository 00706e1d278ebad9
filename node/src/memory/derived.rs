//! What search makes of entries: rows and vectors in its own form, and what it has yet to do.
//!
//! The store does not read them. It keeps each beside the state of the entry that it was made of,
//! lets it go with that state, and takes none for a state that is no more.

use std::sync::Arc;

use redb::ReadableTable;

use super::{
    Change, MemoryError, ScopeId, Serial,
    edit::Edit,
    file::MemoryFile,
    records::HeadV1,
    tables::{AWAITING, ENTRIES, INDEX, PENDING, VECTORS, Written},
};
use crate::{accounts::StoreError, store_file::corrupt};

/// Counters of what search made: by which version of it, and with which model.
mod counter {
    pub(super) const VERSION: &str = "index_version";
    pub(super) const MODEL: &str = "index_model";
}

/// An entry that search does not know yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The number of its state.
    pub serial: Serial,
    /// Where it is.
    pub scope: ScopeId,
    /// Its key.
    pub key: String,
}

/// What search has made of a state of an entry.
#[derive(Debug, Clone)]
pub struct IndexPut {
    /// Where the entry is.
    pub scope: ScopeId,
    /// The number of the state.
    pub serial: Serial,
    /// The row.
    pub row: Arc<[u8]>,
    /// The vectors, where there are any.
    pub vectors: Option<Vec<u8>>,
    /// Whether vectors are still to come.
    pub awaits_vectors: bool,
}

/// How much of a scope search does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unindexed {
    /// Entries that it does not know at all.
    pub words: usize,
    /// Entries of which it does not know the meaning, those among them.
    pub meaning: usize,
}

impl Edit<'_> {
    /// Stores what search made, of states that are still there, and returns how many were.
    pub(super) fn put_index(&mut self, puts: Vec<IndexPut>) -> Result<usize, redb::Error> {
        let mut count = 0;
        for put in puts {
            let state = (put.scope.0, put.serial.0);
            let is_new = self.tables.pending.remove(state)?.is_some();
            // Else it is made again, of something that is known, or gone.
            if !is_new && self.tables.index.get(state)?.is_none() {
                continue;
            }
            match put.awaits_vectors {
                true => self.tables.awaiting.insert(state, ())?,
                false => self.tables.awaiting.remove(state)?,
            };
            self.tables.index.insert(state, &put.row[..])?;
            match &put.vectors {
                Some(vectors) => self.tables.vectors.insert(state, &vectors[..])?,
                None => self.tables.vectors.remove(state)?,
            };
            self.changes.push(Change::Indexed {
                scope: put.scope,
                serial: put.serial,
                row: put.row,
            });
            self.is_dirty = true;
            count += 1;
        }
        Ok(count)
    }

    /// Has everything made again that another version of search made, and all vectors that another
    /// model made. Without a model there is none to be other than.
    pub(super) fn expect_index(
        &mut self,
        version: u64,
        model: Option<u64>,
    ) -> Result<(), redb::Error> {
        let counter = |name| -> Result<Option<u64>, redb::Error> {
            Ok(self.tables.counters.get(name)?.map(|row| row.value()))
        };
        let (made_by, made_with) = (counter(counter::VERSION)?, counter(counter::MODEL)?);
        if made_by != Some(version) {
            self.forget_index()?;
            self.tables.counters.insert(counter::VERSION, version)?;
            self.is_dirty = true;
        }
        if let Some(model) = model.filter(|model| made_with != Some(*model)) {
            for row in self.tables.index.iter()? {
                self.tables.awaiting.insert(row?.0.value(), ())?;
            }
            self.tables.counters.insert(counter::MODEL, model)?;
            self.is_dirty = true;
        }
        Ok(())
    }

    /// Forgets all that search made, so that all of it is made again.
    fn forget_index(&mut self) -> Result<(), redb::Error> {
        self.tables.index.retain(|_, _| false)?;
        self.tables.vectors.retain(|_, _| false)?;
        self.tables.awaiting.retain(|_, _| false)?;
        for row in self.tables.entries.iter()? {
            let (place, row) = row?;
            let (scope, key) = place.value();
            let (head, _) = HeadV1::read(row.value())?;
            self.tables.pending.insert((scope, head.serial), key)?;
        }
        Ok(())
    }
}

impl MemoryFile {
    /// Returns entries that search does not know yet, after `after`, by scope and then as written.
    pub(super) fn pending(
        &self,
        after: Option<(ScopeId, Serial)>,
        count_max: usize,
    ) -> Result<Vec<Pending>, MemoryError> {
        let pending = self.read(|tx| {
            let rows = tx
                .open_table(PENDING)?
                .range(behind(after)..)?
                .take(count_max);
            rows.map(|row| {
                let (state, key) = row?;
                let (scope, serial) = state.value();
                Ok(Pending {
                    serial: Serial(serial),
                    scope: ScopeId(scope),
                    key: key.value().to_owned(),
                })
            })
            .collect()
        });
        Ok(pending?)
    }

    /// Returns states that wait for vectors, after `after` and up to `last`, in that order.
    pub(super) fn awaiting(
        &self,
        after: Option<(ScopeId, Serial)>,
        last: Option<ScopeId>,
        count_max: usize,
    ) -> Result<Vec<(ScopeId, Serial)>, MemoryError> {
        let last = last.map_or(u64::MAX, |ScopeId(scope)| scope);
        let awaiting = self.read(|tx| {
            let table = tx.open_table(AWAITING)?;
            let rows = table.range(behind(after)..=(last, u64::MAX))?;
            rows.take(count_max)
                .map(|row| {
                    let (scope, serial) = row?.0.value();
                    Ok((ScopeId(scope), Serial(serial)))
                })
                .collect()
        });
        Ok(awaiting?)
    }

    /// Counts what search does not know of a scope's states up to `last`, each up to a limit.
    pub(super) fn unindexed(
        &self,
        ScopeId(scope): ScopeId,
        Serial(last): Serial,
        count_max: usize,
    ) -> Result<Unindexed, MemoryError> {
        let states = (scope, 0)..=(scope, last);
        let counted = self.read(|tx| {
            let words = tx.open_table(PENDING)?.range(states.clone())?;
            let words = words.take(count_max).count();
            let awaiting = tx.open_table(AWAITING)?.range(states.clone())?;
            let meaning = words + awaiting.take(count_max).count();
            Ok(Unindexed { words, meaning })
        });
        Ok(counted?)
    }

    /// Returns the rows of a scope, after `after`.
    pub(super) fn index_rows(
        &self,
        ScopeId(scope): ScopeId,
        after: Option<Serial>,
        count_max: usize,
    ) -> Result<Vec<(Serial, Vec<u8>)>, MemoryError> {
        let from = after.map_or(0, |Serial(serial)| serial.saturating_add(1));
        let rows = self.read(|tx| {
            let table = tx.open_table(INDEX)?;
            let rows = table.range((scope, from)..=(scope, u64::MAX))?;
            rows.take(count_max)
                .map(|row| {
                    let (state, row) = row?;
                    Ok((Serial(state.value().1), row.value().to_vec()))
                })
                .collect()
        });
        Ok(rows?)
    }

    /// Returns the rows of some states of a scope, where they are known.
    pub(super) fn index_rows_of(
        &self,
        scope: ScopeId,
        serials: &[Serial],
    ) -> Result<Vec<Option<Vec<u8>>>, MemoryError> {
        let rows = self.read(|tx| states(&tx.open_table(INDEX)?, scope, serials));
        Ok(rows?)
    }

    /// Returns the vectors of some states of a scope, where there are any.
    pub(super) fn vectors(
        &self,
        scope: ScopeId,
        serials: &[Serial],
    ) -> Result<Vec<Option<Vec<u8>>>, MemoryError> {
        let rows = self.read(|tx| states(&tx.open_table(VECTORS)?, scope, serials));
        Ok(rows?)
    }

    /// Returns how many entries search does not know yet, or without their meaning, and of how many
    /// it knows at least the words.
    pub(super) fn index_counts(&self) -> Result<(u64, u64), MemoryError> {
        use redb::ReadableTableMetadata;
        let counts = self.read(|tx| {
            let pending = tx.open_table(PENDING)?.len()?;
            let awaiting = tx.open_table(AWAITING)?.len()?;
            Ok((pending + awaiting, tx.open_table(INDEX)?.len()?))
        });
        Ok(counts?)
    }

    /// Verifies that what is derived belongs to entries that are there.
    pub(super) fn check_derived(&self) -> Result<(), StoreError> {
        self.read(|tx| {
            let entries = tx.open_table(ENTRIES)?;
            let mut states = std::collections::HashSet::new();
            for row in entries.iter()? {
                let (key, row) = row?;
                states.insert((key.value().0, HeadV1::read(row.value())?.0.serial));
            }
            for row in tx.open_table(PENDING)?.iter()? {
                if !states.contains(&row?.0.value()) {
                    return Err(corrupt("an entry waits for search that is not there"));
                }
            }
            for row in tx.open_table(AWAITING)?.iter()? {
                if !states.contains(&row?.0.value()) {
                    return Err(corrupt("an entry waits for vectors that is not there"));
                }
            }
            for table in [tx.open_table(INDEX)?, tx.open_table(VECTORS)?] {
                for row in table.iter()? {
                    if !states.contains(&row?.0.value()) {
                        return Err(corrupt("search knows an entry that is not there"));
                    }
                }
            }
            Ok(())
        })
    }
}

/// Returns the first state after one.
fn behind(after: Option<(ScopeId, Serial)>) -> Written {
    let next = |(ScopeId(scope), Serial(serial))| match u64::checked_add(serial, 1) {
        Some(serial) => (scope, serial),
        None => (scope.saturating_add(1), 0),
    };
    after.map_or((0, 0), next)
}

fn states(
    table: &impl ReadableTable<(u64, u64), &'static [u8]>,
    ScopeId(scope): ScopeId,
    serials: &[Serial],
) -> Result<Vec<Option<Vec<u8>>>, redb::Error> {
    let rows = serials.iter().map(|Serial(serial)| {
        let row = table.get((scope, *serial))?;
        Ok(row.map(|row| row.value().to_vec()))
    });
    rows.collect()
}
