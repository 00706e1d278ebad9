//! The directory: every ad that counts, found by skill, name, node and price.
//!
//! It decides of each ad that arrives whether it is taken and forwarded ([`Verdict::Accept`]), left
//! alone, or held against whoever brought it. Which of two ads counts follows from the ads alone,
//! so that all nodes come to hold the same ones, in whatever order they heard them. The parser has
//! seen to all that is wrong with an ad in itself; here it is a matter of time, number and rate:
//!
//! - An ad from the future or the past is ignored, not held against anybody: it may be this node's
//!   clock that is wrong. But each useless ad is counted, and a peer that brings more of them than
//!   it can by accident is rejected.
//! - What one subject, one node, strangers together and strangers of one network may have is
//!   bounded, and so is all of it. What is there stays: nobody pushes out another by shouting.
//! - A tombstone stays until no ad that it buries can come back. So does what is known of a
//!   subject, where a newer ad ended before an older one would have.
//!
//! Nothing is stored here. A driver writes down what was accepted under [`Ad::subject`], deletes
//! what [`Directory::expire`] returns, and offers all of it again at the next start, as
//! [`Via::Store`].

mod index;
mod quota;

use core::net::IpAddr;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use aither_protocol::{
    Ad, NodeId, RecordId, Signed, SkillHash, SubjectId, SubjectKind, UnixTime, Verified, limits,
};

use crate::{
    bucket::Bucket,
    reconcile::{Item, Snapshot},
};

pub use crate::bucket::Rate;

use index::Index;
use quota::{Charge, Quotas};

/// An ad that ends within this time is not reconciled: the other clock may have seen its end.
const RECONCILED_LIFE_MIN: Duration = Duration::from_secs(60);

/// How much a directory takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySettings {
    /// Most ads in all, tombstones included.
    pub ads_max: usize,
    /// Most ads of one node.
    pub ads_per_node_max: usize,
    /// Most ads of all strangers together.
    pub strangers_max: usize,
    /// Most ads of one stranger.
    pub ads_per_stranger_max: usize,
    /// Most ads of strangers that came from one network.
    pub strangers_per_prefix_max: usize,
    /// How often one subject changes.
    pub subject_rate: Rate,
    /// How many useless ads one peer may bring.
    pub useless_rate: Rate,
}

/// Where an ad came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// On which way.
    pub via: Via,
    /// What is known of the node that signed it.
    pub standing: Standing,
}

/// On which way an ad came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A peer has forwarded it unasked.
    Gossip(NodeId),
    /// A reconciliation has brought it: it may well be known by now.
    Exchange(NodeId),
    /// It is this node's own.
    Own,
    /// It was accepted before, and stored.
    Store,
}

/// What is known of a node whose ad arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Something vouches for it: a certificate, or that it was called before.
    Known,
    /// Nothing does. The network is that of the peer that brought the ad.
    Stranger(AddressPrefix),
}

/// The network of an address: the first 24 bits of IPv4, 48 of IPv6. That is about as much as
/// one customer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressPrefix([u8; 7]);

/// What becomes of an ad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in. It is to be forwarded, and stored.
    Accept,
    /// It is of no use here. It is not forwarded, and nobody is to blame.
    Ignore(Reason),
    /// Whoever forwarded it loses score.
    Reject(Reason),
}

/// Why an ad is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is in already.
    Known,
    /// A newer one of its subject is in.
    Stale,
    /// It has ended.
    Expired,
    /// Its epoch, or the time when it was made, is later than clocks can be apart.
    Future,
    /// Its subject has changed too often.
    TooOften,
    /// Its node has as many as it may.
    NodeFull,
    /// Strangers have as many as they may, all together or those of this network.
    StrangersFull,
    /// There are as many as there may be.
    Full,
}

/// What is looked for. Everything that is named must fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query<'a> {
    /// Only this kind.
    pub kind: Option<SubjectKind>,
    /// Only with this skill.
    pub skill: Option<SkillHash>,
    /// Only of this name.
    pub name: Option<&'a str>,
    /// Only of this node.
    pub node: Option<NodeId>,
    /// Only up to this price.
    pub price_micros_max: Option<u64>,
    /// At most so many, the cheapest ones.
    pub limit: usize,
}

