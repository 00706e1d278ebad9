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

pub use self::logprobs::{LogProbabilities, log_probabilities};

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
    /// Scratch of the filters; kept for its memory.
    candidates: Vec<Candidate>,
}

/// An id and its adjusted logit.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
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
            candidates: Vec::new(),
        }
    }

    /// Chooses the next id and remembers it.
    ///
    /// # Errors
    /// [`Error::Internal`] where no logit is a number above minus infinity.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        self.adjust(logits);
        let best = best_of(&self.adjusted).ok_or_else(|| Error::Internal {
            message: "the model's output has no usable number".into(),
        })?;
        let id = if self.params.temperature == 0.0 {
            best.id
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
    fn draw(&mut self, best: Candidate) -> u32 {
        let cutoff = self.cutoff(best);
        let temperature = self.params.temperature;
        let kept = |id: usize, logit: f32| {
            let candidate = Candidate {
                id: id as u32,
                logit,
            };
            cutoff.is_none_or(|cutoff| compare(&candidate, &cutoff) != Ordering::Greater)
        };
        let kept_weights = || {
            let all = self.adjusted.iter().copied().enumerate();
            all.filter(|&(id, logit)| kept(id, logit))
                .map(|(id, logit)| (id as u32, weight(logit, best.logit, temperature)))
        };
        let total: f64 = kept_weights().map(|(_, weight)| weight).sum();
        let mut left = uniform(&mut self.rng) * total;
        // The walk is in order of ids, so that it needs no sorting.
        let mut last = best.id;
        for (id, weight) in kept_weights().filter(|&(_, weight)| weight > 0.0) {
            last = id;
            if left < weight {
                break;
            }
            left -= weight;
        }
        // Rounding may use the walk up; then the last one with any weight is meant.
        last
    }

    /// Returns the worst candidate that top-k, top-p and min-p keep; `None` where all stay.
    fn cutoff(&mut self, best: Candidate) -> Option<Candidate> {
        let all = self.adjusted.len();
        let keep_k = match self.params.top_k {
            0 => all,
            k => k.min(all),
        };
        let filters_p = self.params.top_p < 1.0;
        if keep_k == all && !filters_p && self.params.min_p == 0.0 {
            return None;
        }
        let min_weight = f64::from(self.params.min_p);
        let temperature = self.params.temperature;
        let weight_of = |candidate: &Candidate| weight(candidate.logit, best.logit, temperature);
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(
            self.adjusted
                .iter()
                .enumerate()
                .map(|(id, &logit)| Candidate {
                    id: id as u32,
                    logit,
                }),
        );
        if keep_k < all {
            candidates.select_nth_unstable_by(keep_k - 1, compare);
            candidates.truncate(keep_k);
        }
        if filters_p {
            let total: f64 = candidates.iter().map(weight_of).sum();
            let wanted = total * f64::from(self.params.top_p);
            truncate_to_weight(candidates, wanted, weight_of);
        }
        candidates.retain(|candidate| weight_of(candidate) >= min_weight);
        candidates.iter().copied().max_by(compare)
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

/// Returns the best candidate, if any is above minus infinity.
fn best_of(logits: &[f32]) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |best| best.logit) {
            best = Some(Candidate {
                id: id as u32,
                logit,
            });
        }
    }
    best
}

/// Returns a probability up to a common factor: the best candidate weighs 1.
fn weight(logit: f32, best: f32, temperature: f32) -> f64 {
    // In double precision the difference of two finite logits cannot overflow.
    ((f64::from(logit) - f64::from(best)) / f64::from(temperature)).exp()
}

/// Keeps the fewest best candidates whose weights reach `wanted`, at least one.
fn truncate_to_weight(
    candidates: &mut Vec<Candidate>,
    wanted: f64,
    weight_of: impl Fn(&Candidate) -> f64,
) {
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
        for index in 0..taken {
            reached += weight_of(&rest[index]);
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
