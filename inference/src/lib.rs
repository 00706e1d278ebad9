//! LLM inference on burn: GGUF files in, text out.
//!
//! Reading order: a file is opened ([`gguf`]), its text side becomes a [`tokenizer`] and a
//! [`chat_template`], its tensors a [`model`] assembled from burn modules whose heavy operations
//! go through one backend extension trait ([`ops`]). [`generate`] turns logits into text and the
//! [`engine`] shares loaded models between requests.
//!
//! The crate knows nothing of HTTP, peers or money, and reads no clock but for durations.

pub mod error;
pub mod request;

pub mod dequantize;
pub mod gguf;

pub mod chat_template;
pub mod tokenizer;

pub mod backend;
pub mod kv_cache;
pub mod layers;
pub mod logits;
pub mod model;
pub mod ops;

pub mod sampler;

pub mod generate;

pub mod engine;

pub mod embedding;

pub use chat_template::ChatTemplate;
pub use embedding::{Embedder, EmbedderConfig, Embedding};
pub use engine::{CancelFlag, Engine, EngineConfig, EngineStatus, LoadedModel, ModelInfo};
pub use error::{Error, Result};
pub use request::{
    ChatMessage, FinishReason, GenerateRequest, GenerationEvent, GenerationStats, Prompt,
    SamplingParams, TokenLogprob,
};
pub use tokenizer::{TextStream, Tokenizer};
