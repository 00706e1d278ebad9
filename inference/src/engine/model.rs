//! The engine's view of models: something that sequences run on, and something that loads it.
//!
//! Behind the traits stands [`crate::model::Model`]; the engine's tests put a model there that
//! fails or blocks on demand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    sequences::{PageCounts, Sequences},
    text_side::TextSide,
};
use crate::{
    backend::Backend,
    error::{Error, Result},
    generate::{Decoder, Part, SequenceId},
    gguf::Gguf,
    kv_cache::{KvCache, PAGE_LEN, SequenceCache},
    logits::LogitRows,
    model::{Model, Span},
    ops::cpu::KeysValuesPage,
};

/// A loaded model that requests run on.
pub(super) trait LoadedDecoder: Decoder {
    /// Memory of the weights.
    fn weight_bytes(&self) -> u64;

    /// Memory of a page of the cache. Without pages, what as many positions take.
    fn page_bytes(&self) -> u64;

    /// Pages of the cache.
    fn page_counts(&self) -> PageCounts;

    /// Pages that nobody uses and that can be let go. Looks at each.
    fn evictable(&self) -> usize;

    /// Says how many pages there may be.
    fn set_pages_max(&mut self, pages_max: usize);

    /// Lets go of pages that nobody uses; returns how many those were.
    fn evict(&mut self, count: usize) -> usize;
}

/// Reads weights. Called on a thread of its own, one call at a time.
pub(super) trait Loader: Send + Sync {
    /// Reads a model. Where the engine `is_busy`, it is left as much of the processor as can be.
    fn load(&self, gguf: &Gguf, is_busy: bool) -> Result<Box<dyn LoadedDecoder>>;
}

/// What is in memory for a model; clones share it.
#[derive(Debug, Clone)]
pub(super) struct LoadedParts {
    decoder: Arc<Mutex<Box<dyn LoadedDecoder>>>,
    /// Held so that the vocabulary stays as long as the weights.
    _text: Arc<TextSide>,
}

/// Loads models onto a backend.
pub(super) struct ModelLoader {
    pub(super) backend: Backend,
}

/// A model and the sequences on it.
#[derive(Debug)]
struct ModelDecoder {
    model: Model,
    sequences: ModelSequences,
}

#[derive(Debug)]
enum ModelSequences {
    /// On the CPU.
    Paged(Sequences<KeysValuesPage>),
    /// On a GPU, where each sequence has a cache of its own.
    Plain {
        live: BTreeMap<SequenceId, KvCache>,
        last_id: u64,
    },
}

impl LoadedParts {
    pub(super) fn new(decoder: Box<dyn LoadedDecoder>, text: Arc<TextSide>) -> Self {
        Self {
            decoder: Arc::new(Mutex::new(decoder)),
            _text: text,
        }
    }

    /// The decoder. Only the engine's thread runs it, so nobody waits here for long.
    pub(super) fn decoder(&self) -> MutexGuard<'_, Box<dyn LoadedDecoder>> {
        self.decoder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loader for ModelLoader {
    fn load(&self, gguf: &Gguf, is_busy: bool) -> Result<Box<dyn LoadedDecoder>> {
        // Not with the team that runs passes: each would wait for the other.
        let threads = if is_busy { 1 } else { self.backend.threads() };
        let load = || Model::load_here(gguf, &self.backend);
        let model = self.backend.run_apart(threads, load)??;
        let sequences = match model.pages() {
            Some(pages) => ModelSequences::Paged(Sequences::new(pages.clone())),
            None => ModelSequences::Plain {
                live: BTreeMap::new(),
                last_id: 0,
            },
        };
        Ok(Box::new(ModelDecoder { model, sequences }))
    }
}

impl LoadedDecoder for ModelDecoder {
    fn weight_bytes(&self) -> u64 {
        self.model.resident_bytes()
    }

    fn page_bytes(&self) -> u64 {
        self.model.cache_bytes_per_position() * PAGE_LEN as u64
    }

    fn page_counts(&self) -> PageCounts {
        match &self.sequences {
            ModelSequences::Paged(sequences) => sequences.counts(),
            ModelSequences::Plain { live, .. } => PageCounts {
                existing: live.values().map(|of| of.len().div_ceil(PAGE_LEN)).sum(),
                max: usize::MAX,
                sequences: live.len(),
            },
        }
    }

    fn evictable(&self) -> usize {
        match &self.sequences {
            ModelSequences::Paged(sequences) => sequences.evictable(),
            ModelSequences::Plain { .. } => 0,
        }
    }

