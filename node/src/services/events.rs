//! What happens on this node, told to whoever may know it.

use aither_ledger::AccountId;
use serde_json::Value;

/// Who may see an event. The operator sees all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// These accounts, and their agents.
    Accounts(Vec<AccountId>),
    /// Everybody with a key.
    Everyone,
}

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

/// The events of this node; clones share them.
#[derive(Debug, Clone, Default)]
pub struct EventService;

impl EventService {
    /// Tells what has happened. Waits for nothing: with too much to write already, it is dropped
    /// and counted.
    pub fn note(&self, event: NodeEvent) {
        tracing::debug!(name = event.name, "event");
    }
}
