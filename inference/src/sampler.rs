//! Chooses the next token from a model's logits.
//!
//! Order of operations, on a copy of the logits:
//! 1. add the logit bias;
//! 2. penalties: repetition (prompt and text, within its window), then presence and frequency
//!    (generated text only);
//! 3. temperature 0: the greatest logit wins, the lowest id among equals, and no random number is
//!    drawn. Otherwise: top-k, softmax at the temperature, top-p, min-p, and one random number
//!    picks among what is left.
//!
//! Equal logits are ordered by id, so every filter keeps the same set on every machine. Filters
//! work by partial selection: a vocabulary of 150 000 entries is not sorted at each step.
//! A logit that is no number counts as minus infinity; only where none is left does sampling fail.

use std::{
    cmp::Ordering,
    collections::{HashMap, VecDeque},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    error::{Error, Result},
    request::SamplingParams,
};

mod logprobs;
mod weights;

pub use self::logprobs::{LogProbabilities, log_probabilities};
use self::weights::{Weights, weight};

/// Up to this many, top-k keeps a short sorted list in one pass; beyond, it partitions.
const SHORT_LIST_MAX: usize = 256;

/// Candidates that top-p sorts at first; a peaked distribution ends within them. Each further
/// round takes four times as many.
const SORTED_AT_FIRST: usize = 256;

/// Chooses tokens for one choice of one request, and remembers what it chose.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    rng: ChaCha8Rng,
    /// The last ids of prompt and text, as far as the repetition penalty looks back.
    window: VecDeque<u32>,
    /// Occurrences among generated ids.
    generated: HashMap<u32, u32>,
    /// The logits after bias and penalties; kept for its memory.
    adjusted: Vec<f32>,
    /// Where top-k keeps all.
    weights: Weights,
    /// What the filters leave; kept for its memory.
    candidates: Vec<Candidate>,
}

/// An id, its adjusted logit, and its probability up to a common factor.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    weight: f32,
}

impl Sampler {
    /// Returns the sampler of one choice. `choice` 0 draws the seed's own sequence of random
    /// numbers, each further one another stream of the same generator.
    pub fn new(params: SamplingParams, seed: u64, choice: u64, prompt_ids: &[u32]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(choice);
        let looked_at = prompt_ids.len().min(params.repetition_window);
        let window = prompt_ids[prompt_ids.len() - looked_at..].iter().copied();
        Self {
            window: window.collect(),
            params,
            rng,
            generated: HashMap::new(),
            adjusted: Vec::new(),
            weights: Weights::default(),
            candidates: Vec::new(),
        }
    }

    /// Chooses the next id and remembers it.
    ///
    /// # Errors
    /// [`Error::Internal`] where no logit is a number above minus infinity.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        self.adjust(logits);
        let best = greatest(&self.adjusted);
        if best == f32::NEG_INFINITY {
            return Err(Error::Internal {
                message: "the model's output has no usable number".into(),
            });
        }
        let id = if self.params.temperature == 0.0 {
            // Not missed: `best` is one of them.
            self.adjusted
                .iter()
                .position(|logit| *logit == best)
                .unwrap_or(0) as u32
        } else {
            self.draw(best)
        };
        self.remember(id);
        Ok(id)
    }

    /// Fills `adjusted`: steps 1 and 2.
    fn adjust(&mut self, logits: &[f32]) {
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        for &(id, bias) in &self.params.logit_bias {
            if let Some(logit) = self.adjusted.get_mut(id as usize) {
                *logit += bias;
            }
        }
        self.penalize_repetition();
        let (presence, frequency) = (self.params.presence_penalty, self.params.frequency_penalty);
        if presence != 0.0 || frequency != 0.0 {
            for (&id, &count) in &self.generated {
                if let Some(logit) = self.adjusted.get_mut(id as usize) {
                    *logit -= presence + frequency * count as f32;
                }
            }
        }
        // A plain pass over all, after the arithmetic: what is compared below is always ordered.
        for logit in &mut self.adjusted {
            *logit = usable(*logit);
        }
    }

    /// Applies the repetition penalty once to each id in the window.
    fn penalize_repetition(&mut self) {
        let penalty = self.params.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut seen: Vec<u32> = self.window.iter().copied().collect();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(logit) = self.adjusted.get_mut(id as usize) {
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
    }

    /// Draws among what the filters leave: step 3.
    fn draw(&mut self, best: f32) -> u32 {
        let all = self.adjusted.len();
        let params = &self.params;
        let (top_p, min_p) = (f64::from(params.top_p), params.min_p);
        let filters_tail = top_p < 1.0 || min_p > 0.0;
        let total = if (1..all).contains(&params.top_k) {
            self.keep_top_k(best);
            sum(self.candidates.iter().map(|candidate| candidate.weight))
        } else {
            self.weights
                .fill(&self.adjusted, best, self.params.temperature);
            let total = self.weights.total();
            if !filters_tail {
                return self.weights.at(uniform(&mut self.rng) * total);
            }
            // Ids below this weight come together to less than what top-p drops.
            let negligible = (total * (1.0 - top_p) / all as f64) as f32;
            self.collect_above(negligible.max(min_p));
            total
        };
        if top_p < 1.0 {
            truncate_to_weight(&mut self.candidates, total * top_p);
        }
        self.candidates
            .retain(|candidate| candidate.weight >= min_p);
        self.candidates
            .sort_unstable_by_key(|candidate| candidate.id);
        let kept = self
            .candidates
            .iter()
            .map(|candidate| (candidate.id, candidate.weight));
        let random = uniform(&mut self.rng) * sum(kept.clone().map(|(_, weight)| weight));
        walk(kept, random)
    }

    /// Fills `candidates` with the best `top_k`.
    fn keep_top_k(&mut self, best: f32) {
        let count = self.params.top_k;
        let temperature = self.params.temperature;
        let candidate = |(id, logit)| Candidate {
            id,
            logit,
            weight: weight(logit, best, temperature),
        };
        let adjusted = self.adjusted.iter().copied();
        self.candidates.clear();
        if count <= SHORT_LIST_MAX {
            let list = logprobs::likeliest(adjusted, count);
            self.candidates.extend(list.into_iter().map(candidate));
        } else {
            self.candidates.extend((0..).zip(adjusted).map(candidate));
            self.candidates.select_nth_unstable_by(count - 1, compare);
            self.candidates.truncate(count);
        }
    }

    /// Fills `candidates` with all that weigh at least so much.
    fn collect_above(&mut self, least: f32) {
        let weighed = self
            .adjusted
            .iter()
            .copied()
            .zip(self.weights.values().iter().copied());
        let numbered = (0..).zip(weighed);
        let heavy = numbered.filter(|(_, (_, weight))| *weight >= least);
        self.candidates.clear();
        self.candidates
            .extend(heavy.map(|(id, (logit, weight))| Candidate { id, logit, weight }));
    }

    fn remember(&mut self, id: u32) {
        *self.generated.entry(id).or_default() += 1;
        self.window.push_back(id);
        if self.window.len() > self.params.repetition_window {
            self.window.pop_front();
        }
    }
}

