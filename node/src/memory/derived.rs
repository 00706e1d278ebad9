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
    tables::{ENTRIES, INDEX, PENDING, VECTORS},
};
use crate::{accounts::StoreError, store_file::corrupt};

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
}

impl Edit<'_> {
    /// Stores what search made, of states that are still there, and returns how many were.
    pub(super) fn put_index(&mut self, puts: Vec<IndexPut>) -> Result<usize, redb::Error> {
        let mut count = 0;
        for put in puts {
            let state = (put.scope.0, put.serial.0);
            let pending = self.tables.pending.remove(put.serial.0)?;
            let pending = pending.map(|row| row.value().0);
            let is_current = match pending {
                Some(scope) => scope == put.scope.0,
                // Made again, of something that was known.
                None => self.tables.index.get(state)?.is_some(),
            };
            if !is_current {
                if pending.is_some() {
                    return Err(corrupt("a state was indexed in another's scope"));
                }
                continue;
            }
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

    /// Forgets all that search made, so that all of it is made again.
    pub(super) fn forget_index(&mut self) -> Result<(), redb::Error> {
        self.tables.index.retain(|_, _| false)?;
        self.tables.vectors.retain(|_, _| false)?;
        for row in self.tables.entries.iter()? {
            let (key, row) = row?;
            let (head, _) = HeadV1::read(row.value())?;
            self.tables.pending.insert(head.serial, key.value())?;
        }
        self.is_dirty = true;
        Ok(())
    }
}

impl MemoryFile {
    /// Returns entries that search does not know yet, after `after`, in the order of their writes.
    pub(super) fn pending(
        &self,
        after: Option<Serial>,
        count_max: usize,
    ) -> Result<Vec<Pending>, MemoryError> {
        let from = after.map_or(0, |Serial(serial)| serial.saturating_add(1));
        let pending = self.read(|tx| {
            let rows = tx.open_table(PENDING)?.range(from..)?.take(count_max);
            rows.map(|row| {
                let (serial, place) = row?;
                let (scope, key) = place.value();
                Ok(Pending {
                    serial: Serial(serial.value()),
                    scope: ScopeId(scope),
                    key: key.to_owned(),
                })
            })
            .collect()
        });
        Ok(pending?)
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

    /// Returns how many entries search does not know yet, and how many it knows.
    pub(super) fn index_counts(&self) -> Result<(u64, u64), MemoryError> {
        use redb::ReadableTableMetadata;
        let counts = self.read(|tx| {
            let pending = tx.open_table(PENDING)?.len()?;
            Ok((pending, tx.open_table(INDEX)?.len()?))
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
                let (serial, place) = row?;
                if !states.contains(&(place.value().0, serial.value())) {
                    return Err(corrupt("an entry waits for search that is not there"));
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