    fn set_pages_max(&mut self, pages_max: usize) {
        if let ModelSequences::Paged(sequences) = &mut self.sequences {
            sequences.set_pages_max(pages_max);
        }
    }

    fn evict(&mut self, count: usize) -> usize {
        match &mut self.sequences {
            ModelSequences::Paged(sequences) => sequences.evict(count),
            ModelSequences::Plain { .. } => 0,
        }
    }
}

impl Decoder for ModelDecoder {
    fn begin(&mut self) -> SequenceId {
        match &mut self.sequences {
            ModelSequences::Paged(sequences) => sequences.begin(),
            ModelSequences::Plain { live, last_id } => {
                *last_id += 1;
                live.insert(SequenceId(*last_id), self.model.new_cache());
                SequenceId(*last_id)
            }
        }
    }

    fn catch_up(&mut self, sequence: SequenceId, ids: &[u32]) -> usize {
        match &mut self.sequences {
            ModelSequences::Paged(sequences) => sequences.catch_up(sequence, ids),
            ModelSequences::Plain { live, .. } => live.get(&sequence).map_or(0, KvCache::len),
        }
    }

    fn fork(&mut self, sequence: SequenceId) -> SequenceId {
        match &mut self.sequences {
            ModelSequences::Paged(sequences) => sequences.fork(sequence),
            ModelSequences::Plain { live, last_id } => {
                let cache = live.get(&sequence).cloned();
                let cache = cache.unwrap_or_else(|| self.model.new_cache());
                *last_id += 1;
                live.insert(SequenceId(*last_id), cache);
                SequenceId(*last_id)
            }
        }
    }

    fn forget_last(&mut self, sequence: SequenceId, count: usize) {
        match &mut self.sequences {
            ModelSequences::Paged(sequences) => sequences.forget_last(sequence, count),
            ModelSequences::Plain { live, .. } => {
                if let Some(cache) = live.get_mut(&sequence) {
                    cache.truncate(cache.len().saturating_sub(count));
                }
            }
        }
    }

    fn remember(&mut self, sequence: SequenceId) {
        if let ModelSequences::Paged(sequences) = &mut self.sequences {
            sequences.remember(sequence);
        }
    }

    fn end(&mut self, sequence: SequenceId) {
        match &mut self.sequences {
            ModelSequences::Paged(sequences) => sequences.end(sequence),
            ModelSequences::Plain { live, .. } => {
                live.remove(&sequence);
            }
        }
    }

    fn extend(&mut self, parts: &[Part]) -> Result<LogitRows> {
        let model = &self.model;
        match &mut self.sequences {
            ModelSequences::Paged(sequences) => {
                let mut lent = sequences.lend(parts)?;
                let logits = forward(model, parts, &mut lent.tables)?;
                lent.done();
                Ok(logits)
            }
            ModelSequences::Plain { live, .. } => {
                let mut lent = LentCaches::new(live, parts);
                if lent.caches.len() < parts.len() {
                    return Err(Error::Internal {
                        message: "a sequence was lost when the device failed".into(),
                    });
                }
                let logits = forward(model, parts, &mut lent.caches)?;
                lent.is_done = true;
                Ok(logits)
            }
        }
    }
}

/// Caches that a pass has. They come back as they were where it failed; after a panic nobody knows
/// what they hold, and they are gone.
struct LentCaches<'a> {
    live: &'a mut BTreeMap<SequenceId, KvCache>,
    /// Which they are, and how long they were.
    before: Vec<(SequenceId, usize)>,
    caches: Vec<KvCache>,
    is_done: bool,
}

impl<'a> LentCaches<'a> {
    fn new(live: &'a mut BTreeMap<SequenceId, KvCache>, parts: &[Part]) -> Self {
        let found = parts
            .iter()
            .filter_map(|part| live.remove_entry(&part.sequence));
        let (before, caches) = found.map(|(id, cache)| ((id, cache.len()), cache)).unzip();
        Self {
            live,
            before,
            caches,
            is_done: false,
        }
    }
}

impl Drop for LentCaches<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for ((id, len), mut cache) in self.before.drain(..).zip(self.caches.drain(..)) {
            if !self.is_done {
                cache.truncate(len);
            }
            self.live.insert(id, cache);
        }
    }
}

fn forward(model: &Model, parts: &[Part], caches: &mut [impl SequenceCache]) -> Result<LogitRows> {
    let spans = parts.iter().zip(caches).map(|(part, cache)| Span {
        ids: &part.ids,
        cache,
        logits: part.logits,
    });
    model.forward_batch(&mut spans.collect::<Vec<_>>())
}
