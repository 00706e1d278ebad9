//! The one thread that writes.
//!
//! It takes all units that wait, applies them in order, stores what they changed in one durable
//! transaction, and answers after the commit. So the disk is waited for once for many, and nobody
//! is told what a power cut could undo. Where a whole batch is volatile by its senders' wish, the
//! disk is not waited for: what follows takes it along, or, where nothing follows, the writer
//! itself after a moment. After a failed write it takes nothing more: what the disk holds is known
//! only once the file is opened anew.
//!
//! Many who are answered ask again at once. Beginning with the first of them would have all others
//! wait for two commits, so the writer waits a little until as many are there as it answered.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    Time, Verdict,
    error::LedgerError,
    ledger::LedgerOptions,
    operation::{Operation, Unit},
    queue::{self, Receiver, SendError, Sender},
    state::Batch,
    store::Store,
};

/// Units in one transaction.
pub(crate) const BATCH_LEN_MAX: usize = 2048;
/// Holds that end in one transaction because their time is over; further ones follow in the next.
const EXPIRED_LEN_MAX: usize = 1024;
/// How long it waits at most for others to ask again: less than a disk takes, enough for many.
const PATIENCE_MAX: Duration = Duration::from_micros(100);
/// It also waits no longer than one part in so many of what writing the last batch took.
const PATIENCE_PARTS: u32 = 4;

/// Turns after which some notes are forgotten, however much waits.
const TURNS_UNTIL_FORGETTING: u32 = 16;
/// Notes that are forgotten in one transaction; further ones follow in the next.
const FORGOTTEN_LEN_MAX: usize = 1024;

/// Who wants to know what came of a unit. Called on the writer's thread: it must not wait.
pub(crate) type Reply = Box<dyn FnOnce(Result<Verdict, LedgerError>) + Send>;

/// A unit that waits. Whatever becomes of it, its reply is called once.
pub(crate) struct Command {
    unit: Unit,
    now: Time,
    promise: Promise,
    reply: Option<Reply>,
}

/// What an answer says about the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Whatever happens, it is done.
    Durable,
    /// It is done unless the process dies before anything durable follows.
    Volatile,
}

/// What the writer is asked.
pub(crate) enum Request {
    Apply(Box<Command>),
    /// End the holds whose time is over.
    Expire(Time),
    /// Forget notes below a name, or beyond so many bytes, some at a time.
    ForgetNotes {
        below: u128,
        bytes_max: u64,
    },
}

/// The way to the writer's thread; its end is waited for when this is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Sender<Request>,
    thread: Option<JoinHandle<()>>,
    failure: Failure,
}

/// Why the writer takes nothing more.
#[derive(Debug, Clone, Default)]
struct Failure(Arc<OnceLock<Arc<str>>>);

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(command) => f.debug_tuple("Apply").field(&command.unit).finish(),
            Self::Expire(now) => f.debug_tuple("Expire").field(now).finish(),
            Self::ForgetNotes { .. } => f.write_str("ForgetNotes"),
        }
    }
}

impl Request {
    fn ends_holds(&self) -> bool {
        let Self::Apply(command) = self else {
            return false;
        };
        let operations = &command.unit.operations;
        let ends =
            |operation: &Operation| matches!(operation, Operation::Post(_) | Operation::Void(_));
        !operations.is_empty() && operations.iter().all(ends)
    }
}

impl Command {
    pub(crate) fn new(unit: Unit, now: Time, promise: Promise, reply: Reply) -> Self {
        Self {
            unit,
            now,
            promise,
            reply: Some(reply),
        }
    }

    pub(crate) fn answer(mut self, answer: Result<Verdict, LedgerError>) {
        if let Some(reply) = self.reply.take() {
            reply(answer);
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply(Err(closed()));
        }
    }
}

