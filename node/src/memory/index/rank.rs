//! What is asked, what is answered, and how two orders become one.
//!
//! Words and meaning are joined by reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR
//! 2009): their scores have no common measure, but their orders have.

use std::{cmp::Ordering, collections::HashMap};

use crate::memory::ids::{ScopeId, Serial};

/// Results of one search at most.
pub const LIMIT_MAX: usize = 1000;

/// The constant of reciprocal rank fusion, from the paper: how little the first places differ.
const FUSION_K: f32 = 60.0;

/// By what entries are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SearchMode {
    /// By words and by meaning, as far as there are vectors.
    #[default]
    Hybrid,
    /// By meaning alone.
    Semantic,
    /// By words alone.
    Keyword,
}

/// A search in one scope.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<'a> {
    /// What is looked for.
    pub text: &'a str,
    /// Its normalised vector. Without one nothing is found by meaning.
    pub vector: Option<&'a [f32]>,
    /// By what entries are found.
    pub mode: SearchMode,
    /// All of these tags must be there.
    pub tags: &'a [String],
    /// Only what was written after this time.
    pub updated_after_ms: Option<u64>,
    /// Only what was written before this time.
    pub updated_before_ms: Option<u64>,
    /// How many results are wanted; more than [`LIMIT_MAX`] there never are.
    pub limit: usize,
    /// The present. What has expired by then is not found.
    pub now_ms: u64,
}

/// A result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Which entry it is, as it was written then.
    pub serial: Serial,
    /// How good it is; results are in this order. Searched by words or by meaning alone it is that
    /// score; by both it is the sum of the reciprocal ranks, of which 1 is first by either.
    pub score: f32,
    /// How well words match, between 0 and 1: BM25 as a share of what no text can reach, that with
    /// every word of the question over and over. None if no word matches, or words were not asked.
    pub keyword: Option<f32>,
    /// How near the meaning is, from -1 to 1: the cosine of the nearest piece. None where it was
    /// not compared.
    pub semantic: Option<f32>,
}

/// A slot with a score, and what is written in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scored {
    pub(super) slot: u32,
    pub(super) serial: Serial,
    pub(super) score: f32,
}

impl Scored {
    /// The better one first, and of two that are as good the later written one.
    fn order(&self, other: &Self) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then_with(|| other.serial.cmp(&self.serial))
    }
}

/// The best of those that are offered: twice as many are held, and halved when full.
#[derive(Debug)]
pub(super) struct Best {
    count: usize,
    held: Vec<Scored>,
    /// What does not come before it is not among the best.
    floor: Option<Scored>,
}

impl Best {
    pub(super) fn new(count: usize) -> Self {
        Self {
            count,
            held: Vec::new(),
            floor: None,
        }
    }

    /// Returns the score that one needs at least to be among the best, if that is known.
    pub(super) fn score_min(&self) -> Option<f32> {
        self.floor.map(|floor| floor.score)
    }

    pub(super) fn offer(&mut self, one: Scored) {
        let is_behind = |floor: Scored| one.order(&floor) != Ordering::Less;
        if self.count == 0 || self.floor.is_some_and(is_behind) {
            return;
        }
        self.held.push(one);
        if self.held.len() >= 2 * self.count {
            self.held
                .select_nth_unstable_by(self.count - 1, Scored::order);
            self.held.truncate(self.count);
            self.floor = self.held.last().copied();
        }
    }

    /// Returns them in their order.
    pub(super) fn finish(mut self) -> Vec<Scored> {
        self.held.sort_unstable_by(Scored::order);
        self.held.truncate(self.count);
        self.held
    }
}

/// Returns the best ones in their order.
pub(super) fn best(scored: impl Iterator<Item = Scored>, count: usize) -> Vec<Scored> {
    let mut best = Best::new(count);
    scored.for_each(|one| best.offer(one));
    best.finish()
}

/// Joins two orders; the score is the share of what being first in all of them would give.
///
/// An empty order counts as well: what is first in one and nowhere in the other has half. `None` is
/// an order that was not asked for.
pub(super) fn fuse(orders: [Option<&[Scored]>; 2], count: usize) -> Vec<Scored> {
    let mut fused: HashMap<u32, Scored> = HashMap::new();
    let asked = orders.iter().flatten().count().max(1) as f32;
    for order in orders.into_iter().flatten() {
        for (rank, one) in order.iter().enumerate() {
            let share = (FUSION_K + 1.0) / (FUSION_K + 1.0 + rank as f32) / asked;
            let entry = fused.entry(one.slot);
            let scored = entry.or_insert(Scored { score: 0.0, ..*one });
            scored.score += share;
        }
    }
    best(fused.into_values(), count)
}

