//! Answers that are kept for whoever asks again with the same `Idempotency-Key`.
//!
//! A row is reserved, durably, before the work begins ([`AnswerStore::begin`]), and ended with its
//! answer before that is acknowledged ([`Claim`]). It has the name of the payment, so that what a
//! crash cut off is told from what was charged: [`AnswerStore::open`] asks the ledger.
//!
//! One thread writes ([`writer`]); what is queued becomes one transaction, and is answered after
//! its commit.
//!
//! Bounds ([`AnswerLimits`]): rows, rows of one caller, bytes of all answers and of one. Where room
//! runs out the oldest answers go first, but their rows stay for [`TTL`]: what was done is not done
//! again, though nobody can say any more what the answer was.

mod error;
mod file;
mod records;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use aither_ledger::TransferId;
use aither_protocol::Amount;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub use self::error::AnswersError;
use self::{
    file::AnswerFile,
    writer::{Command, Message, Writer},
};
use crate::billing::{BillingError, PaidOperation, Settled};

/// How long a key means the same request.
pub const TTL: Duration = Duration::from_secs(24 * 3600);
/// Messages that wait for the writer; whoever sends more waits too.
const QUEUE_LEN_MAX: usize = 1024;

/// Bounds of the store.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLimits {
    /// Rows in all: about 200 bytes each.
    pub rows_max: u64,
    /// Rows of one caller: more than one a second, day and night.
    pub caller_rows_max: u64,
    /// Bytes of all answers.
    pub bytes_max: u64,
    /// Bytes of one answer; a longer one is not kept.
    pub answer_bytes_max: usize,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        Self {
            rows_max: 1_000_000,
            caller_rows_max: 100_000,
            bytes_max: 512 << 20,
            answer_bytes_max: 16 << 20,
        }
    }
}

/// Names a row: a hash over the caller, the route and the caller's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowKey(pub [u8; 32]);

/// A request as the store knows it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The row.
    pub key: RowKey,
    /// Whose row it is, for the bound on one caller's.
    pub caller: u128,
    /// A hash over all that another request with the same key could have otherwise.
    pub request: [u8; 32],
}

/// An answer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Bytes,
}

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, or that it has to be done again.
    New,
    /// It is being done.
    InFlight,
    /// The key stands for another request.
    OtherRequest,
    /// It was done; the answer is not kept.
    Done,
    /// It was done, with this answer.
    Answered(KeptAnswer),
}

/// The store; clones share it, and the last one waits until all is written.
#[derive(Debug, Clone)]
pub struct AnswerStore {
    shared: Arc<Shared>,
}

struct Shared {
    limits: AnswerLimits,
    /// `None` once the store is being dropped.
    queue: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

/// A reserved row. Dropped, it stays in flight until the next start looks after it.
#[derive(Debug)]
#[must_use = "the row stays in flight unless it is ended"]
pub struct Claim {
    store: AnswerStore,
    key: RowKey,
    operation: PaidOperation,
}

/// How a row ends.
#[derive(Debug)]
pub(crate) enum Ending {
    /// With an answer.
    Answered(KeptAnswer),
    /// With one that is not kept.
    Done,
    /// With none that counts, but with a charge: it may be done again without another.
    Charged(Amount),
    /// As if it had never been.
    Forgotten,
}

impl AnswerStore {
    /// Opens the store, makes it if need be, and verifies all of it. Rows that an earlier process
    /// left in flight are settled: `settled` says what was charged. Blocks.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read or written.
    pub fn open(
        path: &Path,
        limits: AnswerLimits,
        settled: impl Fn(TransferId) -> Result<Settled, BillingError>,
    ) -> Result<Self, AnswersError> {
        let mut file = AnswerFile::open(path)?;
        file.settle_left(settled)?;
        let (queue, messages) = mpsc::channel(QUEUE_LEN_MAX);
        let writer = Writer::new(file, limits);
        let thread = thread::Builder::new()
            .name("answers".into())
            .spawn(move || writer.run(messages))
            .map_err(|error| AnswersError::of(path, redb::Error::Io(error)))?;
        Ok(Self {
            shared: Arc::new(Shared {
                limits,
                queue: Some(queue),
                thread: Some(thread),
            }),
        })
    }

    /// Verifies every page and every row, and returns how many there are.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn check(path: &Path) -> Result<u64, AnswersError> {
        Ok(AnswerFile::open(path)?.tally().rows)
    }

    /// Returns the bounds.
    pub fn limits(&self) -> &AnswerLimits {
        &self.shared.limits
    }

    /// Says what is known of a request.
    ///
    /// # Errors
    /// The store failed.
    pub async fn look(&self, asked: Asked, now_ms: u64) -> Result<Seen, AnswersError> {
        self.ask(now_ms, |reply| Command::Look(asked, reply)).await
    }

    /// Reserves the row of a request, or says why it is not to be done. To be called by a task
    /// that nobody gives up: the row of one that did is in flight for good.
    ///
    /// # Errors
    /// There is no room, or the store failed. Nothing is reserved then.
    pub async fn begin(
        &self,
        asked: Asked,
        now_ms: u64,
    ) -> Result<Result<Claim, Seen>, AnswersError> {
        let begun = self.ask(now_ms, |reply| Command::Begin(asked, reply));
        Ok(begun.await?.map(|operation| Claim {
            store: self.clone(),
            key: asked.key,
            operation,
        }))
    }

    /// Drops what has expired.
    ///
    /// # Errors
    /// The store failed.
    pub async fn sweep(&self, now_ms: u64) -> Result<(), AnswersError> {
        self.ask(now_ms, Command::Sweep).await
    }

    async fn ask<T>(
        &self,
        now_ms: u64,
        command: impl FnOnce(oneshot::Sender<Result<T, AnswersError>>) -> Command,
    ) -> Result<T, AnswersError> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let message = Message { now_ms, command };
        let queue = self.shared.queue.as_ref().ok_or(AnswersError::Stopped)?;
        let sent = queue.send(message).await;
        sent.map_err(|_stopped| AnswersError::Stopped)?;
        answer.await.map_err(|_stopped| AnswersError::Stopped)?
    }
}

impl Claim {
    /// Returns the name under which the work is to be paid.
    pub fn operation(&self) -> PaidOperation {
        self.operation
    }

    /// Keeps the answer.
    ///
    /// # Errors
    /// The store failed: the row is in flight until the next start.
    pub async fn answered(self, answer: KeptAnswer, now_ms: u64) -> Result<(), AnswersError> {
        self.end(Ending::Answered(answer), now_ms).await
    }

    /// Notes that the work is done, without its answer.
    ///
    /// # Errors
    /// As [`answered`](Self::answered).
    pub async fn done(self, now_ms: u64) -> Result<(), AnswersError> {
        self.end(Ending::Done, now_ms).await
    }

    /// Gives the row back, so that the request can be made again. Work that was charged will not
    /// be charged again.
    ///
    /// # Errors
    /// As [`answered`](Self::answered).
    pub async fn release(self, charged: Option<Amount>, now_ms: u64) -> Result<(), AnswersError> {
        let ending = charged.map_or(Ending::Forgotten, Ending::Charged);
        self.end(ending, now_ms).await
    }

    async fn end(self, ending: Ending, now_ms: u64) -> Result<(), AnswersError> {
        let key = self.key;
        let ended = self
            .store
            .ask(now_ms, |reply| Command::End { key, ending, reply });
        ended.await
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was reported by whoever waited for it.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
