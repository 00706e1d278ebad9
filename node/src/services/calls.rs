//! Calling agents: by name, or the best of those with a skill, and paying their owners.
//!
//! What a call costs is held before its agent is asked and paid, with the owner's part, once the
//! agent has answered; the record of the task is written in the same unit of the ledger. Nothing
//! else of a call is durable, so it waits for the disk once. A call that comes to nothing costs
//! nothing; who has begun to read a streamed answer pays, whether or not it reads on.
//!
//! Whoever asks for a whole answer does the work: dropped, the call is over and its connection
//! closed. A stream has a task of its own, since a reader who stalls must not stop its clock.
//!
//! Limits: [`TASKS_MAX`] tasks; for each agent what its card says and a queue behind it; answers of
//! [`ANSWER_BYTES_MAX`], and of [`ANSWERS_BYTES_MAX`] together; [`CANDIDATES_TRIED`] agents are
//! asked for a skill at most.

mod error;
mod exchange;
mod parallel;
mod run;
mod task;
mod turns;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use aither_protocol::{AgentCard, Amount, HttpMethod};
use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

pub use self::{
    error::{CallError, CallFailure, HOPS_MAX, QUERY_BYTES_MAX},
    parallel::{request_settled, settled_request},
};
use self::{task::Live, turns::Turns};
use super::{AgentService, EventService, Targets};
use crate::{
    accounts::StoreError,
    agents::{Agent, AgentId},
    billing::{Billing, Payment, Settled, now, settled_in},
    calls::{TaskRecord, TaskStatus, message::Reading, target::Target},
};

/// Tasks at once; further ones are refused.
pub const TASKS_MAX: usize = 8192;
/// Longest answer of an agent.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Bytes of all answers that are being read; those that would be more are given up.
const ANSWERS_BYTES_MAX: usize = 512 << 20;
/// Agents that are asked in turn for one skill.
pub const CANDIDATES_TRIED: usize = 3;
/// Agents with a skill that are compared; of more the first to come aboard.
const CANDIDATES_MAX: usize = 1024;
/// Cards that are kept read.
const TARGETS_MAX: usize = 4096;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections to one agent that are kept open for the next calls.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// How long they are. Common servers close them after five seconds, and a request that meets that
/// is lost.
const IDLE_TIME_MAX: Duration = Duration::from_secs(4);
/// Events of a stream that wait for their reader.
const EVENTS_WAITING_MAX: usize = 16;
/// Longest wait for a canceled task to end: for the disk.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callee {
    /// The agent of this name, which may be followed by `@` and a node.
    Agent(String),
    /// The best agent that has the skill.
    BySkill,
}

