//! The thread that writes: it takes what waits, does it as one durable transaction, tells the
//! observer, and answers.
//!
//! A command that is refused leaves the others alone; a failure of the store is told to all of the
//! transaction, and the file is opened anew for the next. Each transaction also removes some of
//! what has expired. A purge is no part of a transaction with others: it ends with the whole file
//! written anew, for which the writes that come meanwhile wait.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aither_ledger::queue::{self, Receiver, SendError, Sender};

use super::{
    DeleteEntry, IndexPut, MemoryError, MemoryLimits, Observer, Owner, ScopeKey, WriteEntry,
    WrittenEntry,
    edit::{Decided, Edit},
    file::MemoryFile,
};
use crate::accounts::StoreError;

/// Most commands of one transaction.
const BATCH_LEN_MAX: usize = 2048;
/// Most entries whose time is over that one transaction removes.
const SWEPT_MAX: usize = 1024;
/// How long it waits at most for others to ask again: less than a disk takes, enough for many.
const PATIENCE_MAX: Duration = Duration::from_micros(500);
/// It also waits no longer than one part in so many of what writing the last batch took.
const PATIENCE_PARTS: u32 = 4;

/// Writing the file anew keeps writes waiting. Where it takes longer than this, it is done for one
/// part in so many of the time at most, however often it is asked for.
const REWRITE_SHORT: Duration = Duration::from_millis(250);
const REWRITE_REST_PARTS: u32 = 10;

/// Tells what came of a command. Called on the writer's thread: it must not wait.
pub(super) type Reply<T> = Box<dyn FnOnce(Result<T, MemoryError>) + Send>;

/// A command, and when it was given.
pub(super) struct Message {
    pub(super) now_ms: u64,
    /// What it holds of memory while it waits.
    pub(super) bytes: usize,
    pub(super) command: Command,
}

/// What the thread is asked.
pub(super) enum Command {
    /// Write an entry, asked for by this owner, whose scope it need not be in.
    Write(Owner, Box<WriteEntry>, Reply<WrittenEntry>),
    Delete(Box<DeleteEntry>, Reply<()>),
    /// Remove all of a scope whose keys begin with this.
    Clear(ScopeKey, String, Reply<u64>),
    PutIndex(Vec<IndexPut>, Reply<usize>),
    /// Have made again what another version of search, or another model, made.
    ExpectIndex(u64, Option<u64>, Reply<()>),
    Sweep(Reply<()>),
    /// Note that nothing is to be left of an owner, who writes no more; or that it stays.
    NotePurge(Owner, bool, Reply<()>),
    /// Leave nothing of all owners of whom that is noted.
    Purge(Reply<()>),
}

/// The way to the thread; its end is waited for when this is dropped.
pub(super) struct Writer {
    queue: Sender<Message>,
    thread: Option<JoinHandle<()>>,
    waiting_bytes: Arc<AtomicUsize>,
    waiting_bytes_max: usize,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(
        file: Arc<MemoryFile>,
        limits: MemoryLimits,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StoreError> {
        let (queue, messages) = queue::queue(limits.queue_len_max.max(1));
        let purged = file.purges()?.into_iter().collect();
        let path = file.path().to_owned();
        let waiting_bytes = Arc::<AtomicUsize>::default();
        let worker = Worker {
            file,
            limits,
            observer,
            is_behind: false,
            now_ms: 0,
            purged,
            rewrites_after: Instant::now(),
            waiting_bytes: Arc::clone(&waiting_bytes),
        };
        let thread = thread::Builder::new()
            .name("memory-writer".into())
            .spawn(move || worker.run(&messages));
        let thread = thread.map_err(|error| StoreError::Io {
            path,
            message: format!("its thread cannot start: {error}"),
        })?;
        Ok(Self {
            queue,
            thread: Some(thread),
            waiting_bytes,
            waiting_bytes_max: limits.queue_bytes_max,
        })
    }

    /// Queues a command.
    ///
    /// # Errors
    /// Too much waits, or the thread has ended.
    pub(super) fn send(&self, message: Message) -> Result<(), MemoryError> {
        let bytes = message.bytes;
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = match before.saturating_add(bytes) > self.waiting_bytes_max {
            true => Err(MemoryError::Busy),
            false => self.queue.send(message).map_err(|(_, error)| match error {
                SendError::Full => MemoryError::Busy,
                SendError::Closed => MemoryError::Stopped,
            }),
        };
        if sent.is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // What it panicked with was printed already.
            let _ = thread.join();
        }
    }
}

