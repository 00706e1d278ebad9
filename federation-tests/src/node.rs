//! One node: the machines, and what a driver keeps between their steps.

use std::collections::BTreeMap;

use aither_federation::{Directory, DirectorySettings, OwnAds, Session};
use aither_protocol::{NodeId, RecordId, UnixTime};
use ed25519_dalek::SigningKey;

/// How long gossipsub remembers what it has seen: two minutes by default.
const SEEN_MS: u64 = 2 * 60 * 1000;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) key: SigningKey,
    pub(crate) id: NodeId,
    pub(crate) directory: Directory,
    pub(crate) own: OwnAds,
    pub(crate) neighbours: Vec<usize>,
    /// Sessions by the number of whoever began them, and whether that was this node.
    pub(crate) sessions: BTreeMap<(u64, bool), Session>,
    /// When each gossiped ad was seen first.
    seen: BTreeMap<RecordId, u64>,
    pruned_ms: u64,
}

impl Node {
    pub(crate) fn new(number: usize, neighbours: Vec<usize>, now: UnixTime) -> Self {
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let key = SigningKey::from_bytes(&secret);
        let id = NodeId::from(key.verifying_key());
        Self {
            directory: Directory::new(DirectorySettings::closed()),
            own: OwnAds::start(id, None, now),
            key,
            id,
            neighbours,
            sessions: BTreeMap::new(),
            seen: BTreeMap::new(),
            pruned_ms: 0,
        }
    }

    /// Loses all but its key and its stored epoch.
    pub(crate) fn restart(&mut self, now: UnixTime) {
        self.own = OwnAds::start(self.id, Some(self.own.epoch()), now);
        self.directory = Directory::new(DirectorySettings::closed());
        self.sessions.clear();
        self.seen.clear();
    }

    /// Whether an ad has not come by gossip lately.
    pub(crate) fn sees(&mut self, id: RecordId, now_ms: u64) -> bool {
        if now_ms > self.pruned_ms + SEEN_MS {
            self.seen.retain(|_, at| *at + SEEN_MS > now_ms);
            self.pruned_ms = now_ms;
        }
        self.seen.insert(id, now_ms).is_none()
    }
}
