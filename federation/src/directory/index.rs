//! Where to look for ads: by name, node, skill and kind, and all of them, each by price.
//!
//! A query goes through the ads that share what it names and few others have, cheapest first, and
//! stops at its limit. Each set is one tree with what is looked for in front of its keys: a set for
//! each name, of which most would hold one ad, would take several times the room. Tombstones are in
//! none of them.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use aither_protocol::{Ad, NodeId, SkillHash, SubjectKind};

use super::{Query, Slot};

#[derive(Debug, Default)]
pub(super) struct Index {
    /// By a hash of the name: two of one hash are told apart by whoever reads the ads.
    by_name: BTreeSet<(u64, u64, Slot)>,
    by_node: BTreeSet<(NodeId, u64, Slot)>,
    by_skill: BTreeSet<(SkillHash, u64, Slot)>,
    by_kind: BTreeSet<(SubjectKind, u64, Slot)>,
    all: BTreeSet<(u64, Slot)>,
}

impl Index {
    pub(super) fn insert(&mut self, slot: Slot, ad: &Ad) {
        let Some(offer) = &ad.offer else {
            return;
        };
        let price = offer.price_micros;
        for skill in &offer.skills {
            self.by_skill.insert((*skill, price, slot));
        }
        self.by_name.insert((hash_of(&ad.name), price, slot));
        self.by_node.insert((ad.node, price, slot));
        self.by_kind.insert((ad.kind, price, slot));
        self.all.insert((price, slot));
    }

    /// Takes an ad out, if it is in.
    pub(super) fn remove(&mut self, slot: Slot, ad: &Ad) {
        let Some(offer) = &ad.offer else {
            return;
        };
        let price = offer.price_micros;
        for skill in &offer.skills {
            self.by_skill.remove(&(*skill, price, slot));
        }
        self.by_name.remove(&(hash_of(&ad.name), price, slot));
        self.by_node.remove(&(ad.node, price, slot));
        self.by_kind.remove(&(ad.kind, price, slot));
        self.all.remove(&(price, slot));
    }

    /// Returns the slots among which all answers are, cheapest first.
    pub(super) fn candidates<'a>(
        &'a self,
        query: &Query<'_>,
    ) -> Box<dyn Iterator<Item = Slot> + 'a> {
        let most = query.price_micros_max.unwrap_or(u64::MAX);
        let (least, last) = (Slot::MIN, Slot::MAX);
        // A name has few ads, a node has a bounded number, a skill may have most of all.
        if let Some(name) = query.name.map(hash_of) {
            let range = (name, 0, least)..=(name, most, last);
            return Box::new(self.by_name.range(range).map(|(_, _, slot)| *slot));
        }
        if let Some(node) = query.node {
            let range = (node, 0, least)..=(node, most, last);
            return Box::new(self.by_node.range(range).map(|(_, _, slot)| *slot));
        }
        if let Some(skill) = query.skill {
            let range = (skill, 0, least)..=(skill, most, last);
            return Box::new(self.by_skill.range(range).map(|(_, _, slot)| *slot));
        }
        if let Some(kind) = query.kind {
            let range = (kind, 0, least)..=(kind, most, last);
            return Box::new(self.by_kind.range(range).map(|(_, _, slot)| *slot));
        }
        let range = (0, least)..=(most, last);
        Box::new(self.all.range(range).map(|(_, slot)| *slot))
    }
}

fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