/// All ads that count.
#[derive(Debug)]
pub struct Directory {
    settings: DirectorySettings,
    by_subject: BTreeMap<SubjectId, Slot>,
    entries: Vec<Option<Entry>>,
    free: Vec<Slot>,
    index: Index,
    quotas: Quotas,
    /// When something is to be done about an entry: it ends, or is forgotten.
    due: BTreeSet<(UnixTime, Slot)>,
    /// Useless ads by the peer that brought them.
    useless: BTreeMap<NodeId, Bucket>,
    /// The last snapshot, while nothing has changed since, and until when it is right.
    snapshot: Option<(UnixTime, Arc<Snapshot>)>,
}

/// Where an entry lies. There are fewer than 2³² of them.
pub(crate) type Slot = u32;

#[derive(Debug)]
struct Entry {
    ad: Arc<Verified<Ad>>,
    id: RecordId,
    subject: SubjectId,
    updates: Bucket,
    /// Until when an older ad of the subject could come back.
    forget_at: UnixTime,
    charge: Charge,
}

impl DirectorySettings {
    /// For a federation that one joins with a certificate. Who vouches for whom may arrive after
    /// the ad, so there is room for many that nobody has vouched for yet.
    pub fn closed() -> Self {
        Self {
            ads_max: 250_000,
            ads_per_node_max: 1000,
            strangers_max: 150_000,
            ads_per_stranger_max: 256,
            strangers_per_prefix_max: 150_000,
            subject_rate: Rate {
                burst: 16,
                interval: Duration::from_secs(5 * 60),
            },
            useless_rate: Rate {
                burst: 1000,
                interval: Duration::from_millis(100),
            },
        }
    }

    /// For a federation that everybody may join.
    pub fn open() -> Self {
        Self {
            strangers_max: 20_000,
            ads_per_stranger_max: 16,
            strangers_per_prefix_max: 1000,
            ..Self::closed()
        }
    }
}

impl AddressPrefix {
    /// Returns the network of an address.
    pub fn of(address: IpAddr) -> Self {
        // A socket for both families shows IPv4 inside IPv6.
        Self(match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                [4, a, b, c, 0, 0, 0]
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, ..] = address.octets();
                [6, a, b, c, d, e, f]
            }
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known => "known",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Future => "future",
            Self::TooOften => "too_often",
            Self::NodeFull => "node_full",
            Self::StrangersFull => "strangers_full",
            Self::Full => "full",
        })
    }
}

impl Directory {
    /// Starts empty.
    pub fn new(settings: DirectorySettings) -> Self {
        Self {
            settings,
            by_subject: BTreeMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            index: Index::default(),
            quotas: Quotas::default(),
            due: BTreeSet::new(),
            useless: BTreeMap::new(),
            snapshot: None,
        }
    }

    /// Decides of an ad.
    pub fn offer(&mut self, ad: &Arc<Verified<Ad>>, source: Source, now: UnixTime) -> Verdict {
        match self.decide(ad, ad.id(), source, now) {
            Ok(()) => {
                self.take_in(ad, source, now);
                Verdict::Accept
            }
            Err(reason) => self.count_useless(reason, source, now),
        }
    }

    /// Decides of an ad whose signature nobody has verified, as far as that can be: a verdict means
    /// that verifying it would be a waste. A flood of what is known costs no signature.
    pub fn screen(&mut self, ad: &Signed<Ad>, source: Source, now: UnixTime) -> Option<Verdict> {
        let id = RecordId::of(ad.as_bytes());
        let decided = self.decide(ad.claimed(), id, source, now);
        decided
            .err()
            .map(|reason| self.count_useless(reason, source, now))
    }

    /// Returns ads that fit and have not ended, cheapest first.
    pub fn find(&self, query: &Query<'_>, now: UnixTime) -> Vec<&Arc<Verified<Ad>>> {
        let slots = self.index.candidates(query);
        let ads = slots
            .filter_map(|slot| self.entry(slot))
            .map(|entry| &entry.ad);
        ads.filter(|ad| ad.expires > now && fits(query, ad))
            .take(query.limit)
            .collect()
    }

    /// Returns the ad of a subject, a tombstone too.
    pub fn get(&self, subject: &SubjectId) -> Option<&Arc<Verified<Ad>>> {
        let slot = self.by_subject.get(subject)?;
        self.entry(*slot).map(|entry| &entry.ad)
    }

    /// Returns how many ads are held, with tombstones and what is only remembered.
    pub fn len(&self) -> usize {
        self.by_subject.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.by_subject.is_empty()
    }

