//! The index of one scope: its entries in slots, their words, tags, times and signs.
//!
//! Slots are given in the order of coming and never twice, so that lists of them only grow at
//! their ends. What is removed stays as a dead slot, which no search sees and no statistic counts;
//! when more than a quarter is dead all slots are numbered anew. That takes a second or so for a
//! million entries, and then a quarter of a million were removed.

use std::collections::HashMap;

use aither_inference::vectors::{SignArray, SignQuery, sign_words};

use super::{
    postings::{GONE, Postings, PostingsMap, SpreadState, map_bytes},
    rank::{Hit, LIMIT_MAX, Query, Scored, SearchMode, best, fuse},
    row::{CodedVectors, IndexRow},
    text::PIECES_MAX,
    words::WordQuery,
};
use crate::memory::ids::Serial;

/// Results of either kind, at least, that are fused: deep enough for both to have a say.
const FUSED_MIN: usize = 100;
/// Pieces, at least, that are compared exactly after their signs. The example `vectors` finds 99 %
/// of the nearest ten of a million with 100.
const CANDIDATES_MIN: usize = 256;
/// Pieces per wanted result that are compared exactly.
const CANDIDATES_PER_RESULT: usize = 4;
/// Results by words that are compared by meaning as well.
const CROSSED_MAX: usize = 50;
/// Dead slots that are not worth numbering the others anew.
const DEAD_MIN: usize = 64;

/// The length of a dead slot: no text has so many words.
pub(super) const DEAD: u32 = u32::MAX;
/// The time at which what does not expire would.
const NEVER: u64 = u64::MAX;

/// A model whose vectors an index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingModel {
    /// What its weights are known by.
    pub fingerprint: u64,
    /// How long its vectors are.
    pub dimensions: usize,
}

/// Finds the entries of one scope.
#[derive(Debug, Clone)]
pub struct ScopeIndex {
    model: Option<EmbeddingModel>,
    docs: Vec<Doc>,
    /// Terms of each text, or [`DEAD`]: all that scoring words asks of a slot.
    pub(super) lengths: Vec<u32>,
    slots: HashMap<u64, u32, SpreadState>,
    pub(super) terms: PostingsMap<u64, SpreadState>,
    tags: PostingsMap<Box<str>, std::hash::RandomState>,
    /// The sum of the lengths of what is not dead.
    pub(super) length_sum: u64,
    signs: Option<SignArray>,
    /// Whose piece each vector is.
    owners: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Doc {
    serial: Serial,
    updated_at_ms: u64,
    expires_at_ms: u64,
    first_piece: u32,
    pieces: u32,
}

impl Default for ScopeIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl ScopeIndex {
    /// Makes an empty one that finds by words alone.
    pub fn new() -> Self {
        Self {
            model: None,
            docs: Vec::new(),
            lengths: Vec::new(),
            slots: HashMap::default(),
            terms: PostingsMap::default(),
            tags: PostingsMap::default(),
            length_sum: 0,
            signs: None,
            owners: Vec::new(),
        }
    }

    /// Makes an empty one that finds by a model's vectors too. Those of other models are left out
    /// of rows that have them: their entries are found by words until they are made again.
    ///
    /// # Panics
    /// If there are no such vectors.
    pub fn for_model(model: EmbeddingModel) -> Self {
        Self {
            model: Some(model),
            signs: Some(SignArray::new(model.dimensions)),
            ..Self::new()
        }
    }

    /// Returns the model whose vectors it has.
    pub fn model(&self) -> Option<EmbeddingModel> {
        self.model
    }

    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns the memory that it holds.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.docs.capacity() * size_of::<Doc>()
            + self.lengths.capacity() * size_of::<u32>()
            + map_bytes(self.slots.capacity(), size_of::<(u64, u32)>())
            + self.terms.bytes()
            + self.tags.bytes()
            + self.signs.as_ref().map_or(0, SignArray::bytes)
            + self.owners.capacity() * size_of::<u32>()
    }

    /// Adds an entry, in place of what has the same serial.
    pub fn insert(&mut self, serial: Serial, row: &IndexRow) {
        self.remove(serial);
        let slot = self.docs.len() as u32;
        // A slot's difference is doubled in 32 bits, and so many entries fit into no memory.
        assert!(slot < u32::MAX / 2, "an index of two billion entries");
        for (term, count) in &row.terms.counts {
            self.terms.push(*term, 0, slot, *count);
        }
        let mut tags: Vec<&str> = row.tags.iter().map(String::as_str).collect();
        tags.sort_unstable();
        tags.dedup();
        for tag in tags {
            self.tags.push(tag.into(), tag.len(), slot, 1);
        }
        let first_piece = self.owners.len() as u32;
        self.push_signs(slot, row);
        let doc = Doc {
            serial,
            updated_at_ms: row.updated_at_ms,
            expires_at_ms: row.expires_at_ms.unwrap_or(NEVER),
            first_piece,
            pieces: self.owners.len() as u32 - first_piece,
        };
        let length = row.terms.length.min(DEAD - 1);
        push_lean(&mut self.docs, doc);
        push_lean(&mut self.lengths, length);
        self.length_sum += u64::from(length);
        self.slots.insert(serial.0, slot);
    }

