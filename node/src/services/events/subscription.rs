//! Somebody who follows events: first what the file has after a number, then what comes.
//!
//! A subscription is a number and a filter. What it reads next is in the ring of the last events,
//! or, as long as it has not caught up, in the file; every number is passed once, so nothing is
//! missed and nothing comes twice. One that has caught up and falls behind the ring is too slow
//! for what happens: it is told so, and can begin anew from the file.

use std::sync::{Arc, atomic::Ordering};

use tokio::{sync::watch, time};

use super::{Shared, Signal, gate_error, places::Place};
use crate::{
    events::{Event, EventError, Filter, Page, recent::Look},
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
    /// Whether it has caught up with the last events.
    is_live: bool,
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
            is_live: after.is_none(),
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
                    (self.seen, self.is_live) = (looked_at, true);
                    if !events.is_empty() {
                        return Step::Events(events);
                    }
                    tokio::task::yield_now().await;
                }
                Look::UpToDate => {
                    self.is_live = true;
                    if self.signal.changed().await.is_err() {
                        return Step::Closed;
                    }
                }
                Look::Behind if self.is_live => {
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
        if self.seen < page.swept {
            self.seen = page.swept;
            return Some(Step::Gap { after: page.swept });
        }
        self.seen = page.looked_at;
        (!page.events.is_empty()).then_some(Step::Events(page.events))
    }
}
