//! Scoring by words: BM25 over the entries of one index.
//!
//! All that matches is scored, some thousand slots at a time, so that their scores stay in a cache
//! and no memory is asked for per entry. Constants and form are those of Robertson and Zaragoza
//! ("The Probabilistic Relevance Framework", 2009), but for the weight of a word that most texts
//! have: it is small and never negative, as in Lucene.

use std::collections::HashMap;

use super::{
    analyze::query_terms,
    postings::{Cursor, Postings},
    rank::{Best, Scored},
    scope::{DEAD, ScopeIndex},
};

/// How soon more of the same word says no more.
pub(super) const K1: f32 = 1.2;
/// How much long texts are held back.
pub(super) const B: f32 = 0.75;

/// Different words of a question that count.
const QUERY_TERMS_MAX: usize = 64;
/// Slots that are scored together: 64 KiB of scores, which a second-level cache holds.
const WINDOW: u32 = 16 * 1024;
/// Scores that are passed over at once if none of them is among the best.
const GROUP: usize = 64;

/// The words of a question, and what each weighs in this index.
pub(super) struct WordQuery<'a> {
    index: &'a ScopeIndex,
    terms: Vec<(Cursor<'a>, f32)>,
    /// What a text would score that were made of all words, over and over.
    reachable: f32,
}

/// What words found.
pub(super) struct FoundWords {
    /// The best, in their order.
    pub(super) best: Vec<Scored>,
    /// The scores of what else was wanted.
    wanted: HashMap<u32, f32>,
}

impl<'a> WordQuery<'a> {
    /// Looks the words of a question up; none if it has no word.
    pub(super) fn new(index: &'a ScopeIndex, text: &str) -> Option<Self> {
        let count = index.len() as f32;
        let mut query = Self {
            index,
            terms: Vec::new(),
            reachable: 0.0,
        };
        for term in query_terms(text, QUERY_TERMS_MAX) {
            let postings = index.terms.get(&term);
            let have = postings.map_or(0, |postings| live_len(index, postings)) as f32;
            let weight = (1.0 + (count - have + 0.5) / (have + 0.5)).ln() * (K1 + 1.0);
            query.reachable += weight;
            let cursor = postings.map(|postings| (postings.cursor(), weight));
            query.terms.extend(cursor);
        }
        (query.reachable > 0.0).then_some(query)
    }

    /// Scores all entries; `wanted` are slots, rising, whose scores are kept in any case.
    ///
    /// `accept` is asked only about slots that may be among the best.
    pub(super) fn search(
        mut self,
        count: usize,
        mut wanted: &[u32],
        accept: impl Fn(u32) -> bool,
    ) -> FoundWords {
        let mut best = Best::new(count);
        let mut scores = vec![0.0; WINDOW as usize];
        let mut wanted_scores = HashMap::with_capacity(wanted.len());
        let slots = self.index.lengths.len() as u32;
        for start in (0..slots).step_by(WINDOW as usize) {
            let end = slots.min(start + WINDOW);
            let scores = &mut scores[..(end - start) as usize];
            scores.fill(0.0);
            if !self.score_window(start, end, scores) {
                continue;
            }
            for (group, scores) in scores.chunks(GROUP).enumerate() {
                let least = best.score_min().unwrap_or(f32::MIN_POSITIVE);
                // Without a branch per score the compiler compares many at once.
                if scores
                    .iter()
                    .fold(false, |any, &score| any | (score >= least))
                {
                    let first = start + (group * GROUP) as u32;
                    self.offer(&mut best, first, scores, &accept);
                }
            }
            let inside = wanted.partition_point(|slot| *slot < end);
            for slot in wanted[..inside].iter().filter(|slot| **slot >= start) {
                wanted_scores.insert(*slot, scores[(slot - start) as usize]);
            }
            wanted = &wanted[inside..];
        }
        FoundWords {
            best: best.finish(),
            wanted: wanted_scores,
        }
    }

    /// Offers what is scored and accepted of some slots.
    fn offer(&self, best: &mut Best, first: u32, scores: &[f32], accept: impl Fn(u32) -> bool) {
        for (slot, &score) in (first..).zip(scores) {
            let least = best.score_min().unwrap_or(f32::MIN_POSITIVE);
            if score >= least && accept(slot) {
                best.offer(self.index.scored(slot, score));
            }
        }
    }

    /// Adds up what the words say of some slots; returns whether any has one.
    fn score_window(&mut self, start: u32, end: u32, scores: &mut [f32]) -> bool {
        let Self {
            index,
            terms,
            reachable,
        } = self;
        let mean = (index.length_sum as f32 / index.len() as f32).max(1.0);
        let (fixed, by_length) = (K1 * (1.0 - B), K1 * B / mean);
        let lengths = &index.lengths[start as usize..end as usize];
        let mut is_any = false;
        for (cursor, weight) in terms {
            let weight = *weight / *reachable;
            cursor.up_to(end, |slot, times| {
                let at = (slot - start) as usize;
                let (length, times) = (lengths[at], f32::from(times));
                if length != DEAD {
                    let held_back = fixed + by_length * length as f32;
                    scores[at] += weight * times / (times + held_back);
                    is_any = true;
                }
            });
        }
        is_any
    }
}

impl FoundWords {
    /// Returns how well the words match an entry that was found or wanted.
    pub(super) fn score(&self, slot: u32) -> Option<f32> {
        let wanted = self.wanted.get(&slot).copied();
        let found = || self.best.iter().find(|one| one.slot == slot);
        let score = wanted.or_else(|| found().map(|one| one.score));
        score.filter(|score| *score > 0.0)
    }
}

/// Returns how many entries that are not dead have a term.
fn live_len(index: &ScopeIndex, postings: &Postings) -> usize {
    if index.len() == index.lengths.len() {
        return postings.len();
    }
    let mut len = 0;
    postings.for_each(|slot, _| len += usize::from(index.lengths[slot as usize] != DEAD));
    len
}
