//! What happens on this node, told to whoever may know it, for async callers.
//!
//! The log's writer does what blocks; readers of the file work behind a [`Gate`]. Who follows has
//! a [`Subscription`], which holds no events of its own: it reads on where it was, in the ring of
//! the last events or in the file. Many wait for one signal, which each batch gives once.

mod payments;
mod places;
mod subscription;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use aither_ledger::AccountId;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use self::places::Places;
pub use self::subscription::{Step, Subscription};
use super::gate::{Gate, GateError};
pub use crate::events::Audience;
use crate::{
    accounts::{StoreError, unix_ms},
    events::{
        AgentPage, EventError, EventLog, Filter, LogLimits, NewEvent, Viewer, limits::check_data,
        name,
    },
};

/// Subscriptions of one account.
const SUBSCRIPTIONS_OF_ACCOUNT_MAX: usize = 256;
/// Subscriptions of all.
const SUBSCRIPTIONS_MAX: usize = 4096;
/// Events that wait to be durable: of one account, and of all. The queue has room for more, which
/// is for what the node notes.
const EMITS_OF_ACCOUNT_MAX: usize = 256;
const EMITS_MAX: usize = 4096;
/// Looks into the file at once.
const LOOKS_MAX: usize = 2;
/// Looks that wait: one of each subscription, and some of those who ask for an agent's events.
const LOOKS_WAITING_MAX: usize = SUBSCRIPTIONS_MAX + 512;

/// Something that the node itself has to tell.
#[derive(Debug, Clone)]
pub struct NodeEvent {
    /// Its name: segments with dots between them.
    pub name: String,
    /// The agent that it is about, if it is about one.
    pub agent: Option<String>,
    /// Who may see it.
    pub audience: Audience,
    /// What is told. No secrets, no prompts, no answers.
    pub data: Value,
}

/// Something that an account or an agent of it has to tell.
#[derive(Debug, Clone)]
pub struct Emission {
    /// The account.
    pub source: AccountId,
    /// Whether it is the operator who emits it.
    pub is_operator: bool,
    /// The agent, where it is one.
    pub agent: Option<String>,
    /// The event's name.
    pub name: String,
    /// What is told, as JSON.
    pub data: String,
    /// Whether everybody with a key may see it, and not the account alone.
    pub is_public: bool,
}

/// An event that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// Its number.
    pub id: u64,
    /// When it came, in milliseconds since 1970.
    pub time_ms: u64,
}

/// What there was and is of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Events that were written since the start.
    pub written: u64,
    /// Events of the node that were lost.
    pub dropped: u64,
    /// Subscriptions that are open.
    pub subscriptions: usize,
    /// Subscriptions that were cut off because they were too slow.
    pub cut_off: u64,
}

/// The events of this node; clones share them. By default there is no log: what is noted goes
/// nowhere, and nothing else is possible.
#[derive(Debug, Clone, Default)]
pub struct EventService {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    log: EventLog,
    signal: Arc<watch::Sender<Signal>>,
    looking: Gate,
    subscriptions: Arc<Places>,
    emits: Arc<Places>,
    cut_off: AtomicU64,
}

/// What all subscriptions wait for.
#[derive(Debug, Clone, Copy, Default)]
struct Signal {
    /// The last event that can be seen.
    last: u64,
    /// Whether the node is stopping.
    is_closed: bool,
}

