//! Calls that wait for their turn with an agent: [`Queues`] decides, this waits and wakes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::super::AgentService;
use crate::{
    agents::AgentId,
    calls::queue::{Full, Queues, Ticket},
};

/// The turns of all agents.
#[derive(Debug)]
pub(super) struct Turns {
    inner: Mutex<Inner>,
    agents: AgentService,
}

#[derive(Debug, Default)]
struct Inner {
    queues: Queues,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A place with an agent. Dropped, it is free for the next.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    agent: AgentId,
    ticket: Ticket,
    /// `None` once it has begun.
    begins: Option<oneshot::Receiver<()>>,
}

impl Turns {
    pub(super) fn new(agents: AgentService) -> Self {
        Self {
            inner: Mutex::default(),
            agents,
        }
    }

    /// Takes a place with an agent that has `max` calls at once.
    ///
    /// # Errors
    /// As many wait as may.
    pub(super) fn enter(self: &Arc<Self>, agent: AgentId, max: u32) -> Result<Turn, Full> {
        let mut inner = self.lock();
        let (ticket, begin) = inner.queues.enter(agent, max).inspect_err(|Full| {
            self.agents.health().turned_away(agent);
        })?;
        let begins = (!begin.contains(&ticket)).then(|| {
            let (sender, receiver) = oneshot::channel();
            inner.waiting.insert(ticket, sender);
            receiver
        });
        self.changed(&mut inner, agent, begin);
        drop(inner);
        Ok(Turn {
            turns: Arc::clone(self),
            agent,
            ticket,
            begins,
        })
    }

    /// Wakes who may begin, and tells of the load. Still under the lock, so that what is told last
    /// is how it is.
    fn changed(&self, inner: &mut Inner, agent: AgentId, begin: Vec<Ticket>) {
        for ticket in begin {
            if let Some(waits) = inner.waiting.remove(&ticket) {
                // Who does not wait any more gives the turn back by dropping it.
                let _ = waits.send(());
            }
        }
        let load = inner.queues.load(agent);
        let health = self.agents.health();
        health.loaded(agent, load.running, load.waiting, load.max);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Returns whether it has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.begins.is_none()
    }

    /// Waits until it begins.
    pub(super) async fn begin(&mut self) {
        if let Some(begins) = &mut self.begins {
            // Its sender goes with it being woken, never before.
            let _ = begins.await;
            self.begins = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.turns.lock();
        inner.waiting.remove(&self.ticket);
        let begin = inner.queues.leave(self.agent, self.ticket);
        self.turns.changed(&mut inner, self.agent, begin);
    }
}
