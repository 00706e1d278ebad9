//! The thread that writes: it takes what waits, numbers it, does it as one transaction, shows it
//! to those who follow, and answers.
//!
//! What somebody waits for is durable before it is shown or answered, and takes along what nobody
//! waits for. Where a whole batch is of that kind the disk is not waited for: the node notes some
//! events with each payment, and the ledger needs the disk for itself. What follows makes it
//! durable, or, where nothing follows, the writer itself after a moment.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aither_ledger::queue::{self, Receiver, SendError, Sender};
use redb::Durability;

use super::{Event, EventError, LogLimits, NewEvent, Recent, file::LogFile};
use crate::accounts::StoreError;

/// Most commands of one transaction.
const BATCH_LEN_MAX: usize = 2048;
/// How many numbers are reserved at once: a crash skips no more.
const RESERVED_LEN: u64 = 1 << 16;
/// Events that one transaction removes because they are old, and because there are too many.
const OLD_REMOVED_MAX: usize = 1 << 12;
const LARGE_REMOVED_MAX: usize = 1 << 16;
/// Events of an agent that one transaction removes.
const FORGOTTEN_MAX: usize = 1 << 12;
/// How long what nobody waits for may be volatile.
const VOLATILE_FOR: Duration = Duration::from_millis(200);
/// How long it waits at most for others to emit again, and no longer than one part in so many of
/// what writing the last batch took.
const PATIENCE_MAX: Duration = Duration::from_micros(500);
const PATIENCE_PARTS: u32 = 4;

/// Tells what came of a command. Called on the writer's thread: it must not wait.
pub(super) type Reply<T> = Box<dyn FnOnce(Result<T, EventError>) + Send>;
/// Is told the number of the last event that can be seen, on the writer's thread.
pub(super) type Published = Box<dyn Fn(u64) + Send>;

/// What the thread is asked.
pub(super) enum Command {
    /// Write an event, and answer with its number once it is durable.
    Emit(NewEvent, Reply<u64>),
    /// Write an event that nobody waits for.
    Note(NewEvent),
    /// Remove all events of an agent.
    Forget(String, Reply<()>),
    /// Make everything durable that came before, and remove what is too old at this time.
    Sweep(u64, Reply<()>),
}

impl Command {
    /// What it holds of memory while it waits.
    fn bytes(&self) -> usize {
        const FIXED_BYTES: usize = 256;
        match self {
            Self::Emit(event, _) | Self::Note(event) => FIXED_BYTES + event.data.len(),
            Self::Forget(..) | Self::Sweep(..) => FIXED_BYTES,
        }
    }
}

/// What the thread has done.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Events that were written.
    pub(super) written: AtomicU64,
    /// Events that the node noted and that are lost.
    pub(super) dropped: AtomicU64,
}

