//! Sentence embeddings: texts in, vectors of length 1 out.
//!
//! An [`Embedder`] is a handle on one loaded encoder and the thread that owns it. Texts are
//! tokenized on the caller's thread ([`Embedder::prepare`]), which says what they will cost; then
//! they wait ([`Embedder::submit`]), queries before bulk work, and come back through a sink.
//! Batches are formed of whatever waits: there is no padding, so that texts of any length go
//! together, and no text's vector depends on its company.
//!
//! The encoder runs on the CPU, with a team of threads of its own.

mod bert;
pub mod convert;
mod fingerprint;
mod queue;
mod word_piece;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    backend::Backend,
    engine::BackendChoice,
    error::{Error, Result},
    gguf::Gguf,
};

use bert::Bert;
pub use bert::{ARCHITECTURE, BertDescription, Pooling};
use queue::{Job, Queue};
use word_piece::{Ids, WordPieces};

/// Rows of a batch for each thread: as many as go through a layer together.
const BATCH_ROWS_PER_THREAD: usize = 96;

/// What a rate is assumed to be before anything was measured, in rows a second.
const ROWS_PER_SECOND_GUESS: f64 = 2000.0;

/// How much the newest batch counts in the measured rate.
const RATE_SHARE: f64 = 0.2;

/// Queries have one part in so many of the room that bulk work has, for themselves: however much
/// waits in bulk, no search is refused for it.
const QUERY_PARTS: usize = 8;

/// The longest time that a refused caller is told to wait.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How an embedder runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderConfig {
    /// Threads that compute; 0 takes one per core.
    pub threads: usize,
    /// Model tokens of bulk work that may wait, and for queries a part of it on top. A job that
    /// would exceed it is refused, unless nothing of its urgency waits.
    pub waiting_tokens_max: usize,
}

impl Default for EmbedderConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            // A full request of the longest texts, and as much again.
            waiting_tokens_max: 1 << 20,
        }
    }
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for the answer: a search.
    Query,
    /// The more at once the better: an index.
    Bulk,
}

/// A text's vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Of length 1.
    pub vector: Vec<f32>,
    /// Model tokens that were read, with those at both ends.
    pub prompt_tokens: usize,
    /// Whether the text is longer than what was read of it.
    pub is_truncated: bool,
}

/// Where vectors go.
pub trait EmbeddingSink: Send {
    /// Whether anybody still waits. Work that nobody waits for ends before its next batch.
    fn is_wanted(&self) -> bool;

    /// Takes the vectors, in the order of the texts. Called once, on the embedder's thread.
    fn finish(self: Box<Self>, result: Result<Vec<Embedding>>);
}

/// Texts, tokenized.
#[derive(Debug, Clone)]
pub struct Prepared {
    texts: Vec<Ids>,
}

impl Prepared {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Model tokens that will be read.
    pub fn prompt_tokens(&self) -> usize {
        self.texts.iter().map(|text| text.ids.len()).sum()
    }

    /// The first text that is longer than what the model reads, if any is.
    pub fn first_truncated(&self) -> Option<usize> {
        self.texts.iter().position(|text| text.is_truncated)
    }
}

/// A handle on an encoder; clones share it. The last one dropped stops it.
#[derive(Clone)]
pub struct Embedder {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    word_pieces: WordPieces,
    description: BertDescription,
    fingerprint: u64,
    weight_bytes: u64,
    config: EmbedderConfig,
}

struct Shared {
    state: Mutex<State>,
    /// Something for the thread to look at.
    wake: Condvar,
}

struct State {
    queue: Queue,
    is_stopping: bool,
    rows_per_second: f64,
}

