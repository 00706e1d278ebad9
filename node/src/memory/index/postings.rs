//! Where a term is: the slots of its entries, rising, each with how often it is there.
//!
//! Most terms are in one entry, and some in nearly all. The first kind is kept in the map itself,
//! the others as differences of one or two bytes, which are read faster than whole numbers would
//! come from memory.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

/// What an allocator takes for a list beside its bytes: the list, and for both allocations a head
/// and what rounding to sixteen bytes adds.
const LIST_OVERHEAD_BYTES: usize = size_of::<List>() + 24;
/// The smallest allocation that the bytes of a list are given: what an allocator hands out anyway.
const LIST_BYTES_MIN: usize = 24;
/// The new number of a slot that is forgotten.
pub(super) const GONE: u32 = u32::MAX;
/// A count that is one is left out; the lowest bit of a difference says so.
const COUNTED: u32 = 1;

/// The slots of one term.
#[derive(Debug, Clone)]
pub(super) enum Postings {
    One { slot: u32, count: u16 },
    Many(Box<List>),
}

#[derive(Debug, Clone)]
pub(super) struct List {
    /// Per slot: the difference to the one before, doubled, plus [`COUNTED`] if a count follows.
    bytes: Vec<u8>,
    last: u32,
    len: u32,
}

/// What is not read yet of some postings.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    next: Option<(u32, u16)>,
    bytes: std::slice::Iter<'a, u8>,
}

impl Postings {
    /// Returns how many slots there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Many(list) => list.len as usize,
        }
    }

    /// Returns where reading begins.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        match self {
            Self::One { slot, count } => Cursor {
                next: Some((*slot, *count)),
                bytes: [].iter(),
            },
            Self::Many(list) => {
                let mut bytes = list.bytes.iter();
                let next = take_slot(&mut bytes, 0);
                Cursor { next, bytes }
            }
        }
    }

    /// Calls a function with each slot and its count, in their order.
    pub(super) fn for_each(&self, each: impl FnMut(u32, u16)) {
        self.cursor().up_to(u32::MAX, each);
    }

    /// Adds a slot behind all others.
    fn push(&mut self, slot: u32, count: u16) {
        match self {
            Self::One {
                slot: first,
                count: first_count,
            } => {
                let mut list = List {
                    bytes: Vec::with_capacity(LIST_BYTES_MIN),
                    last: 0,
                    len: 0,
                };
                list.push(*first, *first_count);
                list.push(slot, count);
                *self = Self::Many(Box::new(list));
            }
            Self::Many(list) => list.push(slot, count),
        }
    }

    /// Returns the memory that it holds beyond its own size.
    fn heap_bytes(&self) -> usize {
        match self {
            Self::One { .. } => 0,
            Self::Many(list) => LIST_OVERHEAD_BYTES + list.bytes.capacity(),
        }
    }

    /// Gives all slots other numbers, in the same order, and forgets those that are [`GONE`];
    /// returns whether any is left. `kept` is memory to work in.
    fn renumber(&mut self, slots: &[u32], kept: &mut Vec<(u32, u16)>) -> bool {
        kept.clear();
        self.for_each(|slot, count| {
            let slot = slots[slot as usize];
            if slot != GONE {
                kept.push((slot, count));
            }
        });
        match (&mut *self, kept.as_slice()) {
            (_, []) => return false,
            (_, &[(slot, count)]) => *self = Self::One { slot, count },
            (Self::One { .. }, _) => unreachable!("one slot has one number"),
            (Self::Many(list), kept) => {
                list.clear();
                for (slot, count) in kept {
                    list.push(*slot, *count);
                }
                list.bytes
                    .shrink_to(list.bytes.len() + list.bytes.len() / 4);
            }
        }
        true
    }
}

impl List {
    fn clear(&mut self) {
        self.bytes.clear();
        (self.last, self.len) = (0, 0);
    }

    fn push(&mut self, slot: u32, count: u16) {
        if self.bytes.capacity() - self.bytes.len() < 8 {
            // By half, not to the double: there are many lists, and they stay.
            self.bytes
                .reserve_exact((self.bytes.len() / 2).max(LIST_BYTES_MIN));
        }
        // Slots fit into 31 bits, so that a difference may be doubled.
        let step = slot - self.last;
        self.last = slot;
        self.len += 1;
        self.put(step << 1 | if count == 1 { 0 } else { COUNTED });
        if count != 1 {
            self.put(u32::from(count));
        }
    }

    fn put(&mut self, mut number: u32) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }
}

impl Cursor<'_> {
    /// Calls a function with each slot before `end` and its count, in their order.
    #[inline]
    pub(super) fn up_to(&mut self, end: u32, mut each: impl FnMut(u32, u16)) {
        while let Some((slot, count)) = self.next.filter(|(slot, _)| *slot < end) {
            each(slot, count);
            self.next = take_slot(&mut self.bytes, slot);
        }
    }
}

