//! Somebody who follows events: first what the file has after a number, then what comes.
//!
//! A subscription is a number and a filter. What it reads next is in the ring of the last events,
//! or, as long as it has not caught up, in the file; every number is passed once, so nothing is
//! missed and nothing comes twice. One that falls behind the ring reads the file again: a burst of
//! somebody else's is no fault of its own. Only one that is far behind what happens is too slow: it
//! is told so, and can begin anew from the file.

use std::sync::{Arc, atomic::Ordering};

use tokio::{sync::watch, time};

use super::{Shared, Signal, gate_error, places::Place};
use crate::{
    events::{
        Event, EventError, Filter, Page,
        limits::{BEHIND_BYTES_MAX, BEHIND_LEN_MAX},
        recent::Look,
    },
    services::gate::GateError,
};

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// These events.
    Events(Vec<Arc<Event>>),
    /// What there was up to this number is not there any more, or the numbers that the follower
    /// knows are of another log. It goes on after it.
    Gap {
        /// The number.
        after: u64,
    },
    /// The follower was too slow. The stream ends; up to this number it has seen everything.
    Lagged {
        /// The number.
        last: u64,
    },
    /// The node is stopping. The stream ends.
    Closed,
    /// The log cannot be read. The stream ends.
    Failed(EventError),
}

/// Somebody who follows events.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    signal: watch::Receiver<Signal>,
    filter: Arc<Filter>,
    /// Up to this number everything was seen.
    seen: u64,
    /// Up to this number it was told that some are gone.
    gap: u64,
    /// Once it has caught up: what all events took that had come when it was last up with them.
    heard_bytes: Option<u64>,
    /// Whether the number that it came with is higher than any that was given out.
    is_ahead: bool,
    _place: Place,
}

impl Subscription {
    pub(super) fn new(
        shared: Arc<Shared>,
        filter: Filter,
        after: Option<u64>,
        place: Place,
    ) -> Self {
        let signal = shared.signal.subscribe();
        let last = shared.log.recent().last();
        Self {
            signal,
            filter: Arc::new(filter),
            seen: after.unwrap_or(last).min(last),
            gap: 0,
            heard_bytes: after
                .is_none()
                .then(|| shared.log.recent().published_bytes()),
            is_ahead: after.is_some_and(|after| after > last),
            shared,
            _place: place,
        }
    }

    /// Returns up to which number everything was seen.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Waits for what comes next. May be given up at any time: nothing is lost.
    pub async fn next(&mut self) -> Step {
        if std::mem::take(&mut self.is_ahead) {
            return Step::Gap { after: self.seen };
        }
        loop {
            // Before the look: what comes after it wakes this again.
            if self.signal.borrow_and_update().is_closed {
                return Step::Closed;
            }
            match self.shared.log.recent().look(self.seen, &self.filter) {
                Look::Events(events, looked_at) => {
                    self.seen = looked_at;
                    self.has_caught_up();
                    if !events.is_empty() {
                        return Step::Events(events);
                    }
                    tokio::task::yield_now().await;
                }
                Look::UpToDate => {
                    self.has_caught_up();
                    if self.signal.changed().await.is_err() {
                        return Step::Closed;
                    }
                }
                Look::Behind if self.is_too_slow() => {
                    self.shared.cut_off.fetch_add(1, Ordering::Relaxed);
                    return Step::Lagged { last: self.seen };
                }
                Look::Behind => {
                    if let Some(step) = self.catch_up().await {
                        return step;
                    }
                }
            }
        }
    }

    /// Notes that what comes next is in memory, as all that comes after it.
    fn has_caught_up(&mut self) {
        self.heard_bytes = Some(self.shared.log.recent().published_bytes());
    }

    /// Returns whether it had caught up and has fallen further behind than it may.
    fn is_too_slow(&self) -> bool {
        let recent = self.shared.log.recent();
        self.heard_bytes.is_some_and(|heard| {
            BEHIND_LEN_MAX < recent.last().saturating_sub(self.seen)
                || BEHIND_BYTES_MAX < recent.published_bytes().saturating_sub(heard)
        })
    }

    /// Reads a part of the file.
    async fn catch_up(&mut self) -> Option<Step> {
        /// When to look again where too many do.
        const PAUSE: time::Duration = time::Duration::from_millis(100);
        let (log, filter, seen) = (self.shared.log.clone(), Arc::clone(&self.filter), self.seen);
        let looked = self.shared.looking.run(move || log.after(&filter, seen));
        let page: Page = match looked.await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => return Some(Step::Failed(error)),
            Err(GateError::Full { .. }) => {
                time::sleep(PAUSE).await;
                return None;
            }
            Err(error) => return Some(Step::Failed(gate_error(error))),
        };
        if self.seen.max(self.gap) < page.swept {
            self.gap = page.swept;
            // What others have told since is still there.
            self.seen = self.seen.max(page.swept_all);
            return Some(Step::Gap { after: page.swept });
        }
        self.seen = page.looked_at;
        if let Some(heard) = &mut self.heard_bytes {
            *heard += page.bytes;
        }
        (!page.events.is_empty()).then_some(Step::Events(page.events))
    }
}
