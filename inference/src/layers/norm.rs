//! Root-mean-square normalisation.

use burn::tensor::Tensor;

use super::linear::load_vector;
use crate::{backend::Backend, error::Result, gguf::TensorView, ops::packed::RowOrder};

/// `x / rms(x) · gain`.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    gain: Tensor<2>,
    epsilon: f32,
}

impl RmsNorm {
    /// Loads the gain.
    ///
    /// # Errors
    /// The tensor's data does not match its shape.
    pub fn load(gain: &TensorView<'_>, epsilon: f32, backend: &Backend) -> Result<Self> {
        let gain = load_vector(gain, RowOrder::AsStored, backend.device())?.unsqueeze();
        Ok(Self { gain, epsilon })
    }

    /// Normalises rows.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let mean_square = input.clone().square().mean_dim(1);
        input * (mean_square + self.epsilon).sqrt().recip() * self.gain.clone()
    }
}
