//! The ads of one moment in the order of their subjects, shared by the sessions of that moment.

use std::{ops::Range, sync::Arc};

use aither_protocol::{
    Ad, RecordId, SubjectId, UnixTime, Verified,
    reconciliation::{Bound, Fingerprint, ListedAd},
};

/// One ad, with what is hashed of it.
#[derive(Debug, Clone)]
pub struct Item {
    /// What it is about.
    pub subject: SubjectId,
    /// Its name.
    pub id: RecordId,
    /// The ad.
    pub ad: Arc<Verified<Ad>>,
}

/// Ads in the order of their subjects.
#[derive(Debug, Default)]
pub struct Snapshot(Vec<Item>);

impl Item {
    pub(super) fn listed(&self) -> ListedAd {
        ListedAd {
            subject: self.subject,
            epoch: self.ad.epoch,
            sequence: self.ad.sequence,
            id: self.id,
        }
    }
}

impl Snapshot {
    /// Takes ads of which each has a subject of its own.
    pub fn new(ads: impl IntoIterator<Item = Arc<Verified<Ad>>>) -> Self {
        let items = ads.into_iter().map(|ad| Item {
            subject: ad.subject(),
            id: ad.id(),
            ad,
        });
        let mut items: Vec<_> = items.collect();
        items.sort_by_key(|item| item.subject);
        items.dedup_by_key(|item| item.subject);
        Self(items)
    }

    /// Takes items that are in order.
    pub(crate) fn of_sorted(items: Vec<Item>) -> Self {
        debug_assert!(items.is_sorted_by(|one, next| one.subject < next.subject));
        Self(items)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns them.
    pub fn items(&self) -> &[Item] {
        &self.0
    }

    pub(crate) fn first_expiry(&self) -> Option<UnixTime> {
        self.0.iter().map(|item| item.ad.expires).min()
    }

    pub(super) fn item(&self, position: usize) -> &Item {
        &self.0[position]
    }

    pub(super) fn fingerprint(&self, range: Range<usize>) -> Fingerprint {
        let items = self.0[range].iter();
        Fingerprint::of(items.map(|item| (&item.subject, &item.id)))
    }

    pub(super) fn position_of(&self, subject: &SubjectId) -> Option<usize> {
        self.0
            .binary_search_by_key(subject, |item| item.subject)
            .ok()
    }

    /// Returns where a range ends that ends at a bound.
    pub(super) fn position_before(&self, end: &Bound) -> usize {
        self.0.partition_point(|item| end.is_after(&item.subject))
    }

    /// Returns the shortest bound before an ad that is not the first.
    pub(super) fn bound_at(&self, position: usize) -> Vec<u8> {
        let (before, at) = (&self.0[position - 1].subject, &self.0[position].subject);
        let pairs = before.as_bytes().iter().zip(at.as_bytes());
        let common = pairs.take_while(|(one, other)| one == other).count();
        at.as_bytes()[..=common].to_vec()
    }
}
