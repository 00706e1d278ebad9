//! The shapes of calls and tasks.

use std::time::{Duration, UNIX_EPOCH};

use aither_protocol::{Amount, ErrorCode, HttpMethod};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use ulid::Ulid;
use utoipa::ToSchema;

use super::{ApiError, native_types::Explanation, rfc3339};
use crate::{
    calls::{TaskRecord, TaskStatus},
    services::{CallAnswer, CallError, CallFailure, What},
};

/// Longest time that an agent is waited for.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 60);
/// Longest path, skill or session.
const NAME_BYTES_MAX: usize = 256;
/// Most tasks of one request.
pub(super) const PARALLEL_MAX: usize = 32;

/// `POST /v1/agents/{name}/chat`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ChatBody {
    /// What is said to the agent: a text, or any JSON that it understands.
    #[schema(value_type = String)]
    pub(super) message: Box<RawValue>,
    /// The conversation that it belongs to; without one a new one begins.
    pub(super) session_id: Option<String>,
    /// Whether to answer with server-sent events.
    #[serde(default)]
    pub(super) stream: bool,
    /// Seconds that the agent is waited for; in a stream for each piece.
    pub(super) timeout: Option<f64>,
    /// The most that it may cost.
    #[schema(value_type = Option<f64>)]
    pub(super) max_cost: Option<Amount>,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatAnswer {
    /// What the agent says: its `response`, else all of its JSON, else its text.
    #[schema(value_type = Object)]
    response: Box<RawValue>,
    agent: String,
    /// Model tokens, as the agent says.
    tokens_used: u64,
    session_id: String,
    #[schema(value_type = f64)]
    cost_tokens: Amount,
    /// Under which it can be looked up.
    task_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explanation>,
}

/// `POST /v1/agents/{name}/call`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CallBody {
    /// The path of an endpoint that the agent declares.
    pub(super) endpoint: String,
    /// Its method, where it declares several for the path; `POST` if that is among them.
    pub(super) method: Option<String>,
    /// What is sent: as JSON, or as the query where the method is `GET` or `DELETE`.
    #[schema(value_type = Option<Object>)]
    pub(super) payload: Option<Box<RawValue>>,
    /// Seconds that the agent is waited for; in a stream for each piece.
    pub(super) timeout: Option<f64>,
    /// The most that it may cost.
    #[schema(value_type = Option<f64>)]
    pub(super) max_cost: Option<Amount>,
}

/// `POST /v1/a2a/tasks`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct TaskBody {
    /// A skill's id: the best agent that has it is called.
    pub(super) skill: Option<String>,
    /// An agent's name: it is called, for the skill if one is named.
    pub(super) agent: Option<String>,
    /// What is said to the agent: a text, or any JSON that it understands.
    #[schema(value_type = Option<String>)]
    pub(super) input: Option<Box<RawValue>>,
    /// In place of an input, the path of an endpoint that the agent declares.
    pub(super) endpoint: Option<String>,
    /// Its method, where it declares several for the path.
    pub(super) method: Option<String>,
    /// What is sent to it.
    #[schema(value_type = Option<Object>)]
    pub(super) payload: Option<Box<RawValue>>,
    /// The conversation that it belongs to.
    pub(super) session_id: Option<String>,
    /// Seconds that the agent is waited for; in a stream for each piece.
    pub(super) timeout: Option<f64>,
    /// Whether to answer with server-sent events.
    #[serde(default)]
    pub(super) stream: bool,
    /// The most that it may cost.
    #[schema(value_type = Option<f64>)]
    pub(super) max_cost: Option<Amount>,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskAnswer {
    task_id: Option<String>,
    /// `completed`; of parallel tasks also `failed`, `timed_out` or `canceled`.
    status: &'static str,
    /// The agent's `response`, else all of its JSON, else its text.
    #[schema(value_type = Object)]
    result: Option<Box<RawValue>>,
    agent_used: Option<String>,
    node: String,
    #[schema(value_type = f64)]
    cost_tokens: Amount,
    /// The payment's id; null where nothing was paid.
    receipt: Option<String>,
    /// Of parallel tasks: why nothing came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explanation>,
}

/// `POST /v1/a2a/parallel`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ParallelBody {
    /// Up to 32 tasks.
    pub(super) tasks: Vec<TaskBody>,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ParallelAnswer {
    /// In the order of the tasks, each with its own status.
    pub(super) results: Vec<TaskAnswer>,
}

