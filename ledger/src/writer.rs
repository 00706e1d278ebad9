//! The one thread that writes.
//!
//! It takes the first unit that waits and all that queued up meanwhile, applies them in order,
//! stores what they changed in one durable transaction, and answers after the commit. So the disk
//! is waited for once for many, and nobody is told what a power cut could undo. Where a whole batch
//! is volatile by its senders' wish, the disk is not waited for: what follows takes it along. After
//! a failed write it takes nothing more: what the disk holds is known only once the file is opened
//! anew.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
};

use crate::{Time, Verdict, error::LedgerError, operation::Unit, state::Batch, store::Store};

/// Units in one transaction.
pub(crate) const BATCH_LEN_MAX: usize = 2048;
/// Holds that end in one transaction because their time is over; further ones follow in the next.
const EXPIRED_LEN_MAX: usize = 1024;

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
}

/// The way to the writer's thread; its end is waited for when this is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Option<SyncSender<Request>>,
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
        }
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
    pub(crate) fn start(store: Store, queue_len_max: usize) -> Result<Self, LedgerError> {
        let (queue, requests) = std::sync::mpsc::sync_channel(queue_len_max.max(1));
        let failure = Failure::default();
        let for_thread = failure.clone();
        let thread = thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || run(store, &requests, &for_thread));
        let thread = thread.map_err(|error| LedgerError::Stopped {
            why: format!("its thread cannot start: {error}").into(),
        })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            failure,
        })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// The queue is full, or the writer has stopped. The request comes back.
    pub(crate) fn send(&self, request: Request) -> Result<(), (Request, LedgerError)> {
        if let Err(error) = self.failure.check() {
            return Err((request, error));
        }
        let Some(queue) = &self.queue else {
            return Err((request, closed()));
        };
        queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(request) => (request, LedgerError::Busy),
            TrySendError::Disconnected(request) => {
                let why = self.failure.check().err();
                (request, why.unwrap_or_else(closed))
            }
        })
    }

    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        self.failure.check()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
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

/// Serves requests until nobody can send any more, or until a write fails.
fn run(mut store: Store, requests: &Receiver<Request>, failure: &Failure) {
    let mut commands = Vec::new();
    while let Ok(first) = requests.recv() {
        let mut now = store.head().now;
        let mut waiting = Some(first);
        while let Some(request) = waiting {
            match request {
                Request::Apply(command) => {
                    now = now.max(command.now);
                    commands.push(command);
                }
                Request::Expire(time) => now = now.max(time),
            }
            if commands.len() >= BATCH_LEN_MAX {
                break;
            }
            waiting = requests.try_recv().ok();
        }
        match write(&mut store, &commands, now) {
            Ok(verdicts) => {
                for (command, verdict) in commands.drain(..).zip(verdicts) {
                    command.answer(Ok(verdict));
                }
            }
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                // Nobody else sets it.
                let _ = failure.0.set(why);
                for command in commands.drain(..) {
                    command.answer(Err(error.clone()));
                }
                break;
            }
        }
    }
    refuse_the_rest(requests, failure);
}

/// Answers what was queued before the failure was known.
fn refuse_the_rest(requests: &Receiver<Request>, failure: &Failure) {
    while let Ok(request) = requests.try_recv() {
        if let Request::Apply(command) = request {
            command.answer(Err(failure.check().err().unwrap_or_else(closed)));
        }
    }
}

/// Applies and stores a batch.
fn write(
    store: &mut Store,
    commands: &[Box<Command>],
    now: Time,
) -> Result<Vec<Verdict>, LedgerError> {
    let is_volatile = commands
        .iter()
        .all(|command| command.promise == Promise::Volatile);
    let promise = if is_volatile && !commands.is_empty() {
        Promise::Volatile
    } else {
        Promise::Durable
    };
    let transaction = store.begin(promise)?;
    let mut rows = store.rows(&transaction)?;
    let mut batch = Batch::new(&rows, store.head().next_sequence, now);
    let mut expired_len = batch.expire(EXPIRED_LEN_MAX)?;
    let verdicts: Result<Vec<_>, _> = commands
        .iter()
        .map(|command| batch.apply(&command.unit))
        .collect();
    let verdicts = verdicts?;
    let changes = batch.into_changes();
    if changes.entries.is_empty() {
        // Refusals, repetitions, and time that passed: nothing to wait for the disk for.
        drop(rows);
        transaction.abort()?;
        return Ok(verdicts);
    }
    store.write(&mut rows, &changes, now)?;
    drop(rows);
    transaction.commit()?;
    while expired_len == EXPIRED_LEN_MAX {
        expired_len = expire_more(store, now)?;
    }
    Ok(verdicts)
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
