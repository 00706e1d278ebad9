//! The embedding model as memory asks it.

use std::time::Duration;

use aither_inference::{
    Error,
    embedding::{Embedder, Urgency},
};

use crate::memory::{
    index::EmbeddingModel,
    indexer::{Embedding, EmbeddingFailure},
};

/// An embedder that memory shares with whoever else asks it.
#[derive(Debug, Clone)]
pub struct MemoryEmbedding(pub Embedder);

/// How long a search waits for its question's vector: milliseconds, but for what is before it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Embedding for MemoryEmbedding {
    fn model(&self) -> EmbeddingModel {
        EmbeddingModel {
            fingerprint: self.0.fingerprint(),
            dimensions: self.0.dimensions(),
        }
    }

    fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbeddingFailure> {
        let embedded = self.0.embed(&texts, Urgency::Bulk).map_err(failure)?;
        Ok(embedded.into_iter().map(|one| one.vector).collect())
    }

    fn embed_query(&self, text: String) -> Result<Vec<f32>, EmbeddingFailure> {
        let embedded = self.0.embed_within(&[text], Urgency::Query, PATIENCE);
        let embedded = embedded.map_err(failure)?.into_iter().next();
        let none = || EmbeddingFailure::Failed("it made no vector".into());
        Ok(embedded.ok_or_else(none)?.vector)
    }
}

fn failure(error: Error) -> EmbeddingFailure {
    match error {
        Error::QueueFull { .. } | Error::DeadlineExceeded => EmbeddingFailure::Busy,
        error => EmbeddingFailure::Failed(error.to_string()),
    }
}
