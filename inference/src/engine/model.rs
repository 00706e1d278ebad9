//! The engine's view of models: something that begins sequences, and something that loads it.
//!
//! Behind the traits stands [`crate::model::Model`]; the engine's tests put a model there that
//! fails or blocks on demand.

use std::{fmt, sync::Arc};

use super::text_side::TextSide;
use crate::{
    backend::Backend, error::Result, generate::Sequence, gguf::Gguf, kv_cache::KvCache,
    logits::LogitRows, model::Model,
};

/// A loaded model.
pub(super) trait Decoder: Send + Sync + fmt::Debug {
    /// Returns an empty sequence.
    fn begin(&self) -> Box<dyn Sequence>;

    /// Memory of the weights.
    fn weight_bytes(&self) -> u64;
}

/// Reads weights. Called on a thread of its own, one call at a time.
pub(super) trait Loader: Send + Sync {
    fn load(&self, gguf: &Gguf) -> Result<Arc<dyn Decoder>>;
}

/// What is in memory for a model; clones share it.
#[derive(Debug, Clone)]
pub(super) struct LoadedParts {
    pub(super) decoder: Arc<dyn Decoder>,
    /// Held so that the vocabulary stays as long as the weights.
    pub(super) _text: Arc<TextSide>,
}

/// Loads models onto a backend.
pub(super) struct ModelLoader {
    pub(super) backend: Backend,
}

#[derive(Debug)]
struct SharedModel(Arc<Model>);

#[derive(Debug)]
struct ModelSequence {
    model: Arc<Model>,
    cache: KvCache,
}

impl Loader for ModelLoader {
    fn load(&self, gguf: &Gguf) -> Result<Arc<dyn Decoder>> {
        let model = Model::load(gguf, &self.backend)?;
        Ok(Arc::new(SharedModel(Arc::new(model))))
    }
}

impl Decoder for SharedModel {
    fn begin(&self) -> Box<dyn Sequence> {
        let model = Arc::clone(&self.0);
        let cache = model.new_cache();
        Box::new(ModelSequence { model, cache })
    }

    fn weight_bytes(&self) -> u64 {
        self.0.resident_bytes()
    }
}

impl Sequence for ModelSequence {
    fn extend(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.model.forward(ids, &mut self.cache)
    }

    fn extend_all(&mut self, ids: &[u32]) -> Result<LogitRows> {
        self.model.forward_all(ids, &mut self.cache)
    }

    fn forget_last(&mut self, count: usize) {
        self.cache.truncate(self.cache.len().saturating_sub(count));
    }

    fn fork(&self) -> Box<dyn Sequence> {
        Box::new(Self {
            model: Arc::clone(&self.model),
            cache: self.cache.clone(),
        })
    }
}
