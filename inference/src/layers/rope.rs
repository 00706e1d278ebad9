//! Rotary position embedding.
//!
//! Pairs are always the two halves of a head: models whose files interleave them have their
//! projections' rows reordered at load ([`RowOrder`](crate::ops::packed::RowOrder)), which leaves
//! every query–key product as it was.

use std::cell::OnceCell;

use burn::tensor::{Device, Tensor, TensorData};

/// How frequencies are stretched beyond the trained context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All positions divided by a factor.
    Linear(f32),
    /// Each frequency divided by a factor of its own (Llama 3.x: `rope_freqs.weight`).
    PerFrequency(Vec<f32>),
}

/// The frequencies of a model.
#[derive(Debug, Clone)]
pub struct RotaryEmbedding {
    /// Radians per position, one per pair. Computed in 64 bits: positions go to 10⁵.
    frequencies: Vec<f64>,
}

/// Cosines and sines of some positions, `[positions, rotary / 2]` each.
#[derive(Debug)]
pub struct RotaryTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
    device: Device,
    /// The same for burn's operations, `[positions, 1, rotary / 2]`.
    tensors: OnceCell<[Tensor<3>; 2]>,
}

impl RotaryEmbedding {
    /// Returns the frequencies `base^(-2i / rotary)`, scaled.
    pub fn new(rotary: usize, base: f32, scaling: &RopeScaling) -> Self {
        let frequencies = (0..rotary / 2)
            .map(|pair| {
                let frequency = f64::from(base).powf(-2.0 * pair as f64 / rotary as f64);
                match scaling {
                    RopeScaling::None => frequency,
                    RopeScaling::Linear(factor) => frequency / f64::from(*factor),
                    RopeScaling::PerFrequency(factors) => frequency / f64::from(factors[pair]),
                }
            })
            .collect();
        Self { frequencies }
    }

    /// Returns the table for some positions.
    pub fn table(&self, positions: impl Iterator<Item = usize>, device: &Device) -> RotaryTable {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in &self.frequencies {
                let angle = position as f64 * frequency;
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        RotaryTable {
            cos,
            sin,
            pairs: self.frequencies.len(),
            device: device.clone(),
            tensors: OnceCell::new(),
        }
    }
}

impl RotaryTable {
    /// Cosines and sines in host memory.
    pub(super) fn on_host(&self) -> [&[f32]; 2] {
        [&self.cos, &self.sin]
    }

    /// Rotates `[positions, heads, head_length]`; what lies past the rotary part stays.
    pub fn rotate(&self, input: Tensor<3>) -> Tensor<3> {
        let half = self.pairs;
        let [cos, sin] = self.tensors.get_or_init(|| {
            [&self.cos, &self.sin].map(|values| {
                let shape = [values.len() / half, 1, half];
                Tensor::from_data(TensorData::new(values.clone(), shape), &self.device)
            })
        });
        let length = input.dims()[2];
        let first = input.clone().narrow(2, 0, half);
        let second = input.clone().narrow(2, half, half);
        let (cos, sin) = (cos.clone(), sin.clone());
        let mut parts = vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ];
        if 2 * half < length {
            parts.push(input.narrow(2, 2 * half, length - 2 * half));
        }
        Tensor::cat(parts, 2)
    }
}
