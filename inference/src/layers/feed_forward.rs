//! The gated feed-forward network.

use burn::tensor::{
    Tensor,
    activation::{gelu_approximate, silu},
};

use super::Linear;
use crate::ops::cpu::Activation;

/// `down(activation(gate(x)) · up(x))`.
#[derive(Debug, Clone)]
pub struct FeedForward {
    /// Gate projection.
    pub gate: Linear,
    /// Up projection.
    pub up: Linear,
    /// Down projection.
    pub down: Linear,
    /// What bends the gate.
    pub activation: Activation,
}

impl FeedForward {
    /// Applies the network to rows.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let gate = self.gate.forward(input.clone());
        let gate = match self.activation {
            Activation::Silu => silu(gate),
            Activation::GeluTanh => gelu_approximate(gate),
        };
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