/// Draws a seed for a request that names none.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys each of these states anew from the system's random source.
    std::hash::RandomState::new().build_hasher().finish()
}

/// Makes a logit comparable: no NaN, nothing above the greatest finite number.
fn usable(logit: f32) -> f32 {
    if logit.is_nan() {
        f32::NEG_INFINITY
    } else {
        logit.min(f32::MAX)
    }
}

/// Orders the better candidate first: the greater logit, then the lower id.
fn compare(left: &Candidate, right: &Candidate) -> Ordering {
    let by_logit = right.logit.total_cmp(&left.logit);
    // Both zeros are equal, which `total_cmp` does not know.
    let by_logit = if left.logit == right.logit {
        Ordering::Equal
    } else {
        by_logit
    };
    by_logit.then(left.id.cmp(&right.id))
}

/// Returns the greatest of numbers without NaN.
fn greatest(logits: &[f32]) -> f32 {
    // Independent lanes, which the compiler can keep in one register.
    const LANES: usize = 8;
    let larger = |left: f32, right: f32| if right > left { right } else { left };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *logit);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, larger)
}

fn sum(weights: impl Iterator<Item = f32>) -> f64 {
    weights.map(f64::from).sum()
}

/// Returns the id at which the weights, summed up in order, pass `random`.
fn walk(weighed: impl Iterator<Item = (u32, f32)>, random: f64) -> u32 {
    let mut left = random;
    let mut last = 0;
    for (id, weight) in weighed.filter(|(_, weight)| *weight > 0.0) {
        last = id;
        let weight = f64::from(weight);
        if left < weight {
            break;
        }
        left -= weight;
    }
    // Rounding may use the weights up; then the last one is meant.
    last
}

/// Keeps the fewest best candidates whose weights reach `wanted`, at least one.
fn truncate_to_weight(candidates: &mut Vec<Candidate>, wanted: f64) {
    let mut sorted = 0;
    let mut reached = 0.0;
    let mut round = SORTED_AT_FIRST;
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let taken = round.min(rest.len());
        if taken < rest.len() {
            rest.select_nth_unstable_by(taken - 1, compare);
        }
        rest[..taken].sort_unstable_by(compare);
        for (index, candidate) in rest[..taken].iter().enumerate() {
            reached += f64::from(candidate.weight);
            if reached >= wanted {
                candidates.truncate(sorted + index + 1);
                return;
            }
        }
        sorted += taken;
        round = round.saturating_mul(4);
    }
}

/// Returns a number from 0 up to but not including 1, with 53 random bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
    (rng.next_u64() >> 11) as f64 * STEP
}

#[cfg(test)]
mod tests;
