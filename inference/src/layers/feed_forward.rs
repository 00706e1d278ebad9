//! The gated feed-forward network.

use burn::tensor::{
    Tensor,
    activation::{gelu_approximate, silu},
};

use super::Linear;

/// What bends the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// The normal distribution's, approximated by a hyperbolic tangent: gemma was trained with the
    /// approximation.
    GeluTanh,
}

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

impl Activation {
    fn forward(self, input: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Silu => silu(input),
            Self::GeluTanh => gelu_approximate(input),
        }
    }
}

impl FeedForward {
    /// Applies the network to rows.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let gate = self.activation.forward(self.gate.forward(input.clone()));
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