impl Embedder {
    /// Loads the model of a file and starts its thread.
    ///
    /// # Errors
    /// The file cannot be read, is malformed, or holds something else than an encoder that this
    /// build runs; or the threads cannot be started.
    pub fn open(path: &Path, config: EmbedderConfig) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let (bert, word_pieces) = Bert::load(&gguf)?;
        let fingerprint = fingerprint::fingerprint(&gguf);
        let backend = Backend::choose(BackendChoice::Cpu, config.threads)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: Queue::default(),
                is_stopping: false,
                rows_per_second: ROWS_PER_SECOND_GUESS,
            }),
            wake: Condvar::new(),
        });
        let handle = Handle {
            shared: Arc::clone(&shared),
            word_pieces,
            description: bert.description.clone(),
            fingerprint,
            weight_bytes: bert.size_bytes(),
            config,
        };
        thread::Builder::new()
            .name("embedding".into())
            .spawn(move || own(&shared, &bert, &backend))
            .map_err(|error| Error::Internal {
                message: format!("cannot start the embedding thread: {error}"),
            })?;
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    /// What the model is.
    pub fn description(&self) -> &BertDescription {
        &self.handle.description
    }

    /// A number that other weights do not have; see the module of its name.
    pub fn fingerprint(&self) -> u64 {
        self.handle.fingerprint
    }

    /// Length of a vector.
    pub fn dimensions(&self) -> usize {
        self.handle.description.width
    }

    /// Most model tokens of a text; what is longer is cut.
    pub fn max_tokens(&self) -> usize {
        self.handle.description.context_length
    }

    /// Memory of the weights, in bytes.
    pub fn weight_bytes(&self) -> u64 {
        self.handle.weight_bytes
    }

    /// Tokenizes texts, on this thread.
    ///
    /// # Errors
    /// A defect of the tokenizer.
    pub fn prepare<T: AsRef<str>>(&self, texts: &[T]) -> Result<Prepared> {
        let encode = |text: &T| self.handle.word_pieces.encode(text.as_ref());
        let texts = texts.iter().map(encode).collect::<Result<_>>()?;
        Ok(Prepared { texts })
    }

    /// Queues texts. Their vectors, or an error, go to the sink; not if this fails.
    ///
    /// # Errors
    /// [`Error::QueueFull`] or [`Error::ShuttingDown`].
    pub fn submit(
        &self,
        prepared: Prepared,
        urgency: Urgency,
        sink: Box<dyn EmbeddingSink>,
    ) -> Result<()> {
        if prepared.is_empty() {
            sink.finish(Ok(Vec::new()));
            return Ok(());
        }
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if state.is_stopping {
            return Err(Error::ShuttingDown);
        }
        let tokens_max = self.handle.config.waiting_tokens_max;
        let tokens_max = match urgency {
            Urgency::Query => tokens_max / QUERY_PARTS,
            Urgency::Bulk => tokens_max,
        };
        let waiting = state.queue.rows(urgency);
        let is_full = waiting > 0 && waiting.saturating_add(prepared.prompt_tokens()) > tokens_max;
        if is_full || state.queue.jobs(urgency) >= queue::JOBS_MAX {
            let seconds = waiting as f64 / state.rows_per_second;
            let retry_after = Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_MAX);
            return Err(Error::QueueFull {
                retry_after: retry_after.clamp(Duration::from_secs(1), RETRY_MAX),
            });
        }
        state.queue.push(Job::new(prepared, sink), urgency);
        drop(state);
        shared.wake.notify_one();
        Ok(())
    }

    /// Embeds texts and waits for their vectors: for callers that have a thread to spare.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare) and [`submit`](Self::submit), and what fails on the way.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T], urgency: Urgency) -> Result<Vec<Embedding>> {
        let (receiver, _is_wanted) = self.begin(texts, urgency)?;
        receiver.recv().unwrap_or(Err(Error::ShuttingDown))
    }

    /// Embeds texts as [`embed`](Self::embed) does, and waits no longer than `patience`. What does
    /// not come in that time is not wanted any more, and not begun if it has not been.
    ///
    /// # Errors
    /// As there, and [`Error::DeadlineExceeded`].
    pub fn embed_within<T: AsRef<str>>(
        &self,
        texts: &[T],
        urgency: Urgency,
        patience: Duration,
    ) -> Result<Vec<Embedding>> {
        let begun = Instant::now();
        let (receiver, is_wanted) = self.begin(texts, urgency)?;
        let left = patience.saturating_sub(begun.elapsed());
        receiver.recv_timeout(left).unwrap_or_else(|error| {
            is_wanted.store(false, Ordering::Relaxed);
            Err(match error {
                RecvTimeoutError::Timeout => Error::DeadlineExceeded,
                RecvTimeoutError::Disconnected => Error::ShuttingDown,
            })
        })
    }

    /// Queues texts; returns where their vectors come, and whether they are wanted.
    fn begin<T: AsRef<str>>(&self, texts: &[T], urgency: Urgency) -> Result<(Coming, Wanted)> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let is_wanted = Arc::new(AtomicBool::new(true));
        let waiting = Waiting {
            sender,
            is_wanted: Arc::clone(&is_wanted),
        };
        self.submit(self.prepare(texts)?, urgency, Box::new(waiting))?;
        Ok((receiver, is_wanted))
    }

    /// Takes no more texts and ends those that wait with [`Error::ShuttingDown`].
    pub fn shut_down(&self) {
        self.handle.shared.stop();
    }
}

/// Where vectors come.
type Coming = mpsc::Receiver<Result<Vec<Embedding>>>;
/// Whether anybody still waits for them.
type Wanted = Arc<AtomicBool>;

/// Somebody who waits on a thread of its own.
struct Waiting {
    sender: mpsc::SyncSender<Result<Vec<Embedding>>>,
    is_wanted: Wanted,
}

impl EmbeddingSink for Waiting {
    fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    fn finish(self: Box<Self>, result: Result<Vec<Embedding>>) {
        // Nobody waits if it took too long, or the caller's thread has panicked.
        let _ = self.sender.send(result);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().is_stopping = true;
        self.wake.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// The thread's life: a batch after the other until it is told to stop.
fn own(shared: &Shared, bert: &Bert, backend: &Backend) {
    let rows_max = backend.threads() * BATCH_ROWS_PER_THREAD;
    loop {
        let mut state = shared.lock();
        while state.queue.is_empty() && !state.is_stopping {
            state = shared
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_stopping {
            let jobs = state.queue.drain();
            drop(state);
            for job in jobs {
                job.sink.finish(Err(Error::ShuttingDown));
            }
            return;
        }
        let unwanted = state.queue.drop_unwanted();
        let parts = state.queue.take_batch(rows_max);
        let ids = state.queue.ids(&parts);
        drop(state);
        drop(unwanted);
        if ids.is_empty() {
            continue;
        }
        let started = Instant::now();
        let vectors = run(bert, backend, &ids);
        let rows: usize = ids.iter().map(Vec::len).sum();
        let rate = rows as f64 / started.elapsed().as_secs_f64().max(1e-9);
        let mut state = shared.lock();
        state.rows_per_second += RATE_SHARE * (rate - state.rows_per_second);
        let ended = state.queue.finish(&parts, vectors);
        drop(state);
        for ended in ended {
            ended.sink.finish(ended.result);
        }
    }
}

/// Runs a batch. A panic is a defect that ends the batch, not the thread.
fn run(bert: &Bert, backend: &Backend, ids: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
    let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let forward = || backend.run(|| bert.forward(&texts, backend));
    catch_unwind(AssertUnwindSafe(forward)).unwrap_or_else(|_| {
        Err(Error::Internal {
            message: "the encoder panicked".into(),
        })
    })
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder")
            .field("description", &self.handle.description)
            .field("fingerprint", &self.handle.fingerprint)
            .finish_non_exhaustive()
    }
}