/// What an agent is asked.
#[derive(Debug, Clone)]
pub enum What {
    /// A message.
    Message {
        /// A text or any JSON.
        input: Box<RawValue>,
        /// Where it belongs to.
        session_id: Option<String>,
    },
    /// Something at an endpoint of its own.
    Endpoint {
        /// Its path, as declared.
        path: String,
        /// Its method, where its path has several.
        method: Option<HttpMethod>,
        /// What is sent.
        payload: Option<Box<RawValue>>,
    },
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskCaller {
    /// An agent's name or an account's id.
    pub name: String,
    /// The agent, if one calls.
    pub agent: Option<AgentId>,
}

/// A call.
#[derive(Debug, Clone)]
pub struct CallRequest {
    /// Who is called.
    pub callee: Callee,
    /// The skill that is asked for.
    pub skill: Option<String>,
    /// What is asked.
    pub what: What,
    /// Whether the answer is wanted as it is, not what it means.
    pub pass_through: bool,
    /// Whether it is wanted in pieces.
    pub stream: bool,
    /// How long the agent is waited for, with the time before its turn; in a stream, for each
    /// piece.
    pub timeout: Duration,
    /// Longest answer.
    pub answer_bytes_max: usize,
    /// Who pays, and how much at most.
    pub payment: Payment,
    /// What this call and others may cost together.
    pub budget: Option<Arc<Budget>>,
    /// Who calls.
    pub caller: TaskCaller,
    /// Finds the request in the log.
    pub request_id: String,
    /// How often it was passed on before it came here.
    pub hop: u8,
}

/// What several calls may cost together.
#[derive(Debug)]
pub struct Budget(Mutex<Amount>);

/// What came of a call.
#[derive(Debug, Clone)]
pub struct CallAnswer {
    /// The task that it was.
    pub task_id: u128,
    /// Who has answered.
    pub agent: String,
    /// What was charged.
    pub cost: Amount,
    /// The status that the agent has answered.
    pub status: u16,
    /// The media type of its body.
    pub content_type: String,
    /// What it means; `None` where JSON cannot say it.
    pub reading: Option<Reading>,
    /// The body, where it is passed on.
    pub body: Bytes,
    /// Why this agent was called, in words.
    pub reason: String,
}

/// What comes of a call in pieces.
#[derive(Debug)]
pub enum CallEvent {
    /// An agent was found and the call is paid for, if it comes to something.
    Began {
        /// The task.
        task_id: u128,
        /// Who is called.
        agent: String,
    },
    /// The agent answers with a stream that is passed on as it comes.
    Head {
        /// Its status.
        status: u16,
        /// Its media type.
        content_type: String,
    },
    /// A piece of that stream.
    Bytes(Bytes),
    /// A piece of text.
    Text(String),
    /// It is over.
    End(Ended),
}

/// A call whose answer comes in pieces. Dropped, the call is over.
#[derive(Debug)]
pub struct CallStream {
    events: mpsc::Receiver<CallEvent>,
    /// Beside the events, so that it is there however many of those wait for a slow reader.
    end: oneshot::Receiver<Ended>,
    is_read: Arc<AtomicBool>,
}

/// What the events of a stream are told to.
#[derive(Debug)]
pub(crate) struct Sink {
    events: mpsc::Sender<CallEvent>,
    /// Whether its reader has had anything of the answer.
    is_read: Arc<AtomicBool>,
}

/// How a call in pieces has ended.
type Ended = Box<Result<CallAnswer, CallFailure>>;

/// Whose tasks somebody may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskViewer {
    /// Everybody's.
    Operator,
    /// Those that an account pays for.
    Account(u128),
    /// Those that an agent has begun.
    Agent(u128),
}

/// Calls of agents; clones share them.
#[derive(Debug, Clone)]
pub struct CallService {
    shared: Arc<Shared>,
    streams: TaskTracker,
}

