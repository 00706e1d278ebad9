//! The thread that indexes memory, and who waits for it.
//!
//! The store's writer tells of every change ([`Observer`]); the thread then has the [`Indexer`] do
//! batch after batch until nothing is left. Vectors take far longer than writes, on the same cores:
//! while writes come in, the thread rests after each batch of vectors for some times as long as the
//! batch took.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, time};

use crate::{
    accounts::unix_ms,
    memory::{
        Change, MemoryError, MemoryStore, Observer, ScopeId, Serial,
        indexer::{Embedding, Indexer, IndexerError, Step},
        loaded::LoadedIndexes,
    },
};

/// How long the thread rests after a batch of vectors while writes come in, in parts of what the
/// batch took.
const REST_PARTS: u32 = 3;
/// First and longest time after which a batch that failed is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Scopes that searches wait for, at most; further ones are indexed in turn like all others.
const URGENT_MAX: usize = 256;
/// Entries between two lines of the log while many are indexed.
const PROGRESS_ENTRIES: usize = 5000;

/// What the store's writer, the thread, and searches share.
#[derive(Debug)]
pub struct IndexBoard {
    /// The indexes in memory.
    pub loaded: LoadedIndexes,
    state: Mutex<BoardState>,
    woken: Condvar,
    /// Changes after each batch.
    batches: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct BoardState {
    /// Something was written since the thread last looked.
    is_written: bool,
    /// Which thread is to work; any other ends.
    worker: u64,
    urgent: Vec<ScopeId>,
}

/// The thread; dropping it ends it after its batch.
#[derive(Debug)]
pub struct IndexThread {
    board: Arc<IndexBoard>,
    thread: Option<JoinHandle<()>>,
}

impl IndexBoard {
    /// Makes the board that a store is opened with.
    pub fn new(loaded_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            loaded: LoadedIndexes::new(loaded_bytes_max),
            state: Mutex::default(),
            woken: Condvar::new(),
            batches: watch::Sender::new(0),
        })
    }

    /// Waits until what some scopes have by now is found, by its meaning too where
    /// `with_meaning`. Returns whether it is, or the time was over.
    ///
    /// # Errors
    /// The store's.
    pub async fn caught_up(
        &self,
        store: &MemoryStore,
        scopes: &[ScopeId],
        with_meaning: bool,
        patience: Duration,
    ) -> Result<bool, MemoryError> {
        let end = time::Instant::now() + patience;
        let last = store.last_serial()?;
        let mut batches = self.batches.subscribe();
        while is_behind(store, scopes, last, with_meaning)? {
            self.hurry(scopes);
            let Ok(Ok(())) = time::timeout_at(end, batches.changed()).await else {
                return Ok(false);
            };
        }
        Ok(true)
    }

    /// Has the thread take these scopes first.
    fn hurry(&self, scopes: &[ScopeId]) {
        let mut state = self.lock();
        for scope in scopes {
            if state.urgent.len() < URGENT_MAX && !state.urgent.contains(scope) {
                state.urgent.push(*scope);
            }
        }
        self.woken.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BoardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread `worker` wait until `is_reason` says so, or the time is over.
    fn rest(
        &self,
        worker: u64,
        at_most: Option<Duration>,
        is_reason: impl Fn(&BoardState) -> bool,
    ) {
        let state = self.lock();
        let rests = |state: &mut BoardState| state.worker == worker && !is_reason(state);
        // A poisoned lock: whoever held it had a defect; the thread goes on.
        match at_most {
            Some(time) => drop(self.woken.wait_timeout_while(state, time, rests)),
            None => drop(self.woken.wait_while(state, rests)),
        }
    }
}

impl Observer for IndexBoard {
    fn changed(&self, changes: &[Change]) {
        self.loaded.changed(changes);
        let is_write = |change: &Change| matches!(change, Change::Written { .. });
        if changes.iter().any(is_write) {
            self.lock().is_written = true;
            self.woken.notify_one();
        }
    }
}

impl IndexThread {
    /// Starts it.
    ///
    /// # Errors
    /// The store's, or the system gives no thread.
    pub fn start(
        board: &Arc<IndexBoard>,
        store: MemoryStore,
        embedding: Option<Arc<dyn Embedding>>,
    ) -> Result<Self, MemoryError> {
        let indexer = Indexer::new(store, embedding, unix_ms(SystemTime::now()))?;
        // Whatever is in memory was made for another model.
        board.loaded.clear();
        let worker = {
            let mut state = board.lock();
            state.worker += 1;
            state.worker
        };
        let for_thread = Arc::clone(board);
        let thread = thread::Builder::new()
            .name("memory-index".into())
            .spawn(move || run(&for_thread, worker, indexer));
        Ok(Self {
            board: Arc::clone(board),
            thread: Some(thread.map_err(|error| {
                MemoryError::Internal(format!(
                    "the thread of memory's index cannot start: {error}"
                ))
            })?),
        })
    }
}

impl Drop for IndexThread {
    fn drop(&mut self) {
        self.board.lock().worker += 1;
        self.board.woken.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic was printed by itself.
            let _ = thread.join();
        }
    }
}

fn run(board: &IndexBoard, worker: u64, mut indexer: Indexer) {
    let (mut retry, mut progress) = (RETRY_FIRST, Progress::default());
    loop {
        let urgent = {
            let mut state = board.lock();
            if state.worker != worker {
                return;
            }
            state.is_written = false;
            std::mem::take(&mut state.urgent)
        };
        let begun = Instant::now();
        let step = indexer.step(&urgent, unix_ms(SystemTime::now()));
        board.batches.send_modify(|batches| *batches += 1);
        match step {
            Ok(Step::Idle) => {
                progress.end();
                board.rest(worker, None, |state| {
                    state.is_written || !state.urgent.is_empty()
                });
            }
            Ok(Step::Words(_)) => {}
            Ok(Step::Meaning(count)) => {
                progress.count(count);
                let is_written = board.lock().is_written;
                if is_written {
                    let rest = begun.elapsed() * REST_PARTS;
                    board.rest(worker, Some(rest), |state| !state.urgent.is_empty());
                }
            }
            Err(error) => {
                log_failure(&error, retry);
                board.rest(worker, Some(retry), |_| false);
                retry = (retry * 2).min(RETRY_MAX);
                continue;
            }
        }
        retry = RETRY_FIRST;
    }
}

fn log_failure(error: &IndexerError, retry: Duration) {
    tracing::warn!(%error, ?retry, "entries are not found yet; it will be tried again");
}

/// What is told while many entries are indexed.
#[derive(Debug, Default)]
struct Progress {
    done: usize,
    told: usize,
}

impl Progress {
    fn count(&mut self, count: usize) {
        self.done += count;
        if self.done - self.told >= PROGRESS_ENTRIES {
            self.told = self.done;
            tracing::info!(entries = self.done, "embedding what was written to memory");
        }
    }

    fn end(&mut self) {
        if self.told > 0 {
            tracing::info!(entries = self.done, "all of memory is found by meaning");
        }
        *self = Self::default();
    }
}

fn is_behind(
    store: &MemoryStore,
    scopes: &[ScopeId],
    last: Serial,
    with_meaning: bool,
) -> Result<bool, MemoryError> {
    for scope in scopes {
        let left = store.unindexed(*scope, last, 1)?;
        if left.words > 0 || (with_meaning && left.meaning > 0) {
            return Ok(true);
        }
    }
    Ok(false)
}
