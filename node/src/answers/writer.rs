//! The thread that owns the file: it takes what is queued, does it as one transaction, and answers
//! after the commit.

use aither_ledger::TransferId;
use aither_protocol::Amount;
use tokio::sync::{mpsc, oneshot};

use super::{
    AnswerLimits, AnswersError, Asked, Ending, KeptAnswer, RowKey, Seen, TTL,
    file::{AnswerFile, Edit, Tally},
    records::{HeadV1, RowV1, StateV1, corrupt},
};
use crate::billing::PaidOperation;

/// Most messages of one transaction.
const BATCH_LEN_MAX: usize = 64;
/// Most expired rows that one transaction drops: more than it adds.
const SWEPT_MAX: usize = 256;

/// Tells what came of a command.
type Reply<T> = oneshot::Sender<Result<T, AnswersError>>;

/// A command, and when it was given.
pub(super) struct Message {
    pub(super) now_ms: u64,
    pub(super) command: Command,
}

/// What the thread is asked.
pub(super) enum Command {
    Look(Asked, Reply<Seen>),
    Begin(Asked, Reply<Result<PaidOperation, Seen>>),
    End {
        key: RowKey,
        ending: Ending,
        reply: Reply<()>,
    },
    Sweep(Reply<()>),
}

/// Answers a command, once it is known whether the transaction is durable.
type Answer = Box<dyn FnOnce(Result<(), AnswersError>)>;

pub(super) struct Writer {
    file: AnswerFile,
    limits: AnswerLimits,
}

impl Writer {
    pub(super) fn new(file: AnswerFile, limits: AnswerLimits) -> Self {
        Self { file, limits }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH_LEN_MAX);
        while messages.blocking_recv_many(&mut batch, BATCH_LEN_MAX) > 0 {
            self.work(&mut batch);
        }
    }

    fn work(&mut self, batch: &mut Vec<Message>) {
        let limits = self.limits;
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let outcome = self.file.transact(|edit, tally| {
            for message in batch.drain(..) {
                let now_ms = message.now_ms;
                let mut turn = Turn {
                    edit,
                    tally,
                    limits,
                    now_ms,
                };
                turn.take(message.command, &mut answers)?;
            }
            Ok(())
        });
        if let Err(error) = &outcome {
            tracing::error!(%error, "answers to idempotency keys are not kept");
        }
        for answer in answers {
            answer(outcome.clone());
        }
        // After a failure those that were not come to are dropped, which their senders see.
        batch.clear();
    }
}

/// One command at its turn.
struct Turn<'a, 'tx> {
    edit: &'a mut Edit<'tx>,
    tally: &'a Tally,
    limits: AnswerLimits,
    now_ms: u64,
}

impl Turn<'_, '_> {
    fn take(&mut self, command: Command, answers: &mut Vec<Answer>) -> Result<(), redb::Error> {
        // A command whose turn fails is answered too: its reply waits before its value is known.
        match command {
            Command::Look(asked, reply) => answer_with(answers, reply, self.look(asked).map(Ok)),
            Command::Begin(asked, reply) => answer_with(answers, reply, self.begin(asked)),
            Command::End { key, ending, reply } => {
                answer_with(answers, reply, self.end(key, ending).map(Ok))
            }
            Command::Sweep(reply) => answer_with(answers, reply, self.sweep().map(Ok)),
        }
    }

    fn look(&self, asked: Asked) -> Result<Seen, redb::Error> {
        match self.current(asked.key)? {
            Some(row) => self.seen(asked, &row),
            None => Ok(Seen::New),
        }
    }

