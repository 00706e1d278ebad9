//! The engine: loaded models, shared by all requests.
//!
//! An [`Engine`] is a cheap handle. Behind it one thread owns the models' state and steps every
//! running request; files are loaded beside it. Admission is synchronous: a request is refused at
//! once or reports through its sink.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use crate::{
    backend::Backend,
    error::{Error, Result},
    generate::{DRAFT_LEN_MAX, Work},
    kv_cache::PAGE_LEN,
    request::{GenerateRequest, GenerationEvent, GenerationStats},
};

mod admission;
mod catalogue;
mod job;
mod model;
mod owner;
mod pass_cost;
mod residency;
mod schedule;
mod sequences;
mod state;
mod text_side;
mod types;
mod waits;

use self::{
    catalogue::{Catalogue, Registered},
    job::{Job, Preload},
    model::{Loader, ModelLoader},
    residency::{CacheNeed, ModelId, Residency},
    schedule::{Limits, PROMPT_ROWS_MAX, Refusal, Schedule, Terms},
    state::{Phase, State},
    waits::WaitsByClass,
};

pub use self::{
    admission::Prepared,
    job::CancelFlag,
    types::{
        BackendChoice, CacheCounts, EngineConfig, EngineStatus, EventSink, Flow, LoadedModel,
        ModelInfo, Speculation,
    },
    waits::{WAIT_BOUNDS, Waits},
};

/// Rows of answers in one pass: as many as kernels are measured with.
const ANSWER_ROWS_MAX: usize = 64;

/// Stands for a time that never comes.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A handle on the engine; clones share it. The last one dropped stops it.
#[derive(Debug, Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// Stops the engine when the last handle goes.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

/// What handles, the engine's thread and the loading thread share. Locks are held for decisions
/// only, never while model code, a sink or the disk is at work; the catalogue's is taken first
/// where both are.
struct Shared {
    config: EngineConfig,
    backend_description: String,
    is_gpu: bool,
    loader: Box<dyn Loader>,
    catalogue: Mutex<Catalogue>,
    state: Mutex<State>,
    /// Something for the engine's thread to look at.
    wake: Condvar,
    /// The engine's thread has ended.
    stopped: Condvar,
    owner: OnceLock<ThreadId>,
    counters: Counters,
    clock: Clock,
}

/// Tells the time.
type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

#[derive(Debug, Default)]
struct Counters {
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    drafted_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    refused: AtomicU64,
    cancelled: AtomicU64,
    suspended: AtomicU64,
    passes: AtomicU64,
    rows: AtomicU64,
    pass_nanos: AtomicU64,
}

impl Engine {
    /// Chooses the device and starts the engine's thread. No model is loaded yet.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] when `gpu` was demanded and
    /// there is none.
    pub fn start(config: EngineConfig) -> Result<Self> {
        let backend = Backend::choose(config.backend, config.threads)?;
        let description = backend.describe().to_owned();
        let is_gpu = backend.is_gpu();
        Self::start_with(
            config,
            Box::new(ModelLoader { backend }),
            description,
            is_gpu,
        )
    }

    fn start_with(
        config: EngineConfig,
        loader: Box<dyn Loader>,
        backend_description: String,
        is_gpu: bool,
    ) -> Result<Self> {
        let clock = Box::new(Instant::now);
        let engine = Self::assemble(config, loader, backend_description, is_gpu, clock);
        let shared = engine.shared();
        let for_thread = Arc::clone(&engine.handle.shared);
        let spawned = thread::Builder::new()
            .name("inference-engine".into())
            .spawn(move || owner::run(for_thread))
            .map_err(|error| Error::Internal {
                message: format!("cannot start the engine's thread: {error}"),
            })?;
        // The thread's handle is not kept: its end is seen in the phase.
        shared.owner.get_or_init(|| spawned.thread().id());
        Ok(engine)
    }