struct Worker {
    file: Arc<MemoryFile>,
    limits: MemoryLimits,
    observer: Arc<dyn Observer>,
    /// Whether more has expired than the last transaction removed.
    is_behind: bool,
    /// The time of the last transaction.
    now_ms: u64,
    /// Owners who write no more. Their ids are never given to another, and requests that were under
    /// way end with the process.
    purged: HashSet<Owner>,
    /// When the file may be written anew.
    rewrites_after: Instant,
    waiting_bytes: Arc<AtomicUsize>,
}

/// What a transaction notes of who is to be purged, in its order. It counts for what comes later in
/// the transaction, and once that is durable for all that follows.
#[derive(Default)]
struct Noted(Vec<(Owner, bool)>);

impl Noted {
    fn is_purged(&self, before: &HashSet<Owner>, owner: &Owner) -> bool {
        let last = self.0.iter().rev().find(|(noted, _)| noted == owner);
        last.map_or_else(|| before.contains(owner), |(_, wanted)| *wanted)
    }
}

/// Answers a command, once it is known whether the transaction is durable.
type Answer = Box<dyn FnOnce(Result<(), MemoryError>)>;

impl Worker {
    /// Works until nobody can ask any more.
    fn run(mut self, messages: &Receiver<Message>) {
        let mut taken = Vec::new();
        let (mut expected, mut patience) = (0, Duration::ZERO);
        while messages.take(&mut taken, BATCH_LEN_MAX, expected, patience) {
            expected = taken.len();
            let begin = Instant::now();
            let mut batch = Vec::with_capacity(taken.len());
            for message in taken.drain(..) {
                self.waiting_bytes
                    .fetch_sub(message.bytes, Ordering::Relaxed);
                match message.command {
                    Command::Purge(reply) => {
                        self.work(&mut batch);
                        reply(self.purge(message.now_ms));
                    }
                    command => batch.push((message.now_ms, command)),
                }
            }
            self.work(&mut batch);
            // What has expired cannot be seen any more: it goes while nobody waits.
            while self.is_behind && messages.is_idle() {
                batch.push((self.now_ms, Command::Sweep(Box::new(|_| {}))));
                self.work(&mut batch);
            }
            patience = PATIENCE_MAX.min(begin.elapsed() / PATIENCE_PARTS);
        }
    }

