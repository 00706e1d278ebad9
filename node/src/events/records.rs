//! What a row of the log holds: a version byte, the head as postcard, and the data as it came.
//!
//! A type is named by the version that introduced it and never changes.

use aither_ledger::AccountId;
use serde::{Deserialize, Serialize};

use super::{Audience, Event, NewEvent};
use crate::store_file::corrupt;

/// What a row takes beside its bytes: its number, its line in the index of agents, and its part
/// of the pages that lead to both.
const ROW_BYTES: u64 = 64;

/// All of an event but its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeadV1 {
    time_ms: u64,
    name: String,
    pub(super) agent: Option<String>,
    pub(super) source: Option<u128>,
    audience: AudienceV1,
}

/// Who may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum AudienceV1 {
    Everyone,
    Accounts(Vec<u128>),
}

impl HeadV1 {
    const VERSION: u8 = 1;

    /// Returns the row of an event.
    pub(super) fn row(event: &NewEvent) -> Vec<u8> {
        let head = Self {
            time_ms: event.time_ms,
            name: event.name.clone(),
            agent: event.agent.clone(),
            source: event.source.map(|source| source.0),
            audience: match &event.audience {
                Audience::Everyone => AudienceV1::Everyone,
                Audience::Accounts(accounts) => {
                    AudienceV1::Accounts(accounts.iter().map(|account| account.0).collect())
                }
            },
        };
        let mut row = Vec::with_capacity(128 + event.data.len());
        row.push(Self::VERSION);
        let mut row = postcard::to_extend(&head, row)
            .expect("plain records have no value that postcard cannot write");
        row.extend_from_slice(event.data.as_bytes());
        row
    }

    /// Reads a row: the head, and the data.
    pub(super) fn read(row: &[u8]) -> Result<(Self, &[u8]), redb::Error> {
        let (version, rest) = row.split_first().ok_or_else(wrong)?;
        if *version != Self::VERSION {
            return Err(wrong());
        }
        postcard::take_from_bytes(rest).map_err(|_| wrong())
    }

    /// Returns when it came.
    pub(super) fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Returns the event, whose data is JSON if nothing has damaged it.
    pub(super) fn event(self, id: u64, data: &[u8]) -> Result<Event, redb::Error> {
        let data = std::str::from_utf8(data).map_err(|_| wrong())?;
        let event = NewEvent {
            name: self.name,
            agent: self.agent,
            source: self.source.map(AccountId),
            audience: match self.audience {
                AudienceV1::Everyone => Audience::Everyone,
                AudienceV1::Accounts(accounts) => {
                    Audience::Accounts(accounts.into_iter().map(AccountId).collect())
                }
            },
            data: data.to_owned(),
            time_ms: self.time_ms,
        };
        Ok(Event::new(id, event))
    }
}

/// Returns what a row counts for.
pub(super) fn bytes_of(row: &[u8]) -> u64 {
    ROW_BYTES + row.len() as u64
}

fn wrong() -> redb::Error {
    corrupt("an event is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_back_and_a_damaged_one_does_not() {
        let event = NewEvent {
            name: "agent.chat.completed".into(),
            agent: Some("lyra".into()),
            source: Some(AccountId(u128::MAX)),
            audience: Audience::Accounts(vec![AccountId(1), AccountId(u128::MAX)]),
            data: "{\"a\": 1}".into(),
            time_ms: 7,
        };
        let row = HeadV1::row(&event);
        let (head, data) = HeadV1::read(&row).unwrap();
        assert_eq!(head.time_ms(), 7);
        let read = head.event(3, data).unwrap();
        assert_eq!((read.id, read.time_ms), (3, 7));
        assert_eq!((&*read.name, &*read.data), (&*event.name, &*event.data));
        assert_eq!(read.agent.as_deref(), Some("lyra"));
        assert_eq!(read.audience, event.audience);
        assert!(HeadV1::read(&[]).is_err());
        assert!(HeadV1::read(&row[..10]).is_err());
        let mut later = row.clone();
        later[0] = 2;
        assert!(HeadV1::read(&later).is_err());
        let mut not_text = row;
        not_text.push(0xff);
        let (head, data) = HeadV1::read(&not_text).unwrap();
        assert!(head.event(3, data).is_err());
    }
}
