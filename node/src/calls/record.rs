//! What is kept of a task: a version byte, then postcard, as a note of the ledger.
//!
//! The layout is version 1's and never changes; a later one is a type of its own, made from it. A
//! note is at most a mebibyte, so of an answer only so much is kept, and of longer ones that they
//! were there.

use aither_protocol::Amount;
use serde::{Deserialize, Serialize};

/// The byte before a record.
const VERSION: u8 = 1;
/// Longest result that is kept.
pub const RESULT_BYTES_MAX: usize = 256 << 10;
/// Longest words on why a task has failed.
const DETAIL_BYTES_MAX: usize = 1024;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TaskStatus {
    /// It waits for its agent.
    #[default]
    Queued,
    /// Its agent is at work.
    Running,
    /// Its agent has answered, and was paid.
    Completed,
    /// Its agent has failed, or the node.
    Failed,
    /// Its caller wants it no more.
    Canceled,
    /// Its agent took too long.
    TimedOut,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Where it stands.
    pub status: TaskStatus,
    /// The account that pays.
    pub account: u128,
    /// Who has called, in words: an agent's name or an account's id.
    pub caller: String,
    /// The agent that has called, if one has.
    pub caller_agent: Option<u128>,
    /// Who is called.
    pub agent: String,
    /// The skill that was asked for, if one was.
    pub skill: Option<String>,
    /// The path at the agent.
    pub endpoint: String,
    /// When it began, in milliseconds since 1970.
    pub created_ms: u64,
    /// When its agent began.
    pub started_ms: Option<u64>,
    /// When it ended; unknown where a crash has ended it.
    pub ended_ms: Option<u64>,
    /// What was charged.
    pub cost_micros: u128,
    /// What came of it.
    pub result: Option<KeptResult>,
    /// How many bytes the answer had, where it is not kept.
    pub result_omitted: Option<u64>,
    /// Why nothing came of it.
    pub error: Option<KeptError>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeptResult {
    /// The HTTP status of the agent.
    pub http_status: u16,
    /// The media type of its body.
    pub content_type: String,
    /// What it means, as JSON.
    pub json: String,
    /// The session that the agent has named.
    pub session_id: Option<String>,
    /// How many model tokens the agent says that it has used.
    pub tokens_used: u64,
}

/// Why a task came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeptError {
    /// The stable word of its kind.
    pub code: String,
    /// In words, without what was asked or answered.
    pub detail: String,
}

impl TaskStatus {
    /// Returns the status's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::TimedOut => "timed_out",
        }
    }

    /// Returns whether nothing will change any more.
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl TaskRecord {
    /// Returns what was charged.
    pub fn cost(&self) -> Amount {
        Amount::from_micros(self.cost_micros)
    }

    /// Ends it with a reason.
    pub fn fail(&mut self, status: TaskStatus, code: &str, detail: &str) {
        self.status = status;
        let mut end = detail.len().min(DETAIL_BYTES_MAX);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        self.error = Some(KeptError {
            code: code.to_owned(),
            detail: detail[..end].to_owned(),
        });
    }

    /// Ends it with an answer, which is kept if it is short enough.
    pub fn complete(&mut self, result: KeptResult, cost: Amount) {
        self.status = TaskStatus::Completed;
        self.cost_micros = cost.micros();
        if result.json.len() <= RESULT_BYTES_MAX {
            self.result = Some(result);
        } else {
            self.result_omitted = u64::try_from(result.json.len()).ok();
        }
    }

    /// Returns the record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION])
            .expect("plain records have no value that postcard cannot write")
    }

    /// Reads a record back; `None` where it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
                Ok((record, [])) => Some(record),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> TaskRecord {
        TaskRecord {
            status: TaskStatus::Completed,
            account: 300,
            caller: "a".into(),
            caller_agent: Some(1),
            agent: "b".into(),
            skill: None,
            endpoint: "/c".into(),
            created_ms: 5,
            started_ms: Some(6),
            ended_ms: None,
            cost_micros: 7,
            result: Some(KeptResult {
                http_status: 200,
                content_type: "t".into(),
                json: "1".into(),
                session_id: None,
                tokens_used: 2,
            }),
            result_omitted: None,
            error: None,
        }
    }

    #[test]
    fn records_read_back_and_anything_else_is_none() {
        let bytes = record().encode();
        assert_eq!(TaskRecord::decode(&bytes), Some(record()));
        let mut newer = bytes.clone();
        newer[0] = 2;
        let longer = [&bytes[..], &[0]].concat();
        for bad in [&[][..], &[1], &newer, &longer, &bytes[..bytes.len() - 1]] {
            assert_eq!(TaskRecord::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn regression_the_layout_of_version_1_does_not_move() {
        let mut expected = vec![1, 2, 0xac, 0x02, 1, b'a', 1, 1, 1, b'b', 0, 2, b'/', b'c'];
        expected.extend([5, 1, 6, 0, 7, 1, 0xc8, 0x01, 1, b't', 1, b'1', 0, 2, 0, 0]);
        assert_eq!(record().encode(), expected);
    }

    #[test]
    fn a_long_result_is_counted_and_a_long_reason_cut() {
        let mut record = TaskRecord::default();
        let json = "x".repeat(RESULT_BYTES_MAX + 1);
        let result = KeptResult {
            json,
            ..KeptResult::default()
        };
        record.complete(result, Amount::from_tokens(1));
        assert_eq!(record.result, None);
        assert_eq!(record.result_omitted, Some(RESULT_BYTES_MAX as u64 + 1));
        record.fail(TaskStatus::Failed, "c", &"é".repeat(DETAIL_BYTES_MAX));
        let detail = record.error.unwrap().detail;
        assert!(detail.len() <= DETAIL_BYTES_MAX && detail.starts_with('é'));
    }
}