impl EventService {
    /// Opens the log at `path`. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn open(path: &Path, limits: LogLimits) -> Result<Self, StoreError> {
        let signal = Arc::new(watch::Sender::new(Signal::default()));
        let published = Arc::clone(&signal);
        let log = EventLog::open(path, limits, move |last| {
            published.send_modify(|signal| signal.last = last);
        })?;
        Ok(Self {
            shared: Some(Arc::new(Shared {
                log,
                signal,
                looking: Gate::new(LOOKS_MAX, LOOKS_WAITING_MAX),
                subscriptions: Places::new(SUBSCRIPTIONS_OF_ACCOUNT_MAX, SUBSCRIPTIONS_MAX),
                emits: Places::new(EMITS_OF_ACCOUNT_MAX, EMITS_MAX),
                cut_off: AtomicU64::new(0),
            })),
        })
    }

    /// Tells what has happened. Waits for nothing: with too much to write already, it is dropped
    /// and counted.
    pub fn note(&self, event: NodeEvent) {
        tracing::debug!(name = event.name, "event");
        let Some(shared) = &self.shared else {
            return;
        };
        let checked = name::check_name(&event.name).and_then(|()| {
            // What JSON is made of our own values has no other lines.
            check_data(&event.data.to_string())
        });
        match checked {
            Ok(data) => shared.log.note(NewEvent {
                name: event.name,
                agent: event.agent,
                source: None,
                audience: event.audience,
                data,
                time_ms: now_ms(),
            }),
            Err(error) => {
                tracing::error!(name = event.name, %error, "the node's own event is wrong");
                shared.log.count_dropped();
            }
        }
    }

    /// Takes an event, and waits until it is durable.
    ///
    /// # Errors
    /// Its name or its data do not fit, too many wait, or the store fails.
    pub async fn emit(&self, emission: Emission) -> Result<Emitted, EventError> {
        name::check_name(&emission.name)?;
        name::check_may_emit(&emission.name, emission.is_operator)?;
        let data = check_data(&emission.data)?;
        let shared = self.shared()?;
        let place = shared.emits.take(emission.source.0);
        let place = place.map_err(|_full| EventError::Busy)?;
        let time_ms = now_ms();
        let event = NewEvent {
            name: emission.name,
            agent: emission.agent,
            source: Some(emission.source),
            audience: match emission.is_public {
                true => Audience::Everyone,
                false => Audience::Accounts(vec![emission.source]),
            },
            data,
            time_ms,
        };
        let id = answer(|reply| {
            shared.log.emit(event, move |outcome| {
                // Whoever has gone away has its place for as long as its event waits.
                drop(place);
                reply(outcome);
            })
        });
        Ok(Emitted {
            id: id.await?,
            time_ms,
        })
    }

    /// Follows events: those after a number, or those to come.
    ///
    /// # Errors
    /// Too many follow, or the node is stopping.
    pub fn subscribe(
        &self,
        filter: Filter,
        after: Option<u64>,
    ) -> Result<Subscription, EventError> {
        let shared = self.shared()?;
        if shared.signal.borrow().is_closed {
            return Err(EventError::Stopped);
        }
        let account = match filter.viewer {
            Viewer::Operator => crate::billing::OPERATOR,
            Viewer::Account(account) => account,
        };
        let place = shared.subscriptions.take(account.0);
        let place = place.map_err(|full| match full.of_caller {
            true => EventError::TooManyOfAccount {
                max: SUBSCRIPTIONS_OF_ACCOUNT_MAX,
            },
            false => EventError::TooMany {
                max: SUBSCRIPTIONS_MAX,
            },
        })?;
        Ok(Subscription::new(Arc::clone(shared), filter, after, place))
    }

    /// Returns the number of the last event that can be seen.
    pub fn last(&self) -> u64 {
        let shared = self.shared.as_ref();
        shared.map_or(0, |shared| shared.log.recent().last())
    }

    /// Returns the last events of an agent, or about it, whose numbers are lower than `before`, as
    /// far as `viewer` may see them.
    ///
    /// # Errors
    /// Too many look, or the store fails.
    pub async fn of_agent(
        &self,
        (viewer, agent): (Viewer, &str),
        before: u64,
        limit: usize,
    ) -> Result<AgentPage, EventError> {
        let shared = self.shared()?;
        let (log, agent) = (shared.log.clone(), agent.to_owned());
        let looking = shared
            .looking
            .run(move || log.of_agent((viewer, &agent), before, limit));
        looking.await.map_err(gate_error)?
    }

    /// Removes all events that are an agent's or about it, by its name.
    ///
    /// # Errors
    /// Too much waits, or the store fails.
    pub async fn forget_agent(&self, agent: &str) -> Result<(), EventError> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        answer(|reply| shared.log.forget_agent(agent.to_owned(), reply)).await
    }

    /// Has events removed that are too old, and waits until all that came before is durable.
    ///
    /// # Errors
    /// Too much waits, or the store fails.
    pub async fn sweep(&self) -> Result<(), EventError> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        answer(|reply| shared.log.sweep(now_ms(), reply)).await
    }

    /// Ends all subscriptions: the node is stopping. Events are taken all the same.
    pub fn close(&self) {
        if let Some(shared) = &self.shared {
            shared.signal.send_modify(|signal| signal.is_closed = true);
        }
    }

    /// Returns what there was and is.
    pub fn counts(&self) -> EventCounts {
        let Some(shared) = &self.shared else {
            return EventCounts::default();
        };
        let (written, dropped) = shared.log.totals();
        EventCounts {
            written,
            dropped,
            subscriptions: shared.subscriptions.taken(),
            cut_off: shared.cut_off.load(Ordering::Relaxed),
        }
    }

    /// Returns the log, if there is one.
    pub fn log(&self) -> Option<&EventLog> {
        self.shared.as_ref().map(|shared| &shared.log)
    }

    fn shared(&self) -> Result<&Arc<Shared>, EventError> {
        self.shared.as_ref().ok_or(EventError::Stopped)
    }
}

/// Gives a command and waits for what comes of it.
async fn answer<T: Send + 'static>(
    give: impl FnOnce(Box<dyn FnOnce(Result<T, EventError>) + Send>) -> Result<(), EventError>,
) -> Result<T, EventError> {
    let (sender, receiver) = oneshot::channel();
    give(Box::new(move |outcome| {
        // Whoever asked may be gone.
        let _ = sender.send(outcome);
    }))?;
    receiver.await.unwrap_or(Err(EventError::Stopped))
}

fn gate_error(error: GateError) -> EventError {
    match error {
        GateError::Full { .. } => EventError::Busy,
        GateError::Panicked => EventError::Internal("a look at the events panicked".to_owned()),
    }
}

fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}
