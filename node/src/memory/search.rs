//! A search over scopes: each has an index of its own, and what they find becomes one order.

#[cfg(test)]
mod tests;

use super::{
    Entry, MemoryError, MemoryStore, ScopeId, Serial,
    index::{CodedVectors, EmbeddingModel, Hit, IndexRow, Query, ScopeIndex, SearchMode, join},
    loaded::{IndexName, LoadedIndexes},
};

/// Bytes of all values of an answer, where that is not a single one.
const ANSWER_BYTES_MAX: usize = 2 << 20;
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

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// The best first.
    pub found: Vec<Found>,
    /// Whether there was more than fits into an answer.
    pub is_cut: bool,
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
    ) -> Result<Results, MemoryError> {
        let query = Query {
            text: &self.text,
            vector: self.vector.as_deref(),
            mode: self.mode,
            tags: &self.tags,
            updated_after_ms: self.updated_after_ms,
            updated_before_ms: self.updated_before_ms,
            limit: self.limit,
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
            let name = IndexName {
                scope,
                prefix: self.prefix.as_str().into(),
            };
            let make = || make_index(store, model, &name);
            let search = |index: &ScopeIndex| index.search(&query, &mut fetch);
            let found = loaded.ask(&name, model, make, search)?;
            if let Some(error) = failure {
                return Err(error);
            }
            hits.extend(found.into_iter().map(|hit| (scope, hit)));
        }
        let hits = match scopes.len() {
            0 | 1 => hits,
            _ => join(hits, self.mode, self.limit),
        };
        self.entries(store, hits)
    }

    /// Reads the entries, as far as they are still what was found, and as many as fit into an
    /// answer.
    fn entries(
        &self,
        store: &MemoryStore,
        hits: Vec<(ScopeId, Hit)>,
    ) -> Result<Results, MemoryError> {
        let mut results = Results::default();
        let mut bytes = 0;
        for (scope, hit) in hits {
            let rows = store.index_rows_of(scope, &[hit.serial])?;
            let row = rows.into_iter().flatten().next();
            let Some(row) = row.and_then(|row| IndexRow::from_bytes(&row).ok()) else {
                continue;
            };
            let entry = store.entry_by_key(scope, &row.key, self.now_ms)?;
            // Written again since: as it is now it may not be what was looked for.
            let Some(entry) = entry.filter(|entry| entry.info.serial == hit.serial) else {
                continue;
            };
            bytes += entry.value.len();
            if bytes > ANSWER_BYTES_MAX && !results.found.is_empty() {
                results.is_cut = true;
                break;
            }
            results.found.push(Found { entry, hit });
        }
        Ok(results)
    }
}

/// Makes the index of a scope from its rows.
fn make_index(
    store: &MemoryStore,
    model: Option<EmbeddingModel>,
    IndexName { scope, prefix }: &IndexName,
) -> Result<ScopeIndex, MemoryError> {
    let mut index = model.map_or_else(ScopeIndex::new, ScopeIndex::for_model);
    let mut after = None;
    loop {
        let rows = store.index_rows(*scope, after, ROWS_READ)?;
        let Some((last, _)) = rows.last() else {
            return Ok(index);
        };
        after = Some(*last);
        for (serial, row) in &rows {
            match IndexRow::from_bytes(row) {
                Ok(row) if row.key.starts_with(&**prefix) => index.insert(*serial, &row),
                Ok(_) => {}
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
