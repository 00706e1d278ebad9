//! The embedding model as memory asks it.

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

impl MemoryEmbedding {
    fn vectors(
        &self,
        texts: &[String],
        urgency: Urgency,
    ) -> Result<Vec<Vec<f32>>, EmbeddingFailure> {
        let embedded = self.0.embed(texts, urgency);
        let embedded = embedded.map_err(|error| match error {
            Error::QueueFull { .. } => EmbeddingFailure::Busy,
            error => EmbeddingFailure::Failed(error.to_string()),
        })?;
        Ok(embedded.into_iter().map(|one| one.vector).collect())
    }
}

impl Embedding for MemoryEmbedding {
    fn model(&self) -> EmbeddingModel {
        EmbeddingModel {
            fingerprint: self.0.fingerprint(),
            dimensions: self.0.dimensions(),
        }
    }

    fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbeddingFailure> {
        self.vectors(&texts, Urgency::Bulk)
    }

    fn embed_query(&self, text: String) -> Result<Vec<f32>, EmbeddingFailure> {
        let vectors = self.vectors(&[text], Urgency::Query)?;
        let none = || EmbeddingFailure::Failed("it made no vector".into());
        vectors.into_iter().next().ok_or_else(none)
    }
}