/// The way to the thread; its end is waited for when this is dropped.
pub(super) struct Writer {
    queue: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    waiting_bytes: Arc<AtomicUsize>,
    waiting_bytes_max: usize,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// What the thread works with.
pub(super) struct Work {
    pub(super) file: Arc<LogFile>,
    pub(super) recent: Arc<Recent>,
    pub(super) limits: LogLimits,
    pub(super) counts: Arc<Counts>,
    pub(super) next: u64,
    pub(super) published: Published,
}

impl Writer {
    pub(super) fn start(work: Work) -> Result<Self, std::io::Error> {
        let limits = work.limits;
        let (queue, messages) = queue::queue(limits.queue_len_max.max(1));
        let waiting_bytes = Arc::<AtomicUsize>::default();
        let reserved = work.next - 1;
        let worker = Worker {
            work,
            is_behind: false,
            now_ms: 0,
            reserved,
            volatile_since: None,
            waiting_bytes: Arc::clone(&waiting_bytes),
        };
        let thread = thread::Builder::new()
            .name("event-writer".into())
            .spawn(move || worker.run(&messages))?;
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
    pub(super) fn send(&self, command: Command) -> Result<(), EventError> {
        let bytes = command.bytes();
        // What is emitted by request leaves room for what the node notes.
        let bytes_max = match command {
            Command::Emit(..) => self.waiting_bytes_max / 2,
            _ => self.waiting_bytes_max,
        };
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = match before.saturating_add(bytes) > bytes_max {
            true => Err(EventError::Busy),
            false => self.queue.send(command).map_err(|(_, error)| match error {
                SendError::Full => EventError::Busy,
                SendError::Closed => EventError::Stopped,
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
    work: Work,
    /// Whether more is to be removed than the last transaction did.
    is_behind: bool,
    /// The latest time that it was told.
    now_ms: u64,
    /// Up to this number some may be given out.
    reserved: u64,
    /// Since when there is something that a crash would undo.
    volatile_since: Option<Instant>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// Commands of one transaction, and what of them is to be done before it and after it.
#[derive(Default)]
struct Batch {
    events: Vec<(NewEvent, Option<Reply<u64>>)>,
    replies: Vec<Reply<()>>,
    is_durable: bool,
}

impl Worker {
    /// Works until nobody can ask any more.
    fn run(mut self, messages: &Receiver<Command>) {
        let mut taken = Vec::new();
        let (mut expected, mut patience) = (0, Duration::ZERO);
        loop {
            if let Some(since) = self.volatile_since
                && !messages.wait(VOLATILE_FOR.saturating_sub(since.elapsed()))
            {
                self.settle(self.reserved);
                continue;
            }
            if !messages.take(&mut taken, BATCH_LEN_MAX, expected, patience) {
                break;
            }
            expected = taken.len();
            let begin = Instant::now();
            self.take(&mut taken);
            // What is to be removed goes while nobody waits.
            while self.is_behind && messages.is_idle() {
                self.write(Batch::default());
            }
            patience = PATIENCE_MAX.min(begin.elapsed() / PATIENCE_PARTS);
        }
        // None is under way any more, so the next run goes on where this one ends.
        self.settle(self.work.next - 1);
    }

    fn take(&mut self, taken: &mut Vec<Command>) {
        let mut batch = Batch::default();
        for command in taken.drain(..) {
            let bytes = command.bytes();
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match command {
                Command::Emit(event, reply) => {
                    batch.events.push((event, Some(reply)));
                    batch.is_durable = true;
                }
                Command::Note(event) => batch.events.push((event, None)),
                Command::Sweep(now_ms, reply) => {
                    self.now_ms = self.now_ms.max(now_ms);
                    batch.replies.push(reply);
                    batch.is_durable = true;
                }
                Command::Forget(agent, reply) => {
                    self.write(std::mem::take(&mut batch));
                    reply(self.forget(&agent).map_err(EventError::from));
                }
            }
        }
        self.write(batch);
    }

    /// Writes a batch as one transaction, and removes some of what is to go.
    fn write(&mut self, batch: Batch) {
        let first = self.work.next;
        // Also where this fails: what the file has of it is not known then.
        self.work.next += batch.events.len() as u64;
        let last = self.work.next - 1;
        let reserve = (self.reserved < last).then(|| last + RESERVED_LEN);
        let is_overdue = |since: Instant| since.elapsed() >= VOLATILE_FOR;
        let is_durable =
            batch.is_durable || reserve.is_some() || self.volatile_since.is_some_and(is_overdue);
        let durability = match is_durable {
            true => Durability::Immediate,
            false => Durability::None,
        };
        let times = batch.events.iter().map(|(event, _)| event.time_ms);
        self.now_ms = times.fold(self.now_ms, u64::max);
        let sources = batch.events.iter().filter_map(|(event, _)| event.source);
        let sources: BTreeSet<_> = sources.collect();
        let limits = self.work.limits;
        let age_max_ms = u64::try_from(limits.age_max.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = self.now_ms.saturating_sub(age_max_ms);
        let was_volatile = self.volatile_since.is_some();
        let written = self.work.file.write(durability, |edit| {
            for (number, (event, _)) in (first..).zip(&batch.events) {
                edit.append(number, event)?;
            }
            if let Some(reserve) = reserve {
                edit.reserve(reserve);
            }
            for account in sources {
                edit.sweep_account(account, limits.bytes_max / 2, LARGE_REMOVED_MAX)?;
            }
            let has_old = edit.sweep_old(oldest_ms, OLD_REMOVED_MAX)?;
            let is_large = edit.sweep_large(limits.bytes_max, LARGE_REMOVED_MAX)?;
            // A commit of nothing else makes durable what came before.
            edit.is_dirty |= is_durable && was_volatile;
            Ok((has_old || is_large, edit.is_dirty))
        });
        match written {
            Ok((is_behind, is_dirty)) => {
                self.is_behind = is_behind;
                self.reserved = reserve.unwrap_or(self.reserved);
                self.volatile_since = match is_durable {
                    true => None,
                    false if is_dirty => self.volatile_since.or_else(|| Some(Instant::now())),
                    false => self.volatile_since,
                };
                self.publish(first, batch);
            }
            Err(error) => {
                self.is_behind = false;
                self.fail(batch, &error);
            }
        }
    }

    /// Shows events, and answers.
    fn publish(&self, first: u64, batch: Batch) {
        let count = batch.events.len() as u64;
        let (events, replies): (Vec<_>, Vec<_>) = (first..)
            .zip(batch.events)
            .map(|(id, (event, reply))| (Arc::new(Event::new(id, event)), reply.map(|r| (id, r))))
            .unzip();
        self.work.counts.written.fetch_add(count, Ordering::Relaxed);
        self.work.recent.publish(&events);
        for (id, reply) in replies.into_iter().flatten() {
            reply(Ok(id));
        }
        for reply in batch.replies {
            reply(Ok(()));
        }
        // Last: whoever has emitted may go on while many are woken.
        if count > 0 {
            (self.work.published)(self.work.recent.last());
        }
    }

    fn fail(&self, batch: Batch, error: &StoreError) {
        tracing::error!(%error, "events cannot be written");
        for (_, reply) in batch.events {
            match reply {
                Some(reply) => reply(Err(EventError::Store(error.clone()))),
                None => {
                    self.work.counts.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        for reply in batch.replies {
            reply(Err(EventError::Store(error.clone())));
        }
    }

    /// Makes durable what a crash would undo, and notes up to which number some may be given out.
    fn settle(&mut self, reserved: u64) {
        self.volatile_since = None;
        let settled = self.work.file.write(Durability::Immediate, |edit| {
            edit.reserve(reserved);
            Ok(())
        });
        if let Err(error) = settled {
            tracing::error!(%error, "the last events may be lost");
        }
    }

    fn forget(&self, agent: &str) -> Result<(), StoreError> {
        let forget = || {
            let file = &self.work.file;
            file.write(Durability::Immediate, |edit| {
                edit.forget_agent(agent, FORGOTTEN_MAX)
            })
        };
        while forget()? {}
        self.work.recent.forget_agent(agent);
        Ok(())
    }
}
