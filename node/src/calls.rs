//! Calls of agents, as far as they can be told without I/O and without a clock.
//!
//! A call is a *task* from the moment something is held for it. Here is what is kept of a task
//! ([`record`]), who is called for a skill ([`choose`]), where an agent is called ([`target`]),
//! what it is sent and what its answer means ([`message`], [`relay`]), and whose turn it is
//! ([`queue`]). [`crate::services::CallService`] does the rest.

pub mod choose;
pub mod message;
pub mod queue;
pub mod record;
pub mod relay;
pub mod target;

pub use self::record::{TaskRecord, TaskStatus};

/// Returns the record of a call that a crash has ended, if it was still under way.
pub fn end_left(record: &[u8]) -> Option<Vec<u8>> {
    let mut record = TaskRecord::decode(record)?;
    if record.status.is_over() {
        return None;
    }
    record.fail(
        TaskStatus::Failed,
        "not_ready",
        "the node stopped while the task was running",
    );
    Some(record.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_under_way_has_failed_and_what_was_over_stays() {
        for (status, changes) in [
            (TaskStatus::Queued, true),
            (TaskStatus::Running, true),
            (TaskStatus::Completed, false),
            (TaskStatus::Failed, false),
            (TaskStatus::Canceled, false),
            (TaskStatus::TimedOut, false),
        ] {
            let record = TaskRecord {
                status,
                agent: "bot".into(),
                ..TaskRecord::default()
            };
            let ended = end_left(&record.encode());
            assert_eq!(ended.is_some(), changes, "{status:?}");
            if let Some(ended) = ended {
                let ended = TaskRecord::decode(&ended).unwrap();
                assert_eq!(ended.status, TaskStatus::Failed);
                assert!(ended.error.unwrap().detail.contains("stopped"));
                assert_eq!(ended.agent, "bot");
            }
        }
        assert_eq!(end_left(b""), None);
        assert_eq!(end_left(b"\x09nothing of ours"), None);
    }
}
