//! What happens behind a write: its words are indexed, then its meaning.
//!
//! Both are done in batches, of what the store says is still to do, so nothing is lost when the
//! process dies in between, and a write never waits for a model. Words go first: they take
//! microseconds, and make an entry findable at once. [`Indexer::step`] does one batch; who calls it
//! decides when.

use std::{fmt, sync::Arc};

use super::{
    IndexPut, MemoryError, MemoryStore, Pending, ScopeId, Serial,
    index::{
        CodedVectors, EmbeddingModel, INDEX_VERSION, IndexRow, SignVector, Terms, pieces,
        searchable_text,
    },
};

/// Entries whose words are indexed in one batch.
const WORDS_BATCH: usize = 1024;
/// Entries whose meaning is indexed in one batch: a second's work at most, and enough for a model
/// to have texts of like length together.
const MEANING_BATCH: usize = 64;
/// After so many batches meaning comes before words once.
const WORDS_TURNS: usize = 8;
/// Bytes of values that are held for a batch.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What turns texts into vectors.
pub trait Embedding: fmt::Debug + Send + Sync {
    /// Which model it is.
    fn model(&self) -> EmbeddingModel;

    /// Returns a normalised vector for each text. Blocks.
    ///
    /// # Errors
    /// Why it cannot, in words.
    fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbeddingFailure>;

    /// Returns the vector of a text that somebody waits for. Blocks.
    ///
    /// # Errors
    /// Why it cannot, in words.
    fn embed_query(&self, text: String) -> Result<Vec<f32>, EmbeddingFailure>;
}

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingFailure {
    /// Too much waits for the model.
    #[error("too much waits for the embedding model; try again in a moment")]
    Busy,
    /// The model failed, in words.
    #[error("{0}")]
    Failed(String),
}

/// Why a batch was not indexed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum IndexerError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] MemoryError),
    /// The model failed.
    #[error("the embedding model failed: {0}")]
    Model(#[from] EmbeddingFailure),
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many entries are found by their words now.
    Words(usize),
    /// So many entries are found by their meaning now.
    Meaning(usize),
    /// There is nothing to do.
    Idle,
}

/// Indexes what was written.
#[derive(Debug)]
pub struct Indexer {
    store: MemoryStore,
    embedding: Option<Arc<dyn Embedding>>,
    /// Where in the order of scopes the last batch of each kind ended, so that a scope in which
    /// much is written does not keep others waiting.
    words_end: Option<(ScopeId, Serial)>,
    meaning_end: Option<(ScopeId, Serial)>,
    turn: usize,
}

impl Indexer {
    /// Makes one, and has everything indexed again that an earlier version, or another model, made.
    ///
    /// # Errors
    /// The store's.
    pub fn new(
        store: MemoryStore,
        embedding: Option<Arc<dyn Embedding>>,
        now_ms: u64,
    ) -> Result<Self, MemoryError> {
        let model = embedding.as_ref().map(|embedding| embedding.model());
        let fingerprint = model.map(|model| model.fingerprint);
        store.expect_index(u64::from(INDEX_VERSION), fingerprint, now_ms)?;
        Ok(Self {
            store,
            embedding,
            words_end: None,
            meaning_end: None,
            turn: 0,
        })
    }

    /// Indexes one batch. `urgent` are scopes that somebody waits for.
    ///
    /// # Errors
    /// Nothing of the batch was indexed, and it is still to do.
    pub fn step(&mut self, urgent: &[ScopeId], now_ms: u64) -> Result<Step, IndexerError> {
        self.turn = self.turn.wrapping_add(1);
        // Now and then meaning goes first, so that it comes at all while much is written.
        let orders = match self.turn % WORDS_TURNS {
            0 => [Self::meaning_step, Self::words_step],
            _ => [Self::words_step, Self::meaning_step],
        };
        for step in orders {
            if let Some(step) = step(self, urgent, now_ms)? {
                return Ok(step);
            }
        }
        Ok(Step::Idle)
    }

    fn words_step(
        &mut self,
        urgent: &[ScopeId],
        now_ms: u64,
    ) -> Result<Option<Step>, IndexerError> {
        let words = self.words(urgent, now_ms)?;
        Ok((words > 0).then_some(Step::Words(words)))
    }

    fn meaning_step(
        &mut self,
        urgent: &[ScopeId],
        now_ms: u64,
    ) -> Result<Option<Step>, IndexerError> {
        let Some(embedding) = self.embedding.clone() else {
            return Ok(None);
        };
        let batch = self.awaiting(urgent)?;
        if batch.is_empty() {
            return Ok(None);
        }
        self.meaning(&*embedding, &batch, now_ms)?;
        Ok(Some(Step::Meaning(batch.len())))
    }