/// What all calls share.
pub(crate) struct Shared {
    agents: AgentService,
    billing: Billing,
    events: EventService,
    client: reqwest::Client,
    targets: Targets,
    /// This node's names: its id, and the one for people.
    names: [String; 2],
    turns: Arc<Turns>,
    places: Semaphore,
    /// Bytes of answers that may still be read.
    room: Arc<Semaphore>,
    live: Mutex<HashMap<u128, Arc<Live>>>,
    /// By agent, when its card was last changed and what calls need of it.
    cards: Mutex<HashMap<AgentId, (SystemTime, Arc<Target>)>>,
    is_stopping: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl CallService {
    /// Makes the service of the node that has these names.
    ///
    /// # Errors
    /// There can be no HTTP client.
    pub fn open(
        agents: AgentService,
        billing: Billing,
        events: EventService,
        names: [String; 2],
    ) -> Result<Self, StoreError> {
        let targets = agents.targets();
        let client = targets
            .client()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_TIME_MAX)
            .http1_only();
        let client = client.build().map_err(|error| StoreError::Io {
            path: "ledger.redb".into(),
            message: format!("no HTTP client for calls of agents: {error}"),
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                turns: Arc::new(Turns::new(agents.clone())),
                agents,
                billing,
                events,
                client,
                targets,
                names,
                places: Semaphore::new(TASKS_MAX),
                room: Arc::new(Semaphore::new(ANSWERS_BYTES_MAX)),
                live: Mutex::default(),
                cards: Mutex::default(),
                is_stopping: AtomicBool::new(false),
            }),
            streams: TaskTracker::new(),
        })
    }

    /// Calls an agent and waits for its answer. Dropped, the call is over.
    ///
    /// # Errors
    /// Nobody can be called, the agent fails or takes too long, or it is not paid for.
    pub async fn call(&self, request: CallRequest) -> Result<CallAnswer, CallFailure> {
        // What it holds is large, and handlers hold it in turn.
        Box::pin(run::run(&self.shared, &request, None)).await
    }

    /// Calls an agent and hands on what comes as it comes.
    pub fn stream(&self, request: CallRequest) -> CallStream {
        let (sink, end, stream) = CallStream::new();
        let shared = Arc::clone(&self.shared);
        self.streams.spawn(async move {
            let work = Box::pin(run::run(&shared, &request, Some(&sink)));
            let outcome = tokio::select! {
                biased;
                outcome = work => outcome,
                () = sink.events.closed() => return,
            };
            // A reader that does not take it is gone.
            let _ = end.send(Box::new(outcome));
        });
        stream
    }

    /// Returns a task that somebody may see.
    ///
    /// # Errors
    /// There is none, or it is another's, which is not told apart; or the ledger cannot be read.
    pub fn task(&self, id: u128, viewer: TaskViewer) -> Result<TaskRecord, CallError> {
        let unknown = || CallError::UnknownTask(ulid::Ulid(id).to_string());
        let live = self.shared.live().get(&id).map(|live| live.record());
        let record = match live {
            Some(record) => record,
            None => self.shared.kept(id)?.ok_or_else(unknown)?,
        };
        let may = match viewer {
            TaskViewer::Operator => true,
            TaskViewer::Account(account) => record.account == account,
            TaskViewer::Agent(agent) => record.caller_agent == Some(agent),
        };
        may.then_some(record).ok_or_else(unknown)
    }

    /// Ends a task that is under way, and returns it as it has ended.
    ///
    /// # Errors
    /// There is none that somebody may see, it has ended already, or its end cannot be written.
    pub async fn cancel(&self, id: u128, viewer: TaskViewer) -> Result<TaskRecord, CallError> {
        let seen = self.task(id, viewer)?;
        let live = self.shared.live().get(&id).cloned();
        let Some(live) = live else {
            return Err(CallError::Over(seen.status));
        };
        live.cancel.cancel();
        let ended = timeout_at(Instant::now() + CANCEL_TIMEOUT, live.ended.cancelled());
        if ended.await.is_err() {
            let words = "a canceled task does not end".to_owned();
            return Err(CallError::Internal(words));
        }
        let record = self.task(id, viewer)?;
        match record.status {
            TaskStatus::Canceled => Ok(record),
            // Its agent was quicker.
            status => Err(CallError::Over(status)),
        }
    }

    /// Says that the node is stopping: what is cut off from now on is the node's doing.
    pub fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.streams.close();
    }

    /// Waits until streams have ended that nobody reads any more.
    pub async fn ended(&self) {
        self.streams.wait().await;
    }

    /// Forgets records of tasks that are older than `retention`, or too many.
    pub fn forget(&self, retention: Duration, bytes_max: u64) {
        let below = oldest_kept(now().0, retention);
        self.shared.billing.forget_notes(below, bytes_max);
    }
}

/// Returns the first id that a task could have that is still known.
fn oldest_kept(now_ms: u64, retention: Duration) -> u128 {
    let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    ulid::Ulid::from_parts(now_ms.saturating_sub(retention_ms), 0).0
}

impl Budget {
    /// A budget of so much.
    pub fn new(amount: Amount) -> Self {
        Self(Mutex::new(amount))
    }

    /// Takes an amount, or says what is left.
    fn take(&self, amount: Amount) -> Result<(), Amount> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.checked_sub(amount).ok_or(*left)?;
        Ok(())
    }

    fn give_back(&self, amount: Amount) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.checked_add(amount).unwrap_or(Amount::MAX);
    }
}

impl Sink {
    /// Tells of an event; waits while its reader has as many as may wait.
    pub(crate) async fn send(&self, event: CallEvent) -> Result<(), CallError> {
        let sent = self.events.send(event).await;
        sent.map_err(|_gone| CallError::Canceled)
    }
}

impl CallStream {
    /// Makes one, with what its events and its end are told to. The end is told before the other
    /// is dropped.
    pub(crate) fn new() -> (Sink, oneshot::Sender<Ended>, Self) {
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let (end_sender, end) = oneshot::channel();
        let is_read = Arc::<AtomicBool>::default();
        let sink = Sink {
            events: sender,
            is_read: Arc::clone(&is_read),
        };
        let stream = Self {
            events,
            end,
            is_read,
        };
        (sink, end_sender, stream)
    }

    /// Waits for the next event; `None` after [`CallEvent::End`], or without one where whoever
    /// was to tell of it has panicked. May be dropped and called again.
    pub async fn next(&mut self) -> Option<CallEvent> {
        match self.events.recv().await {
            Some(event) => Some(self.read(event)),
            None => self.end(),
        }
    }

