//! The encoder against its definition in 64 bits.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ops::{
    cpu::{
        EncoderLayer, EncoderWeights, InstructionSet, LayerNorm, ShortLinear, encoder, pool::Pool,
    },
    packed::ShortMatrix,
};

const WIDTH: usize = 64;
const INNER: usize = 160;
const HEADS: usize = 2;
const EPSILON: f32 = 1e-6;

/// A matrix as floats, with its bias.
struct Linear {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// A layer as floats.
struct Layer {
    queries_keys_values: Linear,
    output: Linear,
    attention_norm: [Vec<f32>; 2],
    up: Linear,
    down: Linear,
    output_norm: [Vec<f32>; 2],
}

struct Model {
    embedding_norm: [Vec<f32>; 2],
    layers: Vec<Layer>,
}

fn random(len: usize, scale: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-scale..scale)).collect()
}

impl Model {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let linear = |outputs: usize, inputs: usize, rng: &mut ChaCha8Rng| Linear {
            weights: random(outputs * inputs, 0.3, rng),
            bias: random(outputs, 0.2, rng),
        };
        let norm = |rng: &mut ChaCha8Rng| {
            let gain = random(WIDTH, 0.3, rng).iter().map(|x| x + 1.0).collect();
            [gain, random(WIDTH, 0.2, rng)]
        };
        let layer = |rng: &mut ChaCha8Rng| Layer {
            queries_keys_values: linear(3 * WIDTH, WIDTH, rng),
            output: linear(WIDTH, WIDTH, rng),
            attention_norm: norm(rng),
            up: linear(INNER, WIDTH, rng),
            down: linear(WIDTH, INNER, rng),
            output_norm: norm(rng),
        };
        Self {
            embedding_norm: norm(rng),
            layers: vec![layer(rng), layer(rng)],
        }
    }

    fn packed(&self) -> EncoderWeights {
        let linear = |linear: &Linear, inputs: usize| ShortLinear {
            matrix: ShortMatrix::round(&linear.weights, inputs).unwrap(),
            bias: linear.bias.clone(),
        };
        let norm = |[gain, bias]: &[Vec<f32>; 2]| LayerNorm {
            gain: gain.clone(),
            bias: bias.clone(),
            epsilon: EPSILON,
        };
        let layers = self.layers.iter().map(|layer| EncoderLayer {
            queries_keys_values: linear(&layer.queries_keys_values, WIDTH),
            output: linear(&layer.output, WIDTH),
            attention_norm: norm(&layer.attention_norm),
            up: linear(&layer.up, WIDTH),
            down: linear(&layer.down, INNER),
            output_norm: norm(&layer.output_norm),
        });
        EncoderWeights {
            embedding_norm: norm(&self.embedding_norm),
            layers: layers.collect(),
            heads: HEADS,
        }
    }

    /// One sequence by the definition.
    fn reference(&self, rows: &[f32]) -> Vec<Vec<f64>> {
        let rows = rows.chunks_exact(WIDTH);
        let rows: Vec<Vec<f64>> = rows
            .map(|row| row.iter().map(|x| f64::from(*x)).collect())
            .collect();
        let mut hidden: Vec<_> = rows
            .iter()
            .map(|row| normalise(row, &self.embedding_norm))
            .collect();
        for layer in &self.layers {
            let seen = attend(&hidden, layer);
            for (row, seen) in hidden.iter_mut().zip(&seen) {
                let projected = layer.output.apply(seen);
                let sum = add(row, &projected);
                let middle = normalise(&sum, &layer.attention_norm);
                let inner: Vec<f64> = layer.up.apply(&middle).into_iter().map(bend).collect();
                let sum = add(&middle, &layer.down.apply(&inner));
                *row = normalise(&sum, &layer.output_norm);
            }
        }
        hidden
    }
}

impl Linear {
    fn apply(&self, input: &[f64]) -> Vec<f64> {
        let rows = self.weights.chunks_exact(input.len()).zip(&self.bias);
        let dot = |(weights, bias): (&[f32], &f32)| {
            let products = weights.iter().zip(input).map(|(w, x)| f64::from(*w) * x);
            products.sum::<f64>() + f64::from(*bias)
        };
        rows.map(dot).collect()
    }
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn normalise(row: &[f64], [gain, bias]: &[Vec<f32>; 2]) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let squares = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let deviation = (squares / row.len() as f64 + f64::from(EPSILON)).sqrt();
    let parameters = gain.iter().zip(bias);
    let normed = row.iter().zip(parameters);
    normed
        .map(|(x, (gain, bias))| (x - mean) / deviation * f64::from(*gain) + f64::from(*bias))
        .collect()
}

