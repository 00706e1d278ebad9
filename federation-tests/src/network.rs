//! Links with a delay that lose messages, the queue of what is on its way, and what it all costs.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use aither_protocol::{Ad, Verified};

use crate::random::Random;

/// What happens to a node.
#[derive(Debug)]
pub(crate) enum Event {
    /// An ad is pushed by a neighbour.
    Gossip { from: usize, ad: Arc<Verified<Ad>> },
    /// A message of a reconciliation arrives. Its number is that of whoever began it.
    Exchange {
        from: usize,
        number: u64,
        begun_here: bool,
        message: Vec<u8>,
    },
    /// It is time to begin a reconciliation, and to set the timer again.
    Reconcile { again: bool },
    /// Something of the node's own may have to be said again.
    Reissue,
    /// The price of something of the node's own changes.
    Change,
}

/// What a link does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) delay_ms: u64,
    pub(crate) lost_per_mille: u64,
}

/// Bytes that arrived, without what transports and gossipsub add to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Ads that were pushed, as often as they arrived.
    pub gossip_bytes: u64,
    /// How many those were.
    pub gossip_messages: u64,
    /// Messages of reconciliations.
    pub exchange_bytes: u64,
    /// How many reconciliations were begun.
    pub exchanges: u64,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) traffic: Traffic,
    pub(crate) random: Random,
    link: Link,
    queue: BinaryHeap<Queued>,
    /// Tells events of one moment apart, in the order in which they were caused.
    queued: u64,
}

#[derive(Debug)]
struct Queued {
    at: Reverse<(u64, u64)>,
    node: usize,
    event: Event,
}

impl Network {
    pub(crate) fn new(link: Link, random: Random) -> Self {
        Self {
            traffic: Traffic::default(),
            random,
            link,
            queue: BinaryHeap::new(),
            queued: 0,
        }
    }

    /// Lets something happen to a node at a time.
    pub(crate) fn schedule(&mut self, at_ms: u64, node: usize, event: Event) {
        self.queued += 1;
        let at = Reverse((at_ms, self.queued));
        self.queue.push(Queued { at, node, event });
    }

    /// Sends something that may be lost.
    pub(crate) fn send_lossy(&mut self, now_ms: u64, to: usize, event: Event) {
        if self.random.below(1000) >= self.link.lost_per_mille {
            let at = now_ms + self.delay();
            self.schedule(at, to, event);
        }
    }

    /// Sends something on a stream: what is lost is sent again after a round trip.
    pub(crate) fn send_reliably(&mut self, now_ms: u64, to: usize, event: Event) {
        let mut at = now_ms + self.delay();
        while self.random.below(1000) < self.link.lost_per_mille {
            at += 2 * self.link.delay_ms;
        }
        self.schedule(at, to, event);
    }

    /// Returns what happens next, up to a time.
    pub(crate) fn next(&mut self, until_ms: u64) -> Option<(u64, usize, Event)> {
        let Reverse((at, _)) = self.queue.peek()?.at;
        if at > until_ms {
            return None;
        }
        self.queue.pop().map(|next| (at, next.node, next.event))
    }

    /// The link's delay, a tenth more or less.
    fn delay(&mut self) -> u64 {
        let tenth = self.link.delay_ms / 10;
        self.link.delay_ms - tenth + self.random.below(2 * tenth + 1)
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