    /// Returns an event that is already here, so that several can be sent at once.
    pub fn try_next(&mut self) -> Option<CallEvent> {
        match self.events.try_recv() {
            Ok(event) => Some(self.read(event)),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => self.end(),
        }
    }

    fn read(&self, event: CallEvent) -> CallEvent {
        if matches!(event, CallEvent::Text(_) | CallEvent::Bytes(_)) {
            self.is_read.store(true, Ordering::Release);
        }
        event
    }

    fn end(&mut self) -> Option<CallEvent> {
        self.end.try_recv().ok().map(CallEvent::End)
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, HashMap<u128, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Returns what is kept of a task that is not under way.
    fn kept(&self, id: u128) -> Result<Option<TaskRecord>, CallError> {
        let view = self.billing.view()?;
        let note = view.note(id).map_err(crate::billing::BillingError::from)?;
        let Some(mut record) = note.and_then(|note| TaskRecord::decode(&note)) else {
            return Ok(None);
        };
        // Whoever asked was gone before the hold was there, which had then no end of its own.
        let hold = settled_in(&view, aither_ledger::TransferId(id))?;
        if !record.status.is_over() && hold == Settled::Never {
            let words = "the caller hung up before the agent had answered";
            record.fail(TaskStatus::Canceled, "conflict", words);
        }
        Ok(Some(record))
    }

    /// Returns what calls need of an agent's card.
    ///
    /// # Errors
    /// It has no address, or the card cannot be read.
    async fn target(&self, agent: &Agent) -> Result<Arc<Target>, CallError> {
        let known = self.cards().get(&agent.id).cloned();
        if let Some((updated, target)) = known
            && updated == agent.updated
        {
            return Ok(target);
        }
        let not_callable = || CallError::NotCallable(agent.name.to_string());
        if agent.probe.is_none() {
            return Err(not_callable());
        }
        let card = self.agents.card(agent.id).await?;
        let card = AgentCard::from_json(&card);
        let card = card.map_err(|_| CallError::Internal("a kept card is none".into()))?;
        let target = Arc::new(Target::of(&card).ok_or_else(not_callable)?);
        let mut cards = self.cards();
        if cards.len() >= TARGETS_MAX && !cards.contains_key(&agent.id) {
            // Any will do: whoever is called often is read again at once, and stays for long.
            let first = cards.keys().next().copied();
            first.map(|first| cards.remove(&first));
        }
        cards.insert(agent.id, (agent.updated, Arc::clone(&target)));
        Ok(target)
    }

    fn cards(&self) -> MutexGuard<'_, HashMap<AgentId, (SystemTime, Arc<Target>)>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_forgotten_by_when_they_began() {
        let of = |ms| ulid::Ulid::from_parts(ms, 7).0;
        let oldest = oldest_kept(5000, Duration::from_secs(3));
        assert!(of(1999) < oldest && oldest <= of(2000));
        assert_eq!(oldest_kept(5000, Duration::MAX), 0);
    }

    #[test]
    fn a_budget_is_never_overdrawn_and_what_is_given_back_can_be_taken_again() {
        let budget = Budget::new(Amount::from_tokens(5));
        assert_eq!(budget.take(Amount::from_tokens(3)), Ok(()));
        let left = Amount::from_tokens(2);
        assert_eq!(budget.take(Amount::from_tokens(3)), Err(left));
        budget.give_back(Amount::from_tokens(1));
        assert_eq!(budget.take(Amount::from_tokens(3)), Ok(()));
        assert_eq!(budget.take(Amount::from_micros(1)), Err(Amount::ZERO));
    }

    #[tokio::test]
    async fn regression_the_end_of_a_stream_is_there_however_slow_its_reader() {
        let (sink, end, mut stream) = CallStream::new();
        for _ in 0..EVENTS_WAITING_MAX {
            sink.events.try_send(CallEvent::Text("a".into())).unwrap();
        }
        let more = sink.events.try_send(CallEvent::Text("b".into()));
        assert!(more.is_err(), "it is full");
        end.send(Box::new(Err(CallError::Busy.into()))).unwrap();
        drop(sink);
        for _ in 0..EVENTS_WAITING_MAX / 2 {
            assert!(matches!(stream.next().await, Some(CallEvent::Text(_))));
            assert!(matches!(stream.try_next(), Some(CallEvent::Text(_))));
        }
        assert!(matches!(stream.try_next(), Some(CallEvent::End(_))));
        assert!(stream.next().await.is_none());
        assert!(stream.try_next().is_none());
    }
}
