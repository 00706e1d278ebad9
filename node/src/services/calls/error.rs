//! Why a call comes to nothing.

use std::time::Duration;

use aither_protocol::ErrorCode;

use crate::{
    agents::{AgentError, AgentState},
    billing::BillingError,
    calls::TaskStatus,
};

/// Most times that a call may be passed on from agent to agent.
pub const HOPS_MAX: u8 = 8;

/// Longest query that a payload is made into: servers take no longer ones.
pub const QUERY_BYTES_MAX: usize = 8 << 10;
/// Longest reason why an agent has failed.
const REASON_BYTES_MAX: usize = 256;

/// Why a call comes to nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No agent has this name.
    #[error("there is no agent {0}; GET /v1/agents lists those that are here")]
    UnknownAgent(String),
    /// The agent is looked for on a node that is not this one.
    #[error("{0} is on a node that this one does not know; leave out what follows the @")]
    UnknownNode(String),
    /// Nobody who can be called has the skill.
    #[error("no agent that can be called has the skill {0}; GET /SKILLS.md lists those there are")]
    NoAgentForSkill(String),
    /// The agent does not have the skill.
    #[error("{agent} does not have the skill {skill}; GET /v1/agents/{agent} lists what it has")]
    SkillMissing {
        /// Who is called.
        agent: String,
        /// What it lacks.
        skill: String,
    },
    /// The agent has no address.
    #[error("{0} cannot be called: its card has no agent_url; its owner must add one")]
    NotCallable(String),
    /// The agent's address may not be connected to.
    #[error("{agent} cannot be called: its address {reason}")]
    Address {
        /// Who is called.
        agent: String,
        /// What is wrong with its address.
        reason: String,
    },
    /// The agent does not declare the endpoint.
    #[error(
        "{agent} does not declare {endpoint}; GET /v1/agents/{agent} lists the endpoints in its \
         card"
    )]
    EndpointUndeclared {
        /// Who is called.
        agent: String,
        /// The path, with the method where one was asked for.
        endpoint: String,
    },
    /// What is to be called takes no such payload.
    #[error("must be an object of texts, numbers and truth values: it becomes the query")]
    NoQuery,
    /// What is to be called has no body, and the payload makes too long a query.
    #[error("makes a query of more than {QUERY_BYTES_MAX} bytes; POST has room for more")]
    QueryTooLong,
    /// The agent takes no calls now.
    #[error("{agent} takes no calls now: it is in {}, because {reason}", state.as_str())]
    NotLive {
        /// Who is called.
        agent: String,
        /// Where it is in its life.
        state: AgentState,
        /// Why.
        reason: String,
        /// When it may be asked again.
        retry_after: Option<Duration>,
    },
    /// As many calls wait for the agent as may.
    #[error("{agent} has as many calls waiting as it may; try again in a moment")]
    QueueFull {
        /// Who is called.
        agent: String,
    },
    /// The node has as many tasks as it may.
    #[error("the node is at work on as many tasks as it may; try again in a moment")]
    Busy,
    /// The call was passed on too often.
    #[error(
        "the call was passed on from agent to agent {HOPS_MAX} times, which is as often as it may \
         be; do agents call each other in a circle?"
    )]
    TooManyHops,
    /// The agent has failed: nothing is charged.
    #[error("{agent} failed: it {reason}")]
    Failed {
        /// Who was called.
        agent: String,
        /// What it did, in words without what was asked or answered.
        reason: String,
        /// The status that it answered.
        status: Option<u16>,
    },
    /// The agent has answered more than the caller can take: nothing is charged.
    #[error("{agent} answered more than {bytes_max} bytes, the most that is taken for this task")]
    AnswerTooLong {
        /// Who was called.
        agent: String,
        /// How much can be taken.
        bytes_max: usize,
    },
    /// The agent took too long: nothing is charged.
    #[error("{agent} did not answer within {} s; allow more with timeout", after.as_secs_f32())]
    TimedOut {
        /// Who was called.
        agent: String,
        /// How long it was waited.
        after: Duration,
    },
    /// Somebody has canceled the task.
    #[error("the task was canceled")]
    Canceled,
    /// There is no such task, or it is another's.
    #[error("there is no task {0}")]
    UnknownTask(String),
    /// The task has ended.
    #[error("the task has ended already: it is {}", .0.as_str())]
    Over(TaskStatus),
    /// It is not paid for.
    #[error(transparent)]
    Billing(#[from] BillingError),
    /// The agent's card cannot be read.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

/// A call that came to nothing, and the task that it was, if it had begun.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
pub struct CallFailure {
    /// Why.
    #[source]
    pub error: CallError,
    /// The task.
    pub task_id: Option<u128>,
}

impl CallError {
    /// Says why an agent has failed. The reason is shown and logged in many places, so it is made
    /// short and printable here, in one.
    pub(super) fn failed(agent: &str, reason: &str, status: Option<u16>) -> Self {
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = reason[..end].replace(char::is_control, " ");
        Self::Failed {
            agent: agent.to_owned(),
            reason,
            status,
        }
    }

    /// Returns the code for the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownAgent(_) | Self::UnknownNode(_) => ErrorCode::UnknownAgent,
            Self::NoAgentForSkill(_) | Self::SkillMissing { .. } => ErrorCode::NoAgentForSkill,
            Self::NotCallable(_) | Self::Address { .. } | Self::Canceled | Self::Over(_) => {
                ErrorCode::Conflict
            }
            Self::EndpointUndeclared { .. } | Self::UnknownTask(_) => ErrorCode::NotFound,
            Self::NoQuery | Self::QueryTooLong => ErrorCode::ValidationFailed,
            Self::NotLive { .. } => ErrorCode::NotReady,
            Self::QueueFull { .. } | Self::Busy => ErrorCode::Overloaded,
            Self::TooManyHops => ErrorCode::InvalidRequest,
            Self::Failed { .. } | Self::AnswerTooLong { .. } => ErrorCode::UpstreamFailed,
            Self::TimedOut { .. } => ErrorCode::TimedOut,
            Self::Billing(error) => error.code(),
            Self::Agent(error) => error.code(),
            Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// Returns where a task stands that has ended so.
    pub fn status(&self) -> TaskStatus {
        match self {
            Self::Canceled => TaskStatus::Canceled,
            Self::TimedOut { .. } => TaskStatus::TimedOut,
            _ => TaskStatus::Failed,
        }
    }
}

impl<E: Into<CallError>> From<E> for CallFailure {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            task_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_the_reason_of_a_failure_is_short_and_printable() {
        let long = format!("said\n\u{1b}[31m\0 {}", "é".repeat(REASON_BYTES_MAX));
        let CallError::Failed { reason, .. } = CallError::failed("bot", &long, None) else {
            panic!("another error");
        };
        assert!(reason.starts_with("said  [31m  é"), "{reason}");
        assert!(reason.len() <= REASON_BYTES_MAX);
    }
}
