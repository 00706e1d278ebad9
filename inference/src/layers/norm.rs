//! Root-mean-square normalisation.

use burn::tensor::Tensor;

use super::Vector;
use crate::{
    backend::Backend,
    error::Result,
    gguf::TensorView,
    ops::{cpu::Norm, packed::RowOrder},
};

/// `x / rms(x) · gain`.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    gain: Vector,
    epsilon: f32,
}

impl RmsNorm {
    /// Loads the gain.
    ///
    /// # Errors
    /// The tensor's data does not match its shape.
    pub fn load(gain: &TensorView<'_>, epsilon: f32, backend: &Backend) -> Result<Self> {
        let gain = Vector::load(gain, RowOrder::AsStored, backend)?;
        Ok(Self::new(gain, epsilon))
    }

    /// Takes the gain, and what is added to the mean square.
    pub fn new(gain: Vector, epsilon: f32) -> Self {
        Self { gain, epsilon }
    }

    /// Normalises along the last dimension.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let mean_square = input.clone().square().mean_dim(D - 1);
        input * (mean_square + self.epsilon).sqrt().recip() * self.gain.tensor().unsqueeze()
    }

    /// What kernels on the host read.
    pub(super) fn on_host(&self) -> Norm<'_> {
        Norm {
            gain: self.gain.host(),
            epsilon: self.epsilon,
        }
    }
}
