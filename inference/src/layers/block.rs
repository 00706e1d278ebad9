//! One transformer block: attention and a feed-forward network, each added to the residual stream.

use burn::tensor::Tensor;

use super::{Attention, FeedForward, Positions, RmsNorm};
use crate::kv_cache::LayerCache;

/// Weights of one block.
#[derive(Debug, Clone)]
pub struct Block {
    /// Normalises what attention reads.
    pub attention_norm: RmsNorm,
    /// Attention.
    pub attention: Attention,
    /// Normalises what attention adds.
    pub attention_post_norm: Option<RmsNorm>,
    /// Normalises what the feed-forward network reads.
    pub feed_forward_norm: RmsNorm,
    /// The feed-forward network.
    pub feed_forward: FeedForward,
    /// Normalises what the feed-forward network adds.
    pub feed_forward_post_norm: Option<RmsNorm>,
}

impl Block {
    /// Applies the block to the rows of new positions, which it adds to the cache.
    pub fn forward(&self, input: Tensor<2>, new: &Positions, cache: &mut LayerCache) -> Tensor<2> {
        let normed = self.attention_norm.forward(input.clone());
        let attended = self.attention.forward(normed, new, cache);
        let hidden = input + post(attended, self.attention_post_norm.as_ref());
        let normed = self.feed_forward_norm.forward(hidden.clone());
        let fed = self.feed_forward.forward(normed);
        hidden + post(fed, self.feed_forward_post_norm.as_ref())
    }

    /// Memory of the matrices, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.attention.size_bytes() + self.feed_forward.size_bytes()
    }
}

/// Normalises what a part adds, where the architecture does.
fn post(output: Tensor<2>, norm: Option<&RmsNorm>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(output),
        None => output,
    }
}