/// The GELU by the midpoint rule over the normal distribution's density.
fn bend(x: f64) -> f64 {
    const STEPS: u32 = 2000;
    let step = x / f64::from(STEPS);
    let density = |at: f64| (-at * at / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let area: f64 = (0..STEPS)
        .map(|index| density((f64::from(index) + 0.5) * step) * step)
        .sum();
    x * (0.5 + area)
}

fn attend(hidden: &[Vec<f64>], layer: &Layer) -> Vec<Vec<f64>> {
    let length = WIDTH / HEADS;
    let rows: Vec<Vec<f64>> = hidden
        .iter()
        .map(|row| layer.queries_keys_values.apply(row))
        .collect();
    let attend = |query: &Vec<f64>| {
        let mut seen = vec![0.0; WIDTH];
        for head in 0..HEADS {
            let part = |row: &Vec<f64>, which: usize| {
                let start = which * WIDTH + head * length;
                row[start..start + length].to_vec()
            };
            let own = part(query, 0);
            let score = |row: &Vec<f64>| {
                let products = own.iter().zip(part(row, 1)).map(|(a, b)| a * b);
                (products.sum::<f64>() / (length as f64).sqrt()).exp()
            };
            let weights: Vec<f64> = rows.iter().map(score).collect();
            let total: f64 = weights.iter().sum();
            for (row, weight) in rows.iter().zip(weights) {
                for (index, value) in part(row, 2).into_iter().enumerate() {
                    seen[head * length + index] += weight / total * value;
                }
            }
        }
        seen
    };
    rows.iter().map(attend).collect()
}

/// Sequences of these lengths, one after another.
fn sequences(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut start = 0;
    let next = |len: &usize| {
        start += len;
        start - len..start
    };
    lengths.iter().map(next).collect()
}

#[test]
fn an_encoder_is_its_definition() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let model = Model::random(&mut rng);
    let weights = model.packed();
    let sequences = sequences(&[1, 13, 16, 70, 2]);
    let count = sequences.last().unwrap().end;
    let input = random(count * WIDTH, 1.0, &mut rng);
    let pool = Pool::new(2).unwrap();
    for set in InstructionSet::available() {
        let mut hidden = input.clone();
        encoder(set, &pool, &weights, &sequences, &mut hidden);
        for sequence in &sequences {
            let rows = sequence.start * WIDTH..sequence.end * WIDTH;
            let expected = model.reference(&input[rows.clone()]);
            let expected = expected.iter().flatten();
            for (value, expected) in hidden[rows].iter().zip(expected) {
                let error = (f64::from(*value) - expected).abs();
                assert!(error < 5e-3, "{value} for {expected}, {}", set.name());
            }
        }
    }
}

#[test]
fn a_sequence_does_not_feel_its_company_or_the_number_of_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let weights = Model::random(&mut rng).packed();
    let lengths = [5, 90, 1, 33];
    let together = sequences(&lengths);
    let input = random(together.last().unwrap().end * WIDTH, 1.0, &mut rng);
    for set in InstructionSet::available() {
        let mut all = input.clone();
        let pool = Pool::new(3).unwrap();
        encoder(set, &pool, &weights, &together, &mut all);
        for sequence in &together {
            let rows = sequence.start * WIDTH..sequence.end * WIDTH;
            let mut one = input[rows.clone()].to_vec();
            let pool = Pool::new(1).unwrap();
            encoder(
                set,
                &pool,
                &weights,
                &sequences(&[sequence.len()]),
                &mut one,
            );
            assert_eq!(one, all[rows], "{}", set.name());
        }
    }
}

#[test]
fn nothing_is_nothing() {
    let weights = Model::random(&mut ChaCha8Rng::seed_from_u64(3)).packed();
    let pool = Pool::new(1).unwrap();
    encoder(InstructionSet::detect(), &pool, &weights, &[], &mut []);
}
