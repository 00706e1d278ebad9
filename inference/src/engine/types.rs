//! What the engine is told and what it tells: plain data.

use std::{path::PathBuf, time::Duration};

use super::waits::Waits;
use crate::request::GenerationEvent;

/// Where a request's events go. Called on the engine's thread: it must not block. Returning
/// [`Flow::Cancel`] ends the request before its next token.
pub type EventSink = Box<dyn FnMut(GenerationEvent) -> Flow + Send>;

/// Whether the receiver still wants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// The receiver is gone; free the slot.
    Cancel,
}

/// Which device runs the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// A GPU with room where the build has one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, or an error.
    Gpu,
}

/// Whether what comes next is drafted from what was said before. The text is the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculation {
    /// Where it saves time: on the CPU, for as long as drafts turn out right.
    #[default]
    Auto,
    /// Never: one model token at a time.
    Off,
}

/// Limits and choices of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Which device.
    pub backend: BackendChoice,
    /// Compute threads; 0 takes the number of cores.
    pub threads: usize,
    /// Requests that run at once.
    pub running_max: usize,
    /// Requests that wait behind them.
    pub queue_len_max: usize,
    /// What loaded models may take together, in bytes.
    pub memory_budget_bytes: u64,
    /// A model unused for this long is unloaded.
    pub idle_unload: Duration,
    /// Upper bound on the context, in model tokens; the model's own may be shorter.
    pub context_length_max: usize,
    /// Whether to draft.
    pub speculation: Speculation,
}

/// What a model file says of itself; read without loading its weights.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Name it is registered under.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The file's size in bytes.
    pub size_bytes: u64,
    /// `llama`, `qwen2`.
    pub architecture: String,
    /// `general.name` of the file, if any.
    pub title: Option<String>,
    /// Number of weights.
    pub parameters: u64,
    /// The prevailing tensor type: `Q4_1`.
    pub quantization: String,
    /// Context in model tokens: the model's own, capped by the engine's.
    pub context_length: usize,
    /// Width of the residual stream.
    pub embedding_length: usize,
    /// The file's chat template, if any.
    pub chat_template: Option<String>,
}

/// A model that is in memory.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    /// Its name.
    pub name: String,
    /// Memory that it takes, caches included, in bytes.
    pub resident_bytes: u64,
    /// Of these, on a GPU.
    pub gpu_bytes: u64,
    /// When it will be unloaded if nobody asks for it.
    pub unloads_in: Duration,
    /// Requests running on it.
    pub running: usize,
    /// Its cache.
    pub cache: CacheCounts,
}

/// What a model's cache holds, in pages of [`PAGE_LEN`](crate::kv_cache::PAGE_LEN) positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Pages in memory.
    pub pages: usize,
    /// Of these, those that no request uses, kept for one that begins alike.
    pub pages_idle: usize,
    /// Pages that there is room for.
    pub pages_max: usize,
    /// Memory of a page, in bytes.
    pub page_bytes: u64,
}

/// The engine's state at one moment.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// The device in words, and why it was chosen: `cpu (2 threads, avx2)`.
    pub backend: String,
    /// Running requests.
    pub running: usize,
    /// Waiting requests.
    pub queued: usize,
    /// Models in memory.
    pub loaded: Vec<LoadedModel>,
    /// What models may take together now: the budget, or less where the machine is short of memory.
    pub memory_limit_bytes: u64,
    /// How long requests waited before they began.
    pub waits: Vec<Waits>,
    /// Passes over a model since the start.
    pub passes_total: u64,
    /// Rows in them: positions evaluated, drafts included.
    pub rows_total: u64,
    /// Time in them.
    pub pass_time_total: Duration,
    /// Prompt tokens evaluated since the start.
    pub prompt_tokens_total: u64,
    /// Those of them that needed no evaluation, because others had begun alike.
    pub cached_tokens_total: u64,
    /// Requests that gave back what was evaluated, because memory was short, and went on later.
    pub suspended_total: u64,
    /// Tokens generated since the start.
    pub completion_tokens_total: u64,
    /// Drafted model tokens that were evaluated on the chance that they come.
    pub drafted_tokens_total: u64,
    /// Those of them that came.
    pub accepted_tokens_total: u64,
    /// Requests refused because the queue was full.
    pub refused_total: u64,
    /// Requests that ended because their receiver had gone.
    pub cancelled_total: u64,
}
