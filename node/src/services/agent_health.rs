//! How agents fare: whether they take calls, how many they have, and how those ended.

use std::time::Duration;

use aither_protocol::Amount;

use crate::agents::{Agent, AgentId, AgentState};

/// Why an agent takes no call now.
#[derive(Debug, Clone)]
pub struct Unavailable {
    /// Where it is in its life.
    pub state: AgentState,
    /// Why, in words.
    pub reason: String,
    /// When it may be asked again.
    pub retry_after: Option<Duration>,
}

/// How a call ended, as far as its agent goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEnd {
    /// It answered, and this was earned by its owner.
    Answered {
        /// Its owner's part.
        earned: Amount,
    },
    /// It could not be reached, broke off, or said that it has failed: words without what was
    /// asked or answered.
    Failed(String),
    /// It took too long.
    TimedOut,
    /// The caller has gone, which says nothing about the agent.
    Canceled,
}

/// What is known of an agent from its calls.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Standing {
    /// Calls that it is at work on.
    pub running: u32,
    /// Calls that wait for it.
    pub waiting: u32,
    /// How much of what it may have at once it has: above 1 some wait. `None` before any call.
    pub load: Option<f64>,
    /// Calls so far that were answered, failed or timed out.
    pub calls: u64,
    /// Those of them that were not answered.
    pub failed: u64,
    /// A moving mean of what answers took.
    pub latency_ms: Option<f64>,
    /// Between 0 and 1: how likely a call is answered, by those so far. `None` before any.
    pub reputation: Option<f64>,
    /// What its owner has earned by it.
    pub earned: Amount,
}

/// How the agents of this node fare.
#[derive(Debug, Default)]
pub struct AgentHealth;

impl AgentHealth {
    /// Says whether an agent takes a call now. One that was not asked for long is asked for its
    /// health first.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn admit(&self, agent: &Agent) -> Result<(), Unavailable> {
        match agent.state {
            AgentState::Live => Ok(()),
            state => Err(Unavailable {
                state,
                reason: "it is not live".to_owned(),
                retry_after: None,
            }),
        }
    }

    /// Notes how many calls an agent has, after each change.
    pub fn loaded(&self, _id: AgentId, _running: u32, _waiting: u32, _max: u32) {}

    /// Notes that a call was turned away because as many wait as may.
    pub fn turned_away(&self, _id: AgentId) {}

    /// Notes how a call ended, and what it took.
    pub fn ended(&self, _id: AgentId, _end: &CallEnd, _took: Duration) {}

    /// Returns what is known of an agent.
    pub fn standing(&self, _id: AgentId) -> Standing {
        Standing::default()
    }
}
