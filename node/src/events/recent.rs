//! The last events, for all who follow: they read ranges of one ring, so telling an event costs
//! the same however many there are.
//!
//! Bounded in number and in bytes: the oldest go as others come. Whoever needs one that has gone
//! is too slow, or has just come and reads the file first.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    Event, Filter,
    limits::{HANDED_BYTES_MAX, HANDED_LEN_MAX},
};

/// Events that one look goes over. The one who publishes waits for it.
const LOOKED_AT_MAX: usize = 2048;

/// What a look at the ring finds.
#[derive(Debug)]
pub enum Look {
    /// These are shown, and everything up to this number was looked at.
    Events(Vec<Arc<Event>>, u64),
    /// There is nothing new.
    UpToDate,
    /// What comes next is not here any more.
    Behind,
}

/// The ring.
#[derive(Debug)]
pub struct Recent {
    ring: RwLock<Ring>,
    len_max: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Ring {
    /// The number of the first one.
    first: u64,
    /// `None` where a number was given to nothing, or the event is to be forgotten.
    events: VecDeque<Option<Arc<Event>>>,
    bytes: usize,
    /// What all events took that ever came.
    published_bytes: u64,
}

impl Recent {
    /// An empty ring, of which `next` will be the first.
    pub fn new(next: u64, len_max: usize, bytes_max: usize) -> Self {
        Self {
            ring: RwLock::new(Ring {
                first: next,
                events: VecDeque::new(),
                bytes: 0,
                published_bytes: 0,
            }),
            len_max,
            bytes_max,
        }
    }

    /// Takes events in, in the order of their numbers.
    pub fn publish(&self, events: &[Arc<Event>]) {
        let mut ring = self.write();
        for event in events {
            while ring.next() < event.id {
                ring.events.push_back(None);
                ring.trim(self.len_max, self.bytes_max);
            }
            let weight = event.weight();
            ring.bytes += weight;
            ring.published_bytes += u64::try_from(weight).unwrap_or(u64::MAX);
            ring.events.push_back(Some(Arc::clone(event)));
            ring.trim(self.len_max, self.bytes_max);
        }
    }

    /// Looks for events after a number.
    pub fn look(&self, after: u64, filter: &Filter) -> Look {
        let ring = self.read();
        if after.saturating_add(1) >= ring.next() {
            return Look::UpToDate;
        }
        let Some(skipped) = (after + 1).checked_sub(ring.first) else {
            return Look::Behind;
        };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let (mut found, mut bytes, mut looked_at) = (Vec::new(), 0, after);
        for event in ring.events.range(skipped..).take(LOOKED_AT_MAX) {
            looked_at += 1;
            let Some(event) = event.as_ref().filter(|event| filter.admits(event)) else {
                continue;
            };
            bytes += event.data.len();
            found.push(Arc::clone(event));
            if found.len() >= HANDED_LEN_MAX || bytes >= HANDED_BYTES_MAX {
                break;
            }
        }
        Look::Events(found, looked_at)
    }

    /// Forgets the events of an agent.
    pub fn forget_agent(&self, agent: &str) {
        let mut ring = self.write();
        let ring = &mut *ring;
        for slot in &mut ring.events {
            let is_its = slot
                .as_ref()
                .is_some_and(|event| event.agent.as_deref() == Some(agent));
            if let Some(event) = slot.take_if(|_| is_its) {
                ring.bytes -= event.weight();
            }
        }
    }

    /// Returns the number of the last event.
    pub fn last(&self) -> u64 {
        self.read().next().saturating_sub(1)
    }

    /// Returns what all events took that ever came.
    pub fn published_bytes(&self) -> u64 {
        self.read().published_bytes
    }

