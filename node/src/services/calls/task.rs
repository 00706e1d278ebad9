//! A task from the hold to the payment, or to the void.
//!
//! Whatever becomes of whoever waits for it, a task ends: dropped, its hold is voided together with
//! the record that says why. It is listed as under way until its end is durable, so nobody is told
//! of an end that a crash could take back.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use aither_ledger::{AccountId, Note, Share, Usage};
use aither_protocol::Amount;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    super::{Audience, CallEnd, NodeEvent},
    CallError, Shared,
};
use crate::{
    agents::Agent,
    billing::{BillingError, Funds, Hold, OPERATOR, Settlement, now},
    calls::{TaskRecord, TaskStatus, record::KeptResult},
};

/// The owner's part of what a call costs, in percent; the rest is the node's.
const OWNER_PERCENT: u128 = 80;

/// A task that is under way, as others see it.
#[derive(Debug)]
pub(super) struct Live {
    record: Mutex<TaskRecord>,
    /// Told that the task is not wanted any more.
    pub(super) cancel: CancellationToken,
    /// Told once its end is durable.
    pub(super) ended: CancellationToken,
}

/// An answer that is read while it comes.
#[derive(Debug)]
pub(super) struct Sold {
    pub(super) price: Amount,
    pub(super) usage: Usage,
    /// Whether its reader has had anything of it.
    pub(super) is_read: Arc<AtomicBool>,
}

/// A task that is under way. Dropped, it ends with nothing charged, unless its caller had begun to
/// read: an answer that could be read to its last word for nothing would never be paid for.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: u128,
    shared: Arc<Shared>,
    live: Arc<Live>,
    agent: Arc<Agent>,
    /// `None` once it has ended.
    funds: Option<Funds>,
    begun: Instant,
    /// When its agent got to it.
    at_agent: Option<Instant>,
    /// What the agent at work sells, where that is read while it comes.
    sold: Option<Sold>,
}

/// A task whose caller has gone and pays.
struct Left {
    hold: Hold,
    price: Amount,
    settlement: Settlement,
    ending: Ending,
}

/// What is told of an end once it is durable.
struct Ending {
    shared: Arc<Shared>,
    live: Arc<Live>,
    id: u128,
    agent: Arc<Agent>,
    record: TaskRecord,
    latency_ms: u64,
    /// How it ended for its agent and when that began, if it had come that far.
    agent_end: Option<(CallEnd, Instant)>,
}

