//! Whether this node takes requests: starting, ready or draining.
//!
//! The node publishes, `/ready` and the tests read. A clone is a handle on the same state.

use std::sync::Arc;

use tokio::sync::watch;

/// Where the node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyState {
    /// Models are being registered or loaded.
    Starting,
    /// Requests are served.
    Ready,
    /// The node is stopping: running requests finish, new ones go elsewhere.
    Draining,
}

/// A handle on the node's state; clones share it.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<ReadyState>>,
}

impl Readiness {
    /// Begins as [`ReadyState::Starting`].
    pub fn new() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(ReadyState::Starting)),
        }
    }

    /// Publishes a new state.
    pub fn set(&self, state: ReadyState) {
        self.state.send_replace(state);
    }

    /// Returns the state now.
    pub fn get(&self) -> ReadyState {
        *self.state.borrow()
    }

    /// Returns a receiver that is woken by each change.
    pub fn watch(&self) -> watch::Receiver<ReadyState> {
        self.state.subscribe()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}
