//! A search over scopes: each has an index of its own, and what they find becomes one order.

#[cfg(test)]
mod tests;

use super::{
    Entry, MemoryError, MemoryStore, ScopeId, Serial,
    index::{
        CodedVectors, EmbeddingModel, Hit, IndexRow, LIMIT_MAX, Query, ScopeIndex, SearchMode, join,
    },
    loaded::LoadedIndexes,
};

/// Rows that are read at once while an index is made.
const ROWS_READ: usize = 4096;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// In words.
    pub text: String,
    /// As a vector of the model that the index is of.
    pub vector: Option<Vec<f32>>,
    /// By what entries are found.
    pub mode: SearchMode,
    /// All of these tags must be there.
    pub tags: Vec<String>,
    /// How keys begin.
    pub prefix: String,
    /// Only what was written after this time, in milliseconds since 1970.
    pub updated_after_ms: Option<u64>,
    /// Only what was written before this time.
    pub updated_before_ms: Option<u64>,
    /// Most results.
    pub limit: usize,
    /// The present.
    pub now_ms: u64,
}

/// A result.
#[derive(Debug, Clone)]
pub struct Found {
    /// The entry as it is now.
    pub entry: Entry,
    /// How good it is, as [`Hit`] says.
    pub hit: Hit,
}

impl Search {
    /// Finds entries of some scopes, the best first. Blocks: an index may have to be made.
    ///
    /// # Errors
    /// The store's.
    pub fn run(
        &self,
        store: &MemoryStore,
        loaded: &LoadedIndexes,
        model: Option<EmbeddingModel>,
        scopes: &[ScopeId],
    ) -> Result<Vec<Found>, MemoryError> {
        // Which keys match is known only once they are read, so as many as there may be are found.
        let limit = match self.prefix.is_empty() {
            true => self.limit,
            false => LIMIT_MAX,
        };
        let query = Query {
            text: &self.text,
            vector: self.vector.as_deref(),
            mode: self.mode,
            tags: &self.tags,
            updated_after_ms: self.updated_after_ms,
            updated_before_ms: self.updated_before_ms,
            limit,
            now_ms: self.now_ms,
        };
        let mut hits = Vec::new();
        for &scope in scopes {
            let mut failure = None;
            let mut fetch = |serials: &[Serial]| match vectors(store, scope, serials) {
                Ok(vectors) => vectors,
                Err(error) => {
                    failure = Some(error);
                    vec![None; serials.len()]
                }
            };
            let make = || make_index(store, model, scope);
            let found = loaded.ask(scope, make, |index| index.search(&query, &mut fetch))?;
            if let Some(error) = failure {
                return Err(error);
            }
            hits.extend(found.into_iter().map(|hit| (scope, hit)));
        }
        let hits = match scopes.len() {
            0 | 1 => hits,
            _ => join(hits, self.mode, limit),
        };
        self.entries(store, hits)
    }

    /// Reads the entries, as far as they are still what was found.
    fn entries(
        &self,
        store: &MemoryStore,
        hits: Vec<(ScopeId, Hit)>,
    ) -> Result<Vec<Found>, MemoryError> {
        let mut found = Vec::new();
        for (scope, hit) in hits {
            if found.len() == self.limit {
                break;
            }
            let rows = store.index_rows_of(scope, &[hit.serial])?;
            let row = rows.into_iter().flatten().next();
            let Some(row) = row.and_then(|row| IndexRow::from_bytes(&row).ok()) else {
                continue;
            };
            if !row.key.starts_with(&self.prefix) {
                continue;
            }
            let entry = store.entry_by_key(scope, &row.key, self.now_ms)?;
            // Written again since: as it is now it may not be what was looked for.
            if let Some(entry) = entry.filter(|entry| entry.info.serial == hit.serial) {
                found.push(Found { entry, hit });
            }
        }
        Ok(found)
    }
}

/// Makes the index of a scope from its rows.
fn make_index(
    store: &MemoryStore,
    model: Option<EmbeddingModel>,
    scope: ScopeId,
) -> Result<ScopeIndex, MemoryError> {
    let mut index = model.map_or_else(ScopeIndex::new, ScopeIndex::for_model);
    let mut after = None;
    loop {
        let rows = store.index_rows(scope, after, ROWS_READ)?;
        let Some((last, _)) = rows.last() else {
            return Ok(index);
        };
        after = Some(*last);
        for (serial, row) in &rows {
            match IndexRow::from_bytes(row) {
                Ok(row) => index.insert(*serial, &row),
                Err(error) => tracing::warn!(?scope, ?serial, %error, "an entry is not found"),
            }
        }
    }
}

fn vectors(
    store: &MemoryStore,
    scope: ScopeId,
    serials: &[Serial],
) -> Result<Vec<Option<CodedVectors>>, MemoryError> {
    let rows = store.vectors(scope, serials)?;
    let coded = |row: Vec<u8>| CodedVectors::from_bytes(&row).ok();
    Ok(rows.into_iter().map(|row| row.and_then(coded)).collect())
}