    /// An engine whose thread is not started.
    fn assemble(
        config: EngineConfig,
        loader: Box<dyn Loader>,
        backend_description: String,
        is_gpu: bool,
        clock: Clock,
    ) -> Self {
        let state = State {
            schedule: Schedule::new(Limits {
                running_max: config.running_max,
                queue_len_max: config.queue_len_max,
                rows_max: ANSWER_ROWS_MAX,
            }),
            residency: Residency::new(config.memory_budget_bytes, config.idle_unload),
            preloads: std::collections::VecDeque::new(),
            arrived: None,
            phase: Phase::Serving,
            last_serial: 0,
            waits: WaitsByClass::default(),
            is_limit_new: false,
        };
        let shared = Arc::new(Shared {
            config,
            backend_description,
            is_gpu,
            loader,
            catalogue: Mutex::default(),
            state: Mutex::new(state),
            wake: Condvar::new(),
            stopped: Condvar::new(),
            owner: OnceLock::new(),
            counters: Counters::default(),
            clock,
        });
        Self {
            handle: Arc::new(Handle { shared }),
        }
    }

    /// Makes a model file known under a name, replacing an earlier file of that name. Reads and
    /// checks the file's header, not its weights.
    ///
    /// # Errors
    /// The file cannot be read, is malformed, or is of a kind that this build cannot run.
    pub fn register(&self, name: &str, path: &Path) -> Result<ModelInfo> {
        let make = self.read(name, path)?;
        let (registered, replaced) = self.shared().lock_catalogue().insert(make);
        if let Some(replaced) = replaced {
            self.retire(replaced.id);
        }
        Ok(registered.info.clone())
    }

    /// Forgets a model; requests that were admitted finish. Returns whether it was known.
    pub fn unregister(&self, name: &str) -> bool {
        let removed = self.shared().lock_catalogue().remove(name);
        if let Some(removed) = &removed {
            self.retire(removed.id);
        }
        removed.is_some()
    }

    /// Returns the registered models, by name.
    pub fn models(&self) -> Vec<ModelInfo> {
        self.shared().lock_catalogue().models()
    }

    /// Returns one registered model.
    pub fn model(&self, name: &str) -> Option<ModelInfo> {
        let registered = self.shared().lock_catalogue().get(name).ok()?;
        Some(registered.info.clone())
    }

    /// Admits a request. Its model is loaded if it is not in memory, from a file that replaced the
    /// registered one where there is one.
    ///
    /// # Errors
    /// Refusals at the door: an unknown model, a parameter out of bounds, a prompt that does not
    /// fit, a full queue. What happens later is reported as [`GenerationEvent::Failed`].
    pub fn submit(&self, request: GenerateRequest, sink: EventSink) -> Result<()> {
        self.submit_cancellable(request, sink, CancelFlag::default())
    }

