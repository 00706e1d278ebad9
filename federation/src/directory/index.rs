//! Where to look for ads: slots by skill, name and node, and all of them, each set by price.
//!
//! A query goes through the smallest set that all of its answers are in, cheapest first, and stops
//! at its limit. Tombstones are in none.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use aither_protocol::{Ad, NodeId, SkillHash};

use super::{Query, Slot};

/// Slots with their prices.
type Priced = BTreeSet<(u64, Slot)>;

#[derive(Debug, Default)]
pub(super) struct Index {
    by_skill: BTreeMap<SkillHash, Priced>,
    by_name: BTreeMap<Box<str>, Priced>,
    by_node: BTreeMap<NodeId, Priced>,
    all: Priced,
}

impl Index {
    pub(super) fn insert(&mut self, slot: Slot, ad: &Ad) {
        let Some(offer) = &ad.offer else {
            return;
        };
        let priced = (offer.price_micros, slot);
        for skill in &offer.skills {
            self.by_skill.entry(*skill).or_default().insert(priced);
        }
        let name = ad.name.as_str();
        match self.by_name.get_mut(name) {
            Some(slots) => _ = slots.insert(priced),
            None => _ = self.by_name.insert(name.into(), Priced::from([priced])),
        }
        self.by_node.entry(ad.node).or_default().insert(priced);
        self.all.insert(priced);
    }

    /// Takes an ad out, if it is in.
    pub(super) fn remove(&mut self, slot: Slot, ad: &Ad) {
        let Some(offer) = &ad.offer else {
            return;
        };
        let priced = (offer.price_micros, slot);
        for skill in &offer.skills {
            remove_from(&mut self.by_skill, skill, priced);
        }
        remove_from(&mut self.by_name, ad.name.as_str(), priced);
        remove_from(&mut self.by_node, &ad.node, priced);
        self.all.remove(&priced);
    }

    /// Returns the slots among which all answers are, cheapest first.
    pub(super) fn candidates(&self, query: &Query<'_>) -> impl Iterator<Item = Slot> {
        let price_max = query.price_micros_max.unwrap_or(u64::MAX);
        let smallest = match self.smallest(query) {
            ControlFlow::Continue(set) => Some(set),
            ControlFlow::Break(()) => None,
        };
        let slots = smallest.into_iter().flatten();
        slots
            .take_while(move |(price, _)| *price <= price_max)
            .map(|(_, slot)| *slot)
    }

    /// Returns the smallest set, or breaks off where one of them is empty.
    fn smallest(&self, query: &Query<'_>) -> ControlFlow<(), &Priced> {
        let mut smallest = &self.all;
        let named = [
            query.skill.map(|skill| self.by_skill.get(&skill)),
            query.name.map(|name| self.by_name.get(name)),
            query.node.map(|node| self.by_node.get(&node)),
        ];
        for set in named.into_iter().flatten() {
            let Some(set) = set else {
                return ControlFlow::Break(());
            };
            if set.len() < smallest.len() {
                smallest = set;
            }
        }
        ControlFlow::Continue(smallest)
    }
}

fn remove_from<K, Q>(sets: &mut BTreeMap<K, Priced>, key: &Q, priced: (u64, Slot))
where
    K: Ord + std::borrow::Borrow<Q>,
    Q: Ord + ?Sized,
{
    if let Some(set) = sets.get_mut(key) {
        set.remove(&priced);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