    /// Does commands as one transaction.
    fn work(&mut self, batch: &mut Vec<(u64, Command)>) {
        let Some(now_ms) = batch.iter().map(|(now_ms, _)| *now_ms).max() else {
            return;
        };
        self.now_ms = now_ms;
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let mut noted = Noted::default();
        let mut changes = Vec::new();
        let file = Arc::clone(&self.file);
        let mut swept = 0;
        let outcome = file.write(|tx| {
            let mut edit = Edit::begin(tx, now_ms)?;
            swept = edit.sweep(SWEPT_MAX)?;
            for (_, command) in batch.drain(..) {
                self.take(&mut edit, command, (&mut answers, &mut noted))?;
            }
            if edit.is_dirty {
                edit.finish()?;
            }
            changes = std::mem::take(&mut edit.changes);
            Ok(((), edit.is_dirty))
        });
        // After a failure those that were not come to are dropped, which their senders see.
        batch.clear();
        let outcome = outcome.map_err(MemoryError::from);
        match &outcome {
            Ok(()) if !changes.is_empty() => self.observer.changed(&changes),
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "memory cannot be written"),
        }
        if outcome.is_ok() {
            for (owner, wanted) in noted.0 {
                match wanted {
                    true => self.purged.insert(owner),
                    false => self.purged.remove(&owner),
                };
            }
        }
        for answer in answers {
            answer(outcome.clone());
        }
        self.is_behind = outcome.is_ok() && swept == SWEPT_MAX;
    }

    fn take(
        &self,
        edit: &mut Edit<'_>,
        command: Command,
        (answers, noted): (&mut Vec<Answer>, &mut Noted),
    ) -> Result<(), redb::Error> {
        // A command whose turn fails is answered too: its reply waits before its value is known.
        match command {
            Command::Write(by, write, reply) => {
                // Also what it would leave in a scope that all share.
                let is_purged = [by, write.scope.owner]
                    .iter()
                    .any(|owner| noted.is_purged(&self.purged, owner));
                let done = match is_purged {
                    true => Ok(Err(MemoryError::Purged)),
                    false => edit.write(&write, self.limits.total),
                };
                answer_with(answers, reply, done)
            }
            Command::Delete(delete, reply) => answer_with(answers, reply, edit.delete(&delete)),
            Command::Clear(scope, prefix, reply) => {
                answer_with(answers, reply, edit.clear(&scope, &prefix).map(Ok))
            }
            Command::PutIndex(puts, reply) => {
                answer_with(answers, reply, edit.put_index(puts).map(Ok))
            }
            Command::ExpectIndex(version, model, reply) => {
                answer_with(answers, reply, edit.expect_index(version, model).map(Ok))
            }
            Command::Sweep(reply) => answer_with(answers, reply, Ok(Ok(()))),
            Command::NotePurge(owner, wanted, reply) => {
                noted.0.push((owner, wanted));
                answer_with(answers, reply, edit.note_purge(owner, wanted).map(Ok))
            }
            // Never in a batch.
            Command::Purge(reply) => answer_with(answers, reply, Ok(Err(MemoryError::Busy))),
        }
    }

    /// Removes all that owners have of whom nothing is to be left, and writes the file anew, unless
    /// that was done a short while ago: writes wait for it.
    fn purge(&mut self, now_ms: u64) -> Result<(), MemoryError> {
        let mut changes = Vec::new();
        let (owners, has_traces) = self.file.write(|tx| {
            let mut edit = Edit::begin(tx, now_ms)?;
            let owners: Vec<_> = edit.purges()?.into_iter().collect();
            let mut has_traces = false;
            for owner in &owners {
                has_traces |= edit.has_written(*owner)?;
                edit.purge(*owner)?;
            }
            if !has_traces {
                // Nobody of them has ever written: their notes are all there is.
                for owner in &owners {
                    edit.note_purge(*owner, false)?;
                }
            }
            edit.finish()?;
            changes = std::mem::take(&mut edit.changes);
            Ok(((owners, has_traces), edit.is_dirty))
        })?;
        self.observer.changed(&changes);
        // Where it has to wait, the notes stay, and it is done with the next purge.
        if has_traces && self.rewrites_after <= Instant::now() {
            let begun = Instant::now();
            self.file.rewrite(&owners)?;
            let took = begun.elapsed();
            if took > REWRITE_SHORT {
                self.rewrites_after = Instant::now() + took * REWRITE_REST_PARTS;
            }
        }
        Ok(())
    }
}

/// Notes what a command is to be answered. A failure of the store is every command's.
fn answer_with<T: 'static>(
    answers: &mut Vec<Answer>,
    reply: Reply<T>,
    value: Decided<T>,
) -> Result<(), redb::Error> {
    let (value, failure) = match value {
        Ok(value) => (value, Ok(())),
        Err(error) => (Err(MemoryError::Stopped), Err(error)),
    };
    answers.push(Box::new(move |durable| reply(durable.and(value))));
    failure
}
