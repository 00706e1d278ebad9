//! The gated feed-forward network.

use burn::tensor::{Tensor, activation::silu};

use super::Linear;

/// `down(silu(gate(x)) · up(x))`.
#[derive(Debug, Clone)]
pub struct FeedForward {
    /// Gate projection.
    pub gate: Linear,
    /// Up projection.
    pub up: Linear,
    /// Down projection.
    pub down: Linear,
}

impl FeedForward {
    /// Applies the network to rows.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let gate = silu(self.gate.forward(input.clone()));
        self.down.forward(gate * self.up.forward(input))
    }

    /// Memory of the weights, in bytes.
    pub fn size_bytes(&self) -> u64 {
        [&self.gate, &self.up, &self.down]
            .iter()
            .map(|linear| linear.size_bytes())
            .sum()
    }
}