impl Writer {
    pub(crate) fn start(store: Store, options: LedgerOptions) -> Result<Self, LedgerError> {
        let (queue, requests) = queue::queue(options.queue_len_max.max(1));
        let failure = Failure::default();
        let for_thread = failure.clone();
        let thread = thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || run(store, &requests, &for_thread, options.volatile_for));
        let thread = thread.map_err(|error| LedgerError::Stopped {
            why: format!("its thread cannot start: {error}").into(),
        })?;
        Ok(Self {
            queue,
            thread: Some(thread),
            failure,
        })
    }

    /// Queues a request. What ends holds is taken however much waits: each was let in when it was
    /// made, and if its end were refused, nobody would be paid and the amount would stay held.
    ///
    /// # Errors
    /// The queue is full, or the writer has stopped. The request comes back.
    pub(crate) fn send(&self, request: Request) -> Result<(), (Request, LedgerError)> {
        let sent = match request.ends_holds() {
            true => self.queue.send_beyond(request),
            false => self.queue.send(request),
        };
        sent.map_err(|(request, error)| {
            let error = match error {
                SendError::Full => LedgerError::Busy,
                SendError::Closed => self.failure.check().err().unwrap_or_else(closed),
            };
            (request, error)
        })
    }

    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        self.failure.check()
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

impl Failure {
    fn check(&self) -> Result<(), LedgerError> {
        match self.0.get() {
            Some(why) => Err(LedgerError::Stopped {
                why: Arc::clone(why),
            }),
            None => Ok(()),
        }
    }
}

fn closed() -> LedgerError {
    LedgerError::Stopped {
        why: "it was closed".into(),
    }
}

/// What is done in one go.
#[derive(Default)]
struct Turn {
    commands: Vec<Command>,
    /// The latest time that was told.
    now: Time,
    forget: Option<(u128, u64)>,
    /// Turns since something was forgotten.
    turns: u32,
    /// Since when something is written that a power cut could undo.
    volatile_since: Option<Instant>,
    /// How long that may be so.
    volatile_for: Duration,
}

/// Serves requests until nobody can send any more, or until a write fails.
fn run(mut store: Store, requests: &Receiver<Request>, failure: &Failure, volatile_for: Duration) {
    let mut turn = Turn {
        volatile_for,
        ..Turn::default()
    };
    let (mut taken, mut expected, mut patience) = (Vec::new(), 0, Duration::ZERO);
    loop {
        let limit = turn.idle_after();
        let is_due = limit.is_some_and(|limit| !requests.wait(limit));
        let goes_on = is_due || requests.take(&mut taken, BATCH_LEN_MAX, expected, patience);
        turn.take(taken.drain(..), store.head().now);
        expected = turn.commands.len();
        let begin = Instant::now();
        let done = match goes_on && !is_due {
            true => turn.write(&mut store),
            false => turn.tidy(&store).map(|()| Vec::new()),
        };
        match done {
            Ok(verdicts) => {
                let took = begin.elapsed();
                patience = PATIENCE_MAX.min(took.checked_div(PATIENCE_PARTS).unwrap_or(took));
                for (command, verdict) in turn.commands.drain(..).zip(verdicts) {
                    command.answer(Ok(verdict));
                }
            }
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                // Nobody else sets it.
                let _ = failure.0.set(why);
                for command in turn.commands.drain(..) {
                    command.answer(Err(error.clone()));
                }
                refuse(requests.close(), failure);
                break;
            }
        }
        if !goes_on {
            break;
        }
    }
}

/// Answers what was queued before the failure was known.
fn refuse(requests: Vec<Request>, failure: &Failure) {
    for request in requests {
        if let Request::Apply(command) = request {
            command.answer(Err(failure.check().err().unwrap_or_else(closed)));
        }
    }
}

impl Turn {
    /// Takes over what was asked.
    fn take(&mut self, requests: impl Iterator<Item = Request>, now: Time) {
        self.now = now;
        for request in requests {
            match request {
                Request::Apply(command) => {
                    self.now = self.now.max(command.now);
                    self.commands.push(*command);
                }
                Request::Expire(time) => self.now = self.now.max(time),
                Request::ForgetNotes { below, bytes_max } => {
                    self.forget = Some((below, bytes_max));
                }
            }
        }
    }

