//! The sampler against a naive one that sorts everything, and each rule by itself.

use proptest::prelude::*;

use super::*;

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}

fn sampler(params: SamplingParams, seed: u64) -> Sampler {
    Sampler::new(params, seed, 0, &[])
}

/// What the module's documentation says, written down without any care for speed.
struct Naive {
    params: SamplingParams,
    rng: ChaCha8Rng,
    prompt: Vec<u32>,
    generated: Vec<u32>,
}

impl Naive {
    fn adjusted(&self, logits: &[f32]) -> Vec<f32> {
        let params = &self.params;
        let mut seen: Vec<u32> = [self.prompt.clone(), self.generated.clone()].concat();
        seen.reverse();
        seen.truncate(params.repetition_window);
        let mut logits = logits.to_vec();
        for (id, logit) in logits.iter_mut().enumerate() {
            let id = id as u32;
            for (_, bias) in params.logit_bias.iter().filter(|(other, _)| *other == id) {
                *logit += bias;
            }
            if params.repetition_penalty != 1.0 && seen.contains(&id) {
                *logit = if *logit > 0.0 {
                    *logit / params.repetition_penalty
                } else {
                    *logit * params.repetition_penalty
                };
            }
            let count = self.generated.iter().filter(|other| **other == id).count();
            if count > 0 {
                *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
            }
        }
        logits
    }

    /// Ids that survive all filters with their weights, best first.
    fn survivors(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let params = &self.params;
        let mut sorted: Vec<(u32, f32)> = (0_u32..).zip(self.adjusted(logits)).collect();
        sorted.sort_by(|left, right| {
            let order = right.1.partial_cmp(&left.1).unwrap();
            order.then(left.0.cmp(&right.0))
        });
        let best = sorted[0].1;
        if params.top_k > 0 {
            sorted.truncate(params.top_k);
        }
        let mut weights: Vec<(u32, f64)> = sorted
            .iter()
            .map(|&(id, logit)| (id, f64::from(weight(logit, best, params.temperature))))
            .collect();
        if params.top_p < 1.0 {
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            let mut reached = 0.0;
            let kept = weights.iter().position(|(_, weight)| {
                reached += weight;
                // A hair of slack: both sides sum the same numbers in another order.
                reached >= total * f64::from(params.top_p) * (1.0 - 1e-12)
            });
            weights.truncate(kept.map_or(weights.len(), |index| index + 1));
        }
        weights.retain(|(_, weight)| *weight >= f64::from(params.min_p));
        weights
    }

    fn sample(&mut self, logits: &[f32]) -> u32 {
        let id = if self.params.temperature == 0.0 {
            let logits = self.adjusted(logits);
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            logits.iter().position(|logit| *logit == max).unwrap() as u32
        } else {
            let mut survivors = self.survivors(logits);
            survivors.sort_by_key(|(id, _)| *id);
            let total: f64 = survivors.iter().map(|(_, weight)| weight).sum();
            let drawn = uniform(&mut self.rng) * total;
            let mut reached = 0.0;
            let found = survivors.iter().find(|(_, weight)| {
                reached += weight;
                drawn < reached
            });
            found.unwrap_or(survivors.last().unwrap()).0
        };
        self.generated.push(id);
        id
    }
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let filters = (
        prop_oneof![Just(0.0_f32), 0.05_f32..3.0],
        prop_oneof![Just(0_usize), 1_usize..50, Just(100_000)],
        prop_oneof![Just(1.0_f32), 0.01_f32..1.0],
        prop_oneof![Just(0.0_f32), 0.0_f32..=1.0],
    );
    let penalties = (
        prop_oneof![Just(1.0_f32), 0.5_f32..2.0],
        0_usize..12,
        prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        proptest::collection::vec((0_u32..700, -20.0_f32..20.0), 0..5),
    );
    (filters, penalties).prop_map(|(filters, penalties)| SamplingParams {
        temperature: filters.0,
        top_k: filters.1,
        top_p: filters.2,
        min_p: filters.3,
        repetition_penalty: penalties.0,
        repetition_window: penalties.1,
        presence_penalty: penalties.2,
        frequency_penalty: penalties.3,
        logit_bias: penalties.4,
        seed: None,
    })
}

/// Logits with many equal ones, since ties are where two samplers part.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let tied = (-6_i8..6).prop_map(f32::from);
    proptest::collection::vec(prop_oneof![tied, -10.0_f32..10.0], 1..600)
}