    /// Like [`submit`](Self::submit); the flag cancels also while the request waits or its prompt
    /// is evaluated, when no event is due that the sink could answer.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_cancellable(
        &self,
        request: GenerateRequest,
        sink: EventSink,
        cancel: CancelFlag,
    ) -> Result<()> {
        self.submit_prepared(self.prepare(request)?, sink, cancel)
    }

    /// Checks a request and counts its prompt's tokens; nothing runs yet, and no place is taken.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn prepare(&self, request: GenerateRequest) -> Result<Prepared> {
        let submitted = self.shared().now();
        request.validate()?;
        // Asked before a file is read or the prompt tokenized: a full engine refuses cheaply.
        self.check_room(&self.shared().lock())?;
        let registered = self.current(&request.model)?;
        let text = registered.text()?;
        let keep_alive = request.keep_alive;
        let (weight, priority, deadline) = (request.weight, request.priority, request.deadline);
        let work = admission::prepare(request, &registered, &text, self.shared().draft_len_max())?;
        Ok(Prepared {
            registered,
            text,
            work,
            keep_alive,
            weight,
            priority,
            deadline,
            submitted,
        })
    }

    /// Admits a request that was prepared. The flag cancels as in
    /// [`submit_cancellable`](Self::submit_cancellable).
    ///
    /// # Errors
    /// Not enough memory, or a full queue.
    pub fn submit_prepared(
        &self,
        prepared: Prepared,
        sink: EventSink,
        cancel: CancelFlag,
    ) -> Result<()> {
        let Prepared {
            registered,
            text,
            work,
            keep_alive,
            weight,
            priority,
            deadline,
            submitted,
        } = prepared;
        let (prompt_len, completion_max) = (work.prompt_ids.len(), work.completion_max);
        let cache = self.cache_need(&registered, &work);
        self.check_memory(&registered, cache.bytes_max)?;
        let chunks = prompt_len.div_ceil(PROMPT_ROWS_MAX);
        let terms = Terms {
            model: registered.id,
            weight: weight.into(),
            priority,
            deadline: deadline.and_then(|deadline| submitted.checked_add(deadline)),
            prompt_rows: prompt_len,
            passes_max: (chunks + completion_max) as u64,
        };
        let mut job = Job {
            serial: 0,
            registered,
            text,
            work,
            cache,
            keep_alive,
            priority,
            sink,
            cancel,
            submitted,
        };
        let mut state = self.shared().lock();
        self.check_room(&state)?;
        state.last_serial += 1;
        job.serial = state.last_serial;
        let refused = state
            .schedule
            .enqueue(job, terms, self.shared().now())
            .err();
        drop(state);
        if let Some((_, refusal)) = refused {
            return Err(self.refuse(refusal));
        }
        self.shared().wake.notify_all();
        Ok(())
    }

    /// Starts loading a model without generating (Ollama's empty prompt); `keep_alive` of zero
    /// unloads it. The sink reports `Done` or `Failed`. Reads the file's header where the file was
    /// replaced.
    ///
    /// # Errors
    /// The model is not registered, or the file that replaced it is not usable.
    pub fn preload(
        &self,
        name: &str,
        keep_alive: Option<Duration>,
        mut sink: EventSink,
    ) -> Result<()> {
        let registered = self.current(name)?;
        let now = self.shared().now();
        let mut state = self.shared().lock();
        if state.phase != Phase::Serving {
            return Err(Error::ShuttingDown);
        }
        if keep_alive == Some(Duration::ZERO) {
            state.residency.touch(registered.id, keep_alive, now);
            drop(state);
            self.shared().wake.notify_all();
            let _: Flow = sink(GenerationEvent::Done(GenerationStats::default()));
            return Ok(());
        }
        if state.preloads.len() > self.shared().config.queue_len_max {
            let refused = state.schedule.check_room().err();
            drop(state);
            let retry_after = Duration::from_secs(1);
            return Err(self.refuse(refused.unwrap_or(Refusal::Full { retry_after })));
        }
        let submitted = now;
        state.preloads.push_back(Preload {
            registered,
            keep_alive,
            sink,
            submitted,
        });
        drop(state);
        self.shared().wake.notify_all();
        Ok(())
    }

    /// Says how many bytes the machine has beside what the engine holds, and how many of them are
    /// to be left alone. Where that is less than the memory budget leaves, caches shrink, idle
    /// models leave, and what does not fit fails with [`Error::MachineMemoryShort`]; until this is
    /// called again with more. Means nothing where models are on a GPU, whose memory is another.
    pub fn note_available_memory(&self, available_bytes: u64, reserve_bytes: u64) {
        if self.shared().is_gpu {
            return;
        }
        let mut state = self.shared().lock();
        let residency = &mut state.residency;
        if residency.note_available(available_bytes, reserve_bytes) {
            state.is_limit_new = true;
            drop(state);
            self.shared().wake.notify_all();
        }
    }

    /// Returns the state for `/api/ps`, `/health` and the metrics.
    pub fn status(&self) -> EngineStatus {
        let shared = self.shared();
        let state = shared.lock();
        let (running, queued) = (state.schedule.running_len(), state.schedule.waiting_len());
        let loaded = state.residency.view(shared.is_gpu, self.shared().now());
        let waits = state.waits.all();
        let memory_limit_bytes = state.residency.limit_bytes();
        drop(state);
        let counters = &shared.counters;
        EngineStatus {
            backend: shared.backend_description.clone(),
            running,
            queued,
            loaded,
            memory_limit_bytes,
            waits,
            passes_total: counters.passes.load(Ordering::Relaxed),
            rows_total: counters.rows.load(Ordering::Relaxed),
            pass_time_total: Duration::from_nanos(counters.pass_nanos.load(Ordering::Relaxed)),
            prompt_tokens_total: counters.prompt_tokens.load(Ordering::Relaxed),
            cached_tokens_total: counters.cached_tokens.load(Ordering::Relaxed),
            suspended_total: counters.suspended.load(Ordering::Relaxed),
            completion_tokens_total: counters.completion_tokens.load(Ordering::Relaxed),
            drafted_tokens_total: counters.drafted_tokens.load(Ordering::Relaxed),
            accepted_tokens_total: counters.accepted_tokens.load(Ordering::Relaxed),
            refused_total: counters.refused.load(Ordering::Relaxed),
            cancelled_total: counters.cancelled.load(Ordering::Relaxed),
        }
    }

    /// Refuses new requests, fails waiting ones, waits up to `deadline` for running ones, then
    /// ends them too. Returns once the engine's thread has ended.
    pub fn shutdown(&self, deadline: Duration) {
        self.shared().drain(deadline);
        // A sink that calls this must not wait for itself.
        if self.shared().owner.get() == Some(&thread::current().id()) {
            return;
        }
        let mut state = self.shared().lock();
        while state.phase != Phase::Stopped {
            let woken = self.shared().stopped.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Reads a file's header for a registration.
    fn read(&self, name: &str, path: &Path) -> Result<impl FnOnce(ModelId) -> Registered + use<>> {
        let shared = self.shared();
        let context_length_max = shared.config.context_length_max;
        Registered::read(name, path, context_length_max, shared.is_gpu)
    }

    /// Returns what a name means now: a file that was replaced, or came back, is registered anew.
    fn current(&self, name: &str) -> Result<Arc<Registered>> {
        let registered = self.shared().lock_catalogue().get(name)?;
        if !registered.is_outdated() {
            return Ok(registered);
        }
        let path = &registered.info.path;
        let make = self.read(name, path)?;
        let renewed = self.shared().lock_catalogue().renew(&registered, make)?;
        self.retire(registered.id);
        Ok(renewed)
    }

    fn check_room(&self, state: &State) -> Result<()> {
        if state.phase != Phase::Serving {
            return Err(Error::ShuttingDown);
        }
        let room = state.schedule.check_room();
        room.map_err(|refusal| self.refuse(refusal))
    }

    fn refuse(&self, refusal: Refusal) -> Error {
        let refused = &self.shared().counters.refused;
        refused.fetch_add(1, Ordering::Relaxed);
        match refusal {
            Refusal::Full { retry_after } => Error::QueueFull { retry_after },
            Refusal::TooLate { expected } => Error::DeadlineTooSoon { expected },
        }
    }

    /// What a request needs of the cache.
    fn cache_need(&self, registered: &Registered, work: &Work) -> CacheNeed {
        let prompt_len = work.prompt_ids.len();
        let len_max = prompt_len + work.completion_max;
        if self.shared().is_gpu {
            // There sequences do not share, nor give anything back while they run.
            let bytes_max = registered.buffer_bytes(len_max, work.choices);
            return CacheNeed {
                bytes: bytes_max,
                bytes_max,
            };
        }
        // A page more for each: while it is copied there are two of it.
        let bytes_max = registered.page_bytes(len_max + PAGE_LEN, work.choices);
        let bytes = registered.page_bytes(prompt_len + PAGE_LEN, 1);
        CacheNeed {
            bytes: bytes.min(bytes_max),
            bytes_max,
        }
    }

    /// Refuses at once what no eviction makes possible.
    fn check_memory(&self, registered: &Registered, cache_bytes: u64) -> Result<()> {
        let budget_bytes = self.shared().config.memory_budget_bytes;
        let needed_bytes = registered.info.size_bytes.saturating_add(cache_bytes);
        if needed_bytes <= budget_bytes {
            return Ok(());
        }
        Err(Error::OutOfMemory {
            name: registered.info.name.clone(),
            needed_bytes,
            budget_bytes,
        })
    }

    fn retire(&self, id: ModelId) {
        self.shared()
            .lock()
            .residency
            .retire(id, self.shared().now());
        self.shared().wake.notify_all();
    }
}

impl Shared {
    fn now(&self) -> Instant {
        (self.clock)()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.catalogue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How long drafts may be. None on a GPU: there a pass over several rows rounds differently
    /// than passes over one, so the text could change.
    fn draft_len_max(&self) -> usize {
        match self.config.speculation {
            Speculation::Auto if !self.is_gpu => DRAFT_LEN_MAX,
            Speculation::Auto | Speculation::Off => 0,
        }
    }

    /// Begins to stop; an earlier deadline stands.
    fn drain(&self, deadline: Duration) {
        let now = self.now();
        // A deadline beyond the clock's range is one that never comes.
        let until = now.checked_add(deadline).unwrap_or(now + FOREVER);
        let mut state = self.lock();
        state.phase = match state.phase {
            Phase::Serving => Phase::Draining { until },
            Phase::Draining { until: earlier } => Phase::Draining {
                until: until.min(earlier),
            },
            Phase::Stopped => Phase::Stopped,
        };
        drop(state);
        self.wake.notify_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.drain(Duration::ZERO);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("backend", &self.backend_description)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