impl Live {
    pub(super) fn new(record: TaskRecord) -> Self {
        Self {
            record: Mutex::new(record),
            cancel: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    pub(super) fn record(&self) -> TaskRecord {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, TaskRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    /// Lists a task for which something is held, or was paid.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        (id, record): (u128, TaskRecord),
        agent: &Arc<Agent>,
        funds: Funds,
    ) -> Self {
        let live = Arc::new(Live::new(record));
        shared.live().insert(id, Arc::clone(&live));
        Self {
            id,
            shared: Arc::clone(shared),
            live,
            agent: Arc::clone(agent),
            funds: Some(funds),
            begun: Instant::now(),
            at_agent: None,
            sold: None,
        }
    }

    /// Returns what is told when the task is not wanted any more.
    pub(super) fn cancel(&self) -> CancellationToken {
        self.live.cancel.clone()
    }

    /// Notes that another agent is asked.
    pub(super) fn turn_to(&mut self, agent: &Arc<Agent>, endpoint: &str) {
        self.agent = Arc::clone(agent);
        let mut record = self.live.lock();
        record.status = TaskStatus::Queued;
        record.agent = agent.name.to_string();
        endpoint.clone_into(&mut record.endpoint);
    }

    /// Notes that the agent is at work, on something that may be read while it comes.
    pub(super) fn run(&mut self, sold: Option<Sold>) {
        self.sold = sold;
        self.at_agent = Some(Instant::now());
        let mut record = self.live.lock();
        record.status = TaskStatus::Running;
        record.started_ms = Some(now().0);
    }

    /// Notes that the agent is not at work any more, and how that ended.
    pub(super) fn agent_ended(&mut self, end: &CallEnd) {
        if let Some(began) = self.at_agent.take() {
            let health = self.shared.agents.health();
            health.ended(self.agent.id, end, began.elapsed());
        }
    }

    /// Ends it with an answer: what was agreed is paid, its owner's part to the owner.
    ///
    /// # Errors
    /// It could not be paid.
    pub(super) async fn complete(
        mut self,
        result: Option<KeptResult>,
        omitted: u64,
        price: Amount,
        mut usage: Usage,
    ) -> Result<Amount, BillingError> {
        let share = self.share_of(price);
        let end = match usage.account == self.agent.owner {
            true => CallEnd::AnsweredOwner { earned: share },
            false => CallEnd::Answered { earned: share },
        };
        let ending = self.ending(Some(end), |record| match result {
            Some(result) => record.complete(result, price),
            None => {
                record.complete(KeptResult::default(), price);
                record.result = None;
                record.result_omitted = Some(omitted);
            }
        });
        usage.amount = price;
        usage.latency_ms = ending.latency_ms;
        let note = Some(ending.note());
        match self.funds.take() {
            Some(Funds::Held(hold)) => {
                let owner = self.agent.owner;
                let settlement = Settlement {
                    usage,
                    shares: shares(owner, share),
                    note,
                };
                ended(|reply| hold.post(price, settlement, reply), ending).await
            }
            Some(Funds::Charged(amount)) => {
                ending.tell(true);
                Ok(amount)
            }
            Some(Funds::Free) | None => {
                ending.tell(true);
                Ok(Amount::ZERO)
            }
        }
    }

    /// Ends it without an answer: nothing is charged, unless its caller has canceled what it had
    /// begun to read.
    ///
    /// # Errors
    /// That could not be written. It will be undone all the same.
    pub(super) async fn fail(
        mut self,
        error: &CallError,
        agent_end: Option<CallEnd>,
    ) -> Result<(), BillingError> {
        if matches!(error, CallError::Canceled)
            && let Some(left) = self.leave()
        {
            let Left {
                hold,
                price,
                settlement,
                ending,
            } = left;
            let post = |reply| hold.post(price, settlement, reply);
            return ended(post, ending).await.map(drop);
        }
        let (status, code, words) = (error.status(), error.code(), error.to_string());
        let ending = self.ending(agent_end, |record| {
            record.fail(status, code.as_str(), &words);
        });
        match self.funds.take() {
            Some(Funds::Held(hold)) => {
                let note = Some(ending.note());
                ended(|reply| hold.void(note, reply), ending).await
            }
            _ => {
                ending.tell(true);
                Ok(())
            }
        }
    }

    /// Ends it as one whose caller has gone after it had begun to read, if that is so.
    fn leave(&mut self) -> Option<Left> {
        let is_read = |sold: &Sold| sold.is_read.load(Ordering::Acquire);
        let Sold {
            price, mut usage, ..
        } = self.sold.take_if(|sold| is_read(sold))?;
        let hold = match self.funds.take()? {
            Funds::Held(hold) => hold,
            funds => {
                self.funds = Some(funds);
                return None;
            }
        };
        let share = self.share_of(price);
        let end = CallEnd::Left { earned: share };
        let ending = self.ending(Some(end), |record| {
            let words = "the caller hung up after it had begun to read, which is paid for";
            record.fail(TaskStatus::Canceled, "conflict", words);
            record.cost_micros = price.micros();
        });
        usage.amount = price;
        usage.latency_ms = ending.latency_ms;
        let settlement = Settlement {
            usage,
            shares: shares(self.agent.owner, share),
            note: Some(ending.note()),
        };
        Some(Left {
            hold,
            price,
            settlement,
            ending,
        })
    }

    /// Returns the owner's part of an amount.
    fn share_of(&self, price: Amount) -> Amount {
        match self.agent.owner {
            OPERATOR => Amount::ZERO,
            _ => Amount::from_micros(price.micros() * OWNER_PERCENT / 100),
        }
    }

    fn ending(
        &mut self,
        agent_end: Option<CallEnd>,
        change: impl FnOnce(&mut TaskRecord),
    ) -> Ending {
        let mut record = self.live.record();
        record.ended_ms = Some(now().0);
        change(&mut record);
        let latency_ms = self.begun.elapsed().as_millis();
        Ending {
            shared: Arc::clone(&self.shared),
            live: Arc::clone(&self.live),
            id: self.id,
            agent: Arc::clone(&self.agent),
            record,
            latency_ms: u64::try_from(latency_ms).unwrap_or(u64::MAX),
            agent_end: agent_end.zip(self.at_agent.take()),
        }
    }
}

/// Whoever waited has gone, or the node is stopping.
impl Drop for Task {
    fn drop(&mut self) {
        let is_stopping = self.shared.is_stopping();
        if let Some(left) = (!is_stopping).then(|| self.leave()).flatten() {
            return left.hold.post(left.price, left.settlement, move |paid| {
                if let Err(error) = &paid {
                    tracing::warn!(%error, "a task that was read is not paid for");
                }
                left.ending.tell(paid.is_ok());
            });
        }
        let Some(funds) = self.funds.take() else {
            return;
        };
        let ending = self.ending(Some(CallEnd::Canceled), |record| match is_stopping {
            true => record.fail(
                TaskStatus::Failed,
                "not_ready",
                "the node stopped while the task was running",
            ),
            false => record.fail(
                TaskStatus::Canceled,
                "conflict",
                "the caller hung up before the agent had answered",
            ),
        });
        match funds {
            Funds::Held(hold) => {
                let note = Some(ending.note());
                hold.void(note, move |voided| {
                    if let Err(error) = voided {
                        tracing::warn!(%error, "the end of a task is not written");
                    }
                    ending.tell(true);
                });
            }
            Funds::Charged(_) | Funds::Free => ending.tell(true),
        }
    }
}

/// Waits until an end is durable. It is told of also when nobody waits any more.
async fn ended<T: Send + 'static>(
    settle: impl FnOnce(Box<dyn FnOnce(Result<T, BillingError>) + Send>),
    ending: Ending,
) -> Result<T, BillingError> {
    let (sender, receiver) = oneshot::channel();
    settle(Box::new(move |settled| {
        ending.tell(settled.is_ok());
        // Nobody may be waiting any more.
        let _ = sender.send(settled);
    }));
    let stopped = |_| {
        let why = "it did not answer".into();
        BillingError::Ledger(aither_ledger::LedgerError::Stopped { why })
    };
    receiver.await.map_err(stopped)?
}

fn shares(owner: AccountId, amount: Amount) -> Vec<Share> {
    let share = Share {
        account: owner,
        amount,
    };
    (!amount.is_zero()).then_some(share).into_iter().collect()
}

impl Ending {
    fn note(&self) -> Note {
        Note {
            id: self.id,
            bytes: self.record.encode(),
        }
    }

    /// Tells of it, or that it could not be written. Runs on the ledger's thread, and waits for
    /// nothing.
    fn tell(self, is_written: bool) {
        self.shared.live().remove(&self.id);
        if let Some((end, began)) = self.agent_end.as_ref().filter(|_| is_written) {
            let health = self.shared.agents.health();
            health.ended(self.agent.id, end, began.elapsed());
        }
        let record = &self.record;
        let word = match record.status {
            TaskStatus::Completed if is_written => "completed",
            _ => "failed",
        };
        let mut data = json!({
            "task_id": ulid::Ulid(self.id).to_string(),
            "endpoint": record.endpoint,
            "status": record.status.as_str(),
            "latency_ms": self.latency_ms,
            "cost": record.cost(),
            "caller": record.caller,
        });
        if let Some(error) = &record.error {
            data["error"] = error.code.as_str().into();
        }
        self.shared.events.note(NodeEvent {
            name: format!("agent.{}.call.{word}", record.agent),
            agent: Some(record.agent.clone()),
            audience: Audience::Accounts(vec![self.agent.owner]),
            data,
        });
        self.live.ended.cancel();
    }
}