proptest! {
    #[test]
    fn the_sampler_agrees_with_a_naive_one(
        params in params(),
        steps in proptest::collection::vec(logits(), 1..6),
        prompt in proptest::collection::vec(0_u32..600, 0..20),
        seed: u64,
    ) {
        let mut sampler = Sampler::new(params.clone(), seed, 0, &prompt);
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut naive = Naive { params, rng, prompt, generated: Vec::new() };
        for logits in &steps {
            prop_assert_eq!(sampler.sample(logits).unwrap(), naive.sample(logits));
        }
    }

    #[test]
    fn any_bits_as_logits_give_an_id_or_an_error(
        params in params(),
        bits in proptest::collection::vec(any::<u32>(), 0..300),
        seed: u64,
    ) {
        let mut logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        logits.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let mut sampler = sampler(params, seed);
        for _ in 0..3 {
            if let Ok(id) = sampler.sample(&logits) {
                prop_assert!((id as usize) < logits.len());
                prop_assert!(!logits[id as usize].is_nan());
            }
        }
    }
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let mut sampler = sampler(greedy(), 1);
    assert_eq!(sampler.sample(&[0.0, 3.0, -1.0, 3.0]).unwrap(), 1);
}

#[test]
fn logits_without_a_number_are_an_error() {
    for logits in [vec![], vec![f32::NAN; 3], vec![f32::NEG_INFINITY; 3]] {
        let mut greedy = sampler(greedy(), 1);
        let mut random = sampler(SamplingParams::default(), 1);
        assert!(matches!(
            greedy.sample(&logits),
            Err(Error::Internal { .. })
        ));
        assert!(matches!(
            random.sample(&logits),
            Err(Error::Internal { .. })
        ));
    }
}

#[test]
fn infinite_and_missing_logits_do_not_stop_sampling() {
    let logits = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 1.0];
    let params = SamplingParams {
        top_p: 0.9,
        top_k: 3,
        repetition_penalty: 0.01,
        ..SamplingParams::default()
    };
    let mut sampler = sampler(params, 3);
    for _ in 0..4 {
        assert_eq!(sampler.sample(&logits).unwrap(), 2);
    }
}

#[test]
fn the_same_seed_gives_the_same_ids_and_choices_differ() {
    let logits: Vec<f32> = (0..1000).map(|n| (n as f32).sin()).collect();
    let draw = |seed, choice| -> Vec<u32> {
        let mut sampler = Sampler::new(SamplingParams::default(), seed, choice, &[]);
        (0..20).map(|_| sampler.sample(&logits).unwrap()).collect()
    };
    assert_eq!(draw(7, 0), draw(7, 0));
    assert_ne!(draw(7, 0), draw(8, 0));
    assert_ne!(draw(7, 0), draw(7, 1));
    assert_ne!(draw(7, 1), draw(7, 2));
    assert_eq!(draw(7, 2), draw(7, 2));
}

#[test]
fn drawn_frequencies_follow_the_softmax() {
    // Probabilities 1/2, 1/4, 1/4.
    let logits = [2.0_f32.ln(), 0.0, 0.0];
    let mut sampler = sampler(SamplingParams::default(), 42);
    let mut counts = [0_u32; 3];
    for _ in 0..20_000 {
        counts[sampler.sample(&logits).unwrap() as usize] += 1;
    }
    // Five standard deviations of the widest count are about 350.
    for (count, expected) in counts.into_iter().zip([10_000, 5_000, 5_000]) {
        assert!(count.abs_diff(expected) < 350, "{counts:?}");
    }
}

#[test]
fn the_repetition_penalty_looks_back_no_further_than_its_window() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        repetition_window: 2,
        ..greedy()
    };
    let logits = [3.0, 2.0, 1.6];
    let mut outside = Sampler::new(params.clone(), 0, 0, &[0, 1, 2]);
    assert_eq!(outside.sample(&logits).unwrap(), 0);
    let mut inside = Sampler::new(params, 0, 0, &[2, 0, 1]);
    assert_eq!(inside.sample(&logits).unwrap(), 2);
}

#[test]
fn presence_and_frequency_count_generated_ids_only() {
    let params = SamplingParams {
        presence_penalty: 0.5,
        frequency_penalty: 0.5,
        ..greedy()
    };
    let mut sampler = Sampler::new(params, 0, 0, &[0, 0, 0, 0]);
    let drawn: Vec<u32> = (0..4)
        .map(|_| sampler.sample(&[2.0, 0.6]).unwrap())
        .collect();
    // 2.0, then 1.0, then 0.5 against 0.6, then 0.5 against −0.4.
    assert_eq!(drawn, [0, 0, 1, 0]);
}

#[test]
fn a_bias_of_100_forces_an_id_and_an_unknown_id_is_ignored() {
    let params = SamplingParams {
        logit_bias: vec![(2, 100.0), (9, 100.0)],
        ..SamplingParams::default()
    };
    let mut sampler = sampler(params, 5);
    for _ in 0..50 {
        assert_eq!(sampler.sample(&[5.0, 4.0, -5.0]).unwrap(), 2);
    }
}

#[test]
fn the_smallest_temperature_is_greedy() {
    let params = SamplingParams {
        temperature: f32::MIN_POSITIVE / 2.0,
        ..SamplingParams::default()
    };
    let mut sampler = sampler(params, 5);
    for _ in 0..50 {
        assert_eq!(sampler.sample(&[1.0, 1.0001, -3.0]).unwrap(), 1);
    }
}

#[test]
fn drawn_seeds_differ() {
    assert_ne!(random_seed(), random_seed());
}