    fn begin(
        &mut self,
        asked: Asked,
    ) -> Result<Result<Result<PaidOperation, Seen>, AnswersError>, redb::Error> {
        self.sweep()?;
        let Asked { key, caller, .. } = asked;
        if let Some(mut row) = self.current(key)? {
            let seen = self.seen(asked, &row)?;
            let (Seen::New, StateV1::Charged { micros }) = (&seen, &row.state) else {
                return Ok(Ok(Err(seen)));
            };
            let operation = PaidOperation {
                id: TransferId(row.operation),
                charged: Some(Amount::from_micros(*micros)),
            };
            row.state = StateV1::InFlight;
            self.edit.put(key.0, &row)?;
            return Ok(Ok(Ok(operation)));
        }
        let (rows, of_caller) = self.edit.rows_len(self.tally, caller);
        if of_caller >= self.limits.caller_rows_max {
            let max = self.limits.caller_rows_max;
            return Ok(Err(AnswersError::CallerFull { max }));
        }
        if rows >= self.limits.rows_max {
            let max = self.limits.rows_max;
            return Ok(Err(AnswersError::Full { max }));
        }
        if let Some(expired) = self.edit.row(key.0)? {
            self.edit.remove(key.0, &expired)?;
        }
        // Names of payments rise with time, as the ledger likes them.
        let operation = ulid::Ulid::generate().0;
        let row = RowV1 {
            caller,
            request: asked.request,
            operation,
            made_ms: self.now_ms,
            state: StateV1::InFlight,
        };
        self.edit.add(key.0, &row)?;
        Ok(Ok(Ok(PaidOperation {
            id: TransferId(operation),
            charged: None,
        })))
    }

    fn end(&mut self, RowKey(key): RowKey, ending: Ending) -> Result<(), redb::Error> {
        let row = self.edit.row(key)?;
        let mut row = row.ok_or_else(|| corrupt("a row in flight is gone"))?;
        row.state = match ending {
            Ending::Forgotten => return self.edit.remove(key, &row),
            Ending::Done => StateV1::Done,
            Ending::Charged(amount) => StateV1::Charged {
                micros: amount.micros(),
            },
            Ending::Answered(KeptAnswer {
                status,
                headers,
                body,
            }) => {
                self.edit.put_body(row.age(key), &body)?;
                StateV1::Answered(HeadV1 { status, headers })
            }
        };
        self.edit.put(key, &row)?;
        self.make_room()
    }

    /// Drops the oldest bodies as long as there is too much of them.
    fn make_room(&mut self) -> Result<(), redb::Error> {
        while self.edit.bytes() > self.limits.bytes_max
            && let Some(age) = self.edit.oldest_body()?
        {
            let row = self.edit.row(age.1)?;
            let mut row = row.ok_or_else(|| corrupt("a body belongs to no row"))?;
            row.state = StateV1::Done;
            self.edit.put(age.1, &row)?;
            self.edit.remove_body(age)?;
        }
        Ok(())
    }

    /// Drops rows whose time is over, but none that is in flight.
    fn sweep(&mut self) -> Result<(), redb::Error> {
        let Some(until) = self.now_ms.checked_sub(ttl_ms()) else {
            return Ok(());
        };
        for (_, key) in self.edit.made_until(until, SWEPT_MAX)? {
            let row = self.edit.row(key)?;
            if let Some(row) = row.filter(|row| row.state != StateV1::InFlight) {
                self.edit.remove(key, &row)?;
            }
        }
        Ok(())
    }

    /// Returns a row, unless its time is over.
    fn current(&self, RowKey(key): RowKey) -> Result<Option<RowV1>, redb::Error> {
        let row = self.edit.row(key)?;
        Ok(row.filter(|row| {
            let age_ms = self.now_ms.saturating_sub(row.made_ms);
            age_ms < ttl_ms() || row.state == StateV1::InFlight
        }))
    }

    fn seen(&self, asked: Asked, row: &RowV1) -> Result<Seen, redb::Error> {
        if row.request != asked.request {
            return Ok(Seen::OtherRequest);
        }
        Ok(match &row.state {
            StateV1::InFlight => Seen::InFlight,
            StateV1::Charged { .. } => Seen::New,
            StateV1::Done => Seen::Done,
            StateV1::Answered(head) => {
                let body = self.edit.body(row.age(asked.key.0))?;
                Seen::Answered(KeptAnswer {
                    status: head.status,
                    headers: head.headers.clone(),
                    body: body.ok_or_else(|| corrupt("an answer has no body"))?,
                })
            }
        })
    }
}

/// Notes what a command is to be answered. A failure of the store is every command's.
fn answer_with<T: 'static>(
    answers: &mut Vec<Answer>,
    reply: Reply<T>,
    value: Result<Result<T, AnswersError>, redb::Error>,
) -> Result<(), redb::Error> {
    let (value, failure) = match value {
        Ok(value) => (value, Ok(())),
        Err(error) => (Err(AnswersError::Stopped), Err(error)),
    };
    answers.push(Box::new(move |durable| {
        // Nobody may be waiting any more.
        let _ = reply.send(durable.and(value));
    }));
    failure
}

fn ttl_ms() -> u64 {
    u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX)
}