    fn read(&self) -> RwLockReadGuard<'_, Ring> {
        // Nothing panics under the lock.
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn trim(&mut self, len_max: usize, bytes_max: usize) {
        while self.events.len() > len_max || self.bytes > bytes_max {
            let Some(gone) = self.events.pop_front() else {
                return;
            };
            self.first += 1;
            self.bytes -= gone.map_or(0, |event| event.weight());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Audience, NewEvent, Viewer};

    fn event(id: u64, agent: &str) -> Arc<Event> {
        Arc::new(Event::new(
            id,
            NewEvent {
                name: "a.b".into(),
                agent: Some(agent.into()),
                source: None,
                audience: Audience::Everyone,
                data: "null".into(),
                time_ms: 1,
            },
        ))
    }

    fn all() -> Filter {
        Filter {
            viewer: Viewer::Operator,
            patterns: Vec::new(),
            agent: None,
        }
    }

    /// The numbers that a look finds, and up to where it went.
    fn seen(recent: &Recent, after: u64) -> Option<(Vec<u64>, u64)> {
        match recent.look(after, &all()) {
            Look::Events(events, looked_at) => {
                Some((events.iter().map(|event| event.id).collect(), looked_at))
            }
            Look::UpToDate => Some((Vec::new(), after)),
            Look::Behind => None,
        }
    }

    #[test]
    fn a_range_is_read_and_the_oldest_go() {
        let recent = Recent::new(5, 4, usize::MAX);
        assert_eq!(recent.last(), 4);
        assert_eq!(seen(&recent, 4), Some((vec![], 4)));
        assert_eq!(seen(&recent, 9), Some((vec![], 9)));
        recent.publish(&[event(5, "a"), event(6, "a"), event(7, "a")]);
        assert_eq!(seen(&recent, 4), Some((vec![5, 6, 7], 7)));
        assert_eq!(seen(&recent, 6), Some((vec![7], 7)));
        assert_eq!(seen(&recent, 3), None);
        recent.publish(&[event(8, "a"), event(9, "a")]);
        assert_eq!(seen(&recent, 4), None);
        assert_eq!(seen(&recent, 5), Some((vec![6, 7, 8, 9], 9)));
    }

    #[test]
    fn numbers_that_were_given_to_nothing_are_passed_over() {
        let recent = Recent::new(1, 100, usize::MAX);
        recent.publish(&[event(1, "a")]);
        recent.publish(&[event(4, "a")]);
        assert_eq!(seen(&recent, 0), Some((vec![1, 4], 4)));
        assert_eq!(seen(&recent, 2), Some((vec![4], 4)));
        assert_eq!(recent.last(), 4);
    }

    #[test]
    fn bytes_are_bounded_and_forgotten_ones_count_no_more() {
        let weight = event(1, "a").weight();
        let recent = Recent::new(1, 100, 3 * weight);
        recent.publish(&[event(1, "a"), event(2, "b"), event(3, "a")]);
        recent.forget_agent("a");
        assert_eq!(seen(&recent, 0), Some((vec![2], 3)));
        recent.publish(&[event(4, "a"), event(5, "a")]);
        assert_eq!(seen(&recent, 0), Some((vec![2, 4, 5], 5)));
        recent.publish(&[event(6, "a")]);
        assert_eq!(seen(&recent, 0), None);
        assert_eq!(seen(&recent, 2), Some((vec![4, 5, 6], 6)));
    }

    #[test]
    fn one_look_hands_out_no_more_than_it_may() {
        let recent = Recent::new(1, 10_000, usize::MAX);
        let events: Vec<_> = (1..=5000).map(|id| event(id, "a")).collect();
        recent.publish(&events);
        let (found, looked_at) = seen(&recent, 0).unwrap();
        assert_eq!(
            (found.len(), looked_at),
            (HANDED_LEN_MAX, HANDED_LEN_MAX as u64)
        );
        let nobodys = Filter {
            agent: Some("nobody".into()),
            ..all()
        };
        let Look::Events(found, looked_at) = recent.look(0, &nobodys) else {
            panic!("there is something to look at");
        };
        assert_eq!((found.len(), looked_at), (0, LOOKED_AT_MAX as u64));
    }
}