/// A task that was begun.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskItem {
    task_id: String,
    /// `queued`, `running`, `completed`, `failed`, `canceled` or `timed_out`.
    status: &'static str,
    /// What came of it.
    #[schema(value_type = Object)]
    result: Option<Box<RawValue>>,
    /// How many bytes the answer had, where it was too long to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_omitted: Option<u64>,
    agent_used: String,
    skill: Option<String>,
    endpoint: String,
    /// Who has called.
    caller: String,
    node: String,
    #[schema(value_type = f64)]
    cost_tokens: Amount,
    /// The payment's id; null where nothing was paid.
    receipt: Option<String>,
    /// Why nothing came of it: `code` and `detail`.
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    created_at: String,
    started_at: Option<String>,
    /// Null where a crash has ended it.
    ended_at: Option<String>,
}

impl ChatAnswer {
    pub(super) fn of(answer: CallAnswer, session_id: &str, explain: bool) -> Self {
        let explain = explain_of(&answer, explain);
        let reading = answer.reading.unwrap_or_default();
        Self {
            response: raw(reading.json),
            agent: answer.agent,
            tokens_used: reading.tokens_used,
            session_id: reading.session_id.unwrap_or_else(|| session_id.to_owned()),
            cost_tokens: answer.cost,
            task_id: Ulid(answer.task_id).to_string(),
            explain,
        }
    }
}

impl TaskAnswer {
    pub(super) fn of(answer: CallAnswer, node: &str, explain: bool) -> Self {
        let task_id = Ulid(answer.task_id).to_string();
        Self {
            explain: explain_of(&answer, explain),
            receipt: (!answer.cost.is_zero()).then(|| task_id.clone()),
            task_id: Some(task_id),
            status: TaskStatus::Completed.as_str(),
            result: answer.reading.map(|reading| raw(reading.json)),
            agent_used: Some(answer.agent),
            node: node.to_owned(),
            cost_tokens: answer.cost,
            error: None,
        }
    }

    /// Returns what was charged, in micro-tokens.
    pub(super) fn cost(&self) -> Option<u128> {
        Some(self.cost_tokens.micros()).filter(|micros| *micros > 0)
    }

    /// Says that nothing came of it.
    pub(super) fn failed(
        (task_id, status): (Option<u128>, TaskStatus),
        node: &str,
        problem: Value,
    ) -> Self {
        Self {
            task_id: task_id.map(|id| Ulid(id).to_string()),
            status: status.as_str(),
            result: None,
            agent_used: None,
            node: node.to_owned(),
            cost_tokens: Amount::ZERO,
            receipt: None,
            error: Some(problem),
            explain: None,
        }
    }
}

impl TaskItem {
    pub(super) fn of(id: u128, record: TaskRecord, node: &str) -> Self {
        let task_id = Ulid(id).to_string();
        let cost_tokens = record.cost();
        let time = |ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms));
        Self {
            receipt: (!cost_tokens.is_zero()).then(|| task_id.clone()),
            task_id,
            status: record.status.as_str(),
            result: record.result.map(|result| raw(result.json)),
            result_omitted: record.result_omitted,
            agent_used: record.agent,
            skill: record.skill,
            endpoint: record.endpoint,
            caller: record.caller,
            node: node.to_owned(),
            cost_tokens,
            error: record
                .error
                .map(|error| json!({ "code": error.code, "detail": error.detail })),
            created_at: time(record.created_ms),
            started_at: record.started_ms.map(time),
            ended_at: record.ended_ms.map(time),
        }
    }
}

fn explain_of(answer: &CallAnswer, explain: bool) -> Option<Explanation> {
    explain.then(|| Explanation {
        route: "local",
        reason: format!("{} was called: {}", answer.agent, answer.reason),
    })
}

/// Returns JSON that was checked when it came in.
fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_default()
}

/// Checks how long an agent is waited for.
pub(super) fn timeout_of(asked: Option<f64>, default: Duration) -> Result<Duration, ApiError> {
    let Some(seconds) = asked else {
        return Ok(default.min(TIMEOUT_MAX));
    };
    let timeout = Duration::try_from_secs_f64(seconds).ok();
    let timeout = timeout.filter(|timeout| !timeout.is_zero() && *timeout <= TIMEOUT_MAX);
    timeout.ok_or_else(|| {
        let max = TIMEOUT_MAX.as_secs();
        ApiError::field(
            "timeout",
            format!("must be more than 0 and at most {max} seconds"),
        )
    })
}

/// Checks what is said.
pub(super) fn said(field: &str, input: Box<RawValue>) -> Result<Box<RawValue>, ApiError> {
    match input.get() {
        "null" | "\"\"" => Err(ApiError::field(field, "must not be empty")),
        _ => Ok(input),
    }
}

