//! Orders that lead an agent elsewhere in its life, and what runs beside requests for all agents:
//! probes, and writing what comes of them and of calls.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{AgentService, gate_error};
use crate::agents::{Agent, AgentError, AgentId, AgentState, LifeStory, Rank, lifecycle::Order};

/// Time between two looks for moves that memory has made and the disk does not know.
const MOVES_PERIOD: Duration = Duration::from_millis(200);
/// So many of those go by until what is known from calls is written: ten seconds.
const CALLS_EVERY: u32 = 50;
/// When it is tried again to write where that has failed: a full disk stays full for a while.
const RETRY_PERIOD: Duration = Duration::from_secs(5);
/// Longest time that moves take at the end of the node: of a hundred thousand agents those that
/// were used last come first, and the others are at the next start as after a crash.
const STOP_TIME_MAX: Duration = Duration::from_secs(1);

impl AgentService {
    /// Sets an agent aside.
    ///
    /// # Errors
    /// The store's.
    pub async fn suspend(&self, id: AgentId, by: Rank) -> Result<Arc<Agent>, AgentError> {
        self.store(move |store| store.suspend(id, by, SystemTime::now()))
            .await??;
        self.settle(id).await;
        self.agent(id)
    }

    /// Sets an agent aside once it has finished the calls that it has.
    ///
    /// # Errors
    /// The store's.
    pub async fn drain(&self, id: AgentId, by: Rank) -> Result<Arc<Agent>, AgentError> {
        self.store(move |store| store.drain(id, by, SystemTime::now()))
            .await??;
        self.settle(id).await;
        self.agent(id)
    }

    /// Takes an agent back that was set aside.
    ///
    /// # Errors
    /// The store's.
    pub async fn resume(&self, id: AgentId, by: Rank) -> Result<Arc<Agent>, AgentError> {
        self.store(move |store| store.resume(id, by, SystemTime::now()))
            .await??;
        self.settle(id).await;
        self.agent(id)
    }

    /// Asks agents for their health when it is time, and writes what comes of it and of calls.
    /// Never ends by itself.
    pub async fn maintain(&self) {
        tokio::join!(self.shared.health.probe_all(), self.write_behind());
    }

    async fn write_behind(&self) {
        let mut rounds: u32 = 0;
        loop {
            tokio::time::sleep(MOVES_PERIOD).await;
            self.shared.health.announce();
            let writes_calls = rounds % CALLS_EVERY == CALLS_EVERY - 1;
            rounds = rounds.wrapping_add(1);
            if !writes_calls && !self.shared.store.directory().has_unwritten() {
                continue;
            }
            let shared = Arc::clone(&self.shared);
            let written = self.store(move |store| {
                store.write_moves(SystemTime::now())?;
                match writes_calls {
                    true => shared.health.write_call_stats(),
                    false => Ok(()),
                }
            });
            if let Err(error) = written.await.and_then(|written| Ok(written?)) {
                tracing::error!(%error, "cannot write how agents fare; tried again in a moment");
                tokio::time::sleep(RETRY_PERIOD).await;
            }
        }
    }

    /// Has the agents stop that can be called, and writes all that is not written yet. For the end
    /// of the node, when nothing else uses this any more.
    pub async fn stop(&self) {
        let shared = Arc::clone(&self.shared);
        let stopped = self.store(move |store| {
            let now = SystemTime::now();
            while store.write_moves(now)? > 0 {}
            shared.health.write_call_stats()?;
            let started = Instant::now();
            let is_over = || started.elapsed() >= STOP_TIME_MAX;
            let ids = shared.health.to_stop();
            store.order_all(&ids, Order::Shutdown, now, is_over)
        });
        if let Err(error) = stopped.await.and_then(|stopped| Ok(stopped?)) {
            tracing::error!(%error, "cannot write that agents have stopped");
        }
        self.shared.health.announce();
    }

    /// Returns where an agent is in its life, and how it came there.
    ///
    /// # Errors
    /// There is no such agent, or the store fails.
    pub async fn story(&self, id: AgentId) -> Result<LifeStory, AgentError> {
        let shared = Arc::clone(&self.shared);
        let reading = self.shared.reading.run(move || shared.store.story(id));
        reading.await.map_err(gate_error)?
    }

    /// Takes in an order that is durable now, and asks at once for the health of an agent that is
    /// to live if it has it.
    pub(super) async fn settle(&self, id: AgentId) {
        let health = &self.shared.health;
        health.place(id);
        let agent = self.shared.store.directory().agent(id);
        let is_new = agent.is_some_and(|a| a.state == AgentState::Boot && a.probe.is_some());
        if is_new && let Err(reason) = health.ask(id).await {
            tracing::debug!(agent = %id, %reason, "not healthy yet");
        }
    }
}
