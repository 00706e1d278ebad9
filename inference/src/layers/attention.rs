//! Causal self-attention with grouped key and value heads over a cache.

use burn::tensor::{Tensor, activation::softmax};

use super::{CausalMask, Linear, Positions, RmsNorm};
use crate::kv_cache::DeviceLayer;

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

impl Attention {
    /// Applies attention to the rows of new positions, which it adds to the caches, one for each
    /// span.
    pub fn forward(
        &self,
        input: Tensor<2>,
        new: &Positions,
        caches: &mut [&mut DeviceLayer],
    ) -> Tensor<2> {
        let [rows, _] = input.dims();
        let (heads, kv_heads, length) = (self.heads, self.kv_heads, self.head_length);
        let query = self.query.forward(input.clone());
        let key = self.key.forward(input.clone());
        let value = self.value.forward(input);

        let query = normed(
            query.reshape([rows, heads, length]),
            self.query_norm.as_ref(),
        );
        let key = normed(
            key.reshape([rows, kv_heads, length]),
            self.key_norm.as_ref(),
        );
        let value = value.reshape([rows, kv_heads, length]);
        let (query, key) = (new.rotary.rotate(query), new.rotary.rotate(key));

        let spans = new.spans().iter().zip(new.masks()).zip(caches);
        let attended = spans.map(|((span, mask), cache)| {
            let part = |all: &Tensor<3>| {
                let part = all.clone().narrow(0, span.rows.start, span.rows.len());
                part.swap_dims(0, 1)
            };
            let past = cache.append(span.start, part(&key), part(&value));
            let (keys, values) = (mask.seen(past.keys), mask.seen(past.values));
            self.attend(part(&query), keys, values, mask)
        });
        self.output.forward(Tensor::cat(attended.collect(), 0))
    }

    /// Attends with the queries `[heads, positions, head_length]` of one sequence. Returns
    /// `[positions, heads · head_length]`.
    fn attend(
        &self,
        query: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
        mask: &CausalMask,
    ) -> Tensor<2> {
        let [heads, positions, length] = query.dims();
        // The query heads of one key head are treated as more rows of it.
        let group = heads / self.kv_heads;
        let query = query.reshape([self.kv_heads, group * positions, length]);
        let scores = query.matmul(keys.swap_dims(1, 2)) * self.query_scale;
        let scores = mask.apply(scores.reshape([heads as i32, positions as i32, -1]));
        let scores = scores.reshape([self.kv_heads as i32, (group * positions) as i32, -1]);
        let output = softmax(scores, 2).matmul(values);
        let output = output.reshape([heads, positions, length]).swap_dims(0, 1);
        output.reshape([positions, heads * length])
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