/// Checks a name that is passed on.
pub(super) fn named(field: &str, name: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let words = format!("must be at most {NAME_BYTES_MAX} bytes without control characters");
        return Err(ApiError::field(field, words));
    }
    Ok(Some(name))
}

/// Returns what is asked at an endpoint.
pub(super) fn endpoint(
    path: String,
    method: Option<&str>,
    payload: Option<Box<RawValue>>,
) -> Result<What, ApiError> {
    let path = named("endpoint", Some(path))?;
    let path = path.ok_or_else(|| ApiError::field("endpoint", "must not be empty"))?;
    let method = method.filter(|word| !word.is_empty()).map(|word| {
        let mut known = HttpMethod::ALL.iter();
        let found = known.find(|method| method.as_str().eq_ignore_ascii_case(word));
        found
            .copied()
            .ok_or_else(|| ApiError::field("method", "must be GET, POST, PUT, PATCH or DELETE"))
    });
    Ok(What::Endpoint {
        path,
        method: method.transpose()?,
        payload,
    })
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        /// When a place may be free again.
        const RETRY_WHEN_FULL: Duration = Duration::from_secs(1);
        /// When an agent may be well again of which nobody knows.
        const RETRY_WHEN_AWAY: Duration = Duration::from_secs(10);
        let (code, words) = (error.code(), error.to_string());
        let refused = Self::new(code, words.clone());
        match error {
            CallError::NotLive {
                agent,
                state,
                reason,
                retry_after,
            } => refused
                .with_member("agent", agent)
                .with_member("state", state.as_str())
                .with_member("reason", reason)
                .with_retry_after(retry_after.unwrap_or(RETRY_WHEN_AWAY)),
            CallError::QueueFull { agent } => refused
                .with_member("agent", agent)
                .with_retry_after(RETRY_WHEN_FULL),
            CallError::Busy => refused.with_retry_after(RETRY_WHEN_FULL),
            CallError::NoQuery | CallError::QueryTooLong => Self::field("payload", words),
            CallError::Failed { agent, status, .. } => {
                let refused = refused.with_member("agent", agent);
                match status {
                    Some(status) => refused.with_member("agent_status", status),
                    None => refused,
                }
            }
            CallError::TimedOut { agent, .. } | CallError::AnswerTooLong { agent, .. } => {
                refused.with_member("agent", agent)
            }
            CallError::Over(status) => refused.with_member("task_status", status.as_str()),
            CallError::Billing(error) => error.into(),
            CallError::Agent(error) => error.into(),
            CallError::Internal(_) => Self::internal(words),
            _ => refused,
        }
    }
}

impl From<CallFailure> for ApiError {
    fn from(failure: CallFailure) -> Self {
        let error = Self::from(failure.error);
        match failure.task_id {
            Some(id) => error.with_member("task_id", Ulid(id).to_string()),
            None => error,
        }
    }
}

/// Returns the task that a path names.
pub(super) fn task_id_of(text: &str) -> Result<u128, ApiError> {
    let id = Ulid::from_string(text).map(|id| id.0);
    // Whatever is no id is no task's.
    id.map_err(|_| ApiError::new(ErrorCode::NotFound, "there is no such task"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_bounded_number_of_seconds() {
        let default = Duration::from_secs(60);
        let of = |asked| timeout_of(asked, default).ok();
        assert_eq!(of(None), Some(default));
        assert_eq!(of(Some(0.25)), Some(Duration::from_millis(250)));
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 1801.0] {
            assert_eq!(of(Some(wrong)), None, "{wrong}");
        }
        let day = Duration::from_secs(86_400);
        assert_eq!(timeout_of(None, day).unwrap(), TIMEOUT_MAX);
    }

    #[test]
    fn methods_and_paths_are_checked() {
        let method = |word| match endpoint("/a".into(), word, None) {
            Ok(What::Endpoint { method, .. }) => Ok(method),
            Ok(_) => panic!("no endpoint"),
            Err(error) => Err(error.code()),
        };
        assert_eq!(method(None), Ok(None));
        assert_eq!(method(Some("get")), Ok(Some(HttpMethod::Get)));
        assert_eq!(method(Some("TRACE")), Err(ErrorCode::ValidationFailed));
        for path in ["", "/a\r\nx: y", &"/a".repeat(200)] {
            assert!(endpoint(path.to_owned(), None, None).is_err(), "{path}");
        }
    }
}
