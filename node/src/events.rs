//! What happens on this node: the log `DIR/events.redb`, synchronous and without a clock.
//!
//! An event is a name, some JSON, and who may see it. [`log`] is the handle: events go to one
//! thread ([`writer`]), which numbers them, makes all that waits one transaction, and then puts
//! them where those who follow look ([`recent`]): one ring for all of them, so an event costs the
//! same whether one follows or a thousand do. What the ring has no more is read from the file.
//!
//! Numbers rise, and none is given twice, whatever a crash undoes: those of a block are reserved
//! in the file before the first is used. So whoever remembers a number is never shown another
//! event as the one after it. What was emitted by request is durable before it is answered; what
//! the node notes by itself may be lost with the last moment before a crash.
//!
//! Bounds: [`limits`]; how much is kept, and for how long, is configured ([`LogLimits`]).

pub mod limits;
pub mod log;
pub mod name;
pub mod pattern;
pub mod recent;

mod error;
mod file;
mod records;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::OnceLock;

use aither_ledger::AccountId;
use bytes::Bytes;

pub use self::{
    error::EventError,
    file::{AgentPage, LogCounts, Page},
    limits::LogLimits,
    log::EventLog,
    pattern::{Filter, Pattern, Viewer},
    recent::Recent,
};

/// Who may see an event. The operator sees all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// These accounts, and their agents.
    Accounts(Vec<AccountId>),
    /// Everybody with a key.
    Everyone,
}

/// An event that is to be written. Its texts were checked ([`limits`], [`name`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Its name: segments with dots between them.
    pub name: String,
    /// The agent that has emitted it, or that it is about.
    pub agent: Option<String>,
    /// The account that has emitted it; `None` for the node itself.
    pub source: Option<AccountId>,
    /// Who may see it.
    pub audience: Audience,
    /// What is told: JSON without line breaks.
    pub data: String,
    /// When it came, in milliseconds since 1970.
    pub time_ms: u64,
}

/// An event of the log.
#[derive(Debug)]
pub struct Event {
    /// Its number: higher than those of all before it.
    pub id: u64,
    /// When it came, in milliseconds since 1970.
    pub time_ms: u64,
    /// Its name.
    pub name: Box<str>,
    /// The agent that has emitted it, or that it is about.
    pub agent: Option<Box<str>>,
    /// Who may see it.
    pub audience: Audience,
    /// What is told, as JSON.
    pub data: Box<str>,
    shown: OnceLock<Bytes>,
}

impl Event {
    pub(crate) fn new(id: u64, event: NewEvent) -> Self {
        Self {
            id,
            time_ms: event.time_ms,
            name: event.name.into(),
            agent: event.agent.map(Into::into),
            audience: event.audience,
            data: event.data.into(),
            shown: OnceLock::new(),
        }
    }

    /// Returns how it is shown to all who follow: what `show` makes of it, once.
    pub fn shown(&self, show: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.shown.get_or_init(|| show(self))
    }

    /// Returns about what it takes of memory, once it was shown.
    fn weight(&self) -> usize {
        const FIXED_BYTES: usize = 256;
        let agent = self.agent.as_deref().map_or(0, str::len);
        FIXED_BYTES + 2 * (self.name.len() + agent + self.data.len())
    }
}
