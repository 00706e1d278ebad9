//! The one error type of the crate.
//!
//! Variants are named by what failed. Messages are lowercase, without a final period, and name the
//! remedy where there is one. A caller that maps errors to the outside matches on the variant,
//! never on the words.

use std::{path::PathBuf, time::Duration};

use crate::kv_cache::CacheFull;

/// The result of anything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a file on disk and generated text.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model file could not be opened, read or mapped.
    #[error("cannot read model file {}: {message}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        message: String,
    },
    /// A model file is truncated, forged, or outside this reader's limits.
    #[error("invalid GGUF: {message}")]
    InvalidGguf {
        /// What is wrong, and where.
        message: String,
    },
    /// A well-formed model file that this build cannot run.
    #[error("unsupported model: {message}")]
    UnsupportedModel {
        /// Which feature of the file is missing here.
        message: String,
    },
    /// No model is registered under that name.
    #[error("model {name:?} is not registered")]
    ModelNotFound {
        /// The name asked for.
        name: String,
    },
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt_tokens} tokens, the model's context holds {context_length}; \
         shorten it or choose a model with a longer context"
    )]
    PromptTooLong {
        /// Length of the prompt, in model tokens.
        prompt_tokens: usize,
        /// Length of the context, in model tokens.
        context_length: usize,
    },
    /// A field of the request is outside its bounds.
    #[error("{field}: {message}")]
    InvalidRequest {
        /// The field's name in [`GenerateRequest`](crate::GenerateRequest).
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// The chat template refused the messages (`raise_exception`), or failed.
    #[error("chat template: {message}")]
    ChatTemplate {
        /// The template's own words.
        message: String,
    },
    /// The queue of waiting requests is full.
    #[error("the inference queue is full; retry in {} s", retry_after.as_secs())]
    QueueFull {
        /// When a place should be free, from the measured rate.
        retry_after: Duration,
    },
    /// A pass needs more of the cache than there may be. The scheduler sees to it that nobody
    /// else does.
    #[error(transparent)]
    CacheFull(#[from] CacheFull),
    /// The answer would come after its deadline.
    #[error(
        "the answer is expected after {} s, and its deadline is sooner; allow more time, ask for \
         a shorter answer, or come back when less is going on",
        expected.as_secs_f32()
    )]
    DeadlineTooSoon {
        /// How long it would take, from the measured rate.
        expected: Duration,
    },
    /// The deadline passed before the answer was complete.
    #[error("the deadline passed before the answer was complete")]
    DeadlineExceeded,
    /// The model does not fit into the memory budget.
    #[error(
        "model {name:?} needs {needed_bytes} bytes, the memory budget is {budget_bytes}; \
         raise inference.memory_budget or choose a smaller model"
    )]
    OutOfMemory {
        /// The model's name.
        name: String,
        /// What loading it takes.
        needed_bytes: u64,
        /// What all loaded models may take together.
        budget_bytes: u64,
    },
    /// The model would fit into the memory budget, but the machine has not so much to give now.
    #[error(
        "model {name:?} needs {needed_bytes} bytes, this machine has {limit_bytes} for models now; \
         end what else takes memory, or ask again later"
    )]
    MachineMemoryShort {
        /// The model's name.
        name: String,
        /// What loading and running it takes.
        needed_bytes: u64,
        /// What all loaded models may take together at the moment.
        limit_bytes: u64,
    },
    /// The wanted backend is not in this build, or finds no device.
    #[error("backend {backend}: {message}")]
    BackendUnavailable {
        /// `cpu`, `vulkan`, …
        backend: String,
        /// Why, and how to get it.
        message: String,
    },
    /// The engine is stopping.
    #[error("the inference engine is shutting down")]
    ShuttingDown,
    /// A defect of this crate, caught before it could spread.
    #[error("internal inference error: {message}")]
    Internal {
        /// What broke.
        message: String,
    },
}