/// Reads what [`List::push`] wrote.
#[inline]
fn take_slot(bytes: &mut std::slice::Iter<'_, u8>, last: u32) -> Option<(u32, u16)> {
    if bytes.as_slice().is_empty() {
        return None;
    }
    let step = take(bytes);
    let count = if step & COUNTED == 0 { 1 } else { take(bytes) };
    Some((last + (step >> 1), count as u16))
}

/// Reads what [`List::put`] wrote.
#[inline]
fn take(bytes: &mut std::slice::Iter<'_, u8>) -> u32 {
    let mut number = 0;
    let mut shift = 0;
    for &byte in bytes.by_ref() {
        number |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
        shift += 7;
    }
    number
}

/// Postings by what they are of.
#[derive(Debug, Clone)]
pub(super) struct PostingsMap<K, S> {
    map: HashMap<K, Postings, S>,
    /// What keys and postings hold beyond the map's own memory.
    heap_bytes: usize,
}

impl<K, S: Default> Default for PostingsMap<K, S> {
    fn default() -> Self {
        Self {
            map: HashMap::with_hasher(S::default()),
            heap_bytes: 0,
        }
    }
}

impl<K: Eq + std::hash::Hash, S: BuildHasher> PostingsMap<K, S> {
    /// Adds a slot behind all others of a key.
    pub(super) fn push(&mut self, key: K, key_bytes: usize, slot: u32, count: u16) {
        match self.map.entry(key) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Postings::One { slot, count });
                self.heap_bytes += key_bytes;
            }
            std::collections::hash_map::Entry::Occupied(mut occupied) => {
                let postings = occupied.get_mut();
                self.heap_bytes -= postings.heap_bytes();
                postings.push(slot, count);
                self.heap_bytes += postings.heap_bytes();
            }
        }
    }

    /// Returns the postings of a key.
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&Postings>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + std::hash::Hash + ?Sized,
    {
        self.map.get(key)
    }

    /// Gives all slots other numbers, in the same order, and forgets those that are [`GONE`].
    pub(super) fn renumber(&mut self, slots: &[u32], key_bytes: impl Fn(&K) -> usize) {
        let mut heap_bytes = 0;
        let mut kept = Vec::new();
        self.map.retain(|key, postings| {
            let is_left = postings.renumber(slots, &mut kept);
            if is_left {
                heap_bytes += postings.heap_bytes() + key_bytes(key);
            }
            is_left
        });
        self.heap_bytes = heap_bytes;
        if self.map.len() < self.map.capacity() / 4 {
            self.map.shrink_to_fit();
        }
    }

    /// Returns the memory that it holds.
    pub(super) fn bytes(&self) -> usize {
        map_bytes(self.map.capacity(), size_of::<(K, Postings)>()) + self.heap_bytes
    }
}

/// Returns what the standard library's map takes: an entry and a byte for each of its places, of
/// which it fills seven of eight.
pub(super) fn map_bytes(capacity: usize, entry: usize) -> usize {
    capacity / 7 * 8 * (entry + 1)
}

/// Hashes numbers of 64 bits, with a key of its own per map: a hash of terms is known to whoever
/// chooses the terms.
#[derive(Debug, Clone)]
pub(super) struct SpreadState(u64);

impl Default for SpreadState {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for SpreadState {
    type Hasher = Spread;

    fn build_hasher(&self) -> Spread {
        Spread(self.0)
    }
}

pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        // The halves of a product with a large odd number depend on all bits between them.
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Map = PostingsMap<u64, SpreadState>;

    fn all(map: &Map, key: u64) -> Vec<(u32, u16)> {
        let mut all = Vec::new();
        if let Some(postings) = map.get(&key) {
            postings.for_each(|slot, count| all.push((slot, count)));
        }
        all
    }

    #[test]
    fn slots_and_counts_are_read_back() {
        let pushed = [
            (0, 1),
            (1, 2),
            (200, u16::MAX),
            (1 << 20, 1),
            ((1 << 31) - 1, 300),
        ];
        for len in 0..=pushed.len() {
            let mut map = Map::default();
            for (slot, count) in &pushed[..len] {
                map.push(7, 0, *slot, *count);
                map.push(8, 0, *slot, 1);
            }
            assert_eq!(all(&map, 7), pushed[..len]);
            assert_eq!(all(&map, 9), []);
        }
    }

    #[test]
    fn renumbering_keeps_the_order_and_forgets_what_is_gone() {
        let mut map = Map::default();
        for slot in 0..1000 {
            map.push(1, 0, slot, 1 + slot as u16 % 3);
            map.push(u64::from(2 + slot), 0, slot, 5);
        }
        let before = map.bytes();
        let slots: Vec<_> = (0..1000)
            .map(|slot| if slot % 10 == 0 { slot / 10 } else { GONE })
            .collect();
        map.renumber(&slots, |_| 0);
        let expected: Vec<_> = (0..100)
            .map(|slot| (slot, 1 + slot as u16 * 10 % 3))
            .collect();
        assert_eq!(all(&map, 1), expected);
        assert_eq!(all(&map, 2 + 30), [(3, 5)]);
        assert_eq!(all(&map, 2 + 31), []);
        assert!(map.bytes() < before / 3);
    }
}