/// Joins what was found in several scopes into one order, as if it had been found in one.
///
/// Cosines can be compared across scopes. Shares of what words can reach can be as well, though a
/// word that is rare in one scope may be common in another.
pub fn join(hits: Vec<(ScopeId, Hit)>, mode: SearchMode, limit: usize) -> Vec<(ScopeId, Hit)> {
    let order = |score: fn(&Hit) -> Option<f32>| {
        let scored = hits.iter().enumerate().filter_map(|(slot, (_, hit))| {
            Some(Scored {
                slot: slot as u32,
                serial: hit.serial,
                score: score(hit)?,
            })
        });
        best(scored, hits.len())
    };
    let joined = match mode {
        SearchMode::Keyword | SearchMode::Semantic => order(|hit| Some(hit.score)),
        SearchMode::Hybrid => {
            let (words, meaning) = (order(|hit| hit.keyword), order(|hit| hit.semantic));
            // Without a single vector, meaning was not asked.
            let meaning = (!meaning.is_empty()).then_some(&meaning[..]);
            fuse([Some(&words[..]), meaning], hits.len())
        }
    };
    let joined = joined.into_iter().take(limit).map(|one| {
        let (scope, hit) = hits[one.slot as usize];
        let score = one.score;
        (scope, Hit { score, ..hit })
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(slot: u32, score: f32) -> Scored {
        Scored {
            slot,
            serial: Serial(u64::from(slot)),
            score,
        }
    }

    #[test]
    fn the_best_come_in_order_and_the_newest_first_among_equals() {
        let all: Vec<_> = (0..100)
            .map(|slot| scored(slot, (slot % 10) as f32))
            .collect();
        for count in [0, 1, 3, 50, 1000] {
            let mut expected = all.clone();
            expected.sort_by(Scored::order);
            expected.truncate(count);
            let found = best(all.iter().copied(), count);
            assert_eq!(found, expected);
            assert!(found.is_empty() || found[0].slot == 99);
        }
    }

    #[test]
    fn what_scopes_find_is_one_order() {
        let hit = |serial, score, keyword, semantic| Hit {
            serial: Serial(serial),
            score,
            keyword,
            semantic,
        };
        let hits = vec![
            (ScopeId(1), hit(1, 1.0, Some(0.2), Some(0.3))),
            (ScopeId(1), hit(2, 0.9, None, Some(0.2))),
            (ScopeId(2), hit(3, 1.0, Some(0.6), Some(0.8))),
        ];
        let serials = |mode, limit| -> Vec<u64> {
            let joined = join(hits.clone(), mode, limit);
            joined.iter().map(|(_, hit)| hit.serial.0).collect()
        };
        assert_eq!(serials(SearchMode::Hybrid, 10), [3, 1, 2]);
        assert_eq!(serials(SearchMode::Hybrid, 1), [3]);
        assert_eq!(serials(SearchMode::Semantic, 10), [3, 1, 2]);
        let joined = join(hits.clone(), SearchMode::Hybrid, 10);
        assert_eq!((joined[0].0, joined[0].1.score), (ScopeId(2), 1.0));
        assert_eq!(join(Vec::new(), SearchMode::Hybrid, 10), []);
    }

    #[test]
    fn fused_scores_are_shares_of_being_first_everywhere() {
        let words = [scored(1, 9.0), scored(2, 8.0)];
        let meaning = [scored(1, 0.5), scored(3, 0.4)];
        let fused = fuse([Some(&words), Some(&meaning)], 10);
        let slots: Vec<_> = fused.iter().map(|one| one.slot).collect();
        assert_eq!(slots, [1, 3, 2]);
        assert_eq!(fused[0].score, 1.0);
        assert!((fused[1].score - 61.0 / 62.0 / 2.0).abs() < 1e-6);
        let alone = fuse([None, Some(&meaning)], 1);
        assert_eq!((alone.len(), alone[0].score), (1, 1.0));
        assert_eq!(fuse([None, None], 5), []);
    }
}