    /// Returns the scopes that somebody waits for, beginning with another one each time.
    fn in_turn<'a>(&self, urgent: &'a [ScopeId]) -> impl Iterator<Item = ScopeId> + use<'a> {
        let first = self.turn % urgent.len().max(1);
        let (before, after) = urgent.split_at(first);
        after.iter().chain(before).copied()
    }

    /// Returns what is to be indexed by its words next: of urgent scopes, else of scopes in turn.
    fn pending(&mut self, urgent: &[ScopeId]) -> Result<Vec<Pending>, MemoryError> {
        for scope in self.in_turn(urgent) {
            let first = Some((scope, Serial(0)));
            let mut pending = self.store.pending(first, WORDS_BATCH)?;
            pending.retain(|pending| pending.scope == scope);
            if !pending.is_empty() {
                return Ok(pending);
            }
        }
        let mut pending = self.store.pending(self.words_end, WORDS_BATCH)?;
        if pending.is_empty() && self.words_end.is_some() {
            pending = self.store.pending(None, WORDS_BATCH)?;
        }
        let ends = |pending: &Pending| (pending.scope, pending.serial);
        self.words_end = next_end(pending.first().map(ends), pending.last().map(ends));
        Ok(pending)
    }

    fn words(&mut self, urgent: &[ScopeId], now_ms: u64) -> Result<usize, IndexerError> {
        let pending = self.pending(urgent)?;
        let mut puts = Vec::with_capacity(pending.len());
        let mut bytes = 0;
        for Pending { scope, serial, key } in pending {
            // As of the beginning of time, when nothing had expired yet: what has is swept soon.
            let entry = self.store.entry_by_key(scope, &key, 0)?;
            let Some(entry) = entry.filter(|entry| entry.info.serial == serial) else {
                continue;
            };
            bytes += entry.value.len();
            let row = IndexRow {
                terms: Terms::of(&text_of(&key, &entry.value)),
                key,
                updated_at_ms: entry.info.updated_ms,
                expires_at_ms: entry.info.expires_ms,
                tags: entry.info.tags,
                signs: Vec::new(),
                model: None,
            };
            puts.push(IndexPut {
                scope,
                serial,
                row: row.to_bytes().into(),
                vectors: None,
                awaits_vectors: true,
            });
            if bytes > BATCH_BYTES_MAX {
                break;
            }
        }
        let count = puts.len();
        if count > 0 {
            self.store.put_index(puts, now_ms)?;
        }
        Ok(count)
    }

    /// Returns what is to be embedded next: of urgent scopes, else of the scopes in turn.
    fn awaiting(&mut self, urgent: &[ScopeId]) -> Result<Vec<(ScopeId, Serial)>, MemoryError> {
        for scope in self.in_turn(urgent) {
            let first = Some((scope, Serial(0)));
            let batch = self.store.awaiting(first, Some(scope), MEANING_BATCH)?;
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
        let mut batch = self.store.awaiting(self.meaning_end, None, MEANING_BATCH)?;
        if batch.is_empty() && self.meaning_end.is_some() {
            batch = self.store.awaiting(None, None, MEANING_BATCH)?;
        }
        self.meaning_end = next_end(batch.first().copied(), batch.last().copied());
        Ok(batch)
    }

    fn meaning(
        &self,
        embedding: &dyn Embedding,
        batch: &[(ScopeId, Serial)],
        now_ms: u64,
    ) -> Result<(), IndexerError> {
        let mut rows = Vec::with_capacity(batch.len());
        let mut texts = Vec::new();
        for &(scope, serial) in batch {
            let Some(row) = self.row(scope, serial)? else {
                continue;
            };
            let entry = self.store.entry_by_key(scope, &row.key, 0)?;
            let entry = entry.filter(|entry| entry.info.serial == serial);
            let text = entry.map_or_else(String::new, |entry| text_of(&row.key, &entry.value));
            let begin = texts.len();
            texts.extend(pieces(&text).into_iter().map(str::to_owned));
            rows.push((scope, serial, row, begin..texts.len()));
        }
        let vectors = match texts.is_empty() {
            true => Vec::new(),
            false => embedding.embed(texts)?,
        };
        let puts = rows.into_iter().map(|(scope, serial, mut row, pieces)| {
            let vectors = vectors.get(pieces).unwrap_or_default();
            row.signs = vectors
                .iter()
                .map(|vector| SignVector::of(vector))
                .collect();
            row.model = Some(embedding.model().fingerprint);
            IndexPut {
                scope,
                serial,
                row: row.to_bytes().into(),
                vectors: Some(CodedVectors::of(vectors).to_bytes()),
                awaits_vectors: false,
            }
        });
        self.store.put_index(puts.collect(), now_ms)?;
        Ok(())
    }

    fn row(&self, scope: ScopeId, serial: Serial) -> Result<Option<IndexRow>, MemoryError> {
        let rows = self.store.index_rows_of(scope, &[serial])?;
        let row = rows.into_iter().flatten().next();
        Ok(row.and_then(|row| IndexRow::from_bytes(&row).ok()))
    }
}

/// Returns behind what the next batch begins: a scope that filled all of this one may have many
/// more, and the others come first.
fn next_end(
    first: Option<(ScopeId, Serial)>,
    last: Option<(ScopeId, Serial)>,
) -> Option<(ScopeId, Serial)> {
    match (first, last) {
        (Some((first, _)), Some((last, _))) if first == last => Some((last, Serial(u64::MAX))),
        (_, last) => last,
    }
}

/// Returns what of an entry is searched.
fn text_of(key: &str, value: &str) -> String {
    // What the store holds is JSON; should it not be, the key is still found.
    let value = serde_json::from_str(value).unwrap_or_default();
    searchable_text(key, &value)
}