    /// Whether it takes subjects that it does not have, of those whom nobody has vouched for.
    pub fn takes_new(&self) -> bool {
        let settings = &self.settings;
        self.len() < settings.ads_max && self.quotas.strangers() < settings.strangers_max
    }

    /// Forgets what nobody can bring back any more, and returns it, to be deleted from the store.
    pub fn expire(&mut self, now: UnixTime) -> Vec<SubjectId> {
        self.useless.retain(|_, bucket| !bucket.is_full(now));
        let mut forgotten = Vec::new();
        while let Some((at, slot)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, slot));
            let Some(entry) = self.entry(slot) else {
                continue;
            };
            let (ad, forget_at) = (Arc::clone(&entry.ad), entry.forget_at);
            // It ends here, and is remembered for as long as an older one could come back.
            self.index.remove(slot, &ad);
            if forget_at > now {
                self.due.insert((forget_at, slot));
            } else {
                forgotten.extend(self.forget(slot));
            }
        }
        forgotten
    }

    /// Forgets all that a node has said, as when it was excluded, and returns it, to be deleted
    /// from the store. The driver offers no more of it.
    pub fn forget_node(&mut self, node: &NodeId) -> Vec<SubjectId> {
        let entries = self.entries.iter().zip(0..);
        let of_node = entries.filter_map(|(entry, slot)| {
            let entry = entry.as_ref()?;
            (entry.ad.node == *node).then_some(slot)
        });
        let slots: Vec<Slot> = of_node.collect();
        self.snapshot = None;
        let forgotten = slots.into_iter().filter_map(|slot| {
            self.unschedule(slot);
            let ad = self.entry(slot).map(|entry| Arc::clone(&entry.ad))?;
            self.index.remove(slot, &ad);
            self.forget(slot)
        });
        forgotten.collect()
    }

    /// Returns when [`expire`](Self::expire) has something to do next.
    pub fn next_expiry(&self) -> Option<UnixTime> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Returns all that is to be reconciled, in the order of subjects.
    pub fn snapshot(&mut self, now: UnixTime) -> Arc<Snapshot> {
        if let Some((until, snapshot)) = &self.snapshot
            && now < *until
        {
            return Arc::clone(snapshot);
        }
        let least = now.plus(RECONCILED_LIFE_MIN);
        let slots = self.by_subject.values();
        let entries = slots.filter_map(|slot| self.entry(*slot));
        let items = entries
            .filter(|entry| entry.ad.expires > least)
            .map(|entry| Item {
                subject: entry.subject,
                id: entry.id,
                ad: Arc::clone(&entry.ad),
            });
        let snapshot = Arc::new(Snapshot::of_sorted(items.collect()));
        // Right until the first of its ads has too little life left.
        let first = snapshot
            .first_expiry()
            .unwrap_or(UnixTime::from_seconds(u64::MAX));
        let until = first.minus(RECONCILED_LIFE_MIN);
        self.snapshot = Some((until, Arc::clone(&snapshot)));
        snapshot
    }

    /// Decides, without changing anything.
    fn decide(&self, ad: &Ad, id: RecordId, source: Source, now: UnixTime) -> Result<(), Reason> {
        if ad.expires <= now {
            return Err(Reason::Expired);
        }
        let latest = now.plus(limits::CLOCK_SKEW_MAX);
        if ad.epoch > latest.seconds() || ad.issued > latest {
            return Err(Reason::Future);
        }
        let known = self.by_subject.get(&ad.subject());
        let Some(known) = known.and_then(|slot| self.entry(*slot)) else {
            return self.admits(ad, source);
        };
        let held = (known.ad.epoch, known.ad.sequence, known.id);
        match (ad.epoch, ad.sequence, id).cmp(&held) {
            Ordering::Less => return Err(Reason::Stale),
            Ordering::Equal => return Err(Reason::Known),
            Ordering::Greater => {}
        }
        let mut updates = known.updates;
        if source.is_own() || updates.take(self.settings.subject_rate, now) {
            return Ok(());
        }
        Err(Reason::TooOften)
    }

    /// Whether a subject that is not in may come in.
    fn admits(&self, ad: &Ad, source: Source) -> Result<(), Reason> {
        if source.via == Via::Own {
            return Ok(());
        }
        if self.len() >= self.settings.ads_max {
            return Err(Reason::Full);
        }
        self.quotas
            .admits(&ad.node, source.standing, &self.settings)
    }

    fn take_in(&mut self, ad: &Arc<Verified<Ad>>, source: Source, now: UnixTime) {
        let subject = ad.subject();
        self.snapshot = None;
        let slot = match self.by_subject.get(&subject) {
            Some(slot) => {
                let slot = *slot;
                self.replace(slot, ad, source, now);
                slot
            }
            None => self.insert(subject, ad, source, now),
        };
        self.index.insert(slot, ad);
        self.schedule(slot);
    }

    fn replace(&mut self, slot: Slot, ad: &Arc<Verified<Ad>>, source: Source, now: UnixTime) {
        self.unschedule(slot);
        let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        self.index.remove(slot, &entry.ad);
        if !source.is_own() {
            entry.updates.take(self.settings.subject_rate, now);
        }
        entry.forget_at = entry.forget_at.max(ad.expires);
        entry.id = ad.id();
        entry.ad = Arc::clone(ad);
    }

    fn insert(
        &mut self,
        subject: SubjectId,
        ad: &Arc<Verified<Ad>>,
        source: Source,
        now: UnixTime,
    ) -> Slot {
        let mut updates = Bucket::default();
        updates.take(self.settings.subject_rate, now);
        let entry = Entry {
            ad: Arc::clone(ad),
            id: ad.id(),
            subject,
            updates,
            forget_at: ad.expires,
            charge: self.quotas.charge(&ad.node, source.standing),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            Slot::try_from(self.entries.len() - 1).expect("far fewer ads fit into memory")
        });
        self.entries[slot as usize] = Some(entry);
        self.by_subject.insert(subject, slot);
        slot
    }

    fn forget(&mut self, slot: Slot) -> Option<SubjectId> {
        let entry = self.entries.get_mut(slot as usize)?.take()?;
        self.by_subject.remove(&entry.subject);
        self.quotas.release(&entry.ad.node, entry.charge);
        self.free.push(slot);
        Some(entry.subject)
    }

    fn schedule(&mut self, slot: Slot) {
        if let Some(entry) = self.entry(slot) {
            self.due.insert((entry.ad.expires, slot));
        }
    }

    fn unschedule(&mut self, slot: Slot) {
        if let Some(entry) = self.entry(slot) {
            let (expires, forget_at) = (entry.ad.expires, entry.forget_at);
            self.due.remove(&(expires, slot));
            self.due.remove(&(forget_at, slot));
        }
    }

    /// Counts a useless ad against the peer that brought it, who is rejected once there are more
    /// than happen to honest peers.
    fn count_useless(&mut self, reason: Reason, source: Source, now: UnixTime) -> Verdict {
        let peer = match source.via {
            Via::Gossip(peer) => peer,
            // A partner sends what this node said that it does not have. Some of that has come in
            // the meantime, and of some more it has been full; the rest would be made up.
            Via::Exchange(peer) if matches!(reason, Reason::Known | Reason::Stale) => peer,
            Via::Exchange(_) | Via::Own | Via::Store => return Verdict::Ignore(reason),
        };
        if self.useless.len() >= quota::COUNTED_PEERS_MAX && !self.useless.contains_key(&peer) {
            self.useless.retain(|_, bucket| !bucket.is_full(now));
            if self.useless.len() >= quota::COUNTED_PEERS_MAX {
                return Verdict::Ignore(reason);
            }
        }
        let bucket = self.useless.entry(peer).or_default();
        if bucket.take(self.settings.useless_rate, now) {
            Verdict::Ignore(reason)
        } else {
            Verdict::Reject(reason)
        }
    }

    fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(slot as usize)?.as_ref()
    }
}

impl Source {
    /// Whether it is beyond the limits on others.
    fn is_own(self) -> bool {
        matches!(self.via, Via::Own | Via::Store)
    }
}

fn fits(query: &Query<'_>, ad: &Ad) -> bool {
    let Some(offer) = &ad.offer else {
        return false;
    };
    query.kind.is_none_or(|kind| ad.kind == kind)
        && query.name.is_none_or(|name| ad.name == name)
        && query.node.is_none_or(|node| ad.node == node)
        && query
            .price_micros_max
            .is_none_or(|most| offer.price_micros <= most)
        && query
            .skill
            .is_none_or(|skill| offer.skills.binary_search(&skill).is_ok())
}