    fn push_signs(&mut self, slot: u32, row: &IndexRow) {
        let (Some(model), Some(array)) = (self.model, &mut self.signs) else {
            return;
        };
        let words = sign_words(model.dimensions);
        let is_of_model = row.signs.iter().all(|signs| signs.0.len() == words);
        if row.model == Some(model.fingerprint) && is_of_model {
            for signs in row.signs.iter().take(PIECES_MAX) {
                array.push(&signs.0);
                push_lean(&mut self.owners, slot);
            }
        }
    }

    /// Removes an entry; returns whether it was there.
    pub fn remove(&mut self, serial: Serial) -> bool {
        let Some(slot) = self.slots.remove(&serial.0) else {
            return false;
        };
        let length = std::mem::replace(&mut self.lengths[slot as usize], DEAD);
        self.length_sum -= u64::from(length);
        let dead = self.docs.len() - self.slots.len();
        if dead > DEAD_MIN && dead > self.docs.len() / 4 {
            self.renumber();
        }
        true
    }

    /// Gives what is not dead new slots, in the same order, and forgets the rest.
    fn renumber(&mut self) {
        let old_docs = std::mem::take(&mut self.docs);
        let old_lengths = std::mem::take(&mut self.lengths);
        let old_signs = self.model.map(|model| SignArray::new(model.dimensions));
        let old_signs = std::mem::replace(&mut self.signs, old_signs);
        self.owners = Vec::new();
        let mut new_slots = vec![GONE; old_docs.len()];
        for (slot, (doc, length)) in old_docs.iter().zip(old_lengths).enumerate() {
            if length == DEAD {
                continue;
            }
            let new_slot = self.docs.len() as u32;
            new_slots[slot] = new_slot;
            let first_piece = self.owners.len() as u32;
            if let (Some(old), Some(new)) = (&old_signs, &mut self.signs) {
                for piece in doc.piece_range() {
                    new.push(&old.get(piece));
                    push_lean(&mut self.owners, new_slot);
                }
            }
            push_lean(
                &mut self.docs,
                Doc {
                    first_piece,
                    ..*doc
                },
            );
            push_lean(&mut self.lengths, length);
            self.slots.insert(doc.serial.0, new_slot);
        }
        self.terms.renumber(&new_slots, |_| 0);
        self.tags.renumber(&new_slots, |tag| tag.len());
        if self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to_fit();
        }
    }

    /// Finds entries.
    ///
    /// `fetch` returns the coded vectors of some entries, in their order; an entry of which it has
    /// none is not found by meaning. It is called once at most.
    pub fn search(
        &self,
        query: &Query<'_>,
        fetch: &mut dyn FnMut(&[Serial]) -> Vec<Option<CodedVectors>>,
    ) -> Vec<Hit> {
        let limit = query.limit.min(LIMIT_MAX);
        if limit == 0 || self.is_empty() {
            return Vec::new();
        }
        let filter = Filter::new(self, query);
        let depth = match query.mode {
            SearchMode::Hybrid => FUSED_MIN.max(2 * limit),
            SearchMode::Keyword | SearchMode::Semantic => limit,
        };
        let vector = query.vector.filter(|vector| self.is_comparable(vector));
        let vector = vector.filter(|_| query.mode != SearchMode::Keyword);
        let near = vector.map(|vector| self.near_slots(vector, limit, &filter));
        let words = (query.mode != SearchMode::Semantic)
            .then(|| WordQuery::new(self, query.text))
            .flatten();
        let words = words.map(|words| {
            let wanted = near.as_deref().unwrap_or_default();
            words.search(depth, wanted, |slot| filter.accepts(slot))
        });
        let by_meaning = vector.zip(near).map(|(vector, mut slots)| {
            let also = words.iter().flat_map(|words| &words.best);
            slots.extend(also.take(CROSSED_MAX).map(|scored| scored.slot));
            self.compare(vector, slots, depth, fetch)
        });
        let by_words = words.as_ref().map(|words| words.best.as_slice());
        let found = match query.mode {
            SearchMode::Hybrid => fuse([by_words, by_meaning.as_deref()], limit),
            SearchMode::Keyword => by_words.unwrap_or_default().to_vec(),
            SearchMode::Semantic => by_meaning.clone().unwrap_or_default(),
        };
        let cosines = by_meaning.into_iter().flatten();
        let cosines: HashMap<u32, f32> = cosines.map(|one| (one.slot, one.score)).collect();
        let hits = found.into_iter().map(|one| Hit {
            serial: one.serial,
            score: one.score,
            keyword: words.as_ref().and_then(|words| words.score(one.slot)),
            semantic: cosines.get(&one.slot).copied(),
        });
        hits.collect()
    }

    pub(super) fn scored(&self, slot: u32, score: f32) -> Scored {
        let serial = self.docs[slot as usize].serial;
        Scored {
            slot,
            serial,
            score,
        }
    }

    /// Whether a question's vector can be compared with those of the index.
    fn is_comparable(&self, vector: &[f32]) -> bool {
        let is_of_model = self
            .model
            .is_some_and(|model| model.dimensions == vector.len());
        is_of_model && vector.iter().all(|component| component.is_finite())
    }

    /// Returns the slots that may be nearest by the signs of their pieces, rising.
    fn near_slots(&self, vector: &[f32], limit: usize, filter: &Filter<'_>) -> Vec<u32> {
        let Some(signs) = &self.signs else {
            return Vec::new();
        };
        let count = CANDIDATES_MIN.max(limit * CANDIDATES_PER_RESULT);
        let query = SignQuery::new(vector);
        let near = signs.best(&query, 0..signs.len(), count, |piece| {
            filter.accepts(self.owners[piece])
        });
        let slots = near.into_iter().map(|near| self.owners[near.index]);
        let mut slots: Vec<_> = slots.collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Compares entries with a vector exactly.
    fn compare(
        &self,
        vector: &[f32],
        mut slots: Vec<u32>,
        count: usize,
        fetch: &mut dyn FnMut(&[Serial]) -> Vec<Option<CodedVectors>>,
    ) -> Vec<Scored> {
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|slot| self.docs[*slot as usize].pieces > 0);
        let serials = slots.iter().map(|slot| self.docs[*slot as usize].serial);
        let serials: Vec<_> = serials.collect();
        let coded = if serials.is_empty() {
            Vec::new()
        } else {
            fetch(&serials)
        };
        let cosines = slots.iter().zip(coded).filter_map(|(slot, coded)| {
            let cosine = coded?.nearest(vector)?.clamp(-1.0, 1.0);
            Some(self.scored(*slot, cosine))
        });
        best(cosines, count)
    }
}

