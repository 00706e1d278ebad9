//! Causal self-attention with grouped key and value heads over a cache.

use burn::tensor::{Device, Tensor, TensorData, activation::softmax};

use super::{Linear, RmsNorm, RotaryTable};
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
    /// Normalises each head of the queries before they are rotated.
    pub query_norm: Option<RmsNorm>,
    /// Normalises each head of the keys before they are rotated.
    pub key_norm: Option<RmsNorm>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Length of a head.
    pub head_length: usize,
    /// Factor of the scores.
    pub query_scale: f32,
    /// How many positions a position sees, itself included; all before it where there is none.
    pub window: Option<usize>,
}

/// What attention has to know of the positions that a forward pass adds to a sequence. It is the
/// same for all blocks with the same window and rotary base.
#[derive(Debug, Clone)]
pub struct Positions {
    /// The first of them: how many the cache holds already.
    pub start: usize,
    /// Their rotations.
    pub rotary: RotaryTable,
    /// What they see.
    pub mask: CausalMask,
}

/// Hides later positions from earlier ones, and those that left the window.
#[derive(Debug, Clone)]
pub struct CausalMask {
    /// The first position that any of the new ones sees.
    first: usize,
    /// `[1, positions, seen]`, 0 or −∞, added to scores; none where all is seen.
    added: Option<Tensor<3>>,
}

impl CausalMask {
    /// Returns the mask for `positions` after the first `start`, each of which sees at most
    /// `window` positions, itself included.
    pub fn new(start: usize, positions: usize, window: Option<usize>, device: &Device) -> Self {
        let window = window.unwrap_or(usize::MAX);
        let first = (start + 1).saturating_sub(window);
        // A single position sees all from `first` on.
        if positions == 1 {
            return Self { first, added: None };
        }
        let len = start + positions;
        let mut values = Vec::with_capacity(positions * (len - first));
        for position in start..len {
            values.extend((first..len).map(|other| {
                if other <= position && position - other < window {
                    0.0f32
                } else {
                    f32::NEG_INFINITY
                }
            }));
        }
        let data = TensorData::new(values, [1, positions, len - first]);
        let added = Some(Tensor::from_data(data, device));
        Self { first, added }
    }

    /// Leaves away what none of the new positions sees.
    fn seen(&self, cached: Tensor<3>) -> Tensor<3> {
        if self.first == 0 {
            return cached;
        }
        let len = cached.dims()[1];
        cached.narrow(1, self.first, len - self.first)
    }
}

impl Attention {
    /// Applies attention to the rows of new positions, which it adds to the cache.
    pub fn forward(&self, input: Tensor<2>, new: &Positions, cache: &mut LayerCache) -> Tensor<2> {
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

        let query = normed(query, self.query_norm.as_ref());
        let key = normed(key, self.key_norm.as_ref());
        let query = new.rotary.rotate(query).swap_dims(0, 1);
        let key = new.rotary.rotate(key).swap_dims(0, 1);
        let past = cache.append(new.start, key, value.swap_dims(0, 1));
        let (keys, values) = (new.mask.seen(past.keys), new.mask.seen(past.values));

        // The query heads of one key head are treated as more rows of it.
        let group = heads / kv_heads;
        let query = query.reshape([kv_heads, group * positions, length]);
        let scores = query.matmul(keys.swap_dims(1, 2)) * self.query_scale;
        let weights = softmax(self.masked(scores, &new.mask, positions), 2);
        let output = weights.matmul(values);
        let output = output.reshape([heads, positions, length]).swap_dims(0, 1);
        self.output
            .forward(output.reshape([positions, heads * length]))
    }

    fn masked(&self, scores: Tensor<3>, mask: &CausalMask, positions: usize) -> Tensor<3> {
        let Some(mask) = &mask.added else {
            return scores;
        };
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

/// Normalises each head, where the architecture does.
fn normed(heads: Tensor<3>, norm: Option<&RmsNorm>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(heads),
        None => heads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(start: usize, positions: usize, window: usize) -> (usize, Vec<Vec<bool>>) {
        let device = Device::flex();
        let mask = CausalMask::new(start, positions, Some(window), &device);
        let added = mask.added.unwrap();
        let seen = added.dims()[2];
        let values = added.into_data().try_to_vec::<f32>().unwrap();
        let rows = values.chunks(seen);
        let rows = rows.map(|row| row.iter().map(|value| *value == 0.0).collect());
        (mask.first, rows.collect())
    }

    #[test]
    fn a_position_sees_itself_and_what_of_the_past_is_in_its_window() {
        let (yes, no) = (true, false);
        assert_eq!(
            rows(0, 3, 2),
            (
                0,
                vec![vec![yes, no, no], vec![yes, yes, no], vec![no, yes, yes]]
            )
        );
        // Of positions 0 to 4 the new position 4 still sees 3; nobody sees what is before that.
        assert_eq!(
            rows(4, 2, 2),
            (3, vec![vec![yes, yes, no], vec![no, yes, yes]])
        );
    }

    #[test]
    fn a_single_position_needs_no_mask_but_leaves_away_what_left_its_window() {
        let mask = |start, window| CausalMask::new(start, 1, window, &Device::flex());
        assert!(mask(9, None).added.is_none() && mask(9, Some(4)).added.is_none());
        assert_eq!(mask(9, None).first, 0);
        assert_eq!(mask(9, Some(4)).first, 6);
        assert_eq!(mask(3, Some(4)).first, 0);
    }
}
