//! Usage records: what was done for the tokens that an account paid.
//!
//! Each record is kept as it came, and added to a sum for its account, hour, agent and model. What
//! people ask, how much in thirty days by agent, model or day, is answered from the sums.

use aither_protocol::Amount;
use serde::{Deserialize, Serialize};

use crate::{Time, account::AccountId};

/// Longest name in a record.
pub const NAME_BYTES_MAX: usize = 256;
/// Milliseconds that a sum spans.
pub(crate) const SPAN_MS: u64 = 3_600_000;

/// What was used by one request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Who pays.
    pub account: AccountId,
    /// The agent that asked, or was asked; empty where none was.
    pub agent: String,
    /// The model that ran; empty where none did.
    pub model: String,
    /// The route, as "/v1/llm/chat".
    pub route: String,
    /// The node that did the work; empty for this one.
    pub node: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// From the request to the end of the answer.
    pub latency_ms: u64,
    /// What was charged.
    pub amount: Amount,
    /// The version of the prices that this was reckoned by.
    pub price_version: u64,
}

/// What is asked of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageQuery {
    /// Whose usage.
    pub account: AccountId,
    /// From the hour of this time on.
    pub from: Time,
    /// Up to but without the hour of this time, unless it has begun.
    pub until: Time,
}

/// All usage of one hour by one agent on one model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UsageSum {
    /// When the hour began.
    pub from: Time,
    /// The agent.
    pub agent: String,
    /// The model.
    pub model: String,
    /// The counts.
    pub counts: UsageCounts,
}

/// Counts of any number of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UsageCounts {
    /// Requests.
    pub requests: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// What was charged.
    pub amount: Amount,
}

impl Usage {
    pub(crate) fn is_bounded(&self) -> bool {
        let names = [&self.agent, &self.model, &self.route, &self.node];
        names.iter().all(|name| name.len() <= NAME_BYTES_MAX)
    }

    pub(crate) fn counts(&self) -> UsageCounts {
        UsageCounts {
            requests: 1,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            amount: self.amount,
        }
    }
}

impl UsageCounts {
    /// Returns both together. Counts that would not fit stay at the most; they are statistics, the
    /// journal is the truth.
    pub fn plus(self, other: Self) -> Self {
        let amount = self.amount.micros().saturating_add(other.amount.micros());
        Self {
            requests: self.requests.saturating_add(other.requests),
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self
                .completion_tokens
                .saturating_add(other.completion_tokens),
            amount: Amount::from_micros(amount),
        }
    }
}

/// Returns the beginning of the span that a time is in.
pub(crate) fn span_of(time: Time) -> Time {
    Time(
        time.0
            .saturating_sub(time.0.checked_rem(SPAN_MS).unwrap_or(0)),
    )
}