impl Doc {
    fn piece_range(&self) -> std::ops::Range<usize> {
        let first = self.first_piece as usize;
        first..first + self.pieces as usize
    }
}

/// Adds to a vector that grows by an eighth: it stays for long, and doubled would be half empty.
fn push_lean<T>(values: &mut Vec<T>, value: T) {
    if values.len() == values.capacity() {
        values.reserve_exact((values.len() / 8).max(4));
    }
    values.push(value);
}

/// Which slots a question allows.
struct Filter<'a> {
    index: &'a ScopeIndex,
    query: &'a Query<'a>,
    /// Bits of the slots that have all tags, if any are wanted.
    tagged: Option<Vec<u64>>,
}

impl<'a> Filter<'a> {
    fn new(index: &'a ScopeIndex, query: &'a Query<'a>) -> Self {
        let words = index.docs.len().div_ceil(64);
        let tagged = query
            .tags
            .iter()
            .fold(None, |tagged: Option<Vec<u64>>, tag| {
                let bits = slot_bits(index.tags.get(tag.as_str()), words);
                Some(match tagged {
                    None => bits,
                    Some(before) => before.iter().zip(&bits).map(|(a, b)| a & b).collect(),
                })
            });
        Self {
            index,
            query,
            tagged,
        }
    }

    fn accepts(&self, slot: u32) -> bool {
        let slot = slot as usize;
        // First what lies close together: most slots are refused by it, if tags are asked for.
        let tagged = self.tagged.as_ref();
        let has_tags = tagged.is_none_or(|bits| bits[slot / 64] >> (slot % 64) & 1 == 1);
        has_tags && self.index.lengths[slot] != DEAD && self.is_in_time(&self.index.docs[slot])
    }

    fn is_in_time(&self, doc: &Doc) -> bool {
        let Query {
            updated_after_ms: after,
            updated_before_ms: before,
            now_ms,
            ..
        } = self.query;
        doc.expires_at_ms > *now_ms
            && after.is_none_or(|after| doc.updated_at_ms > after)
            && before.is_none_or(|before| doc.updated_at_ms < before)
    }
}

fn slot_bits(postings: Option<&Postings>, words: usize) -> Vec<u64> {
    let mut bits = vec![0; words];
    if let Some(postings) = postings {
        postings.for_each(|slot, _| bits[slot as usize / 64] |= 1 << (slot % 64));
    }
    bits
}
