//! Causal self-attention with grouped key and value heads over a cache.

use burn::tensor::{Device, Tensor, TensorData, activation::softmax};

use super::{Linear, RotaryTable};
use crate::kv_cache::LayerCache;

/// Queries, keys and values, and the projection back.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Query projection.
    pub query: Linear,
    /// Key projection.
    pub key: Linear,
    /// Value projection.
    pub value: Linear,
    /// Output projection.
    pub output: Linear,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Length of a head.
    pub head_length: usize,
}

/// Hides later positions from earlier ones: `[1, positions, len]`, 0 or −∞, added to scores.
#[derive(Debug, Clone)]
pub struct CausalMask(Option<Tensor<3>>);

impl CausalMask {
    /// Returns the mask for `positions` after the first `start`. A single position sees all.
    pub fn new(start: usize, positions: usize, device: &Device) -> Self {
        if positions == 1 {
            return Self(None);
        }
        let len = start + positions;
        let hidden = |index: usize| index % len > start + index / len;
        let values: Vec<f32> = (0..positions * len)
            .map(|index| {
                if hidden(index) {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        Self(Some(Tensor::from_data(
            TensorData::new(values, [1, positions, len]),
            device,
        )))
    }
}

impl Attention {
    /// Applies attention to the rows of positions `start..`, which it adds to the cache.
    pub fn forward(
        &self,
        input: Tensor<2>,
        start: usize,
        rotary: &RotaryTable,
        mask: &CausalMask,
        cache: &mut LayerCache,
    ) -> Tensor<2> {
        let [positions, _] = input.dims();
        let (heads, kv_heads, length) = (self.heads, self.kv_heads, self.head_length);
        let query = self
            .query
            .forward(input.clone())
            .reshape([positions, heads, length]);
        let key = self
            .key
            .forward(input.clone())
            .reshape([positions, kv_heads, length]);
        let value = self
            .value
            .forward(input)
            .reshape([positions, kv_heads, length]);

        let query = rotary.rotate(query).swap_dims(0, 1);
        let key = rotary.rotate(key).swap_dims(0, 1);
        let past = cache.append(start, key, value.swap_dims(0, 1));

        // The query heads of one key head are treated as more rows of it.
        let group = heads / kv_heads;
        let query = query.reshape([kv_heads, group * positions, length]);
        let scores = query.matmul(past.keys.swap_dims(1, 2)) / (length as f32).sqrt();
        let weights = softmax(self.masked(scores, mask, positions), 2);
        let output = weights.matmul(past.values);
        let output = output.reshape([heads, positions, length]).swap_dims(0, 1);
        self.output
            .forward(output.reshape([positions, heads * length]))
    }

    fn masked(&self, scores: Tensor<3>, mask: &CausalMask, positions: usize) -> Tensor<3> {
        let Some(mask) = &mask.0 else { return scores };
        let [kv_heads, rows, len] = scores.dims();
        let scores = scores.reshape([self.heads, positions, len]) + mask.clone();
        scores.reshape([kv_heads, rows, len])
    }

    /// Memory of the weights, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let parts = [&self.query, &self.key, &self.value, &self.output];
        parts.iter().map(|linear| linear.size_bytes()).sum()
    }
}