    /// Returns how long nothing may be asked before there is something to do all the same.
    fn idle_after(&self) -> Option<Duration> {
        match (self.forget, self.volatile_since) {
            (Some(_), _) => Some(Duration::ZERO),
            (None, Some(since)) => Some(self.volatile_for.saturating_sub(since.elapsed())),
            (None, None) => None,
        }
    }

    /// Whether what is volatile has been so for as long as it may.
    fn is_overdue(&self) -> bool {
        self.volatile_since
            .is_some_and(|since| since.elapsed() >= self.volatile_for)
    }

    /// Makes durable what was volatile and nothing took along, and goes on forgetting.
    fn tidy(&mut self, store: &Store) -> Result<(), LedgerError> {
        self.settle(store)?;
        self.forget(store)
    }

    fn settle(&mut self, store: &Store) -> Result<(), LedgerError> {
        if self.volatile_since.is_some() {
            store.begin(Promise::Durable)?.commit()?;
            self.volatile_since = None;
        }
        Ok(())
    }

    /// Forgets some notes, if that was asked and there are any more.
    fn forget(&mut self, store: &Store) -> Result<(), LedgerError> {
        let Some((below, bytes_max)) = self.forget else {
            return Ok(());
        };
        self.turns = 0;
        let transaction = store.begin(Promise::Durable)?;
        let mut rows = store.rows(&transaction)?;
        let count = rows.forget_notes(below, bytes_max, FORGOTTEN_LEN_MAX)?;
        drop(rows);
        match count {
            0 => transaction.abort()?,
            _ => transaction.commit()?,
        }
        if count < FORGOTTEN_LEN_MAX {
            self.forget = None;
        }
        Ok(())
    }

    /// Applies and stores a batch.
    fn write(&mut self, store: &mut Store) -> Result<Vec<Verdict>, LedgerError> {
        let mut commands = self.commands.iter();
        let is_volatile = commands.all(|command| command.promise == Promise::Volatile);
        let is_overdue = self.is_overdue();
        let promise = match is_volatile && !self.commands.is_empty() && !is_overdue {
            true => Promise::Volatile,
            false => Promise::Durable,
        };
        let transaction = store.begin(promise)?;
        let mut rows = store.rows(&transaction)?;
        let mut batch = Batch::new(&rows, store.head().next_sequence, self.now);
        let mut expired_len = batch.expire(EXPIRED_LEN_MAX)?;
        let commands = self.commands.iter();
        let verdicts: Result<Vec<_>, _> =
            commands.map(|command| batch.apply(&command.unit)).collect();
        let verdicts = verdicts?;
        let changes = batch.into_changes();
        if changes.entries.is_empty() && changes.notes.is_empty() {
            // Refusals, repetitions, and time that passed: nothing to wait for the disk for.
            drop(rows);
            transaction.abort()?;
            if is_overdue {
                self.settle(store)?;
            }
        } else {
            store.write(&mut rows, &changes, self.now)?;
            drop(rows);
            transaction.commit()?;
            self.volatile_since = match promise {
                Promise::Durable => None,
                Promise::Volatile => self.volatile_since.or_else(|| Some(Instant::now())),
            };
        }
        while expired_len == EXPIRED_LEN_MAX {
            expired_len = expire_more(store, self.now)?;
        }
        self.turns = self.turns.saturating_add(1);
        if self.turns >= TURNS_UNTIL_FORGETTING {
            self.forget(store)?;
        }
        Ok(verdicts)
    }
}

/// Ends further holds whose time is over.
fn expire_more(store: &mut Store, now: Time) -> Result<usize, LedgerError> {
    let transaction = store.begin(Promise::Durable)?;
    let mut rows = store.rows(&transaction)?;
    let mut batch = Batch::new(&rows, store.head().next_sequence, now);
    let expired_len = batch.expire(EXPIRED_LEN_MAX)?;
    let changes = batch.into_changes();
    store.write(&mut rows, &changes, now)?;
    drop(rows);
    transaction.commit()?;
    Ok(expired_len)
}
