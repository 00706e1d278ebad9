//! One transformer block: attention and a feed-forward network, each added to the residual stream.

use burn::tensor::Tensor;

use super::{Attention, FeedForward, Positions, RmsNorm};
use crate::{
    kv_cache::{DeviceLayer, LayerCaches},
    ops::{self, cpu::BlockWeights},
};

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
    /// Applies the block to the rows of new positions, which it adds to the caches, one for each
    /// span: on the CPU as one operation, elsewhere step by step.
    ///
    /// # Panics
    /// If the caches are on the host and the weights are not.
    pub fn forward(&self, input: Tensor<2>, new: &Positions, caches: LayerCaches<'_>) -> Tensor<2> {
        match caches {
            LayerCaches::Host(caches) => {
                let weights = self.on_host();
                let weights = weights.expect("a model gives out caches that its blocks can use");
                ops::transformer_block(input, &weights, new.on_host(), &caches)
            }
            LayerCaches::Device(mut caches) => self.forward_by_steps(input, new, &mut caches),
        }
    }

    /// The block in burn's operations: what the architecture is.
    pub(crate) fn forward_by_steps(
        &self,
        input: Tensor<2>,
        new: &Positions,
        caches: &mut [&mut DeviceLayer],
    ) -> Tensor<2> {
        let normed = self.attention_norm.forward(input.clone());
        let attended = self.attention.forward(normed, new, caches);
        let hidden = input + post(attended, self.attention_post_norm.as_ref());
        let normed = self.feed_forward_norm.forward(hidden.clone());
        let fed = self.feed_forward.forward(normed);
        hidden + post(fed, self.feed_forward_post_norm.as_ref())
    }

    /// What kernels on the host read, if the weights are theirs.
    pub(crate) fn on_host(&self) -> Option<BlockWeights<'_>> {
        let (attention, feed_forward) = (&self.attention, &self.feed_forward);
        Some(BlockWeights {
            attention_norm: self.attention_norm.on_host(),
            query: attention.query.on_host()?,
            key: attention.key.on_host()?,
            value: attention.value.on_host()?,
            query_norm: attention.query_norm.as_ref().map(RmsNorm::on_host),
            key_norm: attention.key_norm.as_ref().map(RmsNorm::on_host),
            output: attention.output.on_host()?,
            attention_post_norm: self.attention_post_norm.as_ref().map(RmsNorm::on_host),
            feed_forward_norm: self.feed_forward_norm.on_host(),
            gate: feed_forward.gate.on_host()?,
            up: feed_forward.up.on_host()?,
            down: feed_forward.down.on_host()?,
            feed_forward_post_norm: self.feed_forward_post_norm.as_ref().map(RmsNorm::on_host),
            activation: feed_forward.activation,
            heads: attention.heads,
            kv_heads: attention.kv_heads,
            head_length: attention.head_length,
            query_scale: attention.query_scale,
            window: attention.window,
        })
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
