//! The engine: loaded models, shared by all requests.
//!
//! An [`Engine`] is a cheap handle. Behind it one thread owns the models' state and steps every
//! running request; files are loaded beside it. Admission is synchronous: a request is refused at
//! once or reports through its sink.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    error::Result,
    request::{GenerateRequest, GenerationEvent},
};

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
    /// Prompt tokens evaluated since the start.
    pub prompt_tokens_total: u64,
    /// Tokens generated since the start.
    pub completion_tokens_total: u64,
    /// Requests refused because the queue was full.
    pub refused_total: u64,
    /// Requests that ended because their receiver had gone.
    pub cancelled_total: u64,
}

/// A handle on the engine; clones share it. The last one dropped stops it.
#[derive(Debug, Clone)]
pub struct Engine {
    _shared: Arc<()>,
}

impl Engine {
    /// Chooses the device and starts the engine's thread. No model is loaded yet.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`](crate::Error::BackendUnavailable) when `gpu` was demanded and
    /// there is none.
    pub fn start(_config: EngineConfig) -> Result<Self> {
        Ok(Self {
            _shared: Arc::new(()),
        })
    }

    /// Makes a model file known under a name, replacing an earlier file of that name. Reads and
    /// checks the file's header, not its weights.
    ///
    /// # Errors
    /// The file cannot be read, is malformed, or is of a kind that this build cannot run.
    pub fn register(&self, _name: &str, _path: &std::path::Path) -> Result<ModelInfo> {
        Err(crate::Error::Internal {
            message: "not built yet".into(),
        })
    }

    /// Forgets a model; running requests finish. Returns whether it was known.
    pub fn unregister(&self, _name: &str) -> bool {
        false
    }

    /// Returns the registered models, by name.
    pub fn models(&self) -> Vec<ModelInfo> {
        Vec::new()
    }

    /// Returns one registered model.
    pub fn model(&self, _name: &str) -> Option<ModelInfo> {
        None
    }

    /// Admits a request. Its model is loaded if it is not in memory.
    ///
    /// # Errors
    /// Refusals at the door: an unknown model, a parameter out of bounds, a prompt that does not
    /// fit, a full queue. What happens later is reported as [`GenerationEvent::Failed`].
    pub fn submit(&self, _request: GenerateRequest, _sink: EventSink) -> Result<()> {
        Err(crate::Error::ShuttingDown)
    }

    /// Starts loading a model without generating (Ollama's empty prompt); `keep_alive` of zero
    /// unloads it. The sink reports `Done` or `Failed`.
    ///
    /// # Errors
    /// The model is not registered.
    pub fn preload(
        &self,
        _name: &str,
        _keep_alive: Option<Duration>,
        _sink: EventSink,
    ) -> Result<()> {
        Err(crate::Error::ShuttingDown)
    }

    /// Returns the state for `/api/ps`, `/health` and the metrics.
    pub fn status(&self) -> EngineStatus {
        EngineStatus {
            backend: String::new(),
            running: 0,
            queued: 0,
            loaded: Vec::new(),
            prompt_tokens_total: 0,
            completion_tokens_total: 0,
            refused_total: 0,
            cancelled_total: 0,
        }
    }

    /// Refuses new requests, waits up to `deadline` for running ones, then cancels them.
    pub fn shutdown(&self, _deadline: Duration) {}
}
